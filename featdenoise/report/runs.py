"""From run folders to a report: read, group by kind, draw, tabulate, write.

A folder holds `results.jsonl` (white box, black box, certification) or `log.jsonl` (training).
Next to `report.html` lie the pictures as PNG and SVG, and `report.json`, the counts for machines.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from featdenoise.base.binomial import Proportion
from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.results import LOG_FILE, RESULTS_FILE, Row, read_results
from featdenoise.base.summary import (
    Blackbox,
    Certification,
    Summary,
    Training,
    Whitebox,
    summarize,
)
from featdenoise.report.html import Section, write_report
from featdenoise.report.plots import (
    accuracy_against_iterations,
    certified_accuracy_against_radius,
    picture,
    training_curves,
)
from featdenoise.report.tables import (
    blackbox_table,
    certification_table,
    whitebox_details,
    whitebox_table,
)

REPORT_SCHEMA = 1
"""Of `report.json`; grows when a field changes its meaning or goes away."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    path: Path
    kind: str
    header: Row
    rows: list[Row]

    @property
    def name(self) -> str:
        # A training run has no label; its folder is what people call the model.
        labelled = self.header["identity"].get("model", {})
        return str(labelled.get("name", self.path.parent.resolve().name))


def report_runs(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str = "Robustness report",
    first: Sequence[Section] = (),
    last: Sequence[Section] = (),
) -> str:
    """Write `report.html`, its pictures and `report.json` about any number of runs.

    Args:
        folders: of finished runs of any kind, in the order in which models are listed.
        out: folder of the report, made if missing.
        title: of the page.
        first: the caller's sections before the results, such as a verdict.
        last: the caller's sections after them, such as commands.

    Returns:
        The main tables as text.

    Raises:
        FileNotFoundError: a folder has no results.
        ValueError: a run of unknown kind, or whose rows do not belong together.
    """
    if not folders:
        raise ValueError("a report needs at least one run folder")
    runs = [_read_run(Path(folder)) for folder in folders]
    summaries = _tell_apart(runs, [_summarize(run) for run in runs])
    sections, text = _sections(summaries)
    sections = [*first, *sections, *last]
    out.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for drawn in section.pictures:
            write_atomically(out / f"{drawn.name}.png", drawn.png)
            write_atomically(out / f"{drawn.name}.svg", drawn.svg)
    described = [_describe(run, s) for run, s in zip(runs, summaries, strict=True)]
    report = {"schema": REPORT_SCHEMA, "title": title, "runs": described}
    content = json.dumps(report, indent=2, allow_nan=False) + "\n"
    write_atomically(out / "report.json", content.encode())
    write_report(out / "report.html", title, sections)
    return text


def _read_run(folder: Path) -> _Run:
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder at {folder}")
    path = folder / RESULTS_FILE
    if path.is_file():
        header, rows = read_results(path)
        return _Run(path=path, kind=str(header["identity"].get("kind")), header=header, rows=rows)
    path = folder / LOG_FILE
    if path.is_file():
        header, rows = read_results(path)
        return _Run(path=path, kind="training", header=header, rows=rows)
    if (folder / "parts").is_dir():
        raise FileNotFoundError(
            f"the run in {folder} is not finished; start it again with the same settings to resume"
        )
    raise FileNotFoundError(f"no {RESULTS_FILE} or {LOG_FILE} in {folder}; is it a run folder?")


def _tell_apart(runs: Sequence[_Run], summaries: Sequence[Summary]) -> list[Summary]:
    """Runs that would stand in one table under one name get their folders' names too."""
    keys = [(run.kind, _setting(s), s.model) for run, s in zip(runs, summaries, strict=True)]
    return [
        replace(s, model=f"{s.model} ({_own_part(run, runs)})") if keys.count(key) > 1 else s
        for run, s, key in zip(runs, summaries, keys, strict=True)
    ]


