import pytest
import torch

from featdenoise.base.chunks import cut_chunks, pad_batch, share_of_rank


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_image_is_in_exactly_one_share(size: int, world_size: int) -> None:
    ids = list(range(100, 123))
    chunks = cut_chunks(ids, size)
    assert [i for chunk in chunks for i in chunk.ids] == ids
    assert all(len(chunk.ids) <= size for chunk in chunks)
    shares = [share_of_rank(chunks, rank, world_size) for rank in range(world_size)]
    assert sorted(i for share in shares for chunk in share for i in chunk.ids) == ids


def test_chunks_do_not_depend_on_the_number_of_processes_only_their_shares_do() -> None:
    chunks = cut_chunks(range(10), 3)
    assert share_of_rank(chunks, 1, 2) == [chunks[1], chunks[3]]


def test_a_batch_is_padded_with_its_last_row() -> None:
    batch = torch.arange(6.0).reshape(2, 3)
    padded = pad_batch(batch, 4)
    assert padded.tolist() == [[0, 1, 2], [3, 4, 5], [3, 4, 5], [3, 4, 5]]
    assert pad_batch(batch, 2) is batch


def test_bad_sizes_and_repeated_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk size must be >= 1, got 0"):
        cut_chunks([1], 0)
    with pytest.raises(ValueError, match="twice"):
        cut_chunks([1, 2, 1], 2)
