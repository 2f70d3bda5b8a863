"""Crops and flips: each against a second derivation."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from featdenoise.base.rng import Stream, generator
from featdenoise.data.transforms import (
    crop_and_flip,
    draw_crop_box,
    random_resized_crop,
    resize_and_crop_center,
)


def gradient_picture(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def test_every_crop_is_a_zero_filled_shift_or_its_mirror_image() -> None:
    ids = tuple(range(60))
    images = torch.rand(60, 3, 6, 5, generator=torch.Generator().manual_seed(0)) + 1
    found = crop_and_flip(images, Stream(seed=0, image_ids=ids), padding=2)
    shifts = set()
    for image, result in zip(images, found, strict=True):
        matches = []
        for down in range(-2, 3):
            for right in range(-2, 3):
                moved = torch.zeros_like(image)
                for y in range(6):
                    for x in range(5):
                        if 0 <= y + down < 6 and 0 <= x + right < 5:
                            moved[:, y, x] = image[:, y + down, x + right]
                for is_flipped in (False, True):
                    if torch.equal(moved.flip(-1) if is_flipped else moved, result):
                        matches.append((down, right, is_flipped))
        assert len(matches) == 1
        shifts.add(matches[0])
    assert {down for down, _, _ in shifts} == {-2, -1, 0, 1, 2}
    assert {right for _, right, _ in shifts} == {-2, -1, 0, 1, 2}
    assert {is_flipped for _, _, is_flipped in shifts} == {False, True}


@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 50), (10, 400), (1, 1)])
def test_crop_boxes_lie_inside_and_keep_area_and_aspect(width: int, height: int) -> None:
    for k in range(200):
        left, top, right, bottom = draw_crop_box(generator(0, "test", k), width, height)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if width == height == 64:
            area, aspect = (right - left) * (bottom - top), (right - left) / (bottom - top)
            assert 0.07 < area / 64**2 <= 1
            assert 0.7 < aspect < 1.42


def test_crop_areas_are_spread_evenly_over_their_range() -> None:
    areas = []
    for k in range(500):
        left, top, right, bottom = draw_crop_box(generator(0, "test", k), 1000, 1000)
        areas.append((right - left) * (bottom - top) / 1e6)
    # Large crops of extreme aspect do not fit and are drawn again, so the mean is below 0.54.
    assert 0.4 < np.mean(areas) < 0.54
    assert min(areas) < 0.12
    assert max(areas) > 0.9


def test_extreme_pictures_fall_back_to_the_largest_centred_box() -> None:
    assert draw_crop_box(generator(0, "test", 0), 10, 1000) == (0, 493, 10, 506)
    assert draw_crop_box(generator(0, "test", 0), 1000, 10) == (493, 0, 506, 10)


def test_random_crop_is_the_resized_box_and_half_are_flipped() -> None:
    picture = gradient_picture(80, 60)
    flipped = 0
    for k in range(100):
        result = np.asarray(random_resized_crop(picture, 16, generator(0, "test", k)))
        assert result.shape == (16, 16, 3)
        left, top, right, bottom = draw_crop_box(generator(0, "test", k), 80, 60)
        is_flipped = bool(result[0, 0, 0] > result[0, -1, 0])
        red = result[:, ::-1, 0] if is_flipped else result[..., 0]
        assert math.isclose(red.mean(), 255 * ((left + right) / 2 - 0.5) / 79, abs_tol=3)
        assert math.isclose(result[..., 1].mean(), 255 * ((top + bottom) / 2 - 0.5) / 59, abs_tol=3)
        flipped += is_flipped
    assert 30 < flipped < 70


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (97, 97), (20, 10)])
def test_test_crop_takes_the_centre_seven_eighths_of_the_shorter_side(
    width: int, height: int
) -> None:
    result = np.asarray(resize_and_crop_center(gradient_picture(width, height), 56))
    assert result.shape == (56, 56, 3)
    kept = min(width, height) * 224 / 256
    for channel, side in ((0, width), (1, height)):
        line = result[0, :, 0] if channel == 0 else result[:, 0, 1]
        assert float(line.mean()) == pytest.approx(127, abs=6)
        span = (int(line[-1]) - int(line[0])) / 255
        assert span == pytest.approx(kept / side, abs=0.1)


def test_a_picture_of_the_resized_size_is_only_cropped() -> None:
    picture = gradient_picture(64, 64)
    result = np.asarray(resize_and_crop_center(picture, 56))
    assert np.array_equal(result, np.asarray(picture)[4:60, 4:60])
