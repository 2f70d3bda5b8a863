"""Whether a file is whole and what its name says, by its own bytes: npz, safetensors, anything.

A weights file that is really a web page, or that lacks its end, is told at once and by name.
Nothing of the content is decoded.
"""

import json
import zipfile
from pathlib import Path
from typing import Literal

FileKind = Literal["npz", "safetensors", "any"]

_HEADER_LIMIT = 100 << 20


def kind_of(path: Path) -> FileKind:
    """What a file of this name should be."""
    if path.suffix == ".npz":
        return "npz"
    return "safetensors" if path.suffix == ".safetensors" else "any"


def looks_like_a_web_page(beginning: bytes) -> bool:
    """Whether these first bytes of a file begin an HTML document."""
    text = beginning[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith((b"<!doctype html", b"<html", b"<head")) or (
        text.startswith((b"<?xml", b"<!--")) and b"<html" in text
    )


def check_whole(path: Path, kind: FileKind, way_out: str) -> None:
    """Refuse a file that is not of its kind, or not all of it.

    Args:
        path: of an existing file.
        kind: what it must be.
        way_out: ends the message.

    Raises:
        ValueError: says what it is instead.
    """
    with path.open("rb") as file:
        beginning = file.read(1024)
    if looks_like_a_web_page(beginning):
        raise ValueError(f"{path} is a web page, not weights; {way_out}")
    if kind == "npz":
        _check_npz(path, beginning, way_out)
    elif kind == "safetensors":
        _check_safetensors(path, beginning, way_out)


def _check_npz(path: Path, beginning: bytes, way_out: str) -> None:
    if not beginning.startswith(b"PK"):
        raise ValueError(f"{path} is not an .npz file: it begins with {beginning[:8]!r}; {way_out}")
    # The table of contents of a zip archive is its end.
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is truncated: the archive has no end; {way_out}")


def _check_safetensors(path: Path, beginning: bytes, way_out: str) -> None:
    length = int.from_bytes(beginning[:8], "little")
    if len(beginning) < 10 or beginning[8:9] != b"{" or length > _HEADER_LIMIT:
        raise ValueError(
            f"{path} is not a .safetensors file: it begins with {beginning[:9]!r}; {way_out}"
        )
    with path.open("rb") as file:
        file.seek(8)
        header = file.read(length)
    try:
        entries = json.loads(header)
        ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ValueError(f"{path} is damaged: its header cannot be read; {way_out}") from None
    size = 8 + length + max(ends, default=0)
    if path.stat().st_size != size:
        raise ValueError(
            f"{path} is truncated or damaged: {path.stat().st_size} bytes, not {size}; {way_out}"
        )
