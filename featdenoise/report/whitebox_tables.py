"""Tables of white-box runs: by protocol, by iterations, worst case, published values, self-checks.

Runs that differ only in their seed share a row: the mean of their shares, and its range instead of
an interval.
"""

import math
from collections.abc import Sequence

from featdenoise.base.binomial import Proportion
from featdenoise.base.published import PublishedCurve
from featdenoise.base.whitebox_summary import (
    Spread,
    Whitebox,
    WorstCase,
    group_attacks,
    group_seeds,
)
from featdenoise.report.read import Run
from featdenoise.report.table import MISSING, Cell, Table, share_cell

SUSPECT = "suspect"
MAX_BUDGETS = 9
"""Columns of a table of budgets; the table of details has them all."""
RESULT = "result"
"""Column of an attack that has no budgets."""
_SEEDS_NOTE = "of several seeds: the mean, small its range"


def whitebox_table(runs: Sequence[Whitebox], attack: str | None = None) -> Table:
    """Robust accuracy at every budget of runs of one attack, a row each.

    Args:
        runs: of one attack.
        attack: what the title calls it; by default the attack's own words.
    """
    recorded = sorted({budget for run in runs for budget in run.budgets})
    budgets: list[int | str] = [*_few(recorded)]
    if not all(run.budgets for run in runs):
        budgets.append(RESULT)
    rows = []
    for group in group_seeds(runs):
        robust = [
            dict(zip(run.budgets or (RESULT,), run.robust_accuracy, strict=True)) for run in group
        ]
        cells = [_clean(group), *(_shares([r.get(budget) for r in robust]) for budget in budgets)]
        rows.append((_name(group), *cells, _never_broken(group), _success(group)))
    return Table(
        title=f"Robust accuracy, {attack or runs[0].attack}",
        caption=(
            f"{_images(runs)}; a column for {'some' if len(budgets) < len(recorded) else 'each'} "
            f"of the {len(recorded)} recorded numbers of iterations. Robust: the adversarial image "
            "itself is classified right. Never broken: right when clean and at every recorded "
            "number of iterations. Attack success, at the largest: the share of all images "
            f"{_success_rule(runs[0])}. {_small(runs)}"
        ),
        columns=("model", "clean", *map(str, budgets), "never broken", "attack success"),
        rows=tuple(rows),
    )


def whitebox_details(runs: Sequence[Whitebox], attack: str | None = None) -> Table:
    """Every budget of runs of one attack: now, ever so far, and attack success."""
    rows = []
    for group in group_seeds(runs):
        for k, budget in enumerate(group[0].budgets):
            success = [
                None if r.attack_success_rate is None else r.attack_success_rate[k] for r in group
            ]
            rows.append(
                (
                    _name(group),
                    Cell(str(budget)),
                    _shares([run.robust_accuracy[k] for run in group]),
                    _shares([run.worst_case_accuracy[k] for run in group]),
                    _shares(success),
                )
            )
    return Table(
        title=f"Every number of iterations, {attack or runs[0].attack}",
        caption=(
            "At this number of iterations; right when clean and at every number up to this one; "
            f"attack success: the share of all images {_success_rule(runs[0])}."
        ),
        columns=("model", "iterations", "robust", "never broken so far", "attack success"),
        rows=tuple(rows),
        num_headings=2,
        folded=True,
    )


def overview_table(runs: Sequence[Whitebox], worst_cases: Sequence[WorstCase]) -> Table:
    """Clean, robust and attack success of every attack, and the worst case of each run."""
    rows = []
    for members in group_attacks(runs).values():
        for group in group_seeds(members):
            first = group[0]
            more = f" and {first.restarts - 1} more" if first.restarts > 1 else ""
            robust = [None if run.num_dropped else run.robust_accuracy[-1] for run in group]
            rows.append(
                (
                    _name(group),
                    Cell(first.protocol or "-"),
                    Cell(first.attack, first.entry + more),
                    Cell("-" if first.num_steps is None else str(first.num_steps)),
                    _clean(group),
                    _shares(robust),
                    _never_broken(group),
                    _success(group),
                )
            )
    for cases in _same_question(worst_cases):
        case = cases[0]
        rows.append(
            (
                _name(cases),
                Cell(case.protocol or "-"),
                Cell(f"worst case of {len(case.entries)} entries", case.threat),
                MISSING,
                _shares([c.clean_accuracy for c in cases]),
                MISSING,
                _shares([c.worst_case_accuracy for c in cases]),
                MISSING,
            )
        )
    return Table(
        title="Every attack",
        caption=(
            f"{_images(runs)}. Robust: the image of the last iteration is classified right, in "
            "every restart. Never broken: right when clean, at every recorded iteration and in "
            "every restart; under worst case, under every entry. An attack that images broken "
            "before were dropped from has no robust accuracy of its own, and never broken counts "
            f"what came before too. {_small(runs)}"
        ),
        columns=(
            *("model", "protocol", "attack", "iterations"),
            *("clean", "robust", "never broken", "attack success"),
        ),
        rows=tuple(rows),
        num_headings=3,
    )


