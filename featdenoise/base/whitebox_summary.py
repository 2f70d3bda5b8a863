"""What the rows of white-box attacks add up to: one attack, its restarts, a whole run, its seeds.

Three questions are kept apart (DESIGN, L5). *At this budget*: the adversarial image alone is right.
*Never broken*: right when clean and at every budget so far. *Worst case*: right when clean and
under every attack of the same ball. An image that a worst-case run dropped because something broke
it earlier counts as broken; what the attack itself would have done to it is not known.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featdenoise.base.binomial import Proportion
from featdenoise.base.published import follows_paper
from featdenoise.base.results import Row
from featdenoise.base.units import format_ball
from featdenoise.base.whitebox_rows import (
    CLEAN,
    EntryRows,
    is_right,
    prediction_at,
    require_same_images,
    survives,
)

_RESTART_FIELDS = ("entry", "restart", "preceding", "save_adversarial")
"""Of an identity: what the restarts of one attack differ in."""
_SEED_FIELDS = ("seed", "save_adversarial")
"""Of an identity: what two runs of different seeds may differ in, besides the weights."""


@dataclass(frozen=True, kw_only=True)
class Whitebox:
    """One attack against one model, at one or several iteration budgets."""

    model: str
    attack: str
    """In words, such as `targeted PGD, linf, epsilon 16/255`."""
    targeted: bool
    budgets: tuple[int, ...]
    """Empty for an attack that has only a result."""
    clean_accuracy: Proportion
    robust_accuracy: tuple[Proportion, ...]
    """At each budget (or of the result): the prediction on the adversarial image alone is the
    label, in every restart."""
    worst_case_accuracy: tuple[Proportion, ...]
    """Up to each budget: right when clean and at every budget so far, in every restart."""
    attack_success_rate: tuple[Proportion, ...] | None
    """At each budget, in any restart: targeted, predicted as the target; untargeted, not predicted
    as the label. None where images were dropped: nobody knows."""
    threat: str = ""
    """The ball, such as `linf, epsilon 16/255`."""
    entry: str = ""
    """Name in the run; empty where a run is a single attack."""
    protocol: str | None = None
    restarts: int = 1
    num_steps: int | None = None
    """Of the attack; the largest budget where it has budgets."""
    num_dropped: int = 0
    """Images not attacked, in the last restart; more than none makes the budgets no curve."""
    seed: int | None = None
    weights: str = ""
    """Digest of the model's."""
    settings: str = ""
    """Everything that defines the run but seed and weights; empty if not known."""
    has_published_match: bool = False
    """Whether the papers' curves are about this attack on these images."""
    suspect: bool = False
    """Whether a self-check of the run failed."""

    @property
    def is_curve(self) -> bool:
        """Whether accuracy over iterations can be drawn from it."""
        return len(self.budgets) > 1 and not self.num_dropped


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """Several attacks of one ball together: right when clean and under every one of them."""

    model: str
    threat: str
    clean_accuracy: Proportion
    entries: tuple[str, ...]
    """In the order of the run."""
    survivors: tuple[Proportion, ...]
    """After each entry and all before it."""
    protocol: str | None = None
    suspect: bool = False

    @property
    def worst_case_accuracy(self) -> Proportion:
        """Right when clean and under every entry."""
        return self.survivors[-1]


@dataclass(frozen=True, kw_only=True)
class RestartCurve:
    """What more restarts of one attack find: right when clean and in the first r restarts."""

    model: str
    attack: str
    survivors: tuple[Proportion, ...]
    """After 1, 2, ... restarts."""
    suspect: bool = False


@dataclass(frozen=True, kw_only=True)
class WhiteboxRun:
    """All entries of one run against one model."""

    model: str
    attacks: tuple[Whitebox, ...]
    """One an attack: its restarts are counted together."""
    worst_cases: tuple[WorstCase, ...]
    """One a ball that several attacks searched; restarts of a single one are its own count."""
    restart_curves: tuple[RestartCurve, ...]
    """One an attack with several restarts."""


@dataclass(frozen=True)
class Spread:
    """One share, measured with several seeds."""

    shares: tuple[Proportion, ...]

    @property
    def mean(self) -> float:
        """Of the fractions; the seeds share their images, so this is the pooled share."""
        return sum(share.fraction for share in self.shares) / len(self.shares)

    @property
    def low(self) -> float:
        """The smallest fraction."""
        return min(share.fraction for share in self.shares)

    @property
    def high(self) -> float:
        """The largest fraction."""
        return max(share.fraction for share in self.shares)


