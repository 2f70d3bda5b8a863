"""Other libraries' attacks, and ill-behaved ones, as attacks of ours."""

import json
import random

import numpy as np
import pytest
import torch
import torchattacks
from torch.nn import functional

from featdenoise.attacks import (
    ForeignAttack,
    assert_in_ball,
    from_advertorch,
    from_foolbox,
    from_torchattacks,
    name_of,
)
from featdenoise.attacks.targets import uniform_targets
from featdenoise.base.results import describe
from featdenoise.base.rng import Stream

EPSILON = 0.1

# foolbox imports gaussian_filter from where SciPy has deprecated it (foolbox/attacks/blur.py).
FOOLBOX_WARNING = pytest.mark.filterwarnings(
    "ignore:Please import `gaussian_filter` from the `scipy.ndimage` namespace:DeprecationWarning"
)


class Perturber:
    """An attack in the manner of advertorch: careless with the model and the global state."""

    def __init__(self, model, *, targeted=False):
        self.model, self.targeted = model, targeted

    def perturb(self, images, classes):
        self.model.train()
        images.requires_grad_(True)
        loss = functional.cross_entropy(self.model(images), classes, reduction="sum")
        loss.backward()
        sign = -1 if self.targeted else 1
        noise = torch.rand_like(images) + float(np.random.rand()) + random.random()
        step = sign * images.grad.sign() * (0.05 + 0.01 * noise)
        images.data.add_(step)
        return images.clamp(0, 1)


def careless(**fields):
    return from_advertorch(Perturber, name="careless", epsilon=EPSILON, **fields)


def of_torchattacks(targeted=False):
    return from_torchattacks(
        lambda model: torchattacks.PGD(model, eps=EPSILON, alpha=0.02, steps=10),
        name="peer-pgd", epsilon=EPSILON, targeted=targeted,
    )  # fmt: skip


def of_foolbox(targeted=False):
    import foolbox  # here, where the mark covers what its import warns of

    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=10)
    return from_foolbox(attack, name="fool-pgd", epsilon=EPSILON, targeted=targeted)


MAKERS = pytest.mark.parametrize(
    "make",
    [
        lambda targeted: careless(targeted=targeted) if not targeted else from_advertorch(
            lambda model: Perturber(model, targeted=True),
            name="careless", epsilon=EPSILON, targeted=True,
        ),
        of_torchattacks,
        pytest.param(of_foolbox, marks=FOOLBOX_WARNING),
    ],
    ids=["advertorch", "torchattacks", "foolbox"],
)  # fmt: skip


def stream_of(images, seed=0):
    return Stream(seed=seed, image_ids=tuple(range(len(images))))


@MAKERS
@pytest.mark.parametrize("targeted", [False, True])
def test_foreign_attack_reaches_its_goal_within_the_ball(make, targeted, trained):
    model, images, labels = trained
    stream = stream_of(images)
    attack = make(targeted)
    adversarial = attack(model, images, labels, stream=stream)
    assert_in_ball(adversarial, images, attack.epsilon, attack.norm)
    classes = uniform_targets(labels, 10, stream) if targeted else labels
    before, after = (functional.cross_entropy(model(x), classes) for x in (images, adversarial))
    assert (after < 0.9 * before) if targeted else (after > 2 * before)


@MAKERS
def test_foreign_attack_leaves_no_trace(make, tiny_net, images, labels, stream):
    tiny_net.train()
    if make is of_foolbox:
        import foolbox  # noqa: F401 (loading it draws random numbers)
    tensors = {name: tensor.clone() for name, tensor in tiny_net.state_dict().items()}
    clean, states = images.clone(), (torch.random.get_rng_state(), np.random.get_state()[1].copy())
    python = random.getstate()
    make(False)(tiny_net, images, labels, stream=stream)
    torch.testing.assert_close(tiny_net.state_dict(), tensors, rtol=0, atol=0)
    assert all(module.training for module in tiny_net.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in tiny_net.parameters())
    assert torch.equal(images, clean)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == python


@MAKERS
def test_draws_belong_to_the_batch_of_the_stream(make, tiny_net, images, labels, stream):
    attack = make(False)
    first = attack(tiny_net, images, labels, stream=stream)
    torch.rand(3), np.random.rand(3)
    assert torch.equal(attack(tiny_net, images, labels, stream=stream), first)
    with torch.no_grad():
        assert torch.equal(attack(tiny_net, images, labels, stream=stream), first)
    other = Stream(seed=stream.seed + 1, image_ids=stream.image_ids)
    assert not torch.equal(attack(tiny_net, images, labels, stream=other), first)


def test_random_state_is_put_back_after_an_error(tiny_net, images, labels, stream):
    def make(model):
        torch.rand(1), np.random.rand(1), random.random()
        raise RuntimeError("the foreign attack gave up")

    attack = ForeignAttack(name="broken", epsilon=EPSILON, make=make)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pytest.raises(
        RuntimeError, match="broken failed with RuntimeError: the foreign attack gave up"
    ):
        attack(tiny_net, images, labels, stream=stream)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_result_is_handed_on_as_it_is(tiny_net, images, labels, stream):
    attack = ForeignAttack(name="liar", epsilon=EPSILON, make=lambda model: lambda x, y: x + 0.5)
    adversarial = attack(tiny_net, images, labels, stream=stream)
    assert torch.equal(adversarial, images + 0.5)
    with pytest.raises(RuntimeError, match=r"leave \[0, 1\]"):
        assert_in_ball(adversarial, images, EPSILON, "linf")
    assert name_of(attack) == "liar-linf"


@pytest.mark.parametrize("result", [None, torch.zeros(5, 3), (torch.zeros(5, 2, 7, 6),)])
def test_result_that_is_no_image_each_is_an_error(result, tiny_net, images, labels, stream):
    attack = ForeignAttack(name="odd", epsilon=EPSILON, make=lambda model: lambda x, y: result)
    with pytest.raises(RuntimeError, match=r"odd must return a tensor of shape \(5, 2, 7, 6\)"):
        attack(tiny_net, images, labels, stream=stream)


def test_given_targets_reach_the_foreign_attack(tiny_net, images, labels, stream):
    seen = []

    def make(model):
        def perturb(x, classes):
            seen.append(classes)
            return x

        return perturb

    attack = ForeignAttack(name="spy", epsilon=EPSILON, make=make, targeted=True)
    targets = (labels + 1) % 4
    attack(tiny_net, images, labels, stream=stream, targets=targets)
    attack(tiny_net, images, labels, stream=stream)
    assert torch.equal(seen[0], targets)
    assert torch.equal(seen[1], uniform_targets(labels, 4, stream))
    with pytest.raises(ValueError, match="targeted=True"):
        careless()(tiny_net, images, labels, stream=stream, targets=targets)


def test_description_holds_what_it_is_held_to_and_no_function():
    described = json.loads(json.dumps(describe(careless())))
    assert described == {
        "kind": "ForeignAttack", "name": "careless", "epsilon": EPSILON, "norm": "linf",
        "targeted": False, "target_choice": "uniform",
    }  # fmt: skip
