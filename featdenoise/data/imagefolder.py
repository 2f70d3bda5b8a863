"""Any folder of pictures sorted by class: ROOT/train/CLASS/*.png, ROOT/val or ROOT/test likewise.

The test split is `val` where there is one (ImageNet's `test` has no labels), else `test`. Labels
follow the sorted class folders of `train` where it exists, so that both splits agree. An image's
id is its place in the sorted list of paths. Test pictures: shorter side to size * 256/224, then the
centre; training pictures: random resized crop and flip.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from featdenoise.base.imagefiles import fingerprint_files, from_uint8, list_images, read_image
from featdenoise.base.rng import Stream
from featdenoise.data.config import DataConfig, Split
from featdenoise.data.imageset import DatasetSpec, check_request
from featdenoise.data.resampling import RESAMPLINGS, Resampling
from featdenoise.data.transforms import random_resized_crop

_LAYOUT = "data.root must hold train/CLASS/*.png (or .jpg, ...) and val/CLASS/* or test/CLASS/*"
_SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("val", "test")}


class FolderImages:
    """An ImageSet that decodes its files when asked."""

    def __init__(
        self,
        folder: Path,
        *,
        class_names: Sequence[str],
        image_size: int,
        resampling: Resampling = "center-crop",
    ) -> None:
        """List the pictures of `folder`, one sub-folder a class.

        Args:
            folder: of one split.
            class_names: sub-folders, by class index.
            image_size: height and width of the images.
            resampling: name of `RESAMPLINGS`; how test pictures are brought to that size.

        Raises:
            ValueError: a sub-folder that is not a class, or no pictures.
        """
        strangers = sorted(set(_subfolders(folder)) - set(class_names))
        if strangers:
            raise ValueError(
                f"{folder} holds folders that are no class of the training split: {strangers[:5]}"
            )
        self._folder = folder
        self._paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            if (folder / name).is_dir():
                self._paths += list_images(folder / name, recursive=True)
            labels += [label] * (len(self._paths) - len(labels))
        if not self._paths:
            raise ValueError(f"there are no pictures in {folder}; {_LAYOUT}")
        self._labels = torch.tensor(labels, dtype=torch.int64)
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        self.mean = IMAGEFOLDER_SPEC.mean
        self.std = IMAGEFOLDER_SPEC.std
        self.image_size = image_size
        self.resampling = resampling
        self.image_ids = tuple(range(len(self._paths)))

    def __len__(self) -> int:
        return len(self._paths)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the class names and files: of their contents up to 256 MiB, else of sizes."""
        kind, files = fingerprint_files(self._folder, self._paths).split("-")
        text = "\0".join([*self.class_names, files])
        return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def batch(
        self, image_ids: Sequence[int], stream: Stream | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and labels by id; see ImageSet."""
        check_request(image_ids, stream, len(self))
        size = self.image_size
        pictures = (read_image(self._paths[i]) for i in image_ids)
        pixels = np.empty((len(image_ids), size, size, 3), dtype=np.uint8)
        if stream is None:
            resample = RESAMPLINGS[self.resampling]
            for k, picture in enumerate(pictures):
                pixels[k] = resample(picture, size)
        else:
            draws = stream.generators("crop")
            for k, (picture, rng) in enumerate(zip(pictures, draws, strict=True)):
                pixels[k] = np.asarray(random_resized_crop(Image.fromarray(picture), size, rng))
        return from_uint8(pixels), self._labels[list(image_ids)]


def load_imagefolder(
    config: DataConfig, split: Split, resampling: Resampling = "center-crop"
) -> FolderImages:
    """The pictures of one split folder, brought to their size as `resampling` says.

    Raises:
        FileNotFoundError: no root or no folder for the split; says what layout is expected.
        ValueError: no classes, no pictures, or test classes that training does not have.
    """
    assert config.root is not None, "load_dataset refuses a missing root"
    root = Path(config.root)
    folder = _split_folder(root, split)
    train = root / "train"
    class_names = _subfolders(train if train.is_dir() else folder)
    if not class_names:
        raise ValueError(f"there are no class folders in {folder}; {_LAYOUT}")
    size = config.image_size or IMAGEFOLDER_SPEC.image_size
    return FolderImages(folder, class_names=class_names, image_size=size, resampling=resampling)


def _split_folder(root: Path, split: Split) -> Path:
    for name in _SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(str(root / name) for name in _SPLIT_FOLDERS[split])
    raise FileNotFoundError(f"there is no folder {wanted}; {_LAYOUT}")


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


IMAGEFOLDER_SPEC = DatasetSpec(
    name="imagefolder",
    num_classes=None,
    image_size=224,
    # ImageNet's training images, per channel; the values in general use.
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    reads=frozenset({"root", "image_size"}),
    layout=_LAYOUT,
    build=load_imagefolder,
)
