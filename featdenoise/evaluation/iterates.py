"""Iterates kept on disk, so that budgets added later cost only the steps that are new.

A PGD iterate is all that its next step depends on: a path continued from a kept iterate visits the
same bits as one that was never interrupted. Momentum and adaptive steps have more to remember, so
only plain PGD is continued.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.results import describe, differing_fields

_BUDGETS = ("budgets", "attack.num_steps")


@dataclass(frozen=True)
class KeptIterates:
    """The iterates of one entry, a file a chunk and budget."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> "KeptIterates":
        """Open the folder, made if missing; every process calls this.

        Raises:
            ValueError: it holds the iterates of another attack or of other images.
        """
        folder.mkdir(parents=True, exist_ok=True)
        label = folder / "identity.json"
        here = json.loads(json.dumps(describe(identity)))
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
        """The budgets whose iterates are there."""
        return {int(path.stem.split("-")[1]) for path in self.folder.glob(f"{chunk:06d}-*.npy")}

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


def differing_beyond_budgets(there: Any, here: Any) -> list[str]:
    """Where two identities differ, apart from the budgets."""
    return [
        line
        for line in differing_fields(there, here)
        if not line.startswith(tuple(f"{name}:" for name in _BUDGETS))
    ]


def set_aside(path: Path, header_identity: Any, identity: Mapping[str, Any]) -> None:
    """Rename finished results that differ in the budgets alone: they will be computed anew."""
    here = json.loads(json.dumps(describe(identity)))
    if header_identity == here or differing_beyond_budgets(header_identity, here):
        return
    number = len(list(path.parent.glob("superseded-*.jsonl")))
    path.replace(path.with_name(f"superseded-{number:03d}.jsonl"))
