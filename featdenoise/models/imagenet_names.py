"""The names of the 1000 ImageNet classes, in the order of torchvision and of the published nets.

The index of a class is the place of its WordNet id in alphabetical order, as in every framework.
torchvision carries the names with its weights; they are read from there, not copied.
"""

from functools import cache

from torchvision.models import ResNet50_Weights


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """1000 names, by class index."""
    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
