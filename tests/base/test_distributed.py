"""The world of one process, and of two real ones joined by gloo."""

import os
import socket
from functools import partial

import pytest
import torch
import torch.multiprocessing as multiprocessing

from featdenoise.base.distributed import World, join_world


def test_one_process_is_its_own_world() -> None:
    with join_world("cpu") as world:
        assert world == World()
        assert world.is_main
        tensor = torch.tensor([3])
        world.all_reduce(tensor)
        assert tensor.item() == 3
        assert world.share("x") == "x"
        assert world.any(True) is True
        assert world.any(False) is False
        world.barrier()


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(ValueError, match="torch sees no GPU; use device 'cpu'"),
        join_world("cuda"),
    ):
        pass


def complain(rank: int) -> None:
    raise ValueError(f"on rank {rank}")


def member(rank: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (rank, 2, rank == 0)
        total = torch.tensor([2**53 + 1 + rank])  # integers are added as integers
        world.all_reduce(total)
        assert total.item() == 2**54 + 3
        assert world.any(rank == 1)
        assert not world.any(False)
        assert world.share({"from": rank}) == {"from": 0}
        assert world.on_main(lambda: rank) == 0
        with pytest.raises(ValueError, match="on rank 0"):
            world.on_main(partial(complain, rank))
        world.barrier()


@pytest.mark.slow
def test_two_processes_add_share_and_agree() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(member, args=(port,), nprocs=2)
