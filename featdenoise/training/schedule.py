"""What each step trains on, at which learning rate: pure functions of the recipe and the step.

An epoch is floor(N / batch) batches of a keyed permutation; the rest is dropped. A batch is a list
of micro-batches of fixed size, the batch-norm groups, which processes share in turn.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from featdenoise.base.rng import generator


@dataclass(frozen=True)
class MicroBatch:
    """One batch-norm group of one step."""

    epoch: int
    step: int
    """Global step, counted from 0."""
    index: int
    """Place within the step's batch."""
    image_ids: tuple[int, ...]


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Whole batches in an epoch.

    Raises:
        ValueError: fewer images than one batch.
    """
    steps = num_images // batch_size
    if steps == 0:
        raise ValueError(f"batch_size {batch_size} exceeds the {num_images} training images")
    return steps


def learning_rate(
    step: int, *, per_epoch: int, peak: float, warmup_epochs: float, milestones: tuple[float, ...]
) -> float:
    """Linear warm-up to `peak`, then a tenfold drop at each milestone, in epochs (Sec. 5).

    Goyal et al. 2017, Sec. 2.2: warm-up grows at every step, not every epoch.
    """
    warmup_steps = warmup_epochs * per_epoch
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.1 ** bisect_right(milestones, step / per_epoch)


def epoch_order(seed: int, epoch: int, num_images: int) -> list[int]:
    """The order of an epoch's images, keyed by seed and epoch."""
    return [int(i) for i in generator(seed, "epoch order", epoch).permutation(num_images)]


def micro_batches(
    *,
    seed: int,
    num_images: int,
    batch_size: int,
    micro_batch_size: int,
    first_step: int,
    last_step: int,
    rank: int,
    world_size: int,
) -> Iterator[MicroBatch]:
    """This process's micro-batches of steps `first_step` to `last_step` - 1, in order."""
    per_epoch = steps_per_epoch(num_images, batch_size)
    per_step = batch_size // micro_batch_size
    order: list[int] = []
    order_epoch = -1
    for step in range(first_step, last_step):
        epoch, place = divmod(step, per_epoch)
        if epoch != order_epoch:
            order, order_epoch = epoch_order(seed, epoch, num_images), epoch
        for index in range(rank, per_step, world_size):
            start = place * batch_size + index * micro_batch_size
            ids = tuple(order[start : start + micro_batch_size])
            yield MicroBatch(epoch, step, index, ids)
