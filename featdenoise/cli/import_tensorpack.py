"""`featdenoise import-tensorpack FILE.npz`: the original's released weights, in our format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from featdenoise.base.distributed import Device, World
from featdenoise.base.filekinds import check_whole
from featdenoise.cli.export import write_folder
from featdenoise.models.imagenet_names import imagenet_class_names
from featdenoise.models.info import ModelInfo
from featdenoise.models.published import PUBLISHED
from featdenoise.models.registry import Classifier
from featdenoise.models.tensorpack import load_tensorpack
from featdenoise.models.weights import published_info


@dataclass(frozen=True, kw_only=True)
class ImportTensorpack:
    """Convert an .npz file of the TensorFlow original to safetensors with its config and card."""

    file: Annotated[Path, tyro.conf.Positional]
    """The .npz file."""
    out: Path
    """Folder of the converted weights."""
    model: str | None = None
    """Which released net the file is, by its name in `featdenoise models`; by default any net of
    the original, told by its variables, without published figures."""
    licence: str | None = None
    """Licence of the weights, where the file is none of the released ones."""

    device: tyro.conf.Suppress[Device] = "cpu"

    def run(self, world: World) -> str:
        """Convert; the text says where the weights are."""
        if not world.is_main:
            return ""
        model, info = self._read()
        write_folder(self.out, model, info)
        licence = "" if info.licence is None else f"; the weights are licensed {info.licence}"
        return f"{model.config.name} with denoise {model.config.denoise} in {self.out}{licence}"

    def _read(self) -> tuple[Classifier, ModelInfo]:
        if self.file.is_file():
            check_whole(self.file, "npz", "download it again")
        if self.model is None:
            model = load_tensorpack(self.file)
            names = imagenet_class_names()
            return model, ModelInfo(
                classes=names if model.config.num_classes == len(names) else None,
                input_size=224,
                resampling="stretch-bicubic",
                licence=self.licence,
                origin=self.file.name,
            )
        if self.model not in PUBLISHED:
            raise ValueError(f"model must be one of {', '.join(PUBLISHED)}, got {self.model!r}")
        if self.licence is not None:
            raise ValueError(
                f"licence of {self.model} is {PUBLISHED[self.model].licence}; leave it out"
            )
        return load_tensorpack(self.file, PUBLISHED[self.model].config), published_info(self.model)
