"""Square attack: random squares at the corners of the l-inf ball (Andriushchenko et al. 2020).

It reads logits and asks for no gradient, so it also fools networks that hide theirs. An image whose
goal is reached asks no further query: the batch shrinks, the draws stay those of the image.

Not here: the moves in an l2 ball, `square_l2.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from featdenoise.attacks.core import (
    Norm,
    check_at_least,
    check_batch,
    check_name,
    check_radius,
    check_stream,
    project_linf,
)
from featdenoise.attacks.goal import Goal, aim
from featdenoise.attacks.losses import Loss
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import Model
from featdenoise.attacks.square_l2 import move_windows, num_draws, tiled_start
from featdenoise.attacks.targets import TargetChoice
from featdenoise.base.rng import Stream
from featdenoise.base.units import Pixels

# Of 10000 queries: after each of these the share of the image that a square covers is halved.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_PLANNED_QUERIES = 10_000


@dataclass(frozen=True, kw_only=True)
class Square:
    """Square attack on logits alone (Andriushchenko et al. 2020)."""

    epsilon: Pixels = 16 / 255
    """Radius of the ball around the clean image."""
    norm: Norm = "linf"
    """Norm of the ball."""
    num_queries: int = 5000
    """Squares tried for each image, after the striped start."""
    p_init: float = 0.8
    """Share of the image that the first squares cover."""
    rescale_schedule: bool = False
    """Shrink squares by the share of queries made; otherwise by their count, as AutoAttack does."""
    targeted: bool = False
    """Make the image look like a target class; otherwise only unlike its own."""
    loss: Loss = "margin"
    """What a square must improve to be kept."""
    target_choice: TargetChoice = "uniform"
    """Which wrong class a targeted attack aims at where no targets are given."""

    def __post_init__(self) -> None:
        check_name("norm", self.norm, Norm)
        check_name("loss", self.loss, Loss)
        check_name("target_choice", self.target_choice, TargetChoice)
        check_radius("epsilon", self.epsilon, self.norm)
        check_at_least("num_queries", self.num_queries, 0)
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init must be in (0, 1], got {self.p_init:g}")

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        stream: Stream,
        targets: Tensor | None = None,
    ) -> Tensor:
        """The best point of each image, or the first that reaches the goal.

        Args:
            model: a module (in any mode, it is not touched), a callable images -> logits, which
                need not be differentiable, or a `GradientOracle`.
            images: (N, C, H, W) float32 or float64, pixels in [0, 1].
            labels: (N,) int64, true classes.
            stream: randomness of the N images.
            targets: (N,) int64, classes to aim at, for a targeted attack.

        Returns:
            (N, C, H, W), pixels in [0, 1], inside the ball.

        Raises:
            ValueError: images, labels, targets or stream do not fit, with what is wrong.
        """
        images = images.detach()
        check_batch(images, labels)
        check_stream(stream, images)
        if len(images) == 0:
            return images.clone()
        oracle = GradientOracle.of(model)
        goal = aim(self, oracle, images, labels, stream=stream, targets=targets)
        return self._search(oracle, images, goal, stream)

    def _search(self, oracle: GradientOracle, images: Tensor, goal: Goal, stream: Stream) -> Tensor:
        best, draws = self._start(images, stream)
        gains, is_reached = _judge(oracle, goal, best)
        for query in range(self.num_queries):
            left = (~is_reached).nonzero().flatten()
            if len(left) == 0:
                break
            candidate = self._move(best[left], images[left], draws[left, query], query)
            gain, is_hit = _judge(oracle, goal.at(left), candidate)
            is_better = is_hit | (gain > gains[left])
            best[left[is_better]] = candidate[is_better]
            gains[left[is_better]] = gain[is_better]
            is_reached[left] = is_hit
        return best

    def _start(self, images: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """The first point of each image, and the numbers that its moves need: (N, Q, D)."""
        channels = images.shape[1]
        if self.norm == "l2":
            shape = (self.num_queries, num_draws(channels))
            draws = stream.uniform("square l2", shape)
            return tiled_start(images, self.epsilon, stream), draws.to(images.device)
        # Two numbers for the place, one a channel for the sign.
        draws = stream.uniform("square", (self.num_queries, 2 + channels))
        return self._stripes(images, stream), draws.to(images.device)

    def _move(self, best: Tensor, images: Tensor, draws: Tensor, query: int) -> Tensor:
        channels, height, width = images.shape[1:]
        side = self.side(query, height, width)
        if self.norm == "l2":
            return move_windows(best, images, self.epsilon, draws, side)
        place, signs = draws.split([2, channels], dim=1)
        corner = _corner(images, self.epsilon, signs.reshape(-1, channels, 1, 1))
        return torch.where(_squares(place, side, height, width), corner, best)

    def _stripes(self, images: Tensor, stream: Stream) -> Tensor:
        """The start: a corner of the ball, of one sign in each column."""
        channels, _, width = images.shape[1:]
        signs = stream.uniform("square stripes", (channels, 1, width)).to(images.device)
        return _corner(images, self.epsilon, signs)

    def side(self, query: int, height: int, width: int) -> int:
        """Length of the sides of the square of this query, counted from 0 (Alg. 1).

        In an l2 ball it is then made odd and at least 3.
        """
        made = query
        if self.rescale_schedule:
            made = query * _PLANNED_QUERIES // self.num_queries
        share = self.p_init / 2 ** sum(made > bound for bound in _HALVED_AFTER)
        side = max(round((share * height * width) ** 0.5), 1)
        return min(side, height, width)


def _judge(oracle: GradientOracle, goal: Goal, points: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) gain in float64 and (N,) bool whether the goal is reached."""
    logits = oracle.logits(points)
    return goal.gain(logits).double(), goal.is_reached(logits)


def _corner(images: Tensor, epsilon: float, uniform: Tensor) -> Tensor:
    """Every pixel moved by epsilon, up or down as a number uniform in [0, 1) says."""
    signs = torch.where(uniform < 0.5, 1, -1).to(images)
    return project_linf(images + epsilon * signs, images, epsilon)


def _squares(place: Tensor, side: int, height: int, width: int) -> Tensor:
    """(N, 1, H, W) bool, a square a row; `place` (N, 2) is uniform in [0, 1)."""
    # In float64: a float32 product may round up to the bound, which lies outside.
    room = torch.tensor([height - side + 1, width - side + 1], device=place.device)
    top_left = (place.double() * room).long()
    rows = torch.arange(height, device=place.device) - top_left[:, :1]
    columns = torch.arange(width, device=place.device) - top_left[:, 1:]
    in_rows, in_columns = ((x >= 0) & (x < side) for x in (rows, columns))
    return (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)
