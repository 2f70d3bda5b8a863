"""MI-FGSM: iterative FGSM with momentum (Dong et al. 2018, Alg. 1).

The path, its budgets and its bounds are PGD's; only the direction of a step is another one.
"""

from dataclasses import dataclass

from torch import Tensor

from featdenoise.attacks.core import STEEPEST
from featdenoise.attacks.pgd import PGD, Direction
from featdenoise.base.units import Pixels


@dataclass(frozen=True, kw_only=True)
class MIFGSM(PGD):
    """Iterative FGSM whose steps remember their direction (Dong et al. 2018)."""

    step_size: Pixels = 1.6 / 255
    """Length of one step; epsilon / num_steps in the paper."""
    num_steps: int = 10
    """Number of steps."""
    random_start: bool = False
    """Start at a random point of the ball; the paper starts at the clean image."""
    momentum: float = 1.0
    """How much of the accumulated direction survives a step; 0 is iterative FGSM."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < float("inf"):
            raise ValueError(f"momentum must be finite and at least 0, got {self.momentum:g}")

    def _direction(self) -> Direction:
        accumulated: Tensor | None = None
        steepest = STEEPEST[self.norm]

        def direction(gradient: Tensor) -> Tensor:
            nonlocal accumulated
            # Eq. 6 divides by the l1 norm; the mean differs by a constant, which no direction sees.
            unit = _of_mean_size_one(gradient)
            accumulated = unit if accumulated is None else self.momentum * accumulated + unit
            return steepest(accumulated)

        return direction


def _of_mean_size_one(gradient: Tensor) -> Tensor:
    """Each image's gradient over its mean absolute value; zero stays zero."""
    shape = (-1, *[1] * (gradient.ndim - 1))
    # Scaled by the largest entry first: the mean of tiny entries is zero in float32.
    largest = gradient.flatten(1).abs().amax(1).reshape(shape)
    scaled = gradient / largest.where(largest > 0, 1)
    mean = scaled.flatten(1).abs().mean(1).reshape(shape)
    return scaled / mean.where(mean > 0, 1)
