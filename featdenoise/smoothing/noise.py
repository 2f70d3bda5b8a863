"""Smoothing noises: how a vote is disturbed, and the radius that its votes certify.

A noise is a frozen dataclass with a `norm`, a `sample` and a `radius`. It knows nothing of models
or of counting, and it never clips: a noisy image leaves [0, 1] by design.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.special import ndtri
from torch import Tensor

from featdenoise.base.rng import device_normal
from featdenoise.base.units import Pixels

MAX_SIGMA = 4.0
"""Above every sigma in use; a larger one is a slip of scale (25 for 25/255)."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Independent normal noise on every coordinate; certifies l2 balls (Cohen et al. 2019)."""

    sigma: Pixels = 0.25
    """Standard deviation of the noise on every coordinate, in pixel units."""

    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        """Refuse a sigma of zero or of another scale."""
        if not 0 < self.sigma <= MAX_SIGMA:  # written so that NaN is refused too
            raise ValueError(
                f"sigma must be in (0, {MAX_SIGMA:g}], got {self.sigma:g}; "
                "it is in units of the [0, 1] pixel range, such as 0.25 or 64/255"
            )

    def sample(
        self,
        shape: Sequence[int],
        seed: int,
        purpose: str,
        *counters: int,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Float32 noise of this shape on the device, a pure function of the arguments.

        Args:
            shape: any.
            seed: the run's seed.
            purpose: what the noise is for; different purposes are independent.
            counters: up to three, such as image id, epoch and vote block.
            device: where the noise is made; equal kinds of device give equal noise.
        """
        return device_normal(shape, seed, purpose, *counters, device=device).mul_(self.sigma)

    def radius(self, p_lower: float) -> float:
        """Certified l2 radius in pixel units: sigma * PhiInv(p) (Cohen et al. 2019, Theorem 1).

        Args:
            p_lower: lower bound of the top class's probability, in [0, 1]; one half or less
                certifies nothing, radius 0.

        Raises:
            ValueError: p_lower is no probability.
        """
        if not 0 <= p_lower <= 1:
            raise ValueError(f"p_lower must be in [0, 1], got {p_lower}")
        # Above one half PhiInv is positive; max() would let a NaN through.
        return self.sigma * float(ndtri(p_lower)) if p_lower > 0.5 else 0.0


Noise = Gaussian
"""Any smoothing noise; becomes a union when a second one is added."""
