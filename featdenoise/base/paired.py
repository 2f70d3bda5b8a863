"""Two models on the same images: who is right where the other is wrong (McNemar's exact test).

Two robust accuracies whose intervals overlap may still differ for certain: what counts is the
images on which the models disagree. Under the null hypothesis each of them is a fair coin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featdenoise.base.binomial import Proportion, two_sided_p_value
from featdenoise.base.results import differing_fields
from featdenoise.base.whitebox_rows import (
    CLEAN,
    EntryRows,
    is_dropped,
    is_right,
    require_same_images,
    survives,
)

SIGNIFICANCE = 0.05

_COMPARED = (
    *("protocol", "attack", "budgets", "reach_edge", "restart", "redraw_targets", "code"),
    *("images",),
)
"""Of an identity: what must be equal, besides the data's fingerprint."""
_ONE_PATH = ("PGD", "MIFGSM")
"""Attacks whose iterate at a budget does not depend on how far the path goes on."""


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Counts of images by which of two models is right on them."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> "PairedComparison":
        """Count pairs of verdicts, one an image, in one order.

        Raises:
            ValueError: the two judged different numbers of images, or none.
        """
        if len(first) != len(second) or not first:
            raise ValueError(
                f"a paired test needs the same images, got {len(first)} and {len(second)}"
            )
        pairs = list(zip(first, second, strict=True))
        return cls(
            both=sum(a and b for a, b in pairs),
            only_first=sum(a and not b for a, b in pairs),
            only_second=sum(b and not a for a, b in pairs),
            neither=sum(not a and not b for a, b in pairs),
        )

    @property
    def count(self) -> int:
        """All images."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first(self) -> Proportion:
        """Images that the first model has right."""
        return Proportion(self.both + self.only_first, self.count)

    @property
    def second(self) -> Proportion:
        """Images that the second model has right."""
        return Proportion(self.both + self.only_second, self.count)

    @property
    def p_value(self) -> float:
        """Exact and two-sided, on the images where the two disagree; 1 if there are none."""
        discordant = self.only_first + self.only_second
        return two_sided_p_value(self.only_first, discordant) if discordant else 1.0

    @property
    def is_significant(self) -> bool:
        """Whether chance alone is an unlikely reason for the difference."""
        return self.p_value <= SIGNIFICANCE

    def verdict(self, first: str, second: str) -> str:
        """Who is better, in one sentence, by these names."""
        p_value = f"p = {self.p_value:.2g}"
        if not self.is_significant:
            return f"{first} and {second} do not differ significantly (paired test, {p_value})."
        better, worse = (first, second) if self.only_first > self.only_second else (second, first)
        return f"{better} is better than {worse} (paired test, {p_value})."


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two white-box runs compared."""

    counts: PairedComparison
    entries: tuple[str, ...]
    """The entries that both runs have and that the verdict is about."""
    left_out: tuple[str, ...]
    """Entries that only one run has."""
    budget: int | None
    """None: the worst case."""
    seeds: tuple[Any, Any]
    """Of the two runs; different seeds mean different starts and targets."""


