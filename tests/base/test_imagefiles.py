"""Image files: decoding, lossless writing, rounding to 8 bits."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featdenoise.base.imagefiles import (
    fingerprint_files,
    from_uint8,
    list_images,
    quantize_inside_ball,
    read_image,
    to_uint8,
    whole_levels,
    write_png,
)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_png_comes_back_exactly_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    pixels = random_pixels(7, 5, 3)
    write_png(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_every_level_survives_the_way_to_floats_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    images = from_uint8(pixels)
    assert images.shape == (1, 3, 16, 16)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert np.array_equal(to_uint8(images), pixels)


def test_channels_keep_their_order() -> None:
    pixels = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    pixels[..., 0] = 255
    assert from_uint8(pixels)[0, :, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("level", "rounded"), [(0.4, 0), (0.6, 1), (253.7, 254), (254.4, 254)])
def test_rounding_is_to_the_nearest_level(level: float, rounded: int) -> None:
    assert to_uint8(torch.full((1, 3, 1, 1), level / 255)).ravel().tolist() == [rounded] * 3


def test_uint8_and_out_of_range_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="floating point"):
        to_uint8(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        to_uint8(torch.full((1, 3, 2, 2), 1.01))


def test_n_of_255_allows_n_levels_in_either_float_precision() -> None:
    for level in range(256):
        assert whole_levels(level / 255) == level
        assert whole_levels(float(np.float32(level) / np.float32(255))) == level


def test_a_radius_between_two_levels_allows_the_lower() -> None:
    assert whole_levels(0.1) == 25


def test_quantizing_follows_a_naive_loop() -> None:
    clean = random_pixels(2, 4, 4, 3)
    adversarial = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = quantize_inside_ball(adversarial, clean, 16)
    assert found.dtype == np.uint8
    for n, row, column, c in itertools.product(range(2), range(4), range(4), range(3)):
        rounded = round(float(adversarial[n, c, row, column]) * 255)
        centre = int(clean[n, row, column, c])
        assert found[n, row, column, c] == min(max(rounded, centre - 16), centre + 16)


def test_an_image_inside_the_ball_is_only_rounded() -> None:
    clean = random_pixels(1, 4, 4, 3)
    inside = (from_uint8(clean) + 3.4 / 255).clamp(0, 1)
    assert np.array_equal(quantize_inside_ball(inside, clean, 4), to_uint8(inside))


def test_quantizing_refuses_what_does_not_fit() -> None:
    images = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="shape"):
        quantize_inside_ball(images, np.zeros((1, 3, 3, 3), dtype=np.uint8), 4)
    with pytest.raises(ValueError, match="uint8"):
        quantize_inside_ball(images, np.zeros((1, 2, 2, 3)), 4)
    with pytest.raises(ValueError, match="epsilon_255"):
        quantize_inside_ball(images, np.zeros((1, 2, 2, 3), dtype=np.uint8), -1)


def test_grey_palette_and_transparent_files_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "LA", "1"):
        Image.new(mode, (5, 4)).save(tmp_path / f"{mode}.png")
        assert read_image(tmp_path / f"{mode}.png").shape == (4, 5, 3)


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [_truncated, _flipped, lambda _: b"", lambda _: b"text" * 99])
def test_damaged_image_is_an_error_that_names_its_path(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    content = io.BytesIO()
    Image.fromarray(random_pixels(32, 32, 3)).save(content, format="PNG")
    path = tmp_path / "broken.png"
    path.write_bytes(damage(content.getvalue()))
    with pytest.raises(ValueError, match=r"broken\.png"):
        read_image(path)


def test_sixteen_bit_image_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits"):
        read_image(tmp_path / "deep.png")


def test_missing_image_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def test_writing_refuses_floats_and_lossy_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "a.png", np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r"\.png"):
        write_png(tmp_path / "a.jpg", np.zeros((2, 2, 3), dtype=np.uint8))


def test_listing_is_sorted_and_leaves_out_hidden_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "sub/c.png"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png"]
    assert [path.name for path in list_images(tmp_path, recursive=True)] == [
        "a.JPG",
        "b.png",
        "c.png",
    ]
    assert [path.name for path in list_images(tmp_path, suffixes=(".png",))] == ["b.png"]


def test_fingerprint_changes_with_content_and_name_but_not_with_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_bytes(b"same")
    one, two = tmp_path / "one", tmp_path / "two"
    first = fingerprint_files(one, [one / "a"])
    assert fingerprint_files(two, [two / "a"]) == first
    (two / "a").write_bytes(b"sane")
    assert fingerprint_files(two, [two / "a"]) != first
    (one / "a").rename(one / "b")
    assert fingerprint_files(one, [one / "b"]) != first


def test_fingerprint_of_much_data_reads_names_and_sizes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featdenoise.base.imagefiles._CONTENT_LIMIT", 3)
    (tmp_path / "a").write_bytes(b"same")
    before = fingerprint_files(tmp_path, [tmp_path / "a"])
    assert before.startswith("sizes-")
    (tmp_path / "a").write_bytes(b"longer")
    assert fingerprint_files(tmp_path, [tmp_path / "a"]) != before
