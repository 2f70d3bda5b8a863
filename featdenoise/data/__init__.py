"""Labelled images: digits, CIFAR, folders, generated ones; all RGB in [0, 1] with stable ids."""

from featdenoise.data.config import DataConfig as DataConfig
from featdenoise.data.config import Split as Split
from featdenoise.data.imageset import ImageSet as ImageSet
from featdenoise.data.registry import DATASETS as DATASETS
from featdenoise.data.registry import load_dataset as load_dataset
from featdenoise.data.subset import pick_subset as pick_subset
