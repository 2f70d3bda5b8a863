import multiprocessing
import os
import signal

import torch

from featdenoise.base.distributed import World
from featdenoise.data.registry import load_dataset
from featdenoise.training.feed import feed_steps


def test_background_readers_outlive_the_sigterm_of_a_whole_job(tiny_recipe) -> None:
    images = load_dataset(tiny_recipe.data, split="train")

    def steps(workers: int):
        return feed_steps(
            images, tiny_recipe, first_step=0, last_step=6, world=World(), workers=workers
        )

    expected = [[labels for _, _, labels in step] for step in steps(0)]
    found = []
    for number, step in enumerate(steps(1)):
        found.append([labels for _, _, labels in step])
        if number == 0:  # schedulers signal every process of a job, readers too
            for reader in multiprocessing.active_children():
                assert reader.pid is not None
                os.kill(reader.pid, signal.SIGTERM)
    assert [len(labels) for labels in found] == [4] * 6
    for there, here in zip(expected, found, strict=True):
        assert torch.equal(torch.cat(there), torch.cat(here))
