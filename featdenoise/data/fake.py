"""Generated images for tests and smoke runs: a coarse pattern a class plus noise, easily learnt.

Nothing is read from disk. Every image is a pure function of its split and id.
"""

import numpy as np

from featdenoise.base.rng import generator
from featdenoise.data.config import DataConfig, Split
from featdenoise.data.imageset import ArrayImages, DatasetSpec, ImageSet

_NUM_CLASSES = 10
_NUM_IMAGES: dict[Split, int] = {"train": 256, "test": 64}
_CELLS = 4
_NOISE = 0.1


def make_fake_images(
    split: Split, *, num_images: int, num_classes: int = _NUM_CLASSES, image_size: int = 32
) -> ArrayImages:
    """`num_images` images; the label of image i is i modulo num_classes."""
    patterns = [
        generator(0, "fake pattern", label).uniform(0.25, 0.75, (_CELLS, _CELLS, 3))
        for label in range(num_classes)
    ]
    cell = np.arange(image_size) * _CELLS // image_size
    labels = [i % num_classes for i in range(num_images)]
    pixels = np.empty((num_images, image_size, image_size, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        noise = generator(0, f"fake {split}", i).normal(0, _NOISE, pixels.shape[1:])
        image = patterns[label][cell][:, cell] + noise
        pixels[i] = np.rint(255 * image.clip(0, 1))
    return ArrayImages(
        pixels,
        labels,
        class_names=[f"pattern {label}" for label in range(num_classes)],
        mean=FAKE_SPEC.mean,
        std=FAKE_SPEC.std,
    )


def load_fake(config: DataConfig, split: Split) -> ImageSet:
    """256 training or 64 test images of ten classes."""
    size = config.image_size or FAKE_SPEC.image_size
    return make_fake_images(split, num_images=_NUM_IMAGES[split], image_size=size)


FAKE_SPEC = DatasetSpec(
    name="fake",
    num_classes=_NUM_CLASSES,
    image_size=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.18, 0.18, 0.18),
    reads=frozenset({"image_size"}),
    build=load_fake,
)
