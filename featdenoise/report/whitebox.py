"""The white-box part of a report: curves beside the published ones, restarts, tables, checks."""

from collections.abc import Sequence
from dataclasses import replace

from featdenoise.base.published import PublishedCurve, published_curves
from featdenoise.base.selfcheck_results import Check
from featdenoise.base.whitebox_summary import (
    Whitebox,
    WhiteboxRun,
    group_attacks,
    group_seeds,
    summarize_run,
)
from featdenoise.report.html import Alert, Picture, Section
from featdenoise.report.plots import (
    accuracy_against_iterations,
    accuracy_against_restarts,
    picture,
)
from featdenoise.report.read import Run
from featdenoise.report.table import Table
from featdenoise.report.whitebox_tables import (
    checks_table,
    overview_table,
    published_table,
    whitebox_details,
    whitebox_table,
    worst_case_table,
)


def summarize_whitebox_run(run: Run) -> WhiteboxRun:
    """Count a run's entries; every count of a suspect run says so.

    Raises:
        ValueError: names the folder and what does not belong together.
    """
    try:
        counted = summarize_run(run.name, run.entries)
    except KeyError as missing:
        raise ValueError(f"{run.folder}: a whitebox run lacks the field {missing}") from None
    except ValueError as error:
        raise ValueError(f"{run.folder}: {error}") from None
    return replace(
        counted,
        attacks=tuple(replace(s, suspect=run.suspect) for s in counted.attacks),
        worst_cases=tuple(replace(s, suspect=run.suspect) for s in counted.worst_cases),
        restart_curves=tuple(replace(s, suspect=run.suspect) for s in counted.restart_curves),
    )


def rename_run(run: WhiteboxRun, model: str) -> WhiteboxRun:
    """The same counts under another name of the model."""
    return WhiteboxRun(
        model=model,
        attacks=tuple(replace(s, model=model) for s in run.attacks),
        worst_cases=tuple(replace(s, model=model) for s in run.worst_cases),
        restart_curves=tuple(replace(s, model=model) for s in run.restart_curves),
    )


def differ_in_seeds_only(runs: Sequence[Whitebox]) -> bool:
    """Whether runs of one name may share a row."""
    return len(group_seeds(runs)) == 1


def shown_published(runs: Sequence[WhiteboxRun]) -> tuple[PublishedCurve, ...]:
    """The papers' curves, if any of the runs asks the question that they answer."""
    attacks = [attack for run in runs for attack in run.attacks if attack.is_curve]
    return published_curves() if any(attack.has_published_match for attack in attacks) else ()


def whitebox_section(
    sources: Sequence[Run], runs: Sequence[WhiteboxRun]
) -> tuple[Section, list[Table]]:
    """The section, and those of its tables that a terminal shows.

    Args:
        sources: as read.
        runs: their counts, in the same order.
    """
    attacks = [attack for run in runs for attack in run.attacks]
    curves = [attack for attack in attacks if attack.is_curve]
    worst_cases = [case for run in runs for case in run.worst_cases]
    published = shown_published(runs)
    groups = group_attacks(curves)
    by_budget = [whitebox_table(group, title) for title, group in groups.items()]
    main = list(by_budget)
    if worst_cases or len(curves) < len(attacks) or len(groups) > 1:
        main.insert(0, overview_table(attacks, worst_cases))
    folded = [whitebox_details(group, title) for title, group in groups.items()]
    folded += [worst_case_table(worst_cases)] if worst_cases else []
    folded += [published_table(published)] if published else []
    checks = [
        checks_table(source, run.model)
        for source, run in zip(sources, runs, strict=True)
        if source.checks
    ]
    section = Section(
        heading="White-box attacks",
        paragraphs=tuple(notes(sources, runs)),
        pictures=_pictures(curves, runs, published),
        tables=(*main, *folded, *checks),
    )
    return section, main


def alerts(sources: Sequence[Run], runs: Sequence[WhiteboxRun]) -> list[Alert]:
    """A banner for each run that failed a self-check."""
    return [
        Alert(
            heading=f"SUSPECT: {run.model} may be less robust than these numbers say",
            lines=tuple(_in_words(check) for check in source.failed_checks)
            or ("The run is marked suspect.",),
        )
        for source, run in zip(sources, runs, strict=True)
        if source.suspect
    ]


def notes(sources: Sequence[Run], runs: Sequence[WhiteboxRun]) -> list[str]:
    """A sentence for each run with attacks that no self-check has looked at."""
    return [
        f"Not checked: no self-check has looked at {', '.join(source.unchecked)} of {run.model}."
        for source, run in zip(sources, runs, strict=True)
        if source.unchecked
    ]


def _in_words(check: Check) -> str:
    return f"{check.name}{f' ({check.ball})' if check.ball else ''}: {check.detail}"


def _pictures(
    curves: Sequence[Whitebox], runs: Sequence[WhiteboxRun], published: Sequence[PublishedCurve]
) -> tuple[Picture, ...]:
    pictures = []
    if curves:
        pictures.append(
            picture(
                accuracy_against_iterations(curves, published),
                name="accuracy_against_iterations",
                caption=_sweep_caption(curves, bool(published)),
            )
        )
    restarts = [curve for run in runs for curve in run.restart_curves]
    if restarts:
        pictures.append(
            picture(
                accuracy_against_restarts(restarts),
                name="accuracy_against_restarts",
                caption=(
                    "Images that are right when clean and in every one of the first restarts, 95% "
                    "intervals shaded. The vertical axis does not start at zero."
                ),
            )
        )
    return tuple(pictures)


def _sweep_caption(curves: Sequence[Whitebox], published: bool) -> str:
    caption = "Robust accuracy against the number of attack iterations, 95% intervals shaded"
    if any(len(group) > 1 for group in group_seeds(curves)):
        caption += " (of several seeds: their mean, and their range shaded)"
    caption += ". Hollow markers at the left: clean accuracy."
    if published:
        caption += (
            " Grey: published values (Xie et al. 2019), not verified here; solid where the "
            "reading is exact, hollow where it is inferred from the order of labels. The vertical "
            "axis does not start at zero."
        )
    return caption
