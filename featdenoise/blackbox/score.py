"""Score a model on folders of adversarial images, CAAD style (Xie et al. 2019, Sec. 6.2).

In: a folder of clean PNG files, a CSV of labels, and for each attacker a folder of PNG files of the
same names. Out: one row an image and attacker, and one for the clean image. The score is
all-or-nothing: an image counts only if the model is right under every attacker.

Nothing is taken on trust or mended: a missing or extra image, another size, a pixel outside the
8-bit ball is an error that names it. An image that is not there never counts as survived.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featdenoise.base.chunks import Chunk, cut_chunks, pad_batch
from featdenoise.base.distributed import World
from featdenoise.base.evaluation_results import EvaluationResults
from featdenoise.base.imagefiles import (
    fingerprint_files,
    from_uint8,
    list_images,
    read_image,
    whole_levels,
)
from featdenoise.base.judge import judge
from featdenoise.base.results import Row
from featdenoise.base.summary import CLEAN
from featdenoise.base.units import Pixels, check_pixels
from featdenoise.blackbox.labels import read_labels


@dataclass(frozen=True, kw_only=True)
class BlackboxScoring:
    """The rules of a black-box evaluation."""

    epsilon: Pixels = 16 / 255
    """Radius of the L-inf ball that adversarial images must lie in; checked in 8-bit levels."""
    label_offset: int = 0
    """Subtracted from the CSV's labels: 1 for CAAD and NIPS 2017, whose 0 is background."""
    chunk_size: int = 50
    """Images that are computed, shared out and resumed together."""

    def __post_init__(self) -> None:
        """Refuse an epsilon outside [0, 1] and a chunk size below 1."""
        check_pixels("epsilon", self.epsilon)
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be >= 1, got {self.chunk_size}")


def score_blackbox(
    model: Callable[[Tensor], Tensor],
    scoring: BlackboxScoring,
    *,
    clean: Path,
    labels: Path,
    attackers: Mapping[str, Path],
    folder: Path,
    identity: Mapping[str, Any],
    world: World | None = None,
    show_progress: bool = True,
) -> tuple[Row, list[Row]]:
    """Classify the clean and all adversarial images; resumable, shared among processes.

    Args:
        model: (N, 3, H, W) images in [0, 1] to (N, K) logits, on the device of `world`. A module
            is in evaluation mode meanwhile.
        scoring: the rules.
        clean: folder of PNG files, all of one size.
        labels: CSV of `name,label`, with or without that header, or with the columns ImageId and
            TrueLabel; every clean image exactly once.
        attackers: name to folder of PNG files, the same names and size as the clean ones.
        folder: of the results file.
        identity: what defines the model, for the header; compared when a run is resumed.
        world: this process among all.
        show_progress: show a bar on the main process.

    Returns:
        The header and the rows {id, name, attacker, label, prediction, correct}: for each image
        the attacker "clean" and then every attacker.

    Raises:
        ValueError: images or labels that do not fit together, a pixel outside the ball, labels
            outside the model's classes, a run of another identity in `folder`.
        FileNotFoundError: a folder or the CSV is not there.
        RuntimeError: the model gives logits that are not finite.
    """
    world = world or World()
    task = _Task.open(scoring, clean, labels, attackers)
    chunks = cut_chunks(range(len(task.names)), scoring.chunk_size)
    results = EvaluationResults(
        folder,
        {
            "kind": "blackbox",
            **identity,
            "epsilon": scoring.epsilon,
            "label_offset": scoring.label_offset,
            "chunk_size": scoring.chunk_size,
            "attackers": list(attackers),
            "num_images": len(task.names),
            "images": world.share(task.fingerprint() if world.is_main else None),
        },
        chunks,
        rows_per_image=len(task.folders),
        world=world,
    )
    return results.complete(
        lambda chunk: task.score(chunk, model, world.device),
        what="black-box",
        show_progress=show_progress,
    )


