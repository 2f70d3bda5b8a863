"""scikit-learn's 1,797 handwritten digits, embedded in that package: real images, no download.

Split: of each class, every fifth image in the order of the file is a test image (355 images), the
others are training images (1,442). It is stratified, and fixed by this rule alone. The file's
writers are not named, so a writer may be in both splits.

The 8x8 images with values 0 to 16 are enlarged bilinearly, which never leaves the range, and
rounded to 8 bits, so that an image and its PNG file are the same image. Grey is repeated to three
channels. No augmentation: a flip makes another character, and the digits fill their frame, so that
a shift cuts strokes off.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from featdenoise.data.config import DataConfig, Split
from featdenoise.data.imageset import ArrayImages, DatasetSpec, ImageSet

_SMALLEST = 8
_TEST_EVERY = 5
# Measured on the training split at 16x16.
_MEAN = 0.305
_STD = 0.319


def load_digits_split(config: DataConfig, split: Split) -> ImageSet:
    """The training or test digits at `config.image_size` (16 by default).

    Raises:
        ValueError: an image size below the images' own 8.
    """
    size = config.image_size or DIGITS_SPEC.image_size
    if size < _SMALLEST:
        raise ValueError(f"data.image_size must be >= {_SMALLEST} for digits, got {size}")
    bunch = load_digits()
    labels = np.asarray(bunch.target)
    chosen = np.flatnonzero(_is_test(labels) == (split == "test"))
    return ArrayImages(
        _enlarge(np.asarray(bunch.images)[chosen], size),
        labels[chosen].tolist(),
        class_names=[str(digit) for digit in range(10)],
        mean=DIGITS_SPEC.mean,
        std=DIGITS_SPEC.std,
    )


def _is_test(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the image is the fifth, tenth, ... of its class."""
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return is_test


def _enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """(N, 8, 8) values 0 to 16 as (N, size, size, 3) uint8."""
    values = torch.from_numpy(images)[:, None]
    # In float64 and before scaling: at 16 and 32 every value is exact, the same on every machine.
    larger = interpolate(values, size=(size, size), mode="bilinear", align_corners=False)
    levels = larger.mul(255 / 16).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()


DIGITS_SPEC = DatasetSpec(
    name="digits",
    num_classes=10,
    image_size=16,
    mean=(_MEAN, _MEAN, _MEAN),
    std=(_STD, _STD, _STD),
    reads=frozenset({"image_size"}),
    build=load_digits_split,
)
