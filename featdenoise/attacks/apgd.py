"""APGD: gradient ascent that sets its own step size, image by image (Croce & Hein 2020, Alg. 1).

Nothing to tune but the number of steps. `APGD` with cross-entropy and `TargetedAPGD` are the two
gradient attacks of AutoAttack. Where the paper and its authors' code differ in a detail, this is
the code, with which published numbers were made; each place says so.

Not here: the l1 ball, and expectation over a random network's transformations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featdenoise.attacks.core import (
    PROJECTIONS,
    STEEPEST,
    Norm,
    check_at_least,
    check_batch,
    check_name,
    check_radius,
    check_stream,
    random_start,
    refuse_non_finite,
)
from featdenoise.attacks.goal import ClassGoal, Goal, PathGoal, aim
from featdenoise.attacks.losses import Loss
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import Model
from featdenoise.attacks.targets import TargetChoice, top_k_targets
from featdenoise.base.rng import Stream
from featdenoise.base.units import Pixels, check_classes

_MOMENTUM = 0.75  # share of the new step (alpha in Sec. 3)
_RHO = 0.75  # share of rising steps under which a step size is too large


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Auto-PGD: no step size to choose (Croce & Hein 2020)."""

    epsilon: Pixels = 16 / 255
    """Radius of the ball around the clean image."""
    num_steps: int = 100
    """Number of steps of a run; its step sizes are planned for it."""
    targeted: bool = False
    """Make the image look like a target class; otherwise only unlike its own."""
    norm: Norm = "linf"
    """Norm of the ball and of the steps."""
    loss: Loss = "cross_entropy"
    """What the steps ascend (against the label) or descend (to the target)."""
    target_choice: TargetChoice = "uniform"
    """Which wrong class a targeted attack aims at where no targets are given."""
    restarts: int = 1
    """Runs from random starts; an image whose goal is reached is not attacked again."""

    def __post_init__(self) -> None:
        check_name("norm", self.norm, Norm)
        check_name("loss", self.loss, Loss)
        check_name("target_choice", self.target_choice, TargetChoice)
        check_radius("epsilon", self.epsilon, self.norm)
        check_at_least("num_steps", self.num_steps, 1)
        check_at_least("restarts", self.restarts, 1)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        stream: Stream,
        targets: Tensor | None = None,
    ) -> Tensor:
        """The best point of each image: one that reaches the goal, else that of the highest gain.

        Args:
            model: a module (in any mode, it is not touched), a callable images -> logits, or a
                `GradientOracle`.
            images: (N, C, H, W) float32 or float64, pixels in [0, 1].
            labels: (N,) int64, true classes.
            stream: randomness of the N images.
            targets: (N,) int64, classes to aim at, for a targeted attack.

        Returns:
            (N, C, H, W), pixels in [0, 1], inside the ball.

        Raises:
            ValueError: images, labels, targets or stream do not fit, with what is wrong.
            RuntimeError: the model gives no gradient.
            FloatingPointError: the gradient is not finite.
        """
        images = images.detach()
        check_batch(images, labels)
        check_stream(stream, images)
        if len(images) == 0:
            return images.clone()
        oracle = GradientOracle.of(model)
        goal = aim(self, oracle, images, labels, stream=stream, targets=targets)
        return _best_of_runs(self, oracle, images, [goal] * self.restarts, goal, stream)


@dataclass(frozen=True, kw_only=True)
class TargetedAPGD:
    """Auto-PGD by the way of every likely wrong class in turn (APGD-T of AutoAttack).

    Its goal is untargeted: any wrong prediction will do. The targeted DLR loss only leads there.
    """

    epsilon: Pixels = 16 / 255
    """Radius of the ball around the clean image."""
    num_steps: int = 100
    """Number of steps of a run; its step sizes are planned for it."""
    norm: Norm = "linf"
    """Norm of the ball and of the steps."""
    num_targets: int = 9
    """How many wrong classes are tried, the likeliest of the clean image first."""
    restarts: int = 1
    """Runs for each target; an image that is already misclassified is not attacked again."""

    targeted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_name("norm", self.norm, Norm)
        check_radius("epsilon", self.epsilon, self.norm)
        for field in ("num_steps", "num_targets", "restarts"):
            check_at_least(field, getattr(self, field), 1)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        stream: Stream,
        targets: Tensor | None = None,
    ) -> Tensor:
        """The best point of each image: a misclassified one, else that of the largest margin.

        Arguments, result and errors are those of `APGD`; given targets are refused, and so is a
        model of fewer than four classes or of no more than `num_targets`.
        """
        if targets is not None:
            raise ValueError("TargetedAPGD finds its targets itself; use APGD(targeted=True)")
        images = images.detach()
        check_batch(images, labels)
        check_stream(stream, images)
        if len(images) == 0:
            return images.clone()
        oracle = GradientOracle.of(model)
        check_classes(labels, oracle.num_classes(images))
        chosen = top_k_targets(oracle.logits(images), labels, self.num_targets)
        goals = [
            PathGoal(labels=labels, targets=column)
            for column in chosen.unbind(1)
            for _ in range(self.restarts)
        ]
        # The losses of two targets do not compare; the margin does.
        verdict = ClassGoal(classes=labels, targeted=False, loss="margin")
        return _best_of_runs(self, oracle, images, goals, verdict, stream)


