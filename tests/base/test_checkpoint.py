from pathlib import Path

import pytest
import torch

from featdenoise.base.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"step": 3, "model": {"w": torch.randn(4)}, "nested": {"list": [1, 2.5, "a"]}}
    path = save_checkpoint(tmp_path / "run", 3, state)
    back = load_checkpoint(path)
    assert torch.equal(back["model"]["w"], state["model"]["w"])
    assert back["nested"] == state["nested"]


def test_only_the_last_ones_are_kept_in_numeric_order(tmp_path: Path) -> None:
    for step in (9, 10, 100, 1000):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert [load_checkpoint(p)["step"] for p in list_checkpoints(tmp_path)] == [100, 1000]


def test_a_leftover_temporary_file_is_no_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1})
    (tmp_path / "checkpoint-00000002.pt.tmp").write_bytes(b"half")
    assert len(list_checkpoints(tmp_path)) == 1


@pytest.mark.parametrize("keep_bytes", [0, 10, 400, -1])
def test_a_truncated_checkpoint_is_named_with_the_way_out(tmp_path: Path, keep_bytes: int) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(ValueError, match=r"checkpoint-00000001.pt is damaged.*the one before"):
        load_checkpoint(path)


def test_a_single_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": torch.zeros(100_000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint-00000001.pt is damaged.*the one before"):
        load_checkpoint(path)


def test_code_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-00000001.pt"
    torch.save({"evil": Path("/")}, path)  # any class that is not a tensor or a plain value
    with pytest.raises(ValueError, match="damaged or is not a checkpoint"):
        load_checkpoint(path)


def test_a_missing_checkpoint_and_another_content_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt"):
        load_checkpoint(tmp_path / "nowhere.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list"):
        load_checkpoint(tmp_path / "list.pt")


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