def worst_case_table(worst_cases: Sequence[WorstCase]) -> Table:
    """What each entry of each run still breaks, in the order of the run."""
    rows = []
    for cases in _same_question(worst_cases):
        for k, entry in enumerate(cases[0].entries):
            survivors = _shares([case.survivors[k] for case in cases])
            rows.append((_name(cases), Cell(entry), Cell(cases[0].threat), survivors))
    return Table(
        title="Worst case, entry by entry",
        caption="Right when clean, under this entry and under all of the run's above it.",
        columns=("model", "entry", "ball", "still right"),
        rows=tuple(rows),
        num_headings=3,
        folded=True,
    )


def published_table(curves: Sequence[PublishedCurve]) -> Table:
    """The papers' values, each with its place and how sure its reading is."""
    rows = tuple(
        (
            Cell(curve.model),
            Cell(str(point.iterations)),
            Cell(f"{100 * point.robust_accuracy:.1f}%"),
            Cell("exact" if point.exact else "inferred"),
            Cell(point.ref),
        )
        for curve in curves
        for point in curve.points
    )
    return Table(
        title="Published values",
        caption=(
            "Targeted PGD, uniform wrong class, linf, epsilon 16/255, ImageNet validation images "
            "(Xie et al. 2019); published, not verified here. Inferred: placed by the order of a "
            "figure's labels."
        ),
        columns=("model", "iterations", "robust", "reading", "place"),
        rows=rows,
        num_headings=2,
        folded=True,
    )


def checks_table(run: Run, name: str) -> Table:
    """The self-checks of a run, failed ones first."""
    checks = sorted(run.checks or (), key=lambda check: check.passed)
    return Table(
        title=f"Self-checks, {name}",
        caption="A failed check means that the model may look more robust than it is.",
        columns=("check", "outcome", "detail"),
        rows=tuple(
            (Cell(c.name, c.ball), Cell("passed" if c.passed else "FAILED"), Cell(c.detail))
            for c in checks
        ),
        num_headings=3,
        folded=not run.suspect,
    )


def _few(budgets: Sequence[int]) -> list[int]:
    """At most nine of the ascending budgets: the ends, and those nearest to equal ratios."""
    if len(budgets) <= MAX_BUDGETS:
        return list(budgets)
    ratio = (budgets[-1] / budgets[0]) ** (1 / (MAX_BUDGETS - 1))
    wanted = [budgets[0] * ratio**k for k in range(MAX_BUDGETS)]
    return sorted({min(budgets, key=lambda b: abs(math.log(b / want))) for want in wanted})


def _same_question(worst_cases: Sequence[WorstCase]) -> list[list[WorstCase]]:
    """Worst cases of one model and the same entries: those of different seeds."""
    together: dict[tuple[str, str, tuple[str, ...]], list[WorstCase]] = {}
    for case in worst_cases:
        together.setdefault((case.model, case.threat, case.entries), []).append(case)
    return list(together.values())


def _name(group: Sequence[Whitebox] | Sequence[WorstCase]) -> Cell:
    notes = [f"{len(group)} seeds"] if len(group) > 1 else []
    weights = {run.weights for run in group if isinstance(run, Whitebox)}
    notes += [f"{len(weights)} sets of weights"] if len(weights) > 1 else []
    notes += [SUSPECT] if any(run.suspect for run in group) else []
    return Cell(group[0].model, ", ".join(notes))


def _shares(shares: Sequence[Proportion | None]) -> Cell:
    """One share with its interval, or the mean of several with its range."""
    known = tuple(share for share in shares if share is not None)
    if len(known) < len(shares) or len(known) == 1:
        return share_cell(known[0] if len(shares) == 1 and known else None)
    spread = Spread(known)
    return Cell(f"{100 * spread.mean:.1f}%", f"{100 * spread.low:.1f}-{100 * spread.high:.1f}")


def _clean(group: Sequence[Whitebox]) -> Cell:
    return _shares([run.clean_accuracy for run in group])


def _never_broken(group: Sequence[Whitebox]) -> Cell:
    return _shares([run.worst_case_accuracy[-1] for run in group])


def _success(group: Sequence[Whitebox]) -> Cell:
    rates = [run.attack_success_rate for run in group]
    return _shares([None if rate is None else rate[-1] for rate in rates])


def _small(runs: Sequence[Whitebox]) -> str:
    seeds = any(len(group) > 1 for group in group_seeds(runs))
    return f"Small: 95% Clopper-Pearson intervals{f'; {_SEEDS_NOTE}' if seeds else ''}."


def _images(runs: Sequence[Whitebox]) -> str:
    counts = dict.fromkeys(str(run.clean_accuracy.count) for run in runs)
    return f"{' or '.join(counts)} images"


def _success_rule(run: Whitebox) -> str:
    return "classified as the target" if run.targeted else "that are misclassified"
