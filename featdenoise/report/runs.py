"""From run folders to a report: read, group by kind, draw, tabulate, write.

Next to `report.html` lie the pictures as PNG and SVG, and `report.json`, the counts for machines.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from featdenoise.base.binomial import Proportion
from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.results import Row
from featdenoise.base.summary import Blackbox, Certification, Summary, Training, summarize
from featdenoise.base.whitebox_summary import Whitebox, WhiteboxRun, WorstCase
from featdenoise.report.html import Section, write_report
from featdenoise.report.plots import (
    certified_accuracy_against_radius,
    picture,
    training_curves,
)
from featdenoise.report.read import ResultsFile, Run, commands_of, read_runs
from featdenoise.report.tables import blackbox_table, certification_table
from featdenoise.report.whitebox import (
    alerts,
    differ_in_seeds_only,
    notes,
    rename_run,
    shown_published,
    summarize_whitebox_run,
    whitebox_section,
)

REPORT_SCHEMA = 2
"""Of `report.json`; grows when a field changes its meaning or goes away.

2: budgets may be empty and attack_success_rate null; `whitebox` and `published` are new.
"""


def report_runs(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str = "Robustness report",
    first: Sequence[Section] = (),
    last: Sequence[Section] = (),
    json_file: Path | None = None,
) -> str:
    """Write `report.html`, its pictures and `report.json` about any number of runs.

    Args:
        folders: of finished runs of any kind, in the order in which models are listed; a white-box
            run by its folder or by those of single attacks.
        out: folder of the report, made if missing.
        title: of the page.
        first: the caller's sections before the results, such as a verdict.
        last: the caller's sections after them, such as commands.
        json_file: also written, with the content of `report.json`.

    Returns:
        The main tables as text, under a line for each suspect run and above one for each that no
        self-check has looked at.

    Raises:
        FileNotFoundError: a folder has no results.
        ValueError: a run of unknown kind, or whose rows do not belong together.
    """
    if not folders:
        raise ValueError("a report needs at least one run folder")
    runs = [run for folder in folders for run in read_runs(Path(folder))]
    counted = _tell_apart(runs, [_count(run) for run in runs])
    sections, text = _sections(runs, counted)
    whitebox = [(r, c) for r, c in zip(runs, counted, strict=True) if isinstance(c, WhiteboxRun)]
    of_whitebox = [run for run, _ in whitebox], [c for _, c in whitebox]
    banners = alerts(*of_whitebox)
    sections = [*first, *sections, *_reproduce(runs), *last]
    out.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for drawn in section.pictures:
            write_atomically(out / f"{drawn.name}.png", drawn.png)
            write_atomically(out / f"{drawn.name}.svg", drawn.svg)
    content = json.dumps(_for_machines(title, runs, counted), indent=2, allow_nan=False) + "\n"
    for path in (out / "report.json", *([json_file] if json_file else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.encode())
    write_report(out / "report.html", title, sections, alerts=banners)
    warnings = ["\n".join([banner.heading, *banner.lines]) for banner in banners]
    return "\n\n".join([*warnings, text, *notes(*of_whitebox)])


def _count(run: Run) -> Summary | WhiteboxRun:
    if run.kind == "whitebox" and all(file.rows for file in run.files):
        return summarize_whitebox_run(run)
    return _summarize(run, run.files[0], run.name)


def _summarize(run: Run, file: ResultsFile, model: str) -> Summary:
    try:
        return summarize(run.kind, model, file.identity, file.rows)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None


def _tell_apart(
    runs: Sequence[Run], counted: Sequence[Summary | WhiteboxRun]
) -> list[Summary | WhiteboxRun]:
    """Runs that would stand in one table under one name get their folders' names too.

    Not so white-box runs that differ only in their seed: those share a row.
    """
    places: dict[tuple[object, ...], list[tuple[int, object]]] = {}
    for k, summary in enumerate(counted):
        for key, counts in _lines(summary):
            places.setdefault((runs[k].kind, summary.model, *key), []).append((k, counts))
    clashing = {k for found in places.values() if _clash([c for _, c in found]) for k, _ in found}
    named = list(counted)
    for k in clashing:
        summary, name = counted[k], f"{counted[k].model} ({_own_part(runs[k], runs)})"
        if isinstance(summary, WhiteboxRun):
            named[k] = rename_run(summary, name)
        else:
            named[k] = replace(summary, model=name)
    return named


def _lines(summary: Summary | WhiteboxRun) -> list[tuple[tuple[object, ...], object]]:
    """The lines that a run gets in tables: what tells each from others of its model, its counts."""
    if isinstance(summary, WhiteboxRun):
        attacks = [((a.attack, a.protocol, a.entry), a) for a in summary.attacks]
        return [*attacks, *(((case.threat,), case) for case in summary.worst_cases)]
    return [((summary.noise if isinstance(summary, Certification) else "",), summary)]


def _clash(lines: Sequence[object]) -> bool:
    """Whether lines of one name must be told apart."""
    attacks = [line for line in lines if isinstance(line, Whitebox)]
    cases = [line for line in lines if isinstance(line, WorstCase)]
    if len(attacks) == len(lines):
        return not differ_in_seeds_only(attacks)
    if len(cases) == len(lines):  # with equal entries, those decide
        return len({case.entries for case in cases}) > 1
    return len(lines) > 1


def _own_part(run: Run, runs: Sequence[Run]) -> str:
    """The shortest end of the run's folder that no other run's folder ends in."""
    parts = run.folder.parts
    others = [other.folder.parts for other in runs if other is not run]
    for length in range(1, len(parts)):
        if all(other[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return str(run.folder)


def _sections(
    runs: Sequence[Run], counted: Sequence[Summary | WhiteboxRun]
) -> tuple[list[Section], str]:
    """One section a kind, in the order of the work, and the main tables as text."""
    whitebox = [(r, c) for r, c in zip(runs, counted, strict=True) if isinstance(c, WhiteboxRun)]
    blackbox = [s for s in counted if isinstance(s, Blackbox)]
    certification = [s for s in counted if isinstance(s, Certification)]
    training = [s for s in counted if isinstance(s, Training)]
    sections, shown = [], []
    if whitebox:
        section, tables = whitebox_section([run for run, _ in whitebox], [c for _, c in whitebox])
        sections.append(section)
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


def _reproduce(runs: Sequence[Run]) -> list[Section]:
    commands = commands_of(runs)
    return [Section(heading="Reproduce", commands=commands)] if commands else []


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


def _for_machines(title: str, runs: Sequence[Run], counted: Sequence[Summary | WhiteboxRun]) -> Row:
    """The content of `report.json`: each results file, each white-box run, what was published."""
    pairs = list(zip(runs, counted, strict=True))
    whitebox = [(run, c) for run, c in pairs if isinstance(c, WhiteboxRun)]
    return {
        "schema": REPORT_SCHEMA,
        "title": title,
        "runs": [_describe(run, file, c) for run, c in pairs for file in run.files],
        "whitebox": [_describe_run(run, c) for run, c in whitebox],
        "published": [asdict(curve) for curve in shown_published([c for _, c in whitebox])],
    }


def _describe(run: Run, file: ResultsFile, counted: Summary | WhiteboxRun) -> Row:
    """A results file: where it came from, its configuration, its counts."""
    is_run = isinstance(counted, WhiteboxRun)
    summary: Any = _summarize(run, file, counted.model) if is_run else counted
    counts = _counts(summary)
    if isinstance(summary, Training):
        counts["log"] = counts["log"][-1:]
    if isinstance(summary, Blackbox):
        counts["worst_attacker"] = summary.worst_attacker
        counts["mean_accuracy"] = _plain(summary.mean_accuracy)
    if isinstance(summary, Certification):
        counts["average_certified_radius"] = summary.average_certified_radius
    source = {"kind": run.kind, "source": str(file.path), "identity": file.identity}
    return source | counts | ({"suspect": run.suspect} if is_run else {})


def _describe_run(run: Run, counted: WhiteboxRun) -> Row:
    """A white-box run: restarts together, worst cases, self-checks."""
    return {
        "folder": str(run.folder),
        "model": counted.model,
        "attacks": [_counts(attack) for attack in counted.attacks],
        "worst_cases": [_counts(case) for case in counted.worst_cases],
        "restart_curves": [_counts(curve) for curve in counted.restart_curves],
        "selfchecks": None if run.checks is None else [asdict(check) for check in run.checks],
        "suspect": run.suspect,
        "unchecked": list(run.unchecked),
    }


def _counts(summary: Any) -> Row:
    # The settings only tell which runs belong together; the identity says them readably.
    named = {f.name: _plain(getattr(summary, f.name)) for f in fields(summary)}
    named.pop("settings", None)
    return named


def _plain(value: Any) -> Any:
    if isinstance(value, Proportion):
        return {"correct": value.correct, "count": value.count}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
