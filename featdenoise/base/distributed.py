"""Processes: who am I, how do we add integers, how do we agree to stop.

Only torchrun's environment is read (RANK, WORLD_SIZE, LOCAL_RANK). gloo joins CPU processes, nccl
GPUs. Nothing is wrapped: gradients are exchanged explicitly by `exact_sum`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Device = Literal["auto", "cpu", "cuda"]
T = TypeVar("T")

# Ranks wait for the one with a chunk more, which may take hours; torchrun sees processes that die.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class World:
    """This process among all processes of the run."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes logs, merges and checkpoints."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> None:
        """Add `tensor` over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process; the same answer everywhere."""
        if self.size == 1:
            return flag
        count = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(count)
        return bool(count.item())

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` gives or raises on rank 0, on every process: none is left waiting.

        Raises:
            ValueError: `work` did.
            OSError: `work` did.
            RuntimeError: `work` did.
        """
        outcome: T | ValueError | OSError | RuntimeError | None = None
        if self.is_main:
            try:
                outcome = work()
            except (ValueError, OSError, RuntimeError) as error:
                outcome = error
        shared: T | ValueError | OSError | RuntimeError = self.share(outcome)
        if isinstance(shared, ValueError | OSError | RuntimeError):
            raise shared
        return shared

    def gather(self, value: Any) -> list[Any]:
        """Every process's value in rank order, on every process."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_world(device: Device = "auto") -> Iterator[World]:
    """Join the processes that torchrun started (or be the only one), and leave at the end.

    Args:
        device: "auto" takes this process's GPU if there is one, else the CPU; or "cpu", "cuda".

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _choose_device(device, local_rank)
    if world_size == 1:
        yield World(device=chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=chosen)
    finally:
        dist.destroy_process_group()


def _choose_device(name: Device, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device 'cuda' was asked for, but torch sees no GPU; use device 'cpu'")
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device("cpu")
