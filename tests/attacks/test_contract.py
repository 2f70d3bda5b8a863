"""What every attack promises; a new attack is tested by a row of ATTACKS."""

import json
import random
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from featdenoise.attacks import (
    APGD,
    MIFGSM,
    PGD,
    Attack,
    AutoAttack,
    GradientOracle,
    Square,
    TargetedAPGD,
    assert_in_ball,
    fgsm,
    iterative_fgsm,
    name_of,
)
from featdenoise.attacks.goal import aim
from featdenoise.base.results import describe

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
    PGD(num_steps=5, step_size=4 / 255, loss="dlr"),
    PGD(num_steps=5, step_size=4 / 255, targeted=True, target_choice="least_likely"),
    PGD(num_steps=5, step_size=4 / 255, targeted=True, target_choice="next"),
    MIFGSM(),
    MIFGSM(targeted=True, momentum=0.5),
    MIFGSM(norm="l2", epsilon=1.5, step_size=0.4, random_start=True),
    APGD(num_steps=12),
    APGD(num_steps=12, targeted=True, restarts=2),
    APGD(num_steps=12, norm="l2", epsilon=1.5, loss="margin"),
    APGD(num_steps=12, loss="dlr", restarts=2),
    TargetedAPGD(num_steps=12, num_targets=3),
    TargetedAPGD(num_steps=12, num_targets=2, restarts=2, norm="l2", epsilon=1.5),
    Square(num_queries=200),
    Square(num_queries=200, targeted=True, rescale_schedule=True),
    Square(num_queries=100, norm="l2", epsilon=1.5),
    Square(num_queries=100, norm="l2", epsilon=1.5, targeted=True),
]
# Draws of other people's attacks belong to the batch, and a failure returns the clean image.
FOREIGN = [
    AutoAttack(attacks=("apgd-ce", "apgd-t"), num_targets=3),
    AutoAttack(epsilon=3, norm="l2", attacks=("apgd-ce",)),
]

every_own_attack = pytest.mark.parametrize("attack", ATTACKS, ids=repr)
every_attack = pytest.mark.parametrize("attack", ATTACKS + FOREIGN, ids=repr)


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


@every_own_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_is_an_image_in_the_ball(attack, dtype, tiny_net, images, labels, stream):
    images = images.to(dtype)
    adversarial = attack(tiny_net.to(dtype), images, labels, stream=stream)
    assert_in_ball(adversarial, images, attack.epsilon, attack.norm)
    assert adversarial.dtype == dtype
    assert not adversarial.requires_grad
    assert not torch.equal(adversarial, images)


@every_own_attack
def test_attack_succeeds_or_climbs_on_every_image(attack, tiny_net, images, labels, stream):
    oracle = GradientOracle(tiny_net)
    adversarial = attack(oracle, images, labels, stream=stream)
    asks = attack if hasattr(attack, "loss") else PGD(loss="margin")
    goal = aim(asks, oracle, images, labels, stream=stream, targets=None)
    before, after = (oracle.logits(x) for x in (images, adversarial))
    assert (goal.is_reached(after) | (goal.gain(after) > goal.gain(before))).all()
    assert (goal.is_reached(after) | ~goal.is_reached(before)).all()
    assert not goal.is_reached(before).all()


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


@every_own_attack
def test_image_alone_fares_as_in_its_batch(attack, tiny_net, images, labels, stream):
    # In float64 the kernels' rounding, which may depend on the batch, does not turn a sign.
    tiny_net, images = tiny_net.double(), images.double()
    together = attack(tiny_net, images, labels, stream=stream)
    for order in ([3], [4, 0], [1, 2, 0]):
        result = attack(tiny_net, images[order], labels[order], stream=stream.subset(order))
        torch.testing.assert_close(result, together[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if isinstance(a, PGD)], ids=repr)
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


def test_every_attack_of_the_union_is_tested_here():
    assert {type(attack) for attack in ATTACKS + FOREIGN} == set(get_args(Attack))


@every_own_attack
def test_attack_repeats_itself_and_follows_its_stream(attack, tiny_net, images, labels, stream):
    first, again = (attack(tiny_net, images, labels, stream=stream) for _ in range(2))
    assert torch.equal(first, again)
    if getattr(attack, "random_start", True):
        other = type(stream)(seed=stream.seed + 1, image_ids=stream.image_ids)
        assert not torch.equal(attack(tiny_net, images, labels, stream=other), first)


@every_attack
def test_empty_batch_stays_empty(attack, tiny_net, images, labels, stream):
    adversarial = attack(tiny_net, images[:0], labels[:0], stream=stream.subset([]))
    assert adversarial.shape == (0, 2, 7, 6)


@every_attack
def test_what_does_not_fit_is_refused(attack, tiny_net, images, labels, stream):
    with pytest.raises(ValueError, match="stream has 2 image ids, the batch 5"):
        attack(tiny_net, images, labels, stream=stream.subset([0, 1]))
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
        attack(tiny_net, images + 1, labels, stream=stream)
    wrong = labels if attack.targeted else (labels + 1) % 4
    with pytest.raises(ValueError, match="target"):
        attack(tiny_net, images, labels, stream=stream, targets=wrong)


@every_attack
def test_attack_has_a_name_and_a_plain_description(attack):
    name = name_of(attack)
    assert name.startswith(f"{type(attack).__name__.lower()}-{attack.norm}")
    assert name.endswith("targeted") == attack.targeted
    assert json.loads(json.dumps(describe(attack)))["kind"] == type(attack).__name__


def test_names_say_what_changes_the_question():
    assert name_of(PGD(targeted=True)) == "pgd-linf-targeted"
    assert name_of(APGD(norm="l2", loss="dlr")) == "apgd-l2-dlr"
    least_likely = PGD(targeted=True, target_choice="least_likely")
    assert name_of(least_likely) == "pgd-linf-least-likely-targeted"
