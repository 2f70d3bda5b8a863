import pytest
import torch

from featdenoise.attacks.goal import ClassGoal, PathGoal, aim, keep_stronger
from featdenoise.attacks.losses import dlr_targeted, margin
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD
from featdenoise.attacks.targets import least_likely_targets, next_targets, uniform_targets


def random_logits(count=12, num_classes=5):
    return torch.randn(count, num_classes, generator=torch.Generator().manual_seed(0))


def test_class_goal_is_away_from_labels_or_to_targets():
    logits, classes = random_logits(), torch.arange(12) % 5
    away = ClassGoal(classes=classes, targeted=False, loss="margin")
    towards = ClassGoal(classes=classes, targeted=True, loss="margin")
    is_predicted = [int(row.argmax()) == c for row, c in zip(logits, classes, strict=True)]
    assert towards.is_reached(logits).tolist() == is_predicted
    assert (~away.is_reached(logits)).tolist() == is_predicted
    assert torch.equal(away.gain(logits), margin(logits, classes))
    assert torch.equal(towards.gain(logits), -away.gain(logits))
    # The margin is above zero exactly where the goal is reached, in both directions.
    for goal in (away, towards):
        assert torch.equal(goal.gain(logits) > 0, goal.is_reached(logits))


def test_path_goal_climbs_to_targets_but_takes_any_wrong_class():
    logits, labels = random_logits(), torch.arange(12) % 5
    targets = (labels + 2) % 5
    goal = PathGoal(labels=labels, targets=targets)
    assert torch.equal(goal.is_reached(logits), logits.argmax(1) != labels)
    assert torch.equal(goal.gain(logits), dlr_targeted(logits, labels, targets))


@pytest.mark.parametrize("kind", ["class", "path"])
def test_goal_of_some_images_is_that_of_the_batch(kind):
    logits, labels = random_logits(), torch.arange(12) % 5
    goal = ClassGoal(classes=labels, targeted=False, loss="dlr")
    if kind == "path":
        goal = PathGoal(labels=labels, targets=(labels + 1) % 5)
    positions = torch.tensor([7, 2, 11])
    part = goal.at(positions)
    assert torch.equal(part.gain(logits[positions]), goal.gain(logits)[positions])
    assert torch.equal(part.is_reached(logits[positions]), goal.is_reached(logits)[positions])


@pytest.mark.parametrize("choice", ["uniform", "least_likely", "next"])
def test_targets_are_chosen_as_asked(choice, tiny_net, images, labels, stream):
    oracle = GradientOracle(tiny_net)
    attack = PGD(targeted=True, target_choice=choice, num_steps=3)
    goal = aim(attack, oracle, images, labels, stream=stream, targets=None)
    expected = {
        "uniform": uniform_targets(labels, 4, stream),
        "least_likely": least_likely_targets(oracle.logits(images), labels),
        "next": next_targets(labels, 4),
    }[choice]
    assert torch.equal(goal.classes, expected)
    assert goal.targeted
    drawn = attack(oracle, images, labels, stream=stream)
    given = attack(oracle, images, labels, stream=stream, targets=expected)
    assert torch.equal(drawn, given)


def test_unknown_target_choice_is_refused():
    with pytest.raises(ValueError, match="target_choice must be one of uniform, least_likely"):
        PGD(target_choice="hardest")


def test_kept_is_the_first_success_else_the_higher_gain():
    def model(x):
        return x.flatten(1)[:, :3]

    def image_of(logits):
        return torch.tensor([logits]).reshape(1, 1, 1, 3)

    oracle = GradientOracle(model)
    goal = ClassGoal(classes=torch.tensor([0]), targeted=False, loss="cross_entropy")
    weak, strong = image_of([0.9, 0.1, 0.0]), image_of([0.5, 0.4, 0.4])
    fooled, fooled_more = image_of([0.4, 0.5, 0.0]), image_of([0.0, 0.9, 0.0])
    # The cross-entropy of `strong` is above that of `fooled`: success goes first.
    assert goal.gain(model(strong)) > goal.gain(model(fooled))
    for challenger, champion, kept in [
        (strong, weak, strong),
        (weak, strong, strong),
        (fooled, strong, fooled),
        (strong, fooled, fooled),
        (fooled_more, fooled, fooled),
    ]:
        assert torch.equal(keep_stronger(oracle, goal, challenger, champion), kept)
