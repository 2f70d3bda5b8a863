"""Networks, untrained and trained, batches and a stream for the tests of the attacks."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

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


NUM_ATTACKED = 256


class DigitsNet(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip


@pytest.fixture(scope="session")
def trained_once():
    """A network after a few epochs on one-step adversarial images; the images it has not seen."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, held_out = slice(NUM_ATTACKED, None), slice(0, NUM_ATTACKED)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DigitsNet()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(8):
            for batch in torch.randperm(len(labels) - NUM_ATTACKED).split(64):
                x, y = images[train][batch], labels[train][batch]
                leaf = x.clone().requires_grad_(True)
                (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), y), leaf)
                x = (x + 0.05 * gradient.sign()).clamp(0, 1)
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                optimizer.step()
    model.eval()
    assert (model(images[held_out]).argmax(1) == labels[held_out]).float().mean() > 0.9
    return model, images[held_out], labels[held_out]


@pytest.fixture
def trained(trained_once):
    """The trained network in evaluation mode, 256 images that it has not seen, their labels."""
    model, images, labels = trained_once
    return copy.deepcopy(model), images, labels
