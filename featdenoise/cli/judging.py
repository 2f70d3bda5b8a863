"""Settings that every evaluation command shares: device, threads, and what is done at the end."""

from dataclasses import dataclass
from pathlib import Path

import torch

from featdenoise.base.distributed import Device, World
from featdenoise.report.runs import report_runs


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How an evaluation is carried out; nothing here changes what is measured."""

    out: Path
    """Folder of the results; a run that was cut short goes on there."""
    device: Device = "auto"
    """auto takes the GPU if there is one."""
    threads: int | None = None
    """CPU threads of a process; all cores by default, one under torchrun."""

    def prepare(self) -> None:
        """Set the number of threads."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def report(self, world: World) -> str:
        """Write report.html with pictures beside the results; the text is the table."""
        if not world.is_main:
            return ""
        text = report_runs([self.out], self.out / "report")
        return f"{text}\nresults in {self.out}, pictures in {self.out / 'report'}"
