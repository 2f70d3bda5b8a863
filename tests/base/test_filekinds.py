from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from featdenoise.base.filekinds import check_whole, kind_of, looks_like_a_web_page


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Path]:
    weights = {"w": np.arange(500, dtype=np.float32), "b": np.zeros(3, dtype=np.float32)}
    paths = {kind: tmp_path / f"weights.{kind}" for kind in ("npz", "safetensors")}
    np.savez(paths["npz"], **weights)
    paths["safetensors"].write_bytes(safetensors.numpy.save(weights))
    return paths


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_whole_file_passes_and_every_truncation_is_refused(whole, kind: str) -> None:
    path = whole[kind]
    assert kind_of(path) == kind
    check_whole(path, kind, "ask again")
    content = path.read_bytes()
    for size in (0, 1, 5, 9, 40, 500, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"(truncated|not an? \.|damaged).*ask again"):
            check_whole(path, kind, "ask again")


@pytest.mark.parametrize("kind", ["npz", "safetensors", "any"])
def test_web_page_is_told_from_weights(tmp_path: Path, kind) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"\xef\xbb\xbf  <HTML><body>sign in</body>")
    with pytest.raises(ValueError, match="is a web page, not weights; look there"):
        check_whole(path, kind, "look there")


def test_one_format_is_not_taken_for_the_other(whole) -> None:
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        check_whole(whole["safetensors"], "npz", "")
    with pytest.raises(ValueError, match=r"not a \.safetensors file"):
        check_whole(whole["npz"], "safetensors", "")


def test_safetensors_with_an_unreadable_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes((20).to_bytes(8, "little") + b'{"w": {"dtype": 1}}}' + b"0" * 8)
    with pytest.raises(ValueError, match="header cannot be read"):
        check_whole(path, "safetensors", "")


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        (b"<!doctype HTML>", True),
        (b"\n\t <html lang='en'>", True),
        (b'<?xml version="1.0"?>\n<html xmlns="x">', True),
        (b"<?xml version='1.0'?><weights/>", False),
        (b"PK\x03\x04<html>", False),
        (b"", False),
    ],
)
def test_web_pages_are_known_by_their_beginning(beginning: bytes, expected: bool) -> None:
    assert looks_like_a_web_page(beginning) is expected


def test_anything_passes_where_anything_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"name,label\n")
    assert kind_of(path) == "any"
    check_whole(path, "any", "")
