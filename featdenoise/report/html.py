"""One self-contained page: pictures and styles inline, no link leaves the file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from featdenoise.base.checkpoint import write_atomically
from featdenoise.report.table import Table

DOTS_PER_INCH = 144
"""Of the pictures; the page shows them at 96, so they stay sharp on dense screens."""

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #1d2430;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.2rem 2.6rem 3rem; background: #fff;
  box-shadow: 0 0 24px rgba(20, 30, 50, .08); }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.4rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: 1.2rem;
  border-top: 1px solid #dfe3e8; }
p { max-width: 46rem; margin: .6rem 0; }
.table { overflow-x: auto; margin: 1.3rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { caption-side: top; text-align: left; color: #525c6b; font-size: .86rem;
  padding-bottom: .6rem; max-width: 52rem; }
caption strong { color: #1d2430; display: block; font-size: .98rem; }
th, td { padding: .42rem .7rem; text-align: right; vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 2px solid #1d2430; font-weight: 600; }
tbody tr + tr > * { border-top: 1px solid #e6e9ed; }
tbody tr:hover > * { background: #f7f9fc; }
th.name { text-align: left; font-weight: 600; white-space: normal; min-width: 7rem; }
details { margin: 1.3rem 0; }
summary { cursor: pointer; color: #0b5cad; font-size: .92rem; }
small { display: block; color: #6a7482; font-weight: 400; font-size: .78rem; }
figure { margin: 1.6rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #525c6b; font-size: .86rem; max-width: 52rem; margin-top: .4rem; }
pre { background: #f4f5f7; border: 1px solid #dfe3e8; border-radius: 6px; padding: .8rem 1rem;
  overflow-x: auto; font-size: .86rem; line-height: 1.5; }
.alert { border: 2px solid #b3261e; border-left-width: 10px; border-radius: 6px;
  background: #fdecea; color: #7a1510; padding: .7rem 1.1rem; margin: 0 0 1.2rem; }
.alert p { max-width: none; }
.alert p:first-child { font-weight: 700; font-size: 1.1rem; }
@media print { body { background: #fff; } main { box-shadow: none; } }
""".strip()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure, ready to be shown and saved."""

    name: str
    """File name without its ending."""
    caption: str
    png: bytes
    svg: bytes


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it, in this order."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
    """Shell commands that make these results again."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """What a reader must not miss; stands above everything."""

    heading: str
    lines: tuple[str, ...]


def write_report(
    path: Path, title: str, sections: Sequence[Section], *, alerts: Sequence[Alert] = ()
) -> None:
    """Write the page, whole or not at all; every text is escaped."""
    banner = "".join(_alert(alert) for alert in alerts)
    body = "\n".join(_section(section) for section in sections)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{banner}{body}\n</main>\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())


def _alert(alert: Alert) -> str:
    lines = "".join(f"<p>{escape(line)}</p>" for line in (alert.heading, *alert.lines))
    return f'<div class="alert" role="alert">{lines}</div>\n'


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs]
    parts += [_figure(picture) for picture in section.pictures]
    parts += [table.html() for table in section.tables]
    if section.commands:
        parts.append(f"<pre>{escape(chr(10).join(section.commands))}</pre>")
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _figure(picture: Picture) -> str:
    # A PNG's width stands in bytes 16 to 19.
    width = int.from_bytes(picture.png[16:20], "big") * 96 // DOTS_PER_INCH
    source = "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure><img width="{width}" alt="{escape(picture.name)}" src="{source}">\n'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