def summarize_whitebox(model: str, identity: Mapping[str, Any], rows: Sequence[Row]) -> Whitebox:
    """Count clean, robust, never broken and attacked images of one results file.

    Raises:
        ValueError: an image occurs twice, or lacks a budget or a target.
    """
    return summarize_restarts(model, [EntryRows(identity=identity, rows=rows)])


def summarize_restarts(model: str, restarts: Sequence[EntryRows]) -> Whitebox:
    """Count one attack with all its restarts: the worst of them for each image.

    Raises:
        ValueError: an image occurs twice, lacks a budget or a target, or the restarts attacked
            different images.
    """
    first = restarts[0]
    require_same_images(restarts)
    rows_of = _rows_by_image(restarts)
    attack = first.identity["attack"]
    targeted = bool(attack.get("targeted", False))
    alive = [rows[0]["clean"] == rows[0]["label"] for rows in rows_of]
    clean_accuracy = Proportion(sum(alive), len(rows_of))
    dropped = max(entry.num_dropped for entry in restarts)
    robust, worst_case, success = [], [], []
    for column in first.columns:
        right = [all(is_right(row, column) for row in rows) for rows in rows_of]
        alive = [a and r for a, r in zip(alive, right, strict=True)]
        robust.append(Proportion(sum(right), len(rows_of)))
        worst_case.append(Proportion(sum(alive), len(rows_of)))
        if not dropped:
            won = [any(_won(row, column, targeted) for row in rows) for rows in rows_of]
            success.append(Proportion(sum(won), len(rows_of)))
    weights = first.identity.get("model", {}).get("weights")
    return Whitebox(
        model=model,
        attack=_in_words(attack, len(restarts)),
        targeted=targeted,
        budgets=tuple(sorted(first.identity["budgets"])),
        clean_accuracy=clean_accuracy,
        robust_accuracy=tuple(robust),
        worst_case_accuracy=tuple(worst_case),
        attack_success_rate=None if dropped else tuple(success),
        threat=_threat(attack),
        entry=first.name,
        protocol=first.identity.get("protocol"),
        restarts=len(restarts),
        num_steps=max(first.identity["budgets"], default=attack.get("num_steps")),
        num_dropped=dropped,
        seed=first.identity.get("seed"),
        weights="" if weights is None else str(weights),
        settings=json.dumps([_without_seed(entry.identity) for entry in restarts], sort_keys=True),
        has_published_match=len(restarts) == 1 and follows_paper(first.identity),
    )


def summarize_run(model: str, entries: Sequence[EntryRows]) -> WhiteboxRun:
    """Count every attack of a run, their worst cases, and what restarts found.

    Args:
        model: how the report calls the model.
        entries: in the order of the run.

    Raises:
        ValueError: entries attacked different images, or rows that do not belong together.
    """
    require_same_images(entries)
    families: dict[str, list[EntryRows]] = {}
    balls: dict[str, list[EntryRows]] = {}
    for entry in entries:
        family = _family(entry.identity)
        if _restart(entry) in map(_restart, families.get(family, [])):
            family += entry.name  # the same attack once more, under another name
        families.setdefault(family, []).append(entry)
        balls.setdefault(_threat(entry.identity["attack"]), []).append(entry)
    several = {
        threat: group
        for threat, group in balls.items()
        if len({_family(entry.identity) for entry in group}) > 1
    }
    groups = [sorted(group, key=_restart) for group in families.values()]
    return WhiteboxRun(
        model=model,
        attacks=tuple(summarize_restarts(model, group) for group in groups),
        worst_cases=tuple(_worst_case(model, *ball) for ball in several.items()),
        restart_curves=tuple(
            _restart_curve(model, group)
            for group in groups
            if len(group) > 1 and _broken_only_by(group)
        ),
    )


def group_seeds(runs: Sequence[Whitebox]) -> list[tuple[Whitebox, ...]]:
    """Runs that differ only in their seed, or in the weights that another seed trained, together.

    All others stand alone, also repetitions with the same seed on the same weights: they are no
    sample of anything.
    """
    together: dict[tuple[str, str], list[Whitebox]] = {}
    for run in runs:
        if run.settings and run.seed is not None:
            together.setdefault((run.model, run.settings), []).append(run)
    groups: list[tuple[Whitebox, ...]] = []
    for run in runs:
        members = together.get((run.model, run.settings), [run])
        drawn = {(member.seed, member.weights) for member in members}
        if run not in members or len(drawn) < len(members):
            members = [run]
        if members[0] is run:
            groups.append(tuple(members))
    return groups


