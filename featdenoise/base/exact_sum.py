"""Sums over micro-batches that do not depend on their order, hence not on the number of processes.

Each term is multiplied in float64 by a power of two, rounded to 64-bit integers and added to one
integer buffer; the buffers of the processes are added as integers and turned back at the end.
Integer addition is associative, so any split over processes gives the same bits (DESIGN, L3).
`FloatSum` is the ordinary alternative: one float buffer, whose rounding depends on the split.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

Reduction = Literal["exact", "fast"]

GRADIENT_BITS = 44
"""Gradients and losses: resolution 2^-44, total size below 2^18."""
STATISTICS_BITS = 32
"""Running statistics: variances of early layers can be large; resolution 2^-32, size below 2^30."""


class MeanSum(Protocol):
    """Adds terms (lists of tensors of fixed shapes), then gives their mean over all processes."""

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add one term."""

    def mean(self, all_reduce: Callable[[Tensor], None]) -> list[Tensor]:
        """The mean of all terms of all processes, and a fresh start for the next sum."""


class ExactSum:
    """The exact mean of `num_terms` terms, each a list of tensors of the given shapes."""

    def __init__(
        self,
        like: Sequence[Tensor],
        *,
        num_terms: int,
        bits: int = GRADIENT_BITS,
        what: str = "gradient",
    ) -> None:
        """Make a zero buffer for tensors shaped (and typed) like `like`."""
        self.num_terms = num_terms
        self.bits = bits
        self.what = what
        self.limit = 2.0 ** (62 - bits) / num_terms
        self._shapes = [t.shape for t in like]
        self._dtypes = [t.dtype for t in like]
        self._sizes = [t.numel() for t in like]
        device = like[0].device if like else torch.device("cpu")
        # Two counters ride at the end, so that every process learns of a bad term anywhere.
        self._buffer = torch.zeros(sum(self._sizes) + 2, dtype=torch.int64, device=device)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add one term; a term with a value that cannot be represented is counted, not added."""
        flat = _flatten(tensors, torch.float64)
        # A cast of NaN or infinity to integer is silent garbage: look before converting.
        finite = torch.isfinite(flat)
        representable = flat.abs() <= self.limit
        bad_values = ~finite
        too_large = finite & ~representable
        safe = torch.where(representable, flat, torch.zeros_like(flat))
        self._buffer[:-2] += torch.round(safe * 2.0**self.bits).to(torch.int64)
        self._buffer[-2] += bad_values.sum()
        self._buffer[-1] += too_large.sum()

    def mean(self, all_reduce: Callable[[Tensor], None]) -> list[Tensor]:
        """The mean over all terms of all processes; the buffer starts again at zero.

        Args:
            all_reduce: adds an integer tensor in place over the processes.

        Raises:
            FloatingPointError: on every process, if any term held a non-finite or too large value.
        """
        all_reduce(self._buffer)
        not_finite, too_large = (int(count) for count in self._buffer[-2:])
        total = self._buffer[:-2].double()
        self._buffer.zero_()
        if not_finite:
            raise FloatingPointError(f"{not_finite} values of the {self.what} are not finite")
        if too_large:
            raise FloatingPointError(
                f"{too_large} values of the {self.what} exceed {self.limit:g} in size"
            )
        means = (total / 2.0**self.bits / self.num_terms).split(self._sizes)
        return [
            m.reshape(shape).to(dtype)
            for m, shape, dtype in zip(means, self._shapes, self._dtypes, strict=True)
        ]


class FloatSum:
    """The ordinary float mean of `num_terms` terms: faster, but its bits depend on the split."""

    def __init__(self, like: Sequence[Tensor], *, num_terms: int, what: str = "gradient") -> None:
        """Make a zero buffer for tensors shaped (and typed) like `like`."""
        self.num_terms = num_terms
        self.what = what
        self._shapes = [t.shape for t in like]
        self._sizes = [t.numel() for t in like]
        device = like[0].device if like else torch.device("cpu")
        self._buffer = torch.zeros(sum(self._sizes), device=device)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add one term."""
        self._buffer += _flatten(tensors, self._buffer.dtype)

    def mean(self, all_reduce: Callable[[Tensor], None]) -> list[Tensor]:
        """The mean over all terms of all processes; the buffer starts again at zero.

        Raises:
            FloatingPointError: on every process, if the sum is not finite.
        """
        all_reduce(self._buffer)
        flat = self._buffer / self.num_terms
        self._buffer = torch.zeros_like(self._buffer)
        if not bool(torch.isfinite(flat).all()):
            raise FloatingPointError(f"values of the {self.what} are not finite")
        means = flat.split(self._sizes)
        return [m.reshape(shape) for m, shape in zip(means, self._shapes, strict=True)]


def _flatten(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    if not tensors:  # a network without batch norm has no statistics
        return torch.empty(0, dtype=dtype)
    return torch.cat([t.detach().reshape(-1).to(dtype) for t in tensors])
