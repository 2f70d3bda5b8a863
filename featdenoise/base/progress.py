"""Progress for people: a bar with rate and time left, and TensorBoard scalars."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class Progress:
    """A progress bar over a known number of items; silent on all but the main process."""

    def __init__(
        self, total: int, *, what: str, unit: str, done: int = 0, show: bool = True
    ) -> None:
        """Start a bar at `done` of `total` items; rate and time left count only new items."""
        self._bar = tqdm(
            total=total, desc=what, unit=unit, initial=done, disable=not show, dynamic_ncols=True
        )

    def advance(self, items: int = 1, **shown: str) -> None:
        """Move by `items`; `shown` values stand behind the bar."""
        if shown:
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


class Scalars:
    """Named scalars over steps, for TensorBoard; does nothing without a folder."""

    def __init__(self, folder: Path | None, *, purge_step: int | None = None) -> None:
        """Open the folder; points at `purge_step` and later, of a run cut short, are hidden."""
        self._writer = None if folder is None else SummaryWriter(str(folder), purge_step=purge_step)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Record one point for each name."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
