"""Labels files: our own two columns and the metadata of CAAD."""

from pathlib import Path

import pytest

from featdenoise.blackbox.labels import read_labels


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a.png,3\nb.png,0\n",
        "name,label\na.png,3\nb.png,0\n",
        "a,3\r\n\r\nb,0\r\n",
        "\ufefflabel,name,note\n3,a.png,x\n0,b.png,\n",
        "ImageId,URL,TrueLabel,TargetClass\na,http,3,9\nb,http,0,9\n",
    ],
)
def test_every_accepted_form_gives_the_same_labels(tmp_path: Path, text: str) -> None:
    assert read_labels(write(tmp_path, text)) == {"a.png": 3, "b.png": 0}


def test_offset_is_subtracted(tmp_path: Path) -> None:
    path = write(tmp_path, "ImageId,TrueLabel\na,1\nb,1000\n")
    assert read_labels(path, 1) == {"a.png": 0, "b.png": 999}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1\na,2\n", "line 2.*a second time"),
        ("a.png,1\nb.png,zebra\n", "line 2.*whole-number"),
        ("a.png,1\nb.png,--2\n", "line 2.*whole-number"),
        ("a.png,1\nb.png\n", "line 2.*whole-number"),
        ("file,class\na.png,1\n", "ImageId,TrueLabel"),
        ("a.png,1,2\n", "ImageId,TrueLabel"),
        ("a.png,0\n", "below 0.*label_offset"),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_labels(write(tmp_path, text), 1)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_labels(tmp_path / "nothing.csv")


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"a.png,1\n\xff\xfe,2\n")
    with pytest.raises(ValueError, match=r"labels\.csv is no CSV file in UTF-8"):
        read_labels(tmp_path / "labels.csv")
