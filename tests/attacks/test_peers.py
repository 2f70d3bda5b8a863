"""Our PGD beside two published libraries, on a small network trained on real digits."""

import copy

import pytest
import torch
import torchattacks
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from featdenoise.attacks.pgd import PGD
from featdenoise.base.rng import Stream

EPSILON, STEP_SIZE = 0.1, 0.02
COUNT = 256  # images attacked


class DigitsNet(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    """A network after a few epochs on one-step adversarial images; the images it has not seen."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, held_out = slice(COUNT, None), slice(0, COUNT)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DigitsNet()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(8):
            for batch in torch.randperm(len(labels) - COUNT).split(64):
                x, y = images[train][batch], labels[train][batch]
                leaf = x.clone().requires_grad_(True)
                (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), y), leaf)
                x = (x + EPSILON / 2 * gradient.sign()).clamp(0, 1)
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                optimizer.step()
    model.eval()
    assert (model(images[held_out]).argmax(1) == labels[held_out]).float().mean() > 0.9
    return model, images[held_out], labels[held_out]


def ours(model, images, labels, num_steps):
    attack = PGD(epsilon=EPSILON, step_size=STEP_SIZE, num_steps=num_steps, random_start=False)
    return attack(model, images, labels, stream=Stream(seed=0, image_ids=tuple(range(COUNT))))


def by_torchattacks(model, images, labels, num_steps):
    attack = torchattacks.PGD(
        model, eps=EPSILON, alpha=STEP_SIZE, steps=num_steps, random_start=False
    )
    return attack(images, labels)


def by_foolbox(model, images, labels, num_steps):
    import foolbox  # here, where the mark below covers what its import warns of

    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=num_steps, random_start=False)
    classifier = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack(classifier, images, labels, epsilons=EPSILON)[1]


# foolbox imports gaussian_filter from where SciPy has deprecated it (foolbox/attacks/blur.py).
FOOLBOX_WARNING = pytest.mark.filterwarnings(
    "ignore:Please import `gaussian_filter` from the `scipy.ndimage` namespace:DeprecationWarning"
)
PEERS = pytest.mark.parametrize(
    "peer", [by_torchattacks, pytest.param(by_foolbox, marks=FOOLBOX_WARNING)]
)


@PEERS
def test_three_steps_in_float64_agree_pixel_by_pixel(peer, trained):
    model, images, labels = copy.deepcopy(trained[0]).double(), trained[1].double(), trained[2]
    adversarial = ours(model, images, labels, 3)
    agreement = (adversarial - peer(model, images, labels, 3)).abs() < 1e-9
    assert agreement.double().mean() >= 0.999
    assert ((adversarial - images).abs() > STEP_SIZE / 2).double().mean() > 0.3


@PEERS
def test_ten_steps_in_float32_are_equally_strong(peer, trained):
    model, images, labels = copy.deepcopy(trained[0]), *trained[1:]

    def judge(adversarial):
        logits = model(adversarial).detach()
        loss = functional.cross_entropy(logits, labels)
        return float(loss), int((logits.argmax(1) == labels).sum())

    loss, robust = judge(ours(model, images, labels, 10))
    peer_loss, peer_robust = judge(peer(model, images, labels, 10))
    clean_loss, correct = judge(images)
    assert loss == pytest.approx(peer_loss, rel=0.01)
    assert abs(robust - peer_robust) <= 1
    assert loss > 2 * clean_loss
    assert 0 < robust < correct
