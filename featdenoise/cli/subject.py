"""What an evaluation is about: a model and the images it is judged on, from the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from featdenoise.base.chunks import hash_subset
from featdenoise.base.distributed import World
from featdenoise.cli.functions import call_function, digest_code
from featdenoise.data.config import DataConfig, Split
from featdenoise.data.imageset import ImageSet
from featdenoise.data.registry import load_dataset
from featdenoise.data.subset import pick_subset
from featdenoise.models.info import ModelInfo
from featdenoise.models.weights import HUB_PREFIX, fingerprint_weights, load_model_and_info


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model to judge."""

    model: str
    """A weights folder, hf-hub:owner/repository, a checkpoint, package.module:function that returns
    any nn.Module on RGB images in [0, 1], or a name of `featdenoise models`."""
    label: str | None = None
    """Name of the model in tables and plots; by default taken from the path."""

    def load(self, world: World) -> nn.Module:
        """The model on the world's device, in evaluation mode.

        Raises:
            ValueError: nothing of that name, or not a module.
            FileNotFoundError: an incomplete weights folder.
        """
        return load_subject(self.model, world)[0]

    def about(self, model: nn.Module) -> dict[str, str]:
        """What identifies the model in a run header: its label, digests of weights and own code."""
        about = {
            "name": self.label or _label_of(self.model),
            "weights": fingerprint_weights(model),
        }
        if _is_function(self.model):
            about["code"] = digest_code(self.model)
        return about


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """The images to judge it on."""

    data: str = "digits"
    """digits, cifar10, cifar100, imagenet, imagefolder or fake."""
    data_root: str | None = None
    """Folder that holds the files of cifar10, cifar100, imagenet or imagefolder."""
    image_size: int | None = None
    """Height and width of the images; the data set's own by default."""
    split: Split = "test"
    """Which split."""
    subset: str = "all"
    """Which images of it: all, first:100, every:20, sample:100 or file:ids.txt."""

    def load(self, seed: int) -> tuple[ImageSet, tuple[int, ...]]:
        """The split, and the ids of the chosen images."""
        config = DataConfig(name=self.data, root=self.data_root, image_size=self.image_size)
        images = load_dataset(config, self.split)
        return images, pick_subset(images.image_ids, self.subset, seed=seed)

    def about(self, images: ImageSet, image_ids: tuple[int, ...]) -> dict[str, Any]:
        """What identifies the images in a run header."""
        return {
            "name": self.data,
            "num_classes": images.num_classes,
            "image_size": images.image_size,
            "split": self.split,
            "subset": self.subset,
            "image_ids": hash_subset(image_ids),
            "fingerprint": images.fingerprint,
        }


def load_subject(source: str, world: World) -> tuple[nn.Module, ModelInfo]:
    """A model on the world's device, in evaluation mode, and what its weights say about it.

    Raises:
        ValueError: nothing of that name, or not a module.
        FileNotFoundError: an incomplete weights folder.
        RuntimeError: a download fails.
    """
    if _is_function(source):
        loaded, info = _call(source), ModelInfo()
    else:
        loaded, info = load_model_and_info(source)
    return loaded.to(world.device).eval(), info


def _is_function(source: str) -> bool:
    is_spec = ":" in source and not source.endswith(":")
    return is_spec and not source.startswith(HUB_PREFIX) and not Path(source).exists()


def _call(source: str) -> nn.Module:
    model = call_function("model", source)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model {source} returned a {type(model).__name__}; it must return a torch.nn.Module"
        )
    return model


def _label_of(spec: str) -> str:
    path = Path(spec)
    return path.parent.name if path.name == "weights" else path.stem if path.exists() else spec
