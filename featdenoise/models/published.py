"""The published nets: where their weights are, what they are, and what was published about them.

The numbers are the authors'; nobody has verified them here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from featdenoise.models.config import ModelConfig

_RELEASES = "https://github.com/facebookresearch/ImageNet-Adversarial-Training/releases/download"
_LICENCE = "CC BY-NC 4.0"
_SOURCE = "github.com/facebookresearch/ImageNet-Adversarial-Training (Xie et al. 2019)"


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A released net: trained on ImageNet against targeted PGD, epsilon 16/255, step 1/255."""

    config: ModelConfig
    """What is rebuilt."""
    url: str
    """The released file, read by `tensorpack.py`."""
    clean_error: float
    """Published top-1 error on clean validation images, in [0, 1]."""
    robust_error: Mapping[int, float]
    """Steps of targeted PGD (epsilon 16/255) to published top-1 error, in [0, 1]."""
    attack_success_rate: Mapping[int, float]
    """Steps of the same attack to how often it reached its target, in [0, 1]."""
    licence: str = _LICENCE
    """Of the weights, not of this package."""
    source: str = _SOURCE
    """Where the weights and the numbers come from."""
    image_size: int = 224
    """Side of the centre crop of the published evaluation."""
    resize_shorter_side: int = 256
    """Before the crop; bicubic without antialiasing, as `--data imagenet` does it."""


PUBLISHED: dict[str, PublishedModel] = {
    "resnet152.xie2019": PublishedModel(
        config=ModelConfig(name="resnet152", num_classes=1000, padding="tensorflow"),
        url=f"{_RELEASES}/v0/R152.npz",
        clean_error=0.377,
        robust_error={10: 0.475, 100: 0.583, 1000: 0.610},
        attack_success_rate={10: 0.055, 100: 0.310, 1000: 0.361},
    ),
    "resnet152.xie2019_gaussian": PublishedModel(
        config=ModelConfig(
            name="resnet152", num_classes=1000, denoise="gaussian", padding="tensorflow"
        ),
        url=f"{_RELEASES}/v0.1/R152-Denoise.npz",
        clean_error=0.347,
        robust_error={10: 0.443, 100: 0.545, 1000: 0.572},
        attack_success_rate={10: 0.049, 100: 0.266, 1000: 0.327},
    ),
    "resnext101_32x8d.xie2019_dot_all": PublishedModel(
        config=ModelConfig(
            name="resnext101_32x8d",
            num_classes=1000,
            denoise="dot",
            denoise_at="block",
            padding="tensorflow",
        ),
        url=f"{_RELEASES}/v0.2/X101-DenoiseAll.npz",
        clean_error=0.316,
        robust_error={10: 0.440, 100: 0.556, 1000: 0.596},
        attack_success_rate={10: 0.049, 100: 0.315, 1000: 0.381},
    ),
}
"""Model and tag to net; names of `create_model`."""