def _setting(summary: Summary) -> str:
    if isinstance(summary, Whitebox):
        return summary.attack
    return summary.noise if isinstance(summary, Certification) else ""


def _own_part(run: _Run, runs: Sequence[_Run]) -> str:
    """The shortest end of the run's folder that no other run's folder ends in."""
    parts = run.path.parent.parts
    others = [other.path.parent.parts for other in runs if other is not run]
    for length in range(1, len(parts)):
        if all(other[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return str(run.path.parent)


def _summarize(run: _Run) -> Summary:
    try:
        return summarize(run.kind, run.name, run.header["identity"], run.rows)
    except ValueError as error:
        raise ValueError(f"{run.path}: {error}") from None


def _sections(summaries: Sequence[Summary]) -> tuple[list[Section], str]:
    """One section a kind, in the order of the work, and the main tables as text."""
    whitebox = [s for s in summaries if isinstance(s, Whitebox)]
    blackbox = [s for s in summaries if isinstance(s, Blackbox)]
    certification = [s for s in summaries if isinstance(s, Certification)]
    training = [s for s in summaries if isinstance(s, Training)]
    sections, shown = [], []
    if whitebox:
        attacks = dict.fromkeys(run.attack for run in whitebox)
        groups = [[run for run in whitebox if run.attack == attack] for attack in attacks]
        tables = [whitebox_table(group) for group in groups]
        sections.append(_whitebox_section(whitebox, groups))
        shown += tables
    if blackbox:
        table = blackbox_table(blackbox)
        sections.append(Section(heading="Black-box transfer", tables=(table,)))
        shown.append(table)
    if certification:
        sections.append(_certification_section(certification))
        shown.append(certification_table(certification))
    if training:
        sections.append(_training_section(training))
    return sections, "\n\n".join(table.text() for table in shown)


def _whitebox_section(runs: Sequence[Whitebox], groups: Sequence[Sequence[Whitebox]]) -> Section:
    sweep = picture(
        accuracy_against_iterations(runs),
        name="accuracy_against_iterations",
        caption=(
            "Robust accuracy against the number of attack iterations, 95% intervals shaded. "
            "Hollow markers: clean accuracy."
        ),
    )
    tables = [table(group) for group in groups for table in (whitebox_table, whitebox_details)]
    return Section(heading="White-box attacks", pictures=(sweep,), tables=tuple(tables))


def _certification_section(runs: Sequence[Certification]) -> Section:
    steps = picture(
        certified_accuracy_against_radius(runs),
        name="certified_accuracy_against_radius",
        caption=(
            "Share of images that are classified right with a certificate of at least this l2 "
            "radius, 95% intervals shaded."
        ),
    )
    table = certification_table(runs)
    return Section(heading="Certified robustness", pictures=(steps,), tables=(table,))


def _training_section(runs: Sequence[Training]) -> Section:
    curves = picture(
        training_curves(runs),
        name="training_curves",
        caption="Loss and accuracy on the training images, as logged during training.",
    )
    diverged = [f"{run.model} {run.diverged}." for run in runs if run.diverged]
    return Section(heading="Training", paragraphs=tuple(diverged), pictures=(curves,))


def _describe(run: _Run, summary: Summary) -> Row:
    """A run for `report.json`: where it came from, its configuration, its counts."""
    counts = {f.name: _plain(getattr(summary, f.name)) for f in fields(summary)}
    if isinstance(summary, Training):
        counts["log"] = counts["log"][-1:]
    if isinstance(summary, Blackbox):
        counts["worst_attacker"] = summary.worst_attacker
        counts["mean_accuracy"] = _plain(summary.mean_accuracy)
    if isinstance(summary, Certification):
        counts["average_certified_radius"] = summary.average_certified_radius
    return {"kind": run.kind, "source": str(run.path), "identity": run.header["identity"], **counts}


def _plain(value: Any) -> Any:
    if isinstance(value, Proportion):
        return {"correct": value.correct, "count": value.count}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
