from typing import get_args

import numpy as np
import pytest
from PIL import Image

from featdenoise.data import resampling
from featdenoise.data.imagefolder import FolderImages
from featdenoise.data.resampling import (
    RESAMPLINGS,
    center_crop,
    center_crop_bicubic,
    stretch_bicubic,
    stretch_bilinear,
)
from featdenoise.data.transforms import size_before_crop
from featdenoise.models import info


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cubic(distance: float, a: float = -0.75) -> float:
    """Keys' kernel, by its two polynomials."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def stretch_axis(values: np.ndarray, size: int) -> np.ndarray:
    """Naive: half-pixel centres, four taps, edges repeated, along the first axis."""
    length = len(values)
    out = np.zeros((size, *values.shape[1:]))
    for i in range(size):
        centre = (i + 0.5) * length / size - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            out[i] += cubic(centre - tap) * values[min(max(tap, 0), length - 1)]
    return out


@pytest.mark.parametrize(("height", "width"), [(7, 13), (24, 16), (60, 41)])
def test_stretching_is_keys_kernel_without_antialiasing(height: int, width: int) -> None:
    pixels = picture(height, width)
    rows = stretch_axis(pixels.astype(float), 16)
    both = stretch_axis(rows.transpose(1, 0, 2), 16).transpose(1, 0, 2)
    expected = np.clip(np.rint(both), 0, 255)
    # A value half-way between two levels may fall on either.
    assert np.abs(stretch_bicubic(pixels, 16) - expected).max() <= 1
    assert (stretch_bicubic(pixels, 16) == expected).mean() > 0.999


def test_sides_before_the_crop_are_rounded_half_upwards() -> None:
    assert size_before_crop(512, 681, 224) == (256, 341)  # 340.5
    assert size_before_crop(500, 375, 224) == (341, 256)  # 341.33


@pytest.mark.parametrize(("height", "width"), [(61, 40), (33, 50)])
def test_the_papers_crop_is_keys_kernel_and_the_centre(height: int, width: int) -> None:
    pixels = picture(height, width)
    # 21 * 256 / 224 = 24; the longer sides are 24 * 61 / 40 = 36.6 and 24 * 50 / 33 = 36.4.
    tall, wide = (37, 24) if height > width else (24, 36)
    rows = stretch_axis(pixels.astype(float), tall)
    both = stretch_axis(rows.transpose(1, 0, 2), wide).transpose(1, 0, 2)
    top, left = (tall - 21) // 2, (wide - 21) // 2
    expected = np.clip(np.rint(both), 0, 255)[top : top + 21, left : left + 21]
    cropped = center_crop_bicubic(pixels, 21)
    assert np.abs(cropped - expected).max() <= 1
    assert (cropped == expected).mean() > 0.999


def test_overshoot_is_clipped() -> None:
    edge = np.zeros((8, 8, 3), dtype=np.uint8)
    edge[:, 4:] = 255
    values = np.unique(stretch_bicubic(edge, 16))
    assert values.min() == 0
    assert values.max() == 255
    assert np.all(np.diff(stretch_bicubic(edge, 16)[0, :, 0].astype(int)) >= 0)


def test_cropping_is_the_evaluations_crop(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(picture(50, 70)).save(tmp_path / "a" / "0.png")
    images = FolderImages(tmp_path, class_names=["a"], image_size=24)
    expected = images.batch([0])[0][0].permute(1, 2, 0).mul(255).round().numpy()
    np.testing.assert_array_equal(center_crop(picture(50, 70), 24), expected)


@pytest.mark.parametrize("stretch", [stretch_bilinear, stretch_bicubic])
def test_image_of_the_right_size_is_not_changed_by_stretching(stretch) -> None:
    np.testing.assert_array_equal(stretch(picture(16, 16), 16), picture(16, 16))


def test_whole_picture_is_stretched() -> None:
    halves = np.zeros((4, 40, 3), dtype=np.uint8)
    halves[:, 20:] = 200
    square = stretch_bilinear(halves, 8)
    assert (square[:, :3] == 0).all()
    assert (square[:, 5:] == 200).all()


@pytest.mark.parametrize("name", RESAMPLINGS)
def test_every_resampling_gives_a_square_of_8_bit_pixels(name: str) -> None:
    for shape in ((5, 9), (40, 20), (24, 24)):
        square = RESAMPLINGS[name](picture(*shape), 24)
        assert square.shape == (24, 24, 3)
        assert square.dtype == np.uint8
        flat = RESAMPLINGS[name](np.full((*shape, 3), 77, dtype=np.uint8), 24)
        assert (flat == 77).all()


def test_weights_can_name_every_resampling() -> None:
    names = set(RESAMPLINGS)
    assert names == set(get_args(resampling.Resampling)) == set(get_args(info.Resampling))
