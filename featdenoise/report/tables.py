"""The tables of a report: black box and certification here, white box in `whitebox_tables`."""

from collections.abc import Sequence

from featdenoise.base.summary import Blackbox, Certification
from featdenoise.base.units import format_pixels, format_radius
from featdenoise.report.table import Cell as Cell
from featdenoise.report.table import Table as Table
from featdenoise.report.table import percent as percent
from featdenoise.report.table import share_cell
from featdenoise.report.whitebox_tables import whitebox_details as whitebox_details
from featdenoise.report.whitebox_tables import whitebox_table as whitebox_table

RADIUS_STEP = 0.25


def blackbox_table(runs: Sequence[Blackbox]) -> Table:
    """Accuracy under each attacker, and under all at once; a column a model."""
    attackers = list(dict.fromkeys(name for run in runs for name in run.robust_accuracy))
    rows = [(Cell("clean images"), *(share_cell(run.clean_accuracy) for run in runs))]
    rows += [
        (Cell(name), *(share_cell(run.robust_accuracy.get(name)) for run in runs))
        for name in attackers
    ]
    rows.append((Cell("all-or-nothing"), *(percent(run.all_or_nothing_score) for run in runs)))
    with_clean = [share_cell(run.all_or_nothing_score_with_clean) for run in runs]
    rows.append((Cell("all-or-nothing with clean"), *with_clean))
    worst = [percent(run.robust_accuracy[run.worst_attacker]) for run in runs]
    rows.append((Cell("worst single attacker"), *worst))
    radii = dict.fromkeys(format_pixels(run.epsilon) for run in runs if run.epsilon is not None)
    within = f", within epsilon {' or '.join(radii)} of the clean image" if radii else ""
    counts = dict.fromkeys(run.all_or_nothing_score.count for run in runs)
    return Table(
        title="Accuracy on other attackers' images",
        caption=(
            f"{' or '.join(map(str, counts))} images an attacker{within}. All-or-nothing: an "
            "image counts only if it is right under every attacker. Small: 95% Clopper-Pearson "
            "intervals."
        ),
        columns=("attacker", *(run.model for run in runs)),
        rows=tuple(rows),
    )


def radius_grid(runs: Sequence[Certification]) -> list[float]:
    """0, 0.25, 0.5, ... up to the largest certified radius of the runs."""
    largest = max((run.radii[-1] for run in runs if run.radii), default=0.0)
    return [k * RADIUS_STEP for k in range(int(largest / RADIUS_STEP) + 1)]


def certification_table(runs: Sequence[Certification]) -> Table:
    """Certified accuracy on a grid of l2 radii, average certified radius, abstentions."""
    radii = radius_grid(runs)
    rows = [
        (
            Cell(run.model),
            Cell(run.noise),
            *(percent(run.certified_accuracy(radius)) for radius in radii),
            Cell(format_radius(run.average_certified_radius, digits=3)),
            percent(run.abstained),
        )
        for run in runs
    ]
    votes = dict.fromkeys(f"n0 = {r.n0}, n = {r.n}, alpha = {r.alpha:g}" for r in runs)
    counts = dict.fromkeys(str(run.abstained.count) for run in runs)
    return Table(
        title="Certified accuracy",
        caption=(
            f"{' or '.join(counts)} images, {'; '.join(votes)}. A column for each l2 radius in "
            "pixel units: right, and no perturbation within that radius changes the smoothed "
            "prediction (each certificate fails with probability at most alpha). ACR: average "
            "certified radius, rounded down. Small: 95% Clopper-Pearson intervals."
        ),
        columns=("model", "noise", *(f"{radius:g}" for radius in radii), "ACR", "abstained"),
        rows=tuple(rows),
        num_headings=2,
    )
