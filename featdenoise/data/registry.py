"""The data sets by name, and the one function that makes them."""

from dataclasses import fields
from typing import get_args

from featdenoise.data.cifar import CIFAR10_SPEC, CIFAR100_SPEC
from featdenoise.data.config import DataConfig, Split
from featdenoise.data.digits import DIGITS_SPEC
from featdenoise.data.fake import FAKE_SPEC
from featdenoise.data.imagefolder import IMAGEFOLDER_SPEC
from featdenoise.data.imagenet import IMAGENET_SPEC
from featdenoise.data.imageset import DatasetSpec, ImageSet

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DIGITS_SPEC,
        CIFAR10_SPEC,
        CIFAR100_SPEC,
        IMAGENET_SPEC,
        IMAGEFOLDER_SPEC,
        FAKE_SPEC,
    )
}


def load_dataset(config: DataConfig, split: Split) -> ImageSet:
    """One split of the data set that `config` names.

    Raises:
        ValueError: unknown name or split, a setting the data set does not have, damaged files.
        FileNotFoundError: the root does not hold the data; says what layout is expected.
    """
    if config.name not in DATASETS:
        raise ValueError(f"data.name must be one of {', '.join(DATASETS)}, got {config.name!r}")
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    spec = DATASETS[config.name]
    _refuse_ignored_settings(config, spec)
    if "root" in spec.reads and config.root is None:
        raise ValueError(f"data.root is needed for {spec.name}: {spec.layout}")
    return spec.build(config, split)


def _refuse_ignored_settings(config: DataConfig, spec: DatasetSpec) -> None:
    for field in fields(DataConfig):
        value = getattr(config, field.name)
        if field.name == "name" or field.name in spec.reads or value == field.default:
            continue
        if field.name == "image_size":
            if value == spec.image_size:
                continue
            size = spec.image_size
            raise ValueError(f"data.image_size must be {size} for {spec.name}, got {value}")
        raise ValueError(f"data.{field.name} has no meaning for {spec.name}; leave it out")
