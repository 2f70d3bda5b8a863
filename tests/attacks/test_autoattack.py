import builtins

import pytest
import torch

from featdenoise.attacks import APGD, AutoAttack, Square, TargetedAPGD, assert_in_ball
from featdenoise.base.rng import Stream

EPSILON = 0.1


def stream_of(images):
    return Stream(seed=0, image_ids=tuple(range(len(images))))


@pytest.mark.slow
def test_autoattack_and_our_own_ensemble_leave_as_many_standing(trained):
    model, images, labels = trained
    stream = stream_of(images)
    theirs = AutoAttack(epsilon=EPSILON)(model, images, labels, stream=stream)
    assert_in_ball(theirs, images, EPSILON, "linf")
    stands = torch.ones(len(images), dtype=torch.bool)
    for attack in (APGD(epsilon=EPSILON), TargetedAPGD(epsilon=EPSILON), Square(epsilon=EPSILON)):
        adversarial = attack(model, images, labels, stream=stream)
        stands &= model(adversarial).argmax(1) == labels
    counts = [int(stands.sum()), int((model(theirs).argmax(1) == labels).sum())]
    assert abs(counts[0] - counts[1]) <= 2
    assert counts[0] < int((model(images).argmax(1) == labels).sum())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack_keeps_the_ball_and_returns_failures_clean(norm, trained):
    model, images, labels = (x if k == 0 else x[:64] for k, x in enumerate(trained))
    attack = AutoAttack(epsilon=EPSILON, norm=norm, attacks=("apgd-ce", "fab-t"), num_targets=2)
    adversarial = attack(model, images, labels, stream=stream_of(images))
    assert_in_ball(adversarial, images, EPSILON, norm)
    is_robust = model(adversarial).argmax(1) == labels
    is_correct = model(images).argmax(1) == labels
    assert torch.equal(adversarial[is_robust], images[is_robust])
    assert is_robust.sum() < is_correct.sum()


def test_missing_pyautoattack_says_what_to_install(monkeypatch, tiny_net, images, labels, stream):
    found = builtins.__import__

    def without_it(name, *rest, **fields):
        if name == "pyautoattack":
            raise ModuleNotFoundError("No module named 'pyautoattack'", name=name)
        return found(name, *rest, **fields)

    monkeypatch.setattr(builtins, "__import__", without_it)
    with pytest.raises(ModuleNotFoundError, match="pip install pyautoattack"):
        AutoAttack(attacks=("square",))(tiny_net, images, labels, stream=stream)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 8}, r"epsilon must be in \[0, 1\].*write 8/255"),
        ({"attacks": ()}, "attacks must name some of apgd-ce"),
        ({"attacks": ("pgd",)}, "attacks must be one of apgd-ce, .*; got 'pgd'"),
        ({"num_targets": 0}, "num_targets must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(**fields)


def test_more_targets_than_the_network_has_are_refused(tiny_net, images, labels, stream):
    with pytest.raises(ValueError, match="num_targets must be below the number of classes, 4"):
        AutoAttack()(tiny_net, images, labels, stream=stream)
