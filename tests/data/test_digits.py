"""The embedded digits: split, enlargement, constants."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from featdenoise.base.imagefiles import from_uint8, to_uint8
from featdenoise.data.config import DataConfig
from featdenoise.data.registry import load_dataset


def test_split_is_every_fifth_of_each_class_disjoint_and_complete() -> None:
    bunch = load_digits()
    seen = [0] * 10
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for index, label in enumerate(bunch.target):
        seen[label] += 1
        rows["test" if seen[label] % 5 == 0 else "train"].append(index)
    assert (len(rows["train"]), len(rows["test"])) == (1442, 355)
    # At size 8 nothing is enlarged, so the embedded images themselves can be compared.
    for split in ("train", "test"):
        images, labels = load_dataset(DataConfig(image_size=8), split).batch(
            range(len(rows[split]))
        )
        expected = np.rint(bunch.images[rows[split]] * 255 / 16)
        assert np.array_equal(to_uint8(images)[..., 0], expected)
        assert labels.tolist() == bunch.target[rows[split]].tolist()


def test_split_is_stratified() -> None:
    counts = []
    for split in ("train", "test"):
        data = load_dataset(DataConfig(), split)
        counts.append(torch.bincount(data.batch(data.image_ids)[1], minlength=10))
    share = counts[1] / (counts[0] + counts[1])
    assert share.min() > 0.19
    assert share.max() < 0.21


@pytest.mark.parametrize("size", [16, 32])
def test_enlargement_is_a_naive_bilinear_loop_rounded_to_8_bits(size: int) -> None:
    small, _ = load_dataset(DataConfig(image_size=8), "test").batch([4])
    original = load_digits().images
    bits = to_uint8(small)[0, ..., 0]
    source = next(image for image in original if np.array_equal(np.rint(image * 255 / 16), bits))
    large, _ = load_dataset(DataConfig(image_size=size), "test").batch([4])
    padded = np.pad(source, 1, mode="edge")
    for row in range(size):
        for column in range(size):
            y, x = (row + 0.5) * 8 / size + 0.5, (column + 0.5) * 8 / size + 0.5
            top, left = int(y), int(x)
            a, b = y - top, x - left
            value = (
                (1 - a) * (1 - b) * padded[top, left]
                + (1 - a) * b * padded[top, left + 1]
                + a * (1 - b) * padded[top + 1, left]
                + a * b * padded[top + 1, left + 1]
            )
            assert large[0, 0, row, column] == from_uint8(
                np.full((1, 1, 1, 1), np.rint(value * 255 / 16), dtype=np.uint8)
            )


def test_channels_are_equal_and_the_constants_are_those_of_the_training_images() -> None:
    data = load_dataset(DataConfig(), "train")
    images, _ = data.batch(data.image_ids)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert data.mean == pytest.approx([float(images.mean())] * 3, abs=5e-4)
    assert data.std == pytest.approx([float(images.std())] * 3, abs=5e-4)


def test_images_smaller_than_the_digits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size must be >= 8.*got 7"):
        load_dataset(DataConfig(image_size=7), "train")
