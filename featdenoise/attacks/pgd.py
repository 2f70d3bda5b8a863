"""Projected gradient descent (Madry et al. 2018), as in Xie et al. 2019, Sec. 5 and 6.

FGSM and iterative FGSM are settings of it. One path visits the iterates of every smaller number of
steps, so a sweep over budgets costs its largest budget.

Not here: a step size that depends on the budget (`paper_step_size` gives it; such budgets need
paths of their own), and dropping images that are already fooled, which changes the batch and with
it the rounding of the others.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
from featdenoise.attacks.goal import Goal, aim, keep_stronger
from featdenoise.attacks.losses import Loss
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.targets import TargetChoice
from featdenoise.base.rng import Stream
from featdenoise.base.units import Pixels

Model = Callable[[Tensor], Tensor] | GradientOracle
"""What can be attacked: an `nn.Module`, any differentiable images -> logits, or an oracle."""

Direction = Callable[[Tensor], Tensor]
"""The gradient at the present point -> the direction of the next step, of length 1 in the norm."""


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent (Xie et al. 2019, Sec. 5 and 6)."""

    epsilon: Pixels = 16 / 255
    """Radius of the ball around the clean image."""
    step_size: Pixels = 1 / 255
    """Length of one step."""
    num_steps: int = 30
    """Number of steps."""
    targeted: bool = False
    """Make the image look like a target class; otherwise only unlike its own."""
    norm: Norm = "linf"
    """Norm of the ball and of the steps."""
    loss: Loss = "cross_entropy"
    """What the steps ascend (against the label) or descend (to the target)."""
    random_start: bool = True
    """Start at a random point of the ball; otherwise always at the clean image."""
    clean_start_probability: float = 0.0
    """How often a random start is replaced by the clean image (0.2 in the paper's training)."""
    target_choice: TargetChoice = "uniform"
    """Which wrong class a targeted attack aims at where no targets are given."""
    restarts: int = 1
    """Independent runs, of which the strongest is kept for each image."""

    def __post_init__(self) -> None:
        check_name("norm", self.norm, Norm)
        check_name("loss", self.loss, Loss)
        check_radius("epsilon", self.epsilon, self.norm)
        check_radius("step_size", self.step_size, self.norm)
        check_name("target_choice", self.target_choice, TargetChoice)
        check_at_least("num_steps", self.num_steps, 0)
        check_at_least("restarts", self.restarts, 1)
        if not 0 <= self.clean_start_probability <= 1:
            raise ValueError(
                f"clean_start_probability must be in [0, 1], got {self.clean_start_probability:g}"
            )

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        stream: Stream,
        targets: Tensor | None = None,
        start_clean: bool | None = None,
    ) -> Tensor:
        """Adversarial images after `num_steps` steps; arguments and errors as for `trajectory`.

        Returns:
            (N, C, H, W), pixels in [0, 1], inside the ball.
        """
        recorded = self.trajectory(
            model,
            images,
            labels,
            record_at=(self.num_steps,),
            stream=stream,
            targets=targets,
            start_clean=start_clean,
        )
        return recorded[self.num_steps]

    def trajectory(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        record_at: Sequence[int],
        stream: Stream,
        targets: Tensor | None = None,
        start_clean: bool | None = None,
        resume: tuple[int, Tensor] | None = None,
    ) -> dict[int, Tensor]:
        """The adversarial images at several numbers of steps, from one path.

        Each equals what a separate run with that `num_steps` gives, bit for bit; the cost is that
        of the longest. `record_at` takes the place of `num_steps`.

        Args:
            model: a module (in any mode, it is not touched), a callable images -> logits, or a
                `GradientOracle`, which saves the copying when it serves many batches.
            images: (N, C, H, W) float32 or float64, pixels in [0, 1].
            labels: (N,) int64, true classes.
            record_at: distinct numbers of steps in any order; 0 is the start.
            stream: randomness of the N images.
            targets: (N,) int64, classes to aim at, for a targeted attack; chosen as
                `target_choice` says where None. Every restart aims at the same target.
            start_clean: whether this batch starts at the clean images, drawn by the caller once
                for the whole batch as in the paper's training. None: each image draws for itself,
                with `clean_start_probability`. Without `random_start` every start is clean.
            resume: an iterate of this very path and its number of steps, to go on from; only for
                plain PGD without restarts, whose next step depends on nothing else.

        Returns:
            Steps -> (N, C, H, W), pixels in [0, 1], inside the ball; in ascending order.

        Raises:
            ValueError: images, labels, targets, stream or record_at do not fit, with what is wrong.
            RuntimeError: the model gives no gradient.
            FloatingPointError: the gradient is not finite.
        """
        budgets = _checked_budgets(record_at)
        images = images.detach()
        check_batch(images, labels)
        check_stream(stream, images)
        if len(images) == 0:
            return {budget: images.clone() for budget in budgets}
        oracle = GradientOracle.of(model)
        goal = aim(self, oracle, images, labels, stream=stream, targets=targets)
        if resume is not None:
            self._check_resume(resume, images, budgets)
        recorded: dict[int, Tensor] = {}
        for restart in range(self.restarts):
            first, start = resume or (0, self._start(images, stream, start_clean, restart))
            for budget, adversarial in self._path(oracle, images, goal, start, budgets, first):
                if restart > 0:
                    adversarial = keep_stronger(oracle, goal, adversarial, recorded[budget])
                recorded[budget] = adversarial
        return recorded

    def _start(
        self, images: Tensor, stream: Stream, start_clean: bool | None, restart: int
    ) -> Tensor:
        if start_clean or not self.random_start:
            return images.clone()
        start = random_start(images, self.epsilon, self.norm, stream, draw=restart)
        if start_clean is None and self.clean_start_probability > 0:
            draws = stream.uniform("clean start", (1, 1, 1), draw=restart).to(images.device)
            start = torch.where(draws < self.clean_start_probability, images, start)
        return start

    def _check_resume(self, resume: tuple[int, Tensor], images: Tensor, budgets: list[int]) -> None:
        first, iterate = resume
        if type(self) is not PGD or self.restarts > 1:
            raise ValueError("resume needs plain PGD without restarts; leave resume out")
        if first > budgets[0] or iterate.shape != images.shape or iterate.dtype != images.dtype:
            raise ValueError(
                f"resume must be an iterate like the images, of at most {budgets[0]} steps, got "
                f"{tuple(iterate.shape)} {iterate.dtype} after {first}"
            )

    def _direction(self) -> Direction:
        """How a path turns gradients into steps; asked once a path, so it may remember."""
        return STEEPEST[self.norm]

    def _path(
        self,
        oracle: GradientOracle,
        images: Tensor,
        goal: Goal,
        start: Tensor,
        budgets: list[int],
        first: int,
    ) -> Iterator[tuple[int, Tensor]]:
        """Walk on from step `first`, handing out the iterates at the budgets in ascending order."""
        project, direction = PROJECTIONS[self.norm], self._direction()
        adversarial = start
        is_finite = torch.tensor(True, device=images.device)
        for step in range(first, budgets[-1] + 1):
            if step > first:
                _, _, gradient = oracle.differentiate(adversarial, goal.gain)
                is_finite &= gradient.isfinite().all()
                stepped = adversarial + self.step_size * direction(gradient)
                adversarial = project(stepped, images, self.epsilon)
            if step in budgets:
                refuse_non_finite(is_finite, step, self)
                yield step, adversarial


