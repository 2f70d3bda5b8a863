"""Every data set of the registry keeps the same promises."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from featdenoise.base.rng import Stream
from featdenoise.data import DATASETS, DataConfig, Split, load_dataset

SPLITS = ("train", "test")


def make_folder(root: Path, names: tuple[str, ...] = ("ant", "bee", "cat")) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(names):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for k in range(count):
                height, width = rng.integers(20, 40, 2)
                pixels = rng.integers(0, 80, (height, width, 3), dtype=np.uint8) + 80 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{k}.png")


def make_cifar(root: Path, dataset: type[CIFAR10], monkeypatch: pytest.MonkeyPatch) -> None:
    """A CIFAR folder of few images; the md5 sums of the real one are switched off."""
    rng = np.random.default_rng(0)
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    num_classes = 100 if dataset is CIFAR100 else 10
    key = "fine_labels" if dataset is CIFAR100 else "labels"
    for lists, count in (("train_list", 12), ("test_list", 5)):
        names = [name for name, _ in getattr(dataset, lists)]
        for name in names:
            data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
            labels = rng.integers(0, num_classes, count).tolist()
            (folder / name).write_bytes(pickle.dumps({"data": data, key: labels}))
        monkeypatch.setattr(dataset, lists, [[name, None] for name in names])
    meta = {dataset.meta["key"]: [f"class {k}" for k in range(num_classes)]}
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})


@pytest.fixture
def config(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> DataConfig:
    name = request.param
    if name == "imagefolder":
        make_folder(tmp_path)
        return DataConfig(name=name, root=str(tmp_path), image_size=16)
    if name == "imagenet":  # pictures in three of the classes
        wordnet_ids = [f"n{k:08d}" for k in range(1000)]
        for wordnet_id in wordnet_ids:
            (tmp_path / "train" / wordnet_id).mkdir(parents=True)
        make_folder(tmp_path, (wordnet_ids[0], wordnet_ids[1], wordnet_ids[999]))
        return DataConfig(name=name, root=str(tmp_path), image_size=16)
    if name in ("cifar10", "cifar100"):
        make_cifar(tmp_path, CIFAR10 if name == "cifar10" else CIFAR100, monkeypatch)
        return DataConfig(name=name, root=str(tmp_path))
    return DataConfig(name=name)


def stream_of(*ids: int, seed: int = 0, epoch: int = 0) -> Stream:
    return Stream(seed=seed, image_ids=ids, epoch=epoch)


sweep = pytest.mark.parametrize("config", list(DATASETS), indirect=True)


@sweep
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("is_training", [False, True])
def test_batches_are_floats_in_range_with_labels_of_the_classes(
    config: DataConfig, split: Split, is_training: bool
) -> None:
    data = load_dataset(config, split)
    ids = data.image_ids
    images, labels = data.batch(ids, stream_of(*ids) if is_training else None)
    assert images.shape == (len(data), 3, data.image_size, data.image_size)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.05
    assert labels.dtype == torch.int64
    assert labels.shape == (len(data),)
    assert labels.min() >= 0
    assert labels.max() < data.num_classes == len(data.class_names)


@sweep
def test_ids_run_from_zero_and_each_names_one_image(config: DataConfig) -> None:
    data = load_dataset(config, "test")
    assert data.image_ids == tuple(range(len(data)))
    images, labels = data.batch(data.image_ids)
    order = tuple(reversed(data.image_ids))
    turned, turned_labels = data.batch(order)
    assert torch.equal(turned.flip(0), images)
    assert torch.equal(turned_labels.flip(0), labels)
    assert len({image.numpy().tobytes() for image in images}) == len(data)


@sweep
def test_spec_agrees_with_the_data(config: DataConfig) -> None:
    spec = DATASETS[config.name]
    data = load_dataset(config, "test")
    assert data.image_size == (config.image_size or spec.image_size)
    assert (data.mean, data.std) == (spec.mean, spec.std)
    assert spec.num_classes in (None, data.num_classes)


@sweep
def test_fingerprint_is_stable_and_tells_splits_apart(config: DataConfig) -> None:
    train, test = (load_dataset(config, split) for split in SPLITS)
    assert train.fingerprint == load_dataset(config, "train").fingerprint
    assert train.fingerprint != test.fingerprint


@sweep
def test_an_image_is_augmented_alike_in_any_batch(config: DataConfig) -> None:
    data = load_dataset(config, "train")
    together, _ = data.batch((7, 3, 5), stream_of(7, 3, 5, epoch=2))
    alone, _ = data.batch((3,), stream_of(3, epoch=2))
    assert torch.equal(together[1:2], alone)


@sweep
def test_global_random_states_are_untouched(config: DataConfig) -> None:
    data = load_dataset(config, "train")
    before = torch.random.get_rng_state(), repr(np.random.get_state()), random.getstate()
    data.batch((0, 1), stream_of(0, 1))
    after = torch.random.get_rng_state(), repr(np.random.get_state()), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("config", ["cifar10", "cifar100", "imagefolder"], indirect=True)
def test_augmentation_is_keyed_by_seed_and_epoch(config: DataConfig) -> None:
    data = load_dataset(config, "train")
    ids = data.image_ids
    views = [
        data.batch(ids, stream_of(*ids, seed=seed, epoch=epoch))[0]
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[3])
    assert not torch.equal(views[0], data.batch(ids)[0])


@pytest.mark.parametrize("config", ["digits", "fake"], indirect=True)
def test_digits_and_fake_images_are_not_augmented(config: DataConfig) -> None:
    data = load_dataset(config, "train")
    ids = data.image_ids
    assert torch.equal(data.batch(ids, stream_of(*ids))[0], data.batch(ids)[0])


@sweep
def test_unknown_ids_and_foreign_streams_are_refused(config: DataConfig) -> None:
    data = load_dataset(config, "train")
    for wrong in (-1, len(data)):
        with pytest.raises(ValueError, match=f"got {wrong}"):
            data.batch((0, wrong))
    with pytest.raises(ValueError, match="stream"):
        data.batch((0, 1), stream_of(1, 0))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"digits, cifar10, .*'mnist'"):
        load_dataset(DataConfig(name="mnist"), "train")


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="train, test"):
        load_dataset(DataConfig(), "val")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="digits", root="somewhere"), "data.root"),
        (DataConfig(name="fake", download=True), "data.download"),
        (DataConfig(name="imagefolder", root=".", download=True), "data.download"),
        (DataConfig(name="cifar10", root=".", image_size=64), "data.image_size must be 32"),
        (DataConfig(name="cifar10"), "data.root is needed.*cifar-10-batches-py"),
        (DataConfig(name="imagefolder"), "data.root is needed.*train/CLASS"),
    ],
)
def test_settings_that_would_be_ignored_or_are_missing_are_errors(
    config: DataConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset(config, "train")


def test_image_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size"):
        DataConfig(image_size=0)
