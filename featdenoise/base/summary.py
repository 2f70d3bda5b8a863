"""What the rows of a results file add up to: counts of images, as plain values.

One class a kind of run; `summarize` chooses it by the header. Everything is a count of images
(`Proportion`), never a mean of means. An image that is missing or there twice is an error. Reports
and Python users of the evaluations count here, for white-box attacks in `whitebox_summary`, and
nowhere else.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featdenoise.base.binomial import Proportion
from featdenoise.base.results import Row
from featdenoise.base.whitebox_summary import Whitebox as Whitebox
from featdenoise.base.whitebox_summary import summarize_whitebox as summarize_whitebox

ABSTAIN = -1
"""The prediction of a smoothed classifier that abstains."""
CLEAN = "clean"
"""The attacker that did nothing: black-box rows of the clean images."""


@dataclass(frozen=True, kw_only=True)
class Blackbox:
    """One model on the images that several attackers made."""

    model: str
    epsilon: float | None
    clean_accuracy: Proportion | None
    robust_accuracy: dict[str, Proportion]
    """Under each attacker, in the order of the run."""
    all_or_nothing_score: Proportion
    """Right under every attacker."""
    all_or_nothing_score_with_clean: Proportion | None
    """Right under every attacker and on the clean image."""

    @property
    def worst_attacker(self) -> str:
        """The attacker that leaves the fewest images right; the first named of equals."""
        return min(self.robust_accuracy, key=lambda name: self.robust_accuracy[name].correct)

    @property
    def mean_accuracy(self) -> Proportion:
        """Over all pairs of image and attacker; the clean images are no attacker's."""
        shares = self.robust_accuracy.values()
        return Proportion(sum(s.correct for s in shares), sum(s.count for s in shares))


@dataclass(frozen=True, kw_only=True)
class Certification:
    """The certificates of one smoothed classifier (Cohen et al. 2019, Sec. 4)."""

    model: str
    noise: str
    n0: int
    n: int
    alpha: float
    radii: tuple[float, ...]
    """Of the images whose certificate names their label, ascending."""
    abstained: Proportion

    def certified_accuracy(self, radius: float) -> Proportion:
        """Images whose label is certified at `radius` or more; at 0, those that are right."""
        certified = len(self.radii) - bisect_left(self.radii, radius)
        return Proportion(certified, self.abstained.count)

    @property
    def average_certified_radius(self) -> float:
        """Mean over all images; a wrong or abstaining one counts as zero (Zhai et al. 2020)."""
        return sum(self.radii) / self.abstained.count


@dataclass(frozen=True, kw_only=True)
class Training:
    """The log of one training run; a value the run did not measure is missing."""

    model: str
    log: tuple[Row, ...]
    diverged: str | None = None
    """Where and why the run broke off, if it did."""

    def points(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one logged quantity, where it was measured."""
        rows = [row for row in self.log if row.get(name) is not None]
        return [row["step"] for row in rows], [row[name] for row in rows]


Summary = Whitebox | Blackbox | Certification | Training


def summarize_blackbox(model: str, identity: Mapping[str, Any], rows: Sequence[Row]) -> Blackbox:
    """Count images that are right under each attacker, and under all of them.

    Raises:
        ValueError: an attacker lacks an image or has it twice, or there is no attacker.
    """
    _require_once([(row["attacker"], row["id"]) for row in rows], "attacker and image")
    right: dict[str, dict[int, bool]] = {}
    for row in rows:
        right.setdefault(row["attacker"], {})[row["id"]] = row["prediction"] == row["label"]
    images = {row["id"] for row in rows}
    for name, judged in right.items():
        if judged.keys() != images:
            missing = sorted(images - judged.keys())
            raise ValueError(f"attacker {name!r} lacks {len(missing)} images, first: {missing[:5]}")
    clean = right.pop(CLEAN, None)
    if not right:
        raise ValueError("there is no attacker besides the clean images")
    survivors = {i for i in images if all(judged[i] for judged in right.values())}
    named = [name for name in identity["attackers"] if name in right]
    order = named + [name for name in right if name not in named]
    return Blackbox(
        model=model,
        epsilon=identity.get("epsilon"),
        clean_accuracy=None if clean is None else Proportion(sum(clean.values()), len(images)),
        robust_accuracy={
            name: Proportion(sum(right[name].values()), len(images)) for name in order
        },
        all_or_nothing_score=Proportion(len(survivors), len(images)),
        all_or_nothing_score_with_clean=(
            None if clean is None else Proportion(sum(clean[i] for i in survivors), len(images))
        ),
    )


def summarize_certification(
    model: str, identity: Mapping[str, Any], rows: Sequence[Row]
) -> Certification:
    """Collect the certified radii of the right answers and count abstentions.

    Raises:
        ValueError: an image occurs twice.
    """
    _require_once([row["id"] for row in rows], "image")
    noise = identity["noise"]
    certified = [row["radius"] for row in rows if row["prediction"] == row["label"]]
    return Certification(
        model=model,
        noise=f"{noise['kind']}, sigma {noise['sigma']:g}",
        n0=identity["n0"],
        n=identity["n"],
        alpha=identity["alpha"],
        radii=tuple(sorted(certified)),
        abstained=Proportion(sum(row["prediction"] == ABSTAIN for row in rows), len(rows)),
    )


def summarize_training(model: str, identity: Mapping[str, Any], rows: Sequence[Row]) -> Training:
    """Keep the log in order of steps.

    Raises:
        ValueError: a step occurs twice.
    """
    del identity
    log = [row for row in rows if not row.get("diverged")]
    _require_once([row["step"] for row in log], "step")
    ends = [row for row in rows if row.get("diverged")]
    return Training(
        model=model,
        log=tuple(sorted(log, key=lambda row: row["step"])),
        diverged=f"diverged at step {ends[-1]['step']}: {ends[-1]['reason']}" if ends else None,
    )


SUMMARIES: dict[str, Callable[[str, Mapping[str, Any], Sequence[Row]], Summary]] = {
    "whitebox": summarize_whitebox,
    "blackbox": summarize_blackbox,
    "certification": summarize_certification,
    "training": summarize_training,
}


def summarize(kind: str, model: str, identity: Mapping[str, Any], rows: Sequence[Row]) -> Summary:
    """Summarize the rows of a run of any kind.

    Args:
        kind: a key of `SUMMARIES`.
        model: how the report calls the model.
        identity: the run's configuration, from the header.
        rows: one an image (white box, certification), an image and attacker (black box), a step.

    Raises:
        ValueError: unknown kind, no rows, or rows that do not belong together.
    """
    if kind not in SUMMARIES:
        raise ValueError(f"unknown kind of run {kind!r}; a report reads {', '.join(SUMMARIES)}")
    if not rows:
        raise ValueError("the run has no rows yet; let it finish first")
    try:
        return SUMMARIES[kind](model, identity, rows)
    except KeyError as missing:
        raise ValueError(f"a {kind} run lacks the field {missing}") from None


def _require_once(keys: Sequence[object], what: str) -> None:
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{what} {twice} occurs twice")