def fgsm(epsilon: float, *, targeted: bool = False) -> PGD:
    """The fast gradient sign method (Goodfellow et al. 2015): one step of length epsilon."""
    return iterative_fgsm(epsilon, 1, targeted=targeted)


def iterative_fgsm(epsilon: float, num_steps: int, *, targeted: bool = False) -> PGD:
    """Iterative FGSM (Kurakin et al. 2017): PGD from the clean image, steps of epsilon/num_steps.

    Raises:
        ValueError: epsilon is outside [0, 1] or num_steps below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return PGD(
        epsilon=epsilon,
        step_size=epsilon / num_steps,
        num_steps=num_steps,
        targeted=targeted,
        random_start=False,
    )


def paper_step_size(epsilon: float, num_steps: int, *, step_size: float = 1 / 255) -> float:
    """The step of Xie et al., Sec. 6: `step_size`, or epsilon/num_steps where that is larger.

    With few steps of 1/255 the attack could not reach the edge of the ball. All numbers of steps
    with the same result share one trajectory.
    """
    return max(step_size, epsilon / num_steps) if num_steps else step_size


def _checked_budgets(record_at: Sequence[int]) -> list[int]:
    """The numbers of steps in ascending order."""
    budgets = sorted(operator.index(steps) for steps in record_at)
    if not budgets or budgets[0] < 0 or len(set(budgets)) < len(budgets):
        raise ValueError(
            f"record_at must hold distinct numbers of steps of at least 0, got {tuple(record_at)}"
        )
    return budgets