def group_attacks(runs: Sequence[Whitebox]) -> dict[str, list[Whitebox]]:
    """Runs of one attack together, under a title that tells it from the others.

    One attack means the same words, protocol and name of the entry.
    """
    together: dict[tuple[str, str | None, str], list[Whitebox]] = {}
    for run in runs:
        together.setdefault((run.attack, run.protocol, run.entry), []).append(run)
    words = [attack for attack, _, _ in together]
    names = [(attack, entry) for attack, _, entry in together]
    titled = {}
    for (attack, protocol, entry), members in together.items():
        title = attack
        if words.count(attack) > 1:
            title += f" ({entry or 'unnamed'})"
        if names.count((attack, entry)) > 1:
            title += f", {f'protocol {protocol}' if protocol else 'no protocol'}"
        titled[title] = members
    return titled


def _rows_by_image(restarts: Sequence[EntryRows]) -> list[list[Row]]:
    """The rows of each image, in the order of the first restart."""
    by_id = [{row["id"]: row for row in entry.rows} for entry in restarts]
    return [[rows[row["id"]] for rows in by_id] for row in restarts[0].rows]


def _worst_case(model: str, threat: str, entries: Sequence[EntryRows]) -> WorstCase:
    clean = [row["clean"] == row["label"] for row in entries[0].rows]
    return WorstCase(
        model=model,
        threat=threat,
        clean_accuracy=Proportion(sum(clean), len(clean)),
        entries=tuple(entry.name for entry in entries),
        survivors=_survivors(entries),
        protocol=entries[0].identity.get("protocol"),
    )


def _restart_curve(model: str, restarts: Sequence[EntryRows]) -> RestartCurve:
    attack = _in_words(restarts[0].identity["attack"])
    return RestartCurve(model=model, attack=attack, survivors=_survivors(restarts))


def _survivors(entries: Sequence[EntryRows]) -> tuple[Proportion, ...]:
    """Images that survive the first entry, the first two, ..."""
    alive = dict.fromkeys((row["id"] for row in entries[0].rows), True)
    shares = []
    for entry in entries:
        survived = survives(entry)
        alive = {i: alive[i] and survived[i] for i in alive}
        shares.append(Proportion(sum(alive.values()), len(alive)))
    return tuple(shares)


def _broken_only_by(restarts: Sequence[EntryRows]) -> bool:
    """Whether no other attack of a worst-case run took images away from these restarts."""
    own = {CLEAN, *(entry.name for entry in restarts)}
    return all(row.get("broken_by") in own | {None} for entry in restarts for row in entry.rows)


def _family(identity: Mapping[str, Any]) -> str:
    """Equal for the restarts of one attack."""
    own = {k: v for k, v in identity.items() if k not in _RESTART_FIELDS}
    # Runs without restarts are their own family, however often an attack is listed.
    restarted = "restart" in identity
    return json.dumps([own, None if restarted else identity.get("entry")], sort_keys=True)


def _restart(entry: EntryRows) -> int:
    return int(entry.identity.get("restart") or 0)


def _without_seed(identity: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in identity.items() if name not in _SEED_FIELDS}
    model = {k: v for k, v in identity.get("model", {}).items() if k != "weights"}
    return {**kept, "model": model}


def _won(row: Row, column: str, targeted: bool) -> bool:
    prediction = prediction_at(row, column)
    if not targeted:
        return bool(prediction != row["label"])
    if row["target"] is None:
        raise ValueError(f"image {row['id']} of a targeted run has no target")
    return bool(prediction == row["target"])


def _threat(attack: Mapping[str, Any]) -> str:
    norm, epsilon = attack.get("norm", "linf"), attack.get("epsilon")
    return f"{norm}, epsilon unknown" if epsilon is None else format_ball(norm, epsilon)


def _in_words(attack: Mapping[str, Any], restarts: int = 1) -> str:
    choice, loss = attack.get("target_choice", "uniform"), attack.get("loss", "cross_entropy")
    manner = "targeted" if attack.get("targeted", False) else "untargeted"
    if attack.get("targeted", False) and choice != "uniform":
        manner += f" ({choice})"
    name = str(attack.get("name") or attack["kind"])
    if attack.get("attacks"):
        name += f" ({', '.join(attack['attacks'])})"
    if isinstance(loss, str) and loss != "cross_entropy":
        name += f" on {loss}"
    times = f", {restarts} restarts" if restarts > 1 else ""
    return f"{manner} {name}, {_threat(attack)}{times}"
