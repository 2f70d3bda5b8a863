import numpy as np
import pytest
import torch

from featdenoise.base.rng import Stream, device_generator, generator


def test_philox_gives_the_published_known_answer() -> None:
    # Random123's known-answer vector of philox4x64-10 for counter 0 and key 0. numpy counts up
    # before it draws, so it starts one below.
    bits = np.random.Philox(counter=np.full(4, 2**64 - 1, np.uint64), key=np.zeros(2, np.uint64))
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert [int(word) for word in bits.random_raw(4)] == expected


def test_draws_are_pinned() -> None:
    # Any change here changes every published run: starts, targets, orders, noise.
    g = generator(7, "start", 3, 1, 2)
    assert g.random(2).tolist() == [0.3630636268343369, 0.7054204197034496]
    stream = Stream(seed=7, image_ids=(3, 4), epoch=1)
    assert stream.integers("target", 1000).tolist() == [251, 433]


def test_a_draw_does_not_depend_on_the_rest_of_the_batch() -> None:
    together = Stream(seed=1, image_ids=(5, 6, 7))
    alone = Stream(seed=1, image_ids=(6,))
    for draw in (
        lambda s: s.uniform("start", (3, 4, 4)),
        lambda s: s.normal("start", (3, 4, 4)),
        lambda s: s.integers("target", 10**6),
    ):
        assert torch.equal(draw(together)[1:2], draw(alone))
        assert torch.equal(draw(together.subset([1])), draw(alone))


@pytest.mark.parametrize(
    "other",
    [
        lambda: Stream(seed=2, image_ids=(5,)).uniform("start", (9,)),
        lambda: Stream(seed=1, image_ids=(6,)).uniform("start", (9,)),
        lambda: Stream(seed=1, image_ids=(5,), epoch=1).uniform("start", (9,)),
        lambda: Stream(seed=1, image_ids=(5,)).uniform("other", (9,)),
        lambda: Stream(seed=1, image_ids=(5,)).uniform("start", (9,), draw=1),
    ],
    ids=["seed", "image", "epoch", "purpose", "draw"],
)
def test_every_part_of_the_key_matters(other) -> None:
    base = Stream(seed=1, image_ids=(5,)).uniform("start", (9,))
    assert not (base == other()).any()


def test_uniform_and_normal_have_their_moments() -> None:
    stream = Stream(seed=0, image_ids=tuple(range(50)))
    uniform = stream.uniform("u", (40, 40))
    assert uniform.dtype == torch.float32
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.005)
    normal = stream.normal("n", (40, 40))
    assert normal.mean() == pytest.approx(0, abs=0.015)
    assert normal.std() == pytest.approx(1, abs=0.015)


def test_nothing_touches_the_global_state() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    stream = Stream(seed=0, image_ids=(1, 2))
    stream.uniform("a", (3,)), stream.normal("a", (3,)), stream.integers("a", 5)
    device_generator(0, "a", 1)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_an_empty_batch_gives_empty_draws() -> None:
    stream = Stream(seed=0, image_ids=())
    assert stream.uniform("a", (3, 2)).shape == (0, 3, 2)
    assert stream.integers("a", 5).shape == (0,)


def test_counters_must_be_at_most_three_and_not_negative() -> None:
    with pytest.raises(ValueError, match="counters"):
        generator(0, "a", 1, 2, 3, 4)
    with pytest.raises(ValueError, match="counters"):
        generator(0, "a", -1)
