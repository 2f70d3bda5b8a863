"""Our PGD beside two published libraries, on a small network trained on real digits."""

import copy

import pytest
import torchattacks
from torch.nn import functional

from featdenoise.attacks.pgd import PGD
from featdenoise.base.rng import Stream

EPSILON = {"linf": 0.1, "l2": 0.6}
STEP_SIZE = {"linf": 0.02, "l2": 0.15}


def ours(model, images, labels, norm, num_steps):
    attack = PGD(
        epsilon=EPSILON[norm], step_size=STEP_SIZE[norm], num_steps=num_steps, norm=norm,
        random_start=False,
    )  # fmt: skip
    return attack(model, images, labels, stream=Stream(seed=0, image_ids=tuple(range(len(images)))))


def by_torchattacks(model, images, labels, norm, num_steps):
    common = {"eps": EPSILON[norm], "alpha": STEP_SIZE[norm], "steps": num_steps}
    if norm == "linf":
        attack = torchattacks.PGD(model, random_start=False, **common)
    else:
        # What it adds to the gradient's norm would shorten the steps of confident images.
        attack = torchattacks.PGDL2(model, random_start=False, eps_for_division=1e-30, **common)
    return attack(images, labels)


def by_foolbox(model, images, labels, norm, num_steps):
    import foolbox  # here, where the mark below covers what its import warns of

    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(abs_stepsize=STEP_SIZE[norm], steps=num_steps, random_start=False)
    classifier = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack(classifier, images, labels, epsilons=EPSILON[norm])[1]


# foolbox imports gaussian_filter from where SciPy has deprecated it (foolbox/attacks/blur.py).
FOOLBOX_WARNING = pytest.mark.filterwarnings(
    "ignore:Please import `gaussian_filter` from the `scipy.ndimage` namespace:DeprecationWarning"
)
PEERS = pytest.mark.parametrize(
    "peer", [by_torchattacks, pytest.param(by_foolbox, marks=FOOLBOX_WARNING)]
)


@PEERS
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_three_steps_in_float64_agree_pixel_by_pixel(peer, norm, trained):
    model, images, labels = copy.deepcopy(trained[0]).double(), trained[1].double(), trained[2]
    adversarial = ours(model, images, labels, norm, 3)
    agreement = (adversarial - peer(model, images, labels, norm, 3)).abs() < 1e-9
    assert agreement.double().mean() >= 0.999
    moved = (adversarial - images).flatten(1).norm(dim=1, p=float("inf" if norm == "linf" else 2))
    assert (moved > STEP_SIZE[norm]).double().mean() > 0.9


@PEERS
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ten_steps_in_float32_are_equally_strong(peer, norm, trained):
    model, images, labels = trained

    def judge(adversarial):
        logits = model(adversarial).detach()
        loss = functional.cross_entropy(logits, labels)
        return float(loss), int((logits.argmax(1) == labels).sum())

    loss, robust = judge(ours(model, images, labels, norm, 10))
    peer_loss, peer_robust = judge(peer(model, images, labels, norm, 10))
    clean_loss, correct = judge(images)
    assert loss == pytest.approx(peer_loss, rel=0.01)
    assert abs(robust - peer_robust) <= 1
    assert loss > 2 * clean_loss
    assert 0 < robust < correct
