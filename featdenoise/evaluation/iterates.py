"""Iterates kept on disk, so that budgets added later cost only the steps that are new.

A PGD iterate is all that its next step depends on: a path continued from a kept iterate visits the
same bits as one that was never interrupted. Momentum and adaptive steps have more to remember, so
only plain PGD is continued.
"""

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.results import as_read
from featdenoise.evaluation.leftovers import differing_beyond_budgets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptIterates:
    """The iterates of one entry, a file a chunk and budget."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> "KeptIterates":
        """Open the folder, made if missing; on one process.

        Raises:
            ValueError: it holds the iterates of another attack or of other images.
        """
        folder.mkdir(parents=True, exist_ok=True)
        label = folder / "identity.json"
        here = as_read(identity)
        if not label.exists():
            write_atomically(label, json.dumps(here, indent=2).encode())
        different = differing_beyond_budgets(json.loads(label.read_text()), here)
        if different:
            raise ValueError(
                f"{folder} holds iterates of another run ({'; '.join(different)}); delete it or "
                "choose another output folder"
            )
        return cls(folder)

    def budgets(self, chunk: int) -> set[int]:
        """The budgets whose iterates are there and whole."""
        paths = self.folder.glob(f"{chunk:06d}-*.npy")
        return {int(path.stem.split("-")[1]) for path in paths if _is_whole(path)}

    def load(self, chunk: int, budget: int, device: torch.device) -> Tensor:
        """The iterate (N, C, H, W) of a chunk at a budget."""
        return torch.from_numpy(np.load(self._path(chunk, budget), allow_pickle=False)).to(device)

    def save(self, chunk: int, budget: int, iterate: Tensor) -> None:
        """Keep an iterate, padding included, so that it is continued in the same batch shape."""
        content = io.BytesIO()
        np.save(content, iterate.cpu().numpy())
        write_atomically(self._path(chunk, budget), content.getvalue())

    def _path(self, chunk: int, budget: int) -> Path:
        return self.folder / f"{chunk:06d}-{budget:06d}.npy"


def _is_whole(path: Path) -> bool:
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        logger.warning("%s cannot be read (%s); it is computed again", path, error)
        return False
    return True
