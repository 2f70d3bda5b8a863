"""Fixed units of work: a chunk of image ids is what is computed, sharded and resumed.

Chunks are cut once from the list of images and never depend on the number of processes. The last
chunk is padded to full size before it is computed, so every batch of a run has one shape.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """A run of at most `size` image ids; `index` is its place in canonical order."""

    index: int
    ids: tuple[int, ...]


def cut_chunks(image_ids: Sequence[int], size: int) -> list[Chunk]:
    """Cut the images into chunks of `size`, in the given order.

    Raises:
        ValueError: size below 1, or an image id that occurs twice.
    """
    if size < 1:
        raise ValueError(f"chunk size must be >= 1, got {size}")
    if len(set(image_ids)) != len(image_ids):
        raise ValueError("an image id occurs twice in the list of images")
    starts = range(0, len(image_ids), size)
    return [Chunk(k, tuple(image_ids[s : s + size])) for k, s in enumerate(starts)]


def share_of_rank(chunks: Sequence[Chunk], rank: int, world_size: int) -> list[Chunk]:
    """The chunks that one process computes: whole chunks, dealt out in turn."""
    return list(chunks[rank::world_size])


def pad_batch(batch: Tensor, size: int) -> Tensor:
    """Repeat the last row until the batch has `size` rows; the caller drops the padded results."""
    missing = size - batch.shape[0]
    if missing <= 0:
        return batch
    return torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])


def hash_subset(image_ids: Sequence[int]) -> str:
    """A short digest of the ids in their order, for a run's identity."""
    text = ",".join(str(i) for i in image_ids)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
