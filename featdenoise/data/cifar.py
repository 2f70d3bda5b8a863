"""CIFAR-10 and CIFAR-100 from a local folder, read by torchvision, which checks their md5 sums.

Training images get the usual augmentation: a random 32x32 crop after four pixels of zero padding,
and a horizontal flip with probability 1/2.
"""

from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100

from featdenoise.data.config import DataConfig, Split
from featdenoise.data.imageset import ArrayImages, DatasetSpec, ImageSet
from featdenoise.data.transforms import crop_and_flip

_LAYOUT = "data.root must hold the folder {folder} with the data set's 'python version' files"
_LAYOUT_10 = _LAYOUT.format(folder="cifar-10-batches-py")
_LAYOUT_100 = _LAYOUT.format(folder="cifar-100-python")


def load_cifar10(config: DataConfig, split: Split) -> ImageSet:
    """CIFAR-10: 50,000 training and 10,000 test images of ten classes.

    Raises:
        FileNotFoundError: the root does not hold the files and data.download is off.
        ValueError: the files are damaged.
    """
    return wrap_torchvision(_open(CIFAR10, config, split, CIFAR10_SPEC), CIFAR10_SPEC)


def load_cifar100(config: DataConfig, split: Split) -> ImageSet:
    """CIFAR-100: 50,000 training and 10,000 test images of a hundred classes.

    Raises:
        FileNotFoundError: the root does not hold the files and data.download is off.
        ValueError: the files are damaged.
    """
    return wrap_torchvision(_open(CIFAR100, config, split, CIFAR100_SPEC), CIFAR100_SPEC)


def wrap_torchvision(dataset: Any, spec: DatasetSpec) -> ArrayImages:
    """An ImageSet of the pixels that a torchvision data set holds in `data` and `targets`."""
    return ArrayImages(
        np.asarray(dataset.data),
        list(dataset.targets),
        class_names=list(dataset.classes),
        mean=spec.mean,
        std=spec.std,
        augment=crop_and_flip,
    )


def _open(dataset: type[CIFAR10], config: DataConfig, split: Split, spec: DatasetSpec) -> CIFAR10:
    assert config.root is not None, "load_dataset refuses a missing root"
    root = Path(config.root)
    folder = root / dataset.base_folder
    if not config.download and not folder.is_dir():
        raise FileNotFoundError(
            f"{spec.name} is not in {root}: {spec.layout}; or fetch it with train --download"
        )
    try:
        return dataset(root, train=split == "train", download=config.download)
    except RuntimeError as error:
        raise ValueError(
            f"{spec.name} in {folder} is incomplete or damaged ({error}); delete the folder and "
            "fetch it again with train --download"
        ) from error


CIFAR10_SPEC = DatasetSpec(
    name="cifar10",
    num_classes=10,
    image_size=32,
    # Of the training images, per channel; the values in general use.
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    reads=frozenset({"root", "download"}),
    layout=_LAYOUT_10,
    build=load_cifar10,
)
CIFAR100_SPEC = DatasetSpec(
    name="cifar100",
    num_classes=100,
    image_size=32,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    reads=frozenset({"root", "download"}),
    layout=_LAYOUT_100,
    build=load_cifar100,
)
