"""Folders of pictures: ids, labels, layout errors, damaged files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featdenoise.data.config import DataConfig, Split
from featdenoise.data.registry import load_dataset


def save(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 9, 3), level, dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes; the level of each picture tells which it is."""
    for split in ("train", "val"):
        save(tmp_path / split / "bee" / "b.png", 30)
        save(tmp_path / split / "ant" / "z.png", 20)
        save(tmp_path / split / "ant" / "nested" / "a.png", 10)
        save(tmp_path / split / "cat" / "1.png", 40)
    return tmp_path


def folder(root: Path) -> DataConfig:
    return DataConfig(name="imagefolder", root=str(root), image_size=8)


def test_ids_follow_sorted_classes_and_paths(root: Path) -> None:
    data = load_dataset(folder(root), "train")
    images, labels = data.batch(data.image_ids)
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [10, 20, 30, 40]
    assert labels.tolist() == [0, 0, 1, 2]
    assert data.class_names == ("ant", "bee", "cat")
    assert data.num_classes == 3


def test_default_size_is_that_of_imagenet(root: Path) -> None:
    data = load_dataset(DataConfig(name="imagefolder", root=str(root)), "train")
    assert data.batch([0])[0].shape == (1, 3, 224, 224)


def test_test_split_is_val_and_without_it_test(root: Path) -> None:
    save(root / "test" / "bee" / "only.png", 99)
    assert len(load_dataset(folder(root), "test")) == 4
    (root / "val").rename(root / "other")
    images, labels = load_dataset(folder(root), "test").batch([0])
    assert round(float(images[0, 0, 0, 0]) * 255) == 99
    assert labels.tolist() == [1]  # as in train, though it is the only class folder


def test_test_split_alone_names_its_own_classes(root: Path) -> None:
    (root / "train").rename(root / "other")
    assert load_dataset(folder(root), "test").class_names == ("ant", "bee", "cat")


def test_fingerprint_changes_with_the_content_of_one_file(root: Path) -> None:
    before = load_dataset(folder(root), "train").fingerprint
    assert load_dataset(folder(root), "train").fingerprint == before
    save(root / "train" / "cat" / "1.png", 41)
    assert load_dataset(folder(root), "train").fingerprint != before


def test_fingerprint_changes_with_the_list_of_classes(root: Path) -> None:
    before = load_dataset(folder(root), "test").fingerprint
    (root / "train" / "aardvark").mkdir()
    assert load_dataset(folder(root), "test").fingerprint != before


def test_damaged_picture_is_named(root: Path) -> None:
    (root / "train" / "bee" / "b.png").write_bytes(b"not a picture")
    data = load_dataset(folder(root), "train")
    data.batch([0, 1, 3])
    with pytest.raises(ValueError, match=r"bee/b\.png"):
        data.batch([2])


@pytest.mark.parametrize(("split", "wanted"), [("train", "train"), ("test", "val or .*test")])
def test_missing_root_and_split_say_what_layout_is_expected(
    tmp_path: Path, split: Split, wanted: str
) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"{wanted}; data\.root must hold train/CLASS"):
            load_dataset(folder(place), split)


def test_split_without_classes_or_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="no class folders"):
        load_dataset(folder(tmp_path), "train")
    (tmp_path / "train" / "ant").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        load_dataset(folder(tmp_path), "train")


def test_test_class_unknown_to_training_is_refused(root: Path) -> None:
    save(root / "val" / "dog" / "1.png", 50)
    with pytest.raises(ValueError, match="dog"):
        load_dataset(folder(root), "test")
