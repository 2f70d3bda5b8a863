"""Training checkpoints: written so that a kill at any moment leaves a whole one behind.

A checkpoint is written to a temporary file, synced, renamed, and the folder is synced; the last
few are kept. Loading never unpickles code.
"""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"checkpoint-(\d+)\.pt")


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int = 3) -> Path:
    """Write `state` as the checkpoint of `step`, then delete all but the last `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint-{step:08d}.pt"
    temporary = path.with_suffix(".pt.tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(folder)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("checkpoint-*.pt") if _NAME.fullmatch(p.name))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, as tensors and plain values only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged or is not a checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        _compare_checksums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"checkpoint {path} is damaged or is not a checkpoint ({type(error).__name__}); "
            "delete it to fall back to the one before"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint {path} holds a {type(state).__name__}, not a dictionary")
    return state


def _compare_checksums(path: Path) -> None:
    """Raise BadZipFile where a part is not what was written: `torch.load` takes any bytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged}")
