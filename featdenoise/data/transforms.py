"""Training augmentation and the ImageNet test crop, as functions of explicit parameters.

Every random parameter comes from the stream of the image, keyed by seed, epoch and image id, never
from a global state: an image is cropped alike in any batch and on any process. PIL images for
pictures of any size, batches for small ones.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from featdenoise.base.rng import Stream

_SHORTER_SIDE = 256 / 224
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def crop_and_flip(images: Tensor, stream: Stream, *, padding: int = 4) -> Tensor:
    """Random crops of zero-padded images, flipped left to right with probability 1/2.

    Args:
        images: (N, C, H, W).
        stream: of these images.
        padding: zeros on each side before the crop.

    Returns:
        (N, C, H, W).
    """
    height, width = images.shape[-2:]
    padded = pad(images, (padding, padding, padding, padding))
    tops = stream.integers("crop", 2 * padding + 1, draw=0).tolist()
    lefts = stream.integers("crop", 2 * padding + 1, draw=1).tolist()
    flips = stream.integers("flip", 2).tolist()
    out = torch.empty_like(images)
    for k, (top, left, flip) in enumerate(zip(tops, lefts, flips, strict=True)):
        crop = padded[k, :, top : top + height, left : left + width]
        out[k] = crop.flip(-1) if flip else crop
    return out


def draw_crop_box(
    rng: np.random.Generator, width: int, height: int
) -> tuple[float, float, float, float]:
    """A random box of 8% to 100% of the area and aspect ratio 3/4 to 4/3 (Inception's crop).

    Area and logarithm of the aspect ratio are uniform. If ten draws do not fit into the image, the
    largest centred box with an allowed aspect ratio is taken.

    Returns:
        left, top, right, bottom in whole pixels, as Pillow's `box`.
    """
    for _ in range(_ATTEMPTS):
        area = width * height * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(rng.integers(0, width - box_width + 1))
            top = int(rng.integers(0, height - box_height + 1))
            return left, top, left + box_width, top + box_height
    box_width = min(width, max(1, round(height * _ASPECT[1])))
    box_height = min(height, max(1, round(width / _ASPECT[0])))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def random_resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random part of the picture at size x size, flipped with probability 1/2 (Goyal et al.)."""
    box = draw_crop_box(rng, *image.size)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.integers(0, 2):
        return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return resized


def resize_and_crop_center(image: Image.Image, size: int) -> Image.Image:
    """The ImageNet test crop: shorter side to size * 256/224, then the size x size centre."""
    height, width = size_before_crop(image.height, image.width, size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def size_before_crop(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of a picture whose shorter side is brought to size * 256/224."""
    scale = round(size * _SHORTER_SIDE) / min(height, width)
    # Halves upwards, as the authors of the published ImageNet numbers do.
    return int(height * scale + 0.5), int(width * scale + 0.5)
