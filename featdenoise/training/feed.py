"""Feeds each step its micro-batches, read here or by background workers, which changes nothing."""

import signal
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from featdenoise.base.distributed import World
from featdenoise.base.rng import Stream
from featdenoise.data.imageset import ImageSet
from featdenoise.training.recipes import Recipe
from featdenoise.training.schedule import MicroBatch, micro_batches

Item = tuple[MicroBatch, Tensor, Tensor]
"""Place, images (n, C, H, W) in [0, 1], labels (n,)."""


def feed_steps(
    images: ImageSet,
    recipe: Recipe,
    *,
    first_step: int,
    last_step: int,
    world: World,
    workers: int,
) -> Iterator[Iterable[Item]]:
    """For each step, this process's micro-batches on the world's device."""
    places = partial(
        micro_batches,
        seed=recipe.seed,
        num_images=len(images),
        batch_size=recipe.batch_size,
        micro_batch_size=recipe.micro_batch_size,
        first_step=first_step,
        last_step=last_step,
        rank=world.rank,
        world_size=world.size,
    )
    loader = DataLoader(
        _MicroBatches(images, recipe.seed),
        batch_size=None,
        sampler=_Sampler(places),
        num_workers=workers,
        collate_fn=_as_is,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_ignore_sigterm,
        generator=torch.Generator(),  # without its own, the loader draws from the global state
    )
    for _, group in groupby(loader, key=lambda item: item[0].step):
        yield (
            (place, images.to(world.device), labels.to(world.device))
            for place, images, labels in group
        )


class _MicroBatches(Dataset[Item]):
    """Reads a whole micro-batch at a time; a keyed stream augments it."""

    def __init__(self, images: ImageSet, seed: int) -> None:
        self.images = images
        self.seed = seed

    def __getitem__(self, place: MicroBatch) -> Item:
        stream = Stream(seed=self.seed, image_ids=place.image_ids, epoch=place.epoch)
        images, labels = self.images.batch(place.image_ids, stream=stream)
        return place, images, labels


class _Sampler:
    """The places as the loader wants them: an iterable, not an iterator."""

    def __init__(self, places: partial[Iterator[MicroBatch]]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[MicroBatch]:
        return self.places()


def _ignore_sigterm(_: int) -> None:
    # Schedulers signal every process of a job: the reader must live until the step is done and the
    # checkpoint written. It ends with its parent.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_is(item: Any) -> Any:
    return item
