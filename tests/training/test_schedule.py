import pytest

from featdenoise.training.schedule import (
    epoch_order,
    learning_rate,
    micro_batches,
    steps_per_epoch,
)


def take(world_size: int, **changes: int) -> list:
    """The micro-batches of all processes, in the order of steps and places."""
    arguments = {
        "seed": 3,
        "num_images": 50,
        "batch_size": 12,
        "micro_batch_size": 4,
        "first_step": 0,
        "last_step": 9,
        **changes,
    }
    shares = [
        list(micro_batches(**arguments, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    return sorted((p for share in shares for p in share), key=lambda p: (p.step, p.index))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_processes_trains_on_the_same_micro_batches(world_size: int) -> None:
    assert take(world_size) == take(1)


def test_an_epoch_uses_every_image_at_most_once_and_drops_the_rest() -> None:
    places = take(1)
    assert steps_per_epoch(50, 12) == 4
    for epoch in (0, 1):
        ids = [i for p in places if p.epoch == epoch for i in p.image_ids]
        assert len(ids) == len(set(ids)) == 48
    first, second = ([p.image_ids for p in places if p.epoch == e] for e in (0, 1))
    assert first != second


def test_a_run_resumed_at_any_step_sees_what_the_whole_run_sees() -> None:
    whole = take(2)
    for first in range(9):
        assert take(3, first_step=first) == [p for p in whole if p.step >= first]


def test_the_order_is_keyed_by_seed_and_epoch() -> None:
    assert sorted(epoch_order(0, 0, 20)) == list(range(20))
    assert epoch_order(0, 0, 20) == epoch_order(0, 0, 20)
    assert epoch_order(0, 0, 20) != epoch_order(1, 0, 20)
    assert epoch_order(0, 0, 20) != epoch_order(0, 1, 20)


def test_the_learning_rate_warms_up_linearly_and_drops_tenfold_at_milestones() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, per_epoch=10, peak=0.4, warmup_epochs=2, milestones=(3, 5))

    assert [rate(s) for s in (0, 9, 19)] == pytest.approx([0.02, 0.2, 0.4])
    assert [rate(s) for s in (20, 29, 30, 49, 50, 99)] == pytest.approx(
        [0.4, 0.4, 0.04, 0.04, 0.004, 0.004]
    )


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert learning_rate(0, per_epoch=10, peak=0.1, warmup_epochs=0, milestones=()) == 0.1


def test_fewer_images_than_a_batch_are_an_error() -> None:
    with pytest.raises(ValueError, match="batch_size 12 exceeds the 11 training images"):
        steps_per_epoch(11, 12)
