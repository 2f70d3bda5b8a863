"""What every attack promises; a new attack is tested by a row of ATTACKS."""

import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from featdenoise.attacks import LOSSES, PGD, GradientOracle, assert_in_ball, fgsm, iterative_fgsm
from featdenoise.attacks.targets import uniform_targets

ATTACKS = [
    PGD(),
    PGD(targeted=True),
    PGD(num_steps=5, step_size=4 / 255, loss="margin"),
    PGD(num_steps=5, step_size=4 / 255, loss="margin", targeted=True),
    PGD(num_steps=5, norm="l2", epsilon=1.5, step_size=0.4),
    PGD(num_steps=5, norm="l2", epsilon=1.5, step_size=0.4, targeted=True),
    PGD(num_steps=4, step_size=4 / 255, restarts=3, clean_start_probability=0.5),
    PGD(num_steps=4, step_size=4 / 255, restarts=2, targeted=True),
    fgsm(8 / 255),
    fgsm(8 / 255, targeted=True),
    iterative_fgsm(8 / 255, 3),
]

every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=repr)


def all_state(model):
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "requires_grad": [weight.requires_grad for weight in model.parameters()],
        "torch": torch.random.get_rng_state(),
        "numpy": np.random.get_state()[1:],
        "python": random.getstate(),
    }


def assert_no_trace(before, after, model, gradients):
    torch.testing.assert_close(before["tensors"], after["tensors"], rtol=0, atol=0)
    assert before["modes"] == after["modes"]
    assert before["requires_grad"] == after["requires_grad"]
    assert torch.equal(before["torch"], after["torch"])
    np.testing.assert_array_equal(before["numpy"][0], after["numpy"][0])
    assert before["numpy"][1:] == after["numpy"][1:]
    assert before["python"] == after["python"]
    for weight, (gradient, values) in zip(model.parameters(), gradients, strict=True):
        assert weight.grad is gradient
        assert gradient is None or torch.equal(gradient, values)


@every_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_is_an_image_in_the_ball(attack, dtype, tiny_net, images, labels, stream):
    images = images.to(dtype)
    adversarial = attack(tiny_net.to(dtype), images, labels, stream=stream)
    assert_in_ball(adversarial, images, attack.epsilon, attack.norm)
    assert adversarial.dtype == dtype
    assert not adversarial.requires_grad
    assert not torch.equal(adversarial, images)


@every_attack
def test_attack_is_stronger_than_its_start_on_every_image(attack, tiny_net, images, labels, stream):
    oracle = GradientOracle(tiny_net)
    adversarial = attack(oracle, images, labels, stream=stream)
    classes = uniform_targets(labels, 4, stream) if attack.targeted else labels
    before, after = (LOSSES[attack.loss](oracle.logits(x), classes) for x in (images, adversarial))
    assert ((after < before) if attack.targeted else (after > before)).all()


@every_attack
def test_attack_leaves_no_trace(attack, tiny_net, images, labels, stream):
    tiny_net.train().features[1].eval()
    tiny_net.head.bias.requires_grad_(False)
    functional.cross_entropy(tiny_net(images), labels).backward()
    gradients = [
        (p.grad, None if p.grad is None else p.grad.clone()) for p in tiny_net.parameters()
    ]
    clean, before = images.clone(), all_state(tiny_net)
    attack(tiny_net, images, labels, stream=stream)
    assert_no_trace(before, all_state(tiny_net), tiny_net, gradients)
    assert torch.equal(images, clean)
    assert images.grad is None


@every_attack
def test_attack_that_fails_leaves_no_trace(attack, tiny_net, images, labels, stream):
    gradients = [(p.grad, None) for p in tiny_net.parameters()]
    before = all_state(tiny_net)
    with pytest.raises(ValueError, match="labels must be in"):
        attack(tiny_net, images, labels + 7, stream=stream)
    with pytest.raises(RuntimeError):
        attack(tiny_net, images[:, :1], labels, stream=stream)
    assert_no_trace(before, all_state(tiny_net), tiny_net, gradients)


@every_attack
def test_image_alone_fares_as_in_its_batch(attack, tiny_net, images, labels, stream):
    # In float64 the kernels' rounding, which may depend on the batch, does not turn a sign.
    tiny_net, images = tiny_net.double(), images.double()
    together = attack(tiny_net, images, labels, stream=stream)
    for order in ([3], [4, 0], [1, 2, 0]):
        result = attack(tiny_net, images[order], labels[order], stream=stream.subset(order))
        torch.testing.assert_close(result, together[order], rtol=0, atol=1e-9)


@every_attack
def test_trajectory_ends_with_the_call(attack, tiny_net, images, labels, stream):
    recorded = attack.trajectory(
        tiny_net, images, labels, record_at=(0, attack.num_steps), stream=stream
    )
    result = attack(tiny_net, images, labels, stream=stream)
    assert torch.equal(recorded[attack.num_steps], result)
    assert_in_ball(recorded[0], images, attack.epsilon, attack.norm)


@every_attack
def test_attack_works_where_gradients_are_switched_off(attack, tiny_net, images, labels, stream):
    expected = attack(tiny_net, images, labels, stream=stream)
    with torch.no_grad():
        assert torch.equal(attack(tiny_net, images, labels, stream=stream), expected)
