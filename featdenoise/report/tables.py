"""Tables of counts: the same cells as plain text, markdown or HTML.

Percentages are made here and nowhere earlier, each with its 95% Clopper-Pearson interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from featdenoise.base.binomial import Proportion
from featdenoise.base.summary import Blackbox, Certification, Whitebox
from featdenoise.base.units import format_pixels, format_radius

RADIUS_STEP = 0.25
_MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """A value and, smaller, what qualifies it, such as its interval."""

    value: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns and rows of cells; the first `num_headings` cells of a row name it."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_headings: int = 1
    folded: bool = False
    """Whether the page shows it only when its title is clicked."""

    def text(self) -> str:
        """For a terminal: details stand below their values."""
        lines: list[list[str]] = [list(self.columns)]
        for row in self.rows:
            lines.append([cell.value for cell in row])
            if any(cell.detail for cell in row):
                lines.append([cell.detail for cell in row])
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.columns))]
        rule = "  ".join("-" * width for width in widths)
        aligned = ["  ".join(self._align(line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, "", aligned[0], rule, *aligned[1:]])

    def markdown(self) -> str:
        """A pipe table; details follow their values in brackets."""
        kinds = [":--" if k < self.num_headings else "--:" for k in range(len(self.columns))]
        cells = [
            [f"{c.value} [{c.detail}]" if c.detail else c.value for c in row] for row in self.rows
        ]
        lines = [list(self.columns), kinds, *cells]
        body = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
        return "\n".join([f"**{self.title}**", "", *body, "", self.caption])

    def html(self) -> str:
        """A `<table>` with its caption; everything is escaped."""
        head = "".join(
            f'<th scope="col"{self._side(k)}>{escape(name)}</th>'
            for k, name in enumerate(self.columns)
        )
        body = "\n".join(
            "<tr>" + "".join(self._html_cell(k, c) for k, c in enumerate(row)) + "</tr>"
            for row in self.rows
        )
        title = escape(self.title)
        table = (
            f'<div class="table"><table>\n<caption><strong>{title}.</strong> '
            f"{escape(self.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody></table></div>"
        )
        if self.folded:
            return f"<details><summary>{title}</summary>\n{table}</details>"
        return table

    def _align(self, line: Sequence[str], widths: Sequence[int]) -> list[str]:
        return [
            text.ljust(width) if k < self.num_headings else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ]

    def _side(self, column: int) -> str:
        return ' class="name"' if column < self.num_headings else ""

    def _html_cell(self, column: int, cell: Cell) -> str:
        detail = f"<small>{escape(cell.detail)}</small>" if cell.detail else ""
        tag = "th" if column < self.num_headings else "td"
        scope = ' scope="row" class="name"' if tag == "th" else ""
        return f"<{tag}{scope}>{escape(cell.value)}{detail}</{tag}>"


def percent(share: Proportion) -> Cell:
    """A count as a percentage over its 95% interval."""
    low, high = share.interval()
    return Cell(f"{100 * share.fraction:.1f}%", f"{100 * low:.1f}-{100 * high:.1f}")


def whitebox_table(runs: Sequence[Whitebox]) -> Table:
    """Robust accuracy at every budget of runs that share one attack, a row each."""
    budgets = sorted({budget for run in runs for budget in run.budgets})
    rows = []
    for run in runs:
        robust = dict(zip(run.budgets, run.robust_accuracy, strict=True))
        shares = [run.clean_accuracy, *(robust.get(budget) for budget in budgets)]
        shares += [run.worst_case_accuracy[-1], run.attack_success_rate[-1]]
        rows.append((Cell(run.model), *map(_cell, shares)))
    return Table(
        title=f"Robust accuracy, {runs[0].attack}",
        caption=(
            f"{_images(runs)}; a column for each number of iterations. Robust: the adversarial "
            "image itself is classified right. Never broken: right when clean and at every one of "
            "these numbers of iterations. Attack success, at the largest: the share of all images "
            f"{_success_rule(runs[0])}. Small: 95% Clopper-Pearson intervals."
        ),
        columns=("model", "clean", *map(str, budgets), "never broken", "attack success"),
        rows=tuple(rows),
    )


def whitebox_details(runs: Sequence[Whitebox]) -> Table:
    """Every budget of runs that share one attack: now, ever so far, and attack success."""
    rows = [
        (Cell(run.model), Cell(str(budget)), percent(robust), percent(worst), percent(success))
        for run in runs
        for budget, robust, worst, success in zip(
            run.budgets,
            run.robust_accuracy,
            run.worst_case_accuracy,
            run.attack_success_rate,
            strict=True,
        )
    ]
    return Table(
        title=f"Every number of iterations, {runs[0].attack}",
        caption=(
            "At this number of iterations; right when clean and at every number up to this one; "
            f"attack success: the share of all images {_success_rule(runs[0])}."
        ),
        columns=("model", "iterations", "robust", "never broken so far", "attack success"),
        rows=tuple(rows),
        num_headings=2,
        folded=True,
    )


def blackbox_table(runs: Sequence[Blackbox]) -> Table:
    """Accuracy under each attacker, and under all at once; a column a model."""
    attackers = list(dict.fromkeys(name for run in runs for name in run.robust_accuracy))
    rows = [(Cell("clean images"), *(_cell(run.clean_accuracy) for run in runs))]
    rows += [
        (Cell(name), *(_cell(run.robust_accuracy.get(name)) for run in runs)) for name in attackers
    ]
    rows.append((Cell("all-or-nothing"), *(percent(run.all_or_nothing_score) for run in runs)))
    with_clean = [_cell(run.all_or_nothing_score_with_clean) for run in runs]
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


def _cell(share: Proportion | None) -> Cell:
    return Cell(_MISSING) if share is None else percent(share)


def _images(runs: Sequence[Whitebox]) -> str:
    counts = dict.fromkeys(str(run.clean_accuracy.count) for run in runs)
    return f"{' or '.join(counts)} images"


def _success_rule(run: Whitebox) -> str:
    return "classified as the target" if run.targeted else "that are misclassified"
