"""Objects that tests of several rooms share."""

import pytest
import torch
from torch import Tensor, nn

from featdenoise.base.rng import Stream


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Kernels round differently with another number of threads; the tests must not."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_model() -> nn.Module:
    """A small convolutional net with batch norm, 3x8x8 images to 4 logits, equal in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 4),
        )


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Six 3x8x8 images in [0, 1] and their labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 3, 8, 8, generator=generator)
    return images, torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.fixture
def stream() -> Stream:
    """Randomness for that batch."""
    return Stream(seed=0, image_ids=(10, 11, 12, 13, 14, 15))
