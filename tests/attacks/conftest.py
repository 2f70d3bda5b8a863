"""A tiny network in training mode, a batch and its stream for the tests of the attacks."""

import pytest
import torch
from torch import Tensor, nn

from featdenoise.base.rng import Stream


class TinyNet(nn.Module):
    """Conv, batch norm with statistics that matter, ReLU, twice; then a linear layer."""

    def __init__(self, channels=2, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


@pytest.fixture
def tiny_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = TinyNet()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    return net.train()


@pytest.fixture
def images():
    return torch.rand(5, 2, 7, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.tensor([0, 3, 1, 2, 3])


@pytest.fixture
def stream():
    return Stream(seed=7, image_ids=(10, 4, 900, 33, 5))
