"""What an attack is after: a loss to climb, and when it has what it wants.

Attacks climb the gain of their goal and know nothing of labels, targets and signs.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from featdenoise.attacks.core import check_batch
from featdenoise.attacks.losses import LOSSES, Loss, dlr_targeted
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.targets import (
    TargetChoice,
    least_likely_targets,
    next_targets,
    uniform_targets,
)
from featdenoise.base.rng import Stream
from featdenoise.base.units import check_classes


class Goal(Protocol):
    """What the attacks of this package climb, for a batch of N images."""

    def is_reached(self, logits: Tensor) -> Tensor:
        """(N,) bool: the prediction, the largest of the (N, K) logits, is what is wanted."""

    def gain(self, logits: Tensor) -> Tensor:
        """(N,), the higher the nearer; each image's depends on its own logits alone."""

    def at(self, positions: Tensor) -> Self:
        """The goal of the images at these positions of the batch."""


@dataclass(frozen=True, kw_only=True)
class ClassGoal:
    """Away from the labels, or, if targeted, to the targets."""

    classes: Tensor
    """(N,) int64: labels, or targets when targeted."""
    targeted: bool
    loss: Loss

    def is_reached(self, logits: Tensor) -> Tensor:
        """(N,) bool: predicted as the target, or not predicted as the label."""
        return (logits.argmax(1) == self.classes) == self.targeted

    def gain(self, logits: Tensor) -> Tensor:
        """(N,): the loss against the label, or minus that of the target (Xie et al., Sec. 6)."""
        losses = LOSSES[self.loss](logits, self.classes)
        return -losses if self.targeted else losses

    def at(self, positions: Tensor) -> Self:
        """The goal of the images at these positions of the batch."""
        return replace(self, classes=self.classes[positions])


@dataclass(frozen=True, kw_only=True)
class PathGoal:
    """Away from the labels by the way of the targets (targeted DLR of Croce & Hein 2020)."""

    labels: Tensor
    """(N,) int64: any other prediction is a success, also one that is not the target."""
    targets: Tensor
    """(N,) int64: the wrong classes to climb to."""

    def is_reached(self, logits: Tensor) -> Tensor:
        """(N,) bool: not predicted as the label."""
        return logits.argmax(1) != self.labels

    def gain(self, logits: Tensor) -> Tensor:
        """(N,): the targeted difference of logits ratio."""
        return dlr_targeted(logits, self.labels, self.targets)

    def at(self, positions: Tensor) -> Self:
        """The goal of the images at these positions of the batch."""
        return replace(self, labels=self.labels[positions], targets=self.targets[positions])


class Aims(Protocol):
    """The fields of an attack that say what it is after."""

    @property
    def targeted(self) -> bool:
        """Towards targets, or away from labels."""

    @property
    def target_choice(self) -> TargetChoice:
        """Which targets, where none are given."""

    @property
    def loss(self) -> Loss:
        """What measures how near it is."""


def aim(
    attack: Aims,
    oracle: GradientOracle,
    images: Tensor,
    labels: Tensor,
    *,
    stream: Stream,
    targets: Tensor | None,
) -> ClassGoal:
    """The goal of an attack on these images; targets that are not given are chosen.

    Args:
        attack: says whether targeted, which targets, which loss.
        oracle: the attacked network.
        images: (N, C, H, W), checked, N at least 1.
        labels: (N,) int64, true classes.
        stream: randomness of the N images, for uniform targets.
        targets: (N,) int64, given targets.

    Raises:
        ValueError: labels or targets are no classes of the network, a target is the true label, or
            targets are given to an untargeted attack.
    """
    if targets is not None and not attack.targeted:
        raise ValueError("targets were given to an untargeted attack; set targeted=True")
    num_classes = oracle.num_classes(images)
    check_classes(labels, num_classes)
    if not attack.targeted:
        return ClassGoal(classes=labels, targeted=False, loss=attack.loss)
    if targets is None:
        targets = _chosen(attack.target_choice, oracle, images, labels, stream)
    check_batch(images, targets, "targets")
    check_classes(targets, num_classes, "targets")
    if (targets == labels).any():
        raise ValueError("targets must be wrong classes, got the true label of an image")
    return ClassGoal(classes=targets, targeted=True, loss=attack.loss)


def _chosen(
    choice: TargetChoice, oracle: GradientOracle, images: Tensor, labels: Tensor, stream: Stream
) -> Tensor:
    if choice == "least_likely":
        return least_likely_targets(oracle.logits(images), labels)
    num_classes = oracle.num_classes(images)
    if choice == "next":
        return next_targets(labels, num_classes)
    return uniform_targets(labels, num_classes, stream)


def keep_stronger(
    oracle: GradientOracle, goal: Goal, challenger: Tensor, champion: Tensor
) -> Tensor:
    """For each image the better of two: the first that reaches the goal, else the higher gain.

    Args:
        oracle: the attacked network.
        goal: what is wanted.
        challenger: (N, C, H, W), the later one.
        champion: (N, C, H, W), kept where it already reaches the goal.
    """
    new, old = oracle.logits(challenger), oracle.logits(champion)
    is_nearer = goal.is_reached(new) | (goal.gain(new) > goal.gain(old))
    is_stronger = ~goal.is_reached(old) & is_nearer
    return torch.where(is_stronger.reshape(-1, 1, 1, 1), challenger, champion)
