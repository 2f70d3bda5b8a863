"""How a picture of any size becomes a square input, by name; weights say which name is theirs."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from featdenoise.data.transforms import resize_and_crop_center, size_before_crop

Resampling = Literal["center-crop", "center-crop-bicubic", "stretch-bilinear", "stretch-bicubic"]
"""The names; weights carry the same ones (`models/info.py`)."""
Resample = Callable[[np.ndarray, int], np.ndarray]
"""(H, W, 3) uint8 pixels and a size to (size, size, 3) uint8 pixels."""


def center_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """The ImageNet test crop: shorter side to size * 256/224, antialiased, then the centre."""
    return np.asarray(resize_and_crop_center(Image.fromarray(pixels), size))


def stretch_bilinear(pixels: np.ndarray, size: int) -> np.ndarray:
    """Both sides to `size`, antialiased: for data sets whose images are fed whole.

    An image that has this size already is not changed.
    """
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def center_crop_bicubic(pixels: np.ndarray, size: int) -> np.ndarray:
    """The test crop of Xie et al. 2019: as `center_crop`, by `stretch_bicubic`'s kernel.

    With size 224: shorter side to 256, then the centre.
    """
    height, width = pixels.shape[:2]
    resized = _bicubic(pixels, *size_before_crop(height, width, size))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size]


def stretch_bicubic(pixels: np.ndarray, size: int) -> np.ndarray:
    """Both sides to `size` by OpenCV's bicubic kernel (a = -0.75), without antialiasing.

    So the original of feature denoising classifies a folder.
    """
    return _bicubic(pixels, size, size)


def _bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The kernel overshoots, so values are clipped; they are rounded as an image file's are."""
    values = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float64))
    resized = interpolate(
        values, size=(height, width), mode="bicubic", align_corners=False, antialias=False
    )
    levels = resized.round().clamp(0, 255).to(torch.uint8)
    return levels[0].permute(1, 2, 0).contiguous().numpy()


RESAMPLINGS: dict[Resampling, Resample] = {
    "center-crop": center_crop,
    "center-crop-bicubic": center_crop_bicubic,
    "stretch-bilinear": stretch_bilinear,
    "stretch-bicubic": stretch_bicubic,
}
