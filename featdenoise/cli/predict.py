"""`featdenoise predict MODEL DIR`: the class of every image in a folder, as CSV."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from torch import nn

from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.distributed import Device, World
from featdenoise.base.imagefiles import from_uint8, list_images, read_image
from featdenoise.base.judge import judge
from featdenoise.cli.subject import load_subject
from featdenoise.data.resampling import RESAMPLINGS
from featdenoise.models.info import ModelInfo

logger = logging.getLogger(__name__)

COLUMNS = ("name", "class_index", "class_name", "probability")


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Classify the images of a folder and its sub-folders."""

    model: Annotated[str, tyro.conf.Positional]
    """A weights folder, hf-hub:owner/repository, a checkpoint, a name with published weights, or
    package.module:function."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where the images are."""
    out: Path | None = None
    """CSV file; printed by default."""
    image_size: int | None = None
    """Height and width of the input; what the weights say by default."""
    batch_size: int = 32
    """Images classified together."""
    skip_corrupt: bool = False
    """End well although some files cannot be decoded."""
    device: Device = "auto"
    """auto takes the GPU if there is one."""

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        for name in ("image_size", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")

    def run(self, world: World) -> str:
        """Classify; the text is the CSV, unless it goes to a file.

        Raises:
            ValueError: there are no images, or some cannot be decoded; the others are classified
                first.
        """
        if not world.is_main:
            return ""
        paths = list_images(self.folder, recursive=True)
        if not paths:
            raise ValueError(f"there are no images in {self.folder}")
        model, info = load_subject(self.model, world)
        rows, corrupt = self._classify(model, info, paths, world)
        text = _to_csv(rows)
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.out, text.encode())
            text = f"{len(rows)} of {len(paths)} images classified; results in {self.out}"
        if corrupt and not self.skip_corrupt:
            print(text.rstrip())  # noqa: T201
        for message in corrupt:
            logger.warning("%s", message)
        if corrupt and not self.skip_corrupt:
            raise ValueError(
                f"{len(corrupt)} of {len(paths)} images could not be decoded; mend them, take them "
                "out, or accept it with --skip-corrupt"
            )
        return text.rstrip()

    def _classify(
        self, model: nn.Module, info: ModelInfo, paths: Sequence[Path], world: World
    ) -> tuple[list[tuple[str, int, str, str]], list[str]]:
        """Rows of the readable images, and what is wrong with the others."""
        size = self.image_size or info.input_size
        if size is None:
            raise ValueError(
                f"{self.model} does not say the size of its input; give it with --image-size"
            )
        resample = RESAMPLINGS[info.resampling]
        rows: list[tuple[str, int, str, str]] = []
        corrupt: list[str] = []
        for first in range(0, len(paths), self.batch_size):
            pictures: dict[str, np.ndarray] = {}
            for path in paths[first : first + self.batch_size]:
                try:
                    pixels = read_image(path)
                except ValueError as error:
                    corrupt.append(str(error))
                    continue
                name = path.relative_to(self.folder).as_posix()
                pictures[name] = resample(pixels, size)
            if pictures:
                images = from_uint8(np.stack(list(pictures.values()))).to(world.device)
                probabilities = judge(model, images, list(pictures)).double().softmax(1)
                best = probabilities.max(1)
                rows += [
                    (name, index, _class_name(info, index), f"{probability:.6f}")
                    for name, index, probability in zip(
                        pictures, best.indices.tolist(), best.values.tolist(), strict=True
                    )
                ]
        return rows, corrupt


def _class_name(info: ModelInfo, index: int) -> str:
    return str(index) if info.classes is None else info.classes[index]


def _to_csv(rows: Sequence[tuple[str, int, str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue()
