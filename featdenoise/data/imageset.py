"""What every data set gives: batches by image id, and what a model must know about them.

An image id is the image's place in its split, 0 to N-1, the same in every run on the same files.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from featdenoise.base.imagefiles import from_uint8
from featdenoise.base.rng import Stream
from featdenoise.base.units import check_classes
from featdenoise.data.config import DataConfig, Split

Colour = tuple[float, float, float]
Augmentation = Callable[[Tensor, Stream], Tensor]


class LabelledImages(Protocol):
    """What an evaluation needs: a data set, or anything that gives images by id."""

    @property
    def num_classes(self) -> int:
        """How many classes there are; labels are 0 to num_classes - 1."""

    def batch(self, image_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in [0, 1] and labels (N,), in the order asked for."""


class ImageSet(LabelledImages, Protocol):
    """One split of a data set."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, by label."""

    @property
    def mean(self) -> Colour:
        """Mean of each channel, in pixel units, for the model's first layer."""

    @property
    def std(self) -> Colour:
        """Standard deviation of each channel, in pixel units, for the model's first layer."""

    @property
    def image_size(self) -> int:
        """Height and width of every image."""

    @property
    def fingerprint(self) -> str:
        """Changes with the images; part of a run's identity."""

    @property
    def image_ids(self) -> tuple[int, ...]:
        """All ids, 0 to N-1."""

    def __len__(self) -> int: ...

    def batch(
        self, image_ids: Sequence[int], stream: Stream | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and labels in the order asked for.

        Args:
            image_ids: which images.
            stream: for training: augments each image by the draws of its own id and epoch; its
                ids must be those asked for. Without it the images are those of an evaluation.

        Returns:
            (N, 3, H, W) float32 in [0, 1], and (N,) int64.

        Raises:
            ValueError: an unknown id, a stream of other images, or a file that cannot be decoded.
        """


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One row of the registry."""

    name: str
    """What the command line calls it."""
    num_classes: int | None
    """None: as many as there are class folders."""
    image_size: int
    """Default height and width."""
    mean: Colour
    """Mean of each channel, in pixel units."""
    std: Colour
    """Standard deviation of each channel, in pixel units."""
    reads: frozenset[str]
    """The fields of DataConfig beyond the name that it understands."""
    layout: str = ""
    """What the root folder must hold, for those that have one."""
    build: Callable[[DataConfig, Split], ImageSet]
    """Makes one split."""


def check_request(image_ids: Sequence[int], stream: Stream | None, count: int) -> None:
    """Refuse ids outside 0 to count - 1 and a stream that belongs to other images.

    Raises:
        ValueError: names the first offending id.
    """
    unknown = [i for i in image_ids if not 0 <= i < count]
    if unknown:
        raise ValueError(f"image ids must be in 0..{count - 1}, got {unknown[0]}")
    if stream is not None and stream.image_ids != tuple(image_ids):
        raise ValueError("stream.image_ids must equal the image ids asked for, in the same order")


class ArrayImages:
    """An ImageSet held in memory as 8-bit pixels."""

    def __init__(
        self,
        pixels: np.ndarray,
        labels: Sequence[int],
        *,
        class_names: Sequence[str],
        mean: Colour,
        std: Colour,
        augment: Augmentation | None = None,
    ) -> None:
        """Hold these images.

        Args:
            pixels: (N, S, S, 3) uint8.
            labels: N labels.
            class_names: the name of each class.
            mean: of each channel, in pixel units.
            std: of each channel, in pixel units.
            augment: (N, 3, S, S) images and their stream to images of the same shape; none by
                default.

        Raises:
            ValueError: the shapes do not fit together, or a label is not one of the classes.
        """
        count, height, width, channels = pixels.shape
        if pixels.dtype != np.uint8 or channels != 3 or height != width or len(labels) != count:
            raise ValueError(
                f"pixels must be (N, S, S, 3) uint8 with N labels, got {pixels.shape} "
                f"{pixels.dtype} and {len(labels)} labels"
            )
        self._labels = torch.tensor(labels, dtype=torch.int64)
        check_classes(self._labels, len(class_names))
        self._pixels = pixels
        self._augment = augment
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        self.mean = mean
        self.std = std
        self.image_size = height
        self.image_ids = tuple(range(count))

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all pixels, labels and class names."""
        digest = hashlib.sha256("\0".join(self.class_names).encode())
        digest.update(repr(self._pixels.shape).encode())
        digest.update(np.ascontiguousarray(self._pixels).data)
        digest.update(self._labels.numpy().data)
        return f"contents-{digest.hexdigest()[:16]}"

    def batch(
        self, image_ids: Sequence[int], stream: Stream | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and labels by id; see ImageSet."""
        check_request(image_ids, stream, len(self))
        chosen = np.array(image_ids, dtype=np.int64)
        images = from_uint8(self._pixels[chosen])
        if stream is not None and self._augment is not None:
            images = self._augment(images, stream)
        return images, self._labels[chosen]