def checkpoints(num_steps: int) -> tuple[int, ...]:
    """The steps after which step sizes are judged (Croce & Hein 2020, Sec. 3).

    At 22% of the steps, then after 19%, 16%, ... of them, at least 6%.
    """
    percent, gap, found = 0, 22, []
    while percent + gap < 100:
        percent, gap = percent + gap, max(gap - 3, 6)
        # Rounded up, in whole numbers: floating point would move a checkpoint now and then.
        found.append(-(-percent * num_steps // 100))
    return tuple(sorted(set(found)))


def _best_of_runs(
    attack: APGD | TargetedAPGD,
    oracle: GradientOracle,
    images: Tensor,
    goals: Sequence[Goal],
    verdict: Goal,
    stream: Stream,
) -> Tensor:
    """One run for each goal; images that satisfy the verdict drop out of the later ones."""
    best = images.clone()
    gains = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
    left = torch.arange(len(images), device=images.device)
    for draw, goal in enumerate(goals):
        clean = images[left]
        chosen = stream.subset(left.tolist())
        start = random_start(clean, attack.epsilon, attack.norm, chosen, draw=draw)
        found = _Ascent(attack, oracle, goal.at(left), clean, start).run()
        logits, judged = oracle.logits(found), verdict.at(left)
        gain, is_reached = judged.gain(logits).double(), judged.is_reached(logits)
        is_better = is_reached | (gain > gains[left])
        best[left] = _where(is_better, found, best[left])
        gains[left] = gain.where(is_better, gains[left])
        left = left[~is_reached]
        if len(left) == 0:
            break
    return best


class _Ascent:
    """One run of Alg. 1 on a batch; each image has a step size, a best point, a schedule's state.

    `point`, `gain` and `gradient` are those of the present iterate, (N, C, H, W) and (N,).
    """

    def __init__(
        self,
        attack: APGD | TargetedAPGD,
        oracle: GradientOracle,
        goal: Goal,
        images: Tensor,
        start: Tensor,
    ) -> None:
        self.attack, self.oracle, self.goal, self.images = attack, oracle, goal, images
        self.point = self.previous = start
        logits, self.gain, self.gradient = oracle.differentiate(start, goal.gain)
        self.is_finite = self.gradient.isfinite().all()
        self.top, self.top_gain, self.top_gradient = self.point, self.gain, self.gradient
        self.found, self.found_gain = start, self.gain
        self.is_reached = goal.is_reached(logits)
        self.step_size = torch.full_like(start[:, :1, :1, :1], 2 * attack.epsilon)
        self.rises = torch.zeros_like(self.gain)
        self.gain_at_checkpoint = self.gain
        # Differs from the paper: as in its code, the first checkpoint looks at condition 1 only.
        self.was_halved = torch.ones_like(self.is_reached)

    def run(self) -> Tensor:
        """The best point of each image."""
        judged, last = checkpoints(self.attack.num_steps), 0
        for step in range(1, self.attack.num_steps + 1):
            self._step(1.0 if step == 1 else _MOMENTUM)
            self._look()
            if step in judged:
                self._adapt(step - last)
                last = step
        refuse_non_finite(self.is_finite, self.attack.num_steps, self.attack)
        return self.found

    def _step(self, share: float) -> None:
        """Lines 7 and 8: a projected step, then part of the way on with the last one's momentum."""
        project, epsilon = PROJECTIONS[self.attack.norm], self.attack.epsilon
        direction = STEEPEST[self.attack.norm](self.gradient)
        ahead = project(self.point + self.step_size * direction, self.images, epsilon)
        momentum = (1 - share) * (self.point - self.previous)
        moved = self.point + share * (ahead - self.point) + momentum
        self.previous, self.point = self.point, project(moved, self.images, epsilon)

    def _look(self) -> None:
        """Gain and gradient of the new iterate; the top of the climb and the result."""
        logits, gain, self.gradient = self.oracle.differentiate(self.point, self.goal.gain)
        self.is_finite &= self.gradient.isfinite().all()
        # Differs from the paper: as in its code, the step after a return to the top is compared
        # with the abandoned iterate and not with the top.
        self.rises = self.rises + (gain > self.gain)
        self.gain = gain
        is_top = gain > self.top_gain
        self.top = _where(is_top, self.point, self.top)
        self.top_gradient = _where(is_top, self.gradient, self.top_gradient)
        self.top_gain = gain.where(is_top, self.top_gain)
        # The cross-entropy may be highest where the goal is missed: a point that reaches it goes
        # before any other.
        is_reached = self.goal.is_reached(logits)
        is_higher = (is_reached == self.is_reached) & (gain > self.found_gain)
        is_better = (is_reached & ~self.is_reached) | is_higher
        self.found = _where(is_better, self.point, self.found)
        self.found_gain = gain.where(is_better, self.found_gain)
        self.is_reached = self.is_reached | is_reached

    def _adapt(self, num_steps: int) -> None:
        """Lines 14 to 17: halve the step size of images that no longer climb, back to their top."""
        # Condition 1. Differs from the paper: <= as in its code, not <.
        oscillates = self.rises <= _RHO * num_steps
        # Condition 2: neither a smaller step nor a higher top since the last checkpoint.
        is_stuck = ~self.was_halved & (self.gain_at_checkpoint >= self.top_gain)
        halves = oscillates | is_stuck
        self.step_size = _where(halves, self.step_size / 2, self.step_size)
        self.point = _where(halves, self.top, self.point)
        self.gradient = _where(halves, self.top_gradient, self.gradient)
        self.was_halved, self.gain_at_checkpoint = halves, self.top_gain
        self.rises = torch.zeros_like(self.rises)


def _where(chosen: Tensor, these: Tensor, those: Tensor) -> Tensor:
    """(N, C, H, W): `these` for the chosen images, (N,) bool, else `those`."""
    return torch.where(chosen.reshape(-1, 1, 1, 1), these, those)
