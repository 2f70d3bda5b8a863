"""A table of counts: the same cells as plain text, markdown or HTML.

Percentages are made here and nowhere earlier, each with its 95% Clopper-Pearson interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from featdenoise.base.binomial import Proportion


@dataclass(frozen=True)
class Cell:
    """A value and, smaller, what qualifies it, such as its interval."""

    value: str
    detail: str = ""


MISSING = Cell("-")


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


def share_cell(share: Proportion | None) -> Cell:
    """The percentage, or a dash where there is none."""
    return MISSING if share is None else percent(share)
