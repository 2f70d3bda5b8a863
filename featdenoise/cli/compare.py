"""`featdenoise compare RUN1 RUN2`: which of two models is better on the same attacked images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from featdenoise.base.distributed import Device, World
from featdenoise.base.paired import RunComparison, compare_whitebox
from featdenoise.report.read import Run, read_whitebox_run
from featdenoise.report.table import Cell, Table, percent


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Test whether one white-box run's model is better than another's, image by image."""

    first: Annotated[Path, tyro.conf.Positional]
    """Folder of a white-box run, or of one of its attacks."""
    second: Annotated[Path, tyro.conf.Positional]
    """Folder of another run of the same attacks on the same images."""
    budget: int | None = None
    """Judge the images after this many iterations; by default the worst case: right when clean and
    under every attack that both runs have, at every recorded iteration."""
    entry: str | None = None
    """Judge this attack alone."""

    device: tyro.conf.Suppress[Device] = "cpu"

    def run(self, world: World) -> str:
        """Compare; the text is the counts and the verdict."""
        if not world.is_main:
            return ""
        runs = [read_whitebox_run(folder) for folder in (self.first, self.second)]
        try:
            comparison = compare_whitebox(
                runs[0].entries, runs[1].entries, budget=self.budget, entry=self.entry
            )
        except KeyError as missing:
            raise ValueError(
                f"{self.first} or {self.second} is damaged: a row lacks the field {missing}"
            ) from None
        except ValueError as error:
            raise ValueError(
                f"{self.second} (here) and {self.first} (there) cannot be compared: {error}"
            ) from None
        return _text(runs, comparison)


def _text(runs: list[Run], comparison: RunComparison) -> str:
    counts = comparison.counts
    names = [run.name for run in runs]
    if names[0] == names[1]:
        names = [f"{run.name} ({run.folder})" for run in runs]
    only = (counts.only_first, counts.only_second)
    rows = [
        (Cell(name), percent(share), Cell(f"{share.correct} of {share.count}"), Cell(str(alone)))
        for name, share, alone in zip(names, (counts.first, counts.second), only, strict=True)
    ]
    asked = "worst case" if comparison.budget is None else f"after {comparison.budget} iterations"
    table = Table(
        title=f"Paired comparison, {asked}",
        caption="",
        columns=("model", "right", "images", "right alone"),
        rows=tuple(rows),
    )
    entries = [name for name in comparison.entries if name]
    notes = [f"Both right on {counts.both}, both wrong on {counts.neither}."]
    notes += [f"Attacks: {_listed(entries)}."] if entries else []
    if comparison.left_out:
        notes.append(f"Not compared: {_listed(comparison.left_out)}.")
    if comparison.seeds[0] != comparison.seeds[1]:
        notes.append(
            "The runs have different seeds ({} and {}), so other starts and targets.".format(
                *comparison.seeds
            )
        )
    notes += [
        f"SUSPECT: {name} failed {len(run.failed_checks)} self-checks; see its report."
        for name, run in zip(names, runs, strict=True)
        if run.suspect
    ]
    return "\n".join([table.text(), "", *notes, counts.verdict(*names)])


def _listed(names: Sequence[str]) -> str:
    """The names, or, of many restarts, the ends of the list."""
    if len(names) <= 8:
        return ", ".join(names)
    return f"{names[0]}, {names[1]}, ..., {names[-1]} ({len(names)} in all)"