@dataclass(frozen=True)
class _Task:
    """The images and labels of a run, checked to fit together."""

    names: list[str]
    labels: list[int]
    folders: dict[str, Path]
    """The clean folder first, then the attackers'."""
    size: tuple[int, int]
    scoring: BlackboxScoring

    @classmethod
    def open(
        cls, scoring: BlackboxScoring, clean: Path, labels: Path, attackers: Mapping[str, Path]
    ) -> "_Task":
        """List all folders and compare them with the labels."""
        if not attackers or CLEAN in attackers:
            raise ValueError(
                f"attackers must be at least one name other than {CLEAN!r}, got {list(attackers)}"
            )
        names = _list_names(clean)
        if not names:
            raise ValueError(f"there are no PNG files in the clean folder {clean}")
        label_of = read_labels(labels, scoring.label_offset)
        _require_same_names(names, label_of, f"the labels in {labels}")
        for attacker, folder in attackers.items():
            _require_same_names(names, _list_names(folder), f"attacker {attacker!r} in {folder}")
        height, width, _ = read_image(clean / names[0]).shape
        return cls(
            names,
            [label_of[name] for name in names],
            {CLEAN: clean, **attackers},
            (height, width),
            scoring,
        )

    def fingerprint(self) -> str:
        """Digest of all images and labels."""
        digest = hashlib.sha256(repr(self.labels).encode())
        for name, folder in self.folders.items():
            files = fingerprint_files(folder, [folder / image for image in self.names])
            digest.update(f"{name}\0{files}\0".encode())
        return digest.hexdigest()[:16]

    def score(
        self, chunk: Chunk, model: Callable[[Tensor], Tensor], device: torch.device
    ) -> list[Row]:
        """The rows of one chunk, image by image."""
        clean = self._read(chunk, CLEAN)
        predictions: dict[str, list[int]] = {}
        for attacker in self.folders:
            pixels = clean if attacker == CLEAN else self._read(chunk, attacker)
            self._check_ball(chunk, attacker, pixels, clean)
            # Padded, so that every batch of a run has one shape and kernels round alike.
            images = pad_batch(from_uint8(pixels), self.scoring.chunk_size).to(device)
            names = [f"{self.names[i]} under {attacker!r}" for i in chunk.ids]
            logits = judge(model, images, names)
            self._check_labels(logits.shape[1])
            predictions[attacker] = logits.argmax(1).tolist()
        return [
            {
                "id": i,
                "name": self.names[i],
                "attacker": attacker,
                "label": self.labels[i],
                "prediction": predicted[k],
                "correct": predicted[k] == self.labels[i],
            }
            for k, i in enumerate(chunk.ids)
            for attacker, predicted in predictions.items()
        ]

    def _read(self, chunk: Chunk, attacker: str) -> np.ndarray:
        """(n, H, W, 3) uint8, the images of a chunk."""
        pixels = []
        for i in chunk.ids:
            path = self.folders[attacker] / self.names[i]
            pixels.append(read_image(path))
            if pixels[-1].shape[:2] != self.size:
                raise ValueError(
                    f"image {path} is {pixels[-1].shape[:2]} pixels (height, width), but the first "
                    f"clean image is {self.size}; all images must have one size"
                )
        return np.stack(pixels)

    def _check_ball(
        self, chunk: Chunk, attacker: str, pixels: np.ndarray, clean: np.ndarray
    ) -> None:
        allowed = whole_levels(self.scoring.epsilon)
        moved = np.abs(pixels.astype(np.int16) - clean).max(axis=(1, 2, 3))
        outside = np.flatnonzero(moved > allowed)
        if outside.size:
            k = int(outside[0])
            raise ValueError(
                f"attacker {attacker!r} moves a pixel of {self.names[chunk.ids[k]]} by "
                f"{moved[k]}/255, epsilon allows {allowed}/255; clip the attacker's images or "
                "score with a larger epsilon"
            )

    def _check_labels(self, num_classes: int) -> None:
        highest = max(range(len(self.labels)), key=lambda i: self.labels[i])
        if self.labels[highest] >= num_classes:
            raise ValueError(
                f"label {self.labels[highest]} of {self.names[highest]} is not one of the model's "
                f"{num_classes} classes; labels that start at 1 need label_offset=1"
            )


def _list_names(folder: Path) -> list[str]:
    return [path.name for path in list_images(folder, suffixes=(".png",))]


def _require_same_names(
    wanted: Sequence[str], found: Sequence[str] | dict[str, int], what: str
) -> None:
    missing = sorted(set(wanted) - set(found))
    extra = sorted(set(found) - set(wanted))
    if missing or extra:
        raise ValueError(
            f"{what} must name every clean image exactly once: {len(missing)} missing "
            f"{missing[:5]}, {len(extra)} extra {extra[:5]}"
        )
