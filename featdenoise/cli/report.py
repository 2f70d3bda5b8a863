"""`featdenoise report RUN...`: tables, plots and one self-contained page about any runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from featdenoise.base.distributed import Device, World
from featdenoise.report.runs import report_runs


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw tables and plots of finished runs side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of white-box, black-box, certification and training runs; white-box runs that differ
    only in their seed share a curve."""
    out: Path = Path("report")
    """Folder of report.html, report.json and the pictures."""
    json: Path | None = None
    """Another file for the counts, beside report.json in the folder."""

    device: tyro.conf.Suppress[Device] = "cpu"

    def run(self, world: World) -> str:
        """Write the report; the text is its tables."""
        if not world.is_main:
            return ""
        text = report_runs(self.runs, self.out, json_file=self.json)
        return f"{text}\nreport in {self.out / 'report.html'}"
