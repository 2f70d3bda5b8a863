"""ImageNet is a folder of 1000 WordNet ids, seen through the paper's crop."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featdenoise.data.config import DataConfig
from featdenoise.data.registry import load_dataset
from featdenoise.data.resampling import center_crop_bicubic


def pixels_of(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (13, 10, 3), dtype=np.uint8)


def make(root: Path, names: list[str]) -> DataConfig:
    for k, name in enumerate(names):
        (root / "val" / name).mkdir(parents=True)
        Image.fromarray(pixels_of(k)).save(root / "val" / name / "a.png")
    return DataConfig(name="imagenet", root=str(root), image_size=7)


def test_classes_are_the_sorted_wordnet_ids_and_pictures_the_papers_crop(tmp_path: Path) -> None:
    names = [f"n{17 * k + 1440764:08d}" for k in range(1000)]
    images = load_dataset(make(tmp_path, names), "test")
    assert (images.num_classes, len(images)) == (1000, 1000)
    batch, labels = images.batch([0, 999])
    assert labels.tolist() == [0, 999]
    for image, k in zip(batch, (0, 999), strict=True):
        expected = center_crop_bicubic(pixels_of(k), 7)
        np.testing.assert_array_equal(image.permute(1, 2, 0).mul(255).round(), expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["n01440764", "n01443537"], "needs 1000 class folders .*, got 2; other pictures"),
        (["n01440764", "tench"], r"got 2, among them \['tench'\]; other pictures"),
    ],
)
def test_other_folders_are_not_taken_for_imagenet(tmp_path: Path, names, message) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset(make(tmp_path, names), "test")
