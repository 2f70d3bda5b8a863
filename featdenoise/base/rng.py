"""Counter-based randomness: every draw belongs to an image, none to a batch or a process.

A draw is a pure function of (run seed, purpose, three counters), made with numpy's Philox4x64-10:
the seed and the purpose are the key, the counters are the upper three words of the 256-bit counter.
So the same image gets the same start, target and noise in any batch, on any process, in any order.
There is no global seed anywhere.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator for one draw, a pure function of its arguments.

    Args:
        seed: the run's seed.
        purpose: what is drawn, such as "start" or "target"; different purposes are independent.
        counters: up to three non-negative numbers, such as image id, epoch and draw number.
    """
    if len(counters) > 3 or any(counter < 0 for counter in counters):
        raise ValueError(f"counters must be at most three non-negative integers, got {counters}")
    words = [0, *counters, *([0] * (3 - len(counters)))]
    key = [seed & _MASK64, zlib.crc32(purpose.encode("ascii"))]
    bits = np.random.Philox(
        counter=np.array(words, dtype=np.uint64), key=np.array(key, dtype=np.uint64)
    )
    return np.random.Generator(bits)


def device_generator(
    seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator on `device`, keyed like `generator`: equal on equal kinds of device."""
    derived = int(generator(seed, purpose, *counters).integers(0, 1 << 63))
    return torch.Generator(device=device).manual_seed(derived)


def device_normal(
    shape: Sequence[int],
    seed: int,
    purpose: str,
    *counters: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal float32 made on `device`, keyed like `generator`.

    Equal on equal kinds of device; a CPU and a GPU give different numbers.
    """
    if torch.device(device).type == "cpu":
        # torch's CPU generator keeps only 32 bits of its seed: among 10^5 keys two would be equal.
        draws = generator(seed, purpose, *counters).standard_normal(tuple(shape), dtype=np.float32)
        return torch.from_numpy(draws)
    keyed = device_generator(seed, purpose, *counters, device=device)
    return torch.randn(tuple(shape), generator=keyed, device=device)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The randomness of a batch of images: one independent generator for each image and draw.

    Draws are made on the CPU in float32, the same for every device.
    """

    seed: int
    """Seed of the run."""
    image_ids: tuple[int, ...]
    """Stable id of each image of the batch, in batch order."""
    epoch: int = 0
    """Training epoch; 0 in evaluations."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def generators(self, purpose: str, draw: int = 0) -> list[np.random.Generator]:
        """One numpy generator an image, in batch order."""
        return [generator(self.seed, purpose, i, self.epoch, draw) for i in self.image_ids]

    def uniform(self, purpose: str, shape: Sequence[int], *, draw: int = 0) -> Tensor:
        """(N, *shape) float32, uniform in [0, 1)."""
        return self._stack(
            [g.random(tuple(shape), dtype=np.float32) for g in self.generators(purpose, draw)],
            shape,
        )

    def normal(self, purpose: str, shape: Sequence[int], *, draw: int = 0) -> Tensor:
        """(N, *shape) float32, standard normal."""
        return self._stack(
            [
                g.standard_normal(tuple(shape), dtype=np.float32)
                for g in self.generators(purpose, draw)
            ],
            shape,
        )

    def integers(self, purpose: str, high: int, *, draw: int = 0) -> Tensor:
        """(N,) int64, uniform in {0, ..., high - 1}."""
        draws = [int(g.integers(0, high)) for g in self.generators(purpose, draw)]
        return torch.tensor(draws, dtype=torch.int64)

    def subset(self, positions: Sequence[int]) -> "Stream":
        """The stream of the images at these positions of the batch."""
        chosen = tuple(self.image_ids[position] for position in positions)
        return Stream(seed=self.seed, image_ids=chosen, epoch=self.epoch)

    def _stack(self, rows: list[np.ndarray], shape: Sequence[int]) -> Tensor:
        if not rows:
            return torch.empty((0, *shape))
        return torch.from_numpy(np.stack(rows))