def compare_whitebox(
    first: Sequence[EntryRows],
    second: Sequence[EntryRows],
    *,
    budget: int | None = None,
    entry: str | None = None,
) -> RunComparison:
    """Compare two runs of the same attacks on the same images.

    Args:
        first: the entries of a run.
        second: the entries of the other.
        budget: judge the adversarial image at this number of iterations, under every common entry
            that records it; by default the worst case over all common entries and their budgets.
        entry: judge this entry alone.

    Raises:
        ValueError: no entry in common, other images, other attacks or another protocol (the
            differing fields are named), or dropped images that only one run's attack broke.
    """
    names = [e.name for e in first if e.name in {other.name for other in second}]
    all_names = dict.fromkeys(e.name for e in (*first, *second))
    if entry is not None:
        names = [name for name in names if name == entry]
    if not names:
        listed = [", ".join(e.name or "(unnamed)" for e in run) for run in (first, second)]
        wanted = "" if entry is None else f" {entry!r}"
        raise ValueError(
            f"the runs have no entry{wanted} in common: the first has {listed[0]}; the second has "
            f"{listed[1]}"
        )
    if budget is not None and entry is None:
        names = [e.name for e in first if e.name in names and str(budget) in e.columns]
    pairs = [(_named(first, name), _named(second, name)) for name in names]
    for there, here in pairs:
        _require_same_question(there, here, budget)
    if budget is not None:
        _require_budget(pairs, budget)
    require_same_images([e for pair in pairs for e in pair])
    sides = [[pair[k] for pair in pairs] for k in (0, 1)]
    for side in sides:
        _require_own_losses(side, names, budget)
    ids = [row["id"] for row in sides[0][0].rows]
    verdicts = [_verdicts(side, budget) for side in sides]
    return RunComparison(
        counts=PairedComparison.of(*([judged[i] for i in ids] for judged in verdicts)),
        entries=tuple(names),
        left_out=tuple(name for name in all_names if name not in names),
        budget=budget,
        seeds=(sides[0][0].identity.get("seed"), sides[1][0].identity.get("seed")),
    )


def _named(run: Sequence[EntryRows], name: str) -> EntryRows:
    return next(entry for entry in run if entry.name == name)


def _verdicts(entries: Sequence[EntryRows], budget: int | None) -> dict[int, bool]:
    """Whether each image is right, under every entry."""
    of_entry = [
        survives(entry)
        if budget is None
        else {row["id"]: is_right(row, str(budget)) for row in entry.rows}
        for entry in entries
    ]
    return {i: all(judged[i] for judged in of_entry) for i in of_entry[0]}


def _require_same_question(there: EntryRows, here: EntryRows, budget: int | None) -> None:
    different = differing_fields(
        _question(there.identity, budget), _question(here.identity, budget)
    )
    if different:
        way_out = "; name a --budget that both record" if _only_budgets(different) else ""
        raise ValueError(
            f"entry {here.name!r} is not the same question in both runs "
            f"({'; '.join(different)}){way_out}"
        )


def _question(identity: Mapping[str, Any], budget: int | None) -> dict[str, Any]:
    compared = {name: identity.get(name) for name in _COMPARED}
    compared["data"] = {"fingerprint": identity.get("data", {}).get("fingerprint")}
    if budget is not None:
        attack = dict(identity["attack"])
        if attack.get("kind") in _ONE_PATH:
            del compared["budgets"]
            attack.pop("num_steps", None)
        compared["attack"] = attack
    return compared


def _only_budgets(different: Sequence[str]) -> bool:
    return all(line.startswith(("budgets", "attack.num_steps")) for line in different)


def _require_budget(pairs: Sequence[tuple[EntryRows, EntryRows]], budget: int) -> None:
    entries = [entry for pair in pairs for entry in pair]
    for entry in entries:
        if str(budget) not in entry.columns:
            raise ValueError(
                f"budget must be one that both runs record, got {budget}; entry {entry.name!r} "
                f"records {', '.join(entry.columns)}"
            )
    if not entries:
        raise ValueError(f"budget must be one that both runs record, got {budget}; none does")
    if any(entry.num_dropped for entry in entries):
        raise ValueError(
            f"budget {budget} cannot be compared: a worst-case run drops images that are broken "
            "already; leave the budget out to compare the worst case"
        )


def _require_own_losses(
    entries: Sequence[EntryRows], names: Sequence[str], budget: int | None
) -> None:
    """Refuse a run whose dropped images were broken by what the other run did not do."""
    if budget is not None:
        return
    known = {CLEAN, *names}
    foreign = {
        row["broken_by"]
        for entry in entries
        for row in entry.rows
        if is_dropped(row) and row["broken_by"] not in known
    }
    if foreign:
        raise ValueError(
            f"a worst-case run dropped images that {', '.join(sorted(foreign))} broke, which is "
            "not compared here; compare runs of the same entries"
        )
