"""ImageNet (ILSVRC 2012) as Xie et al. 2019 evaluate on it.

An ImageFolder whose 1000 class folders carry WordNet ids, so that their sorted order is the one in
which every published network counts its classes. Test pictures: shorter side to 256 by the bicubic
kernel without antialiasing, then the 224 x 224 centre.
"""

import dataclasses
import re

from featdenoise.data.config import DataConfig, Split
from featdenoise.data.imagefolder import IMAGEFOLDER_SPEC, load_imagefolder
from featdenoise.data.imageset import ImageSet

NUM_CLASSES = 1000
_WORDNET_ID = re.compile(r"n\d{8}")


def load_imagenet(config: DataConfig, split: Split) -> ImageSet:
    """The pictures of one split.

    Raises:
        FileNotFoundError: no root or no folder for the split; says what layout is expected.
        ValueError: folders that are not the 1000 WordNet ids, or no pictures.
    """
    images = load_imagefolder(config, split, resampling="center-crop-bicubic")
    strangers = [name for name in images.class_names if not _WORDNET_ID.fullmatch(name)]
    if strangers or images.num_classes != NUM_CLASSES:
        found = f", among them {strangers[:3]}" if strangers else ""
        raise ValueError(
            f"data imagenet needs {NUM_CLASSES} class folders with WordNet ids such as n01440764, "
            f"got {images.num_classes}{found}; other pictures are data imagefolder"
        )
    return images


IMAGENET_SPEC = dataclasses.replace(
    IMAGEFOLDER_SPEC,
    name="imagenet",
    num_classes=NUM_CLASSES,
    layout="data.root must hold val/n01440764/*.JPEG, ... (and train/ likewise, for training)",
    build=load_imagenet,
)
