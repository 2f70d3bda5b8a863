"""CIFAR from a local root: what is read, and what is said when it is not there."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from featdenoise.base.imagefiles import to_uint8
from featdenoise.data.cifar import CIFAR10_SPEC, wrap_torchvision
from featdenoise.data.config import DataConfig
from featdenoise.data.registry import load_dataset


def test_pixels_and_labels_are_those_of_the_torchvision_object() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    classes = [f"class {k}" for k in range(10)]
    stub = SimpleNamespace(data=pixels, targets=[3, 1, 4, 1], classes=classes)
    data = wrap_torchvision(stub, CIFAR10_SPEC)
    images, labels = data.batch((0, 1, 2, 3))
    assert np.array_equal(to_uint8(images), pixels)
    assert labels.tolist() == [3, 1, 4, 1]
    assert data.class_names == tuple(classes)


def test_fingerprint_changes_with_one_pixel_and_with_one_label() -> None:
    pixels = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    stub = SimpleNamespace(data=pixels, targets=[0, 1], classes=["a", "b"])
    prints = [wrap_torchvision(stub, CIFAR10_SPEC).fingerprint]
    stub.targets = [1, 1]
    prints.append(wrap_torchvision(stub, CIFAR10_SPEC).fingerprint)
    stub.data = pixels.copy()
    stub.data[1, 5, 5, 0] = 1
    prints.append(wrap_torchvision(stub, CIFAR10_SPEC).fingerprint)
    assert len(set(prints)) == 3


def test_labels_outside_the_classes_are_refused() -> None:
    pixels = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\].*got 2"):
        wrap_torchvision(SimpleNamespace(data=pixels, targets=[2], classes="ab"), CIFAR10_SPEC)


@pytest.mark.parametrize(
    ("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")]
)
def test_missing_files_say_what_is_expected_and_nothing_is_downloaded(
    tmp_path: Path, name: str, folder: str
) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{folder}.*train --download"):
        load_dataset(DataConfig(name=name, root=str(tmp_path)), "test")
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_an_error_that_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"cifar-10-batches-py is incomplete or damaged"):
        load_dataset(DataConfig(name="cifar10", root=str(tmp_path)), "test")
