"""Labels of image files from a CSV: name and label, or the metadata of CAAD and NIPS 2017."""

import csv
from pathlib import Path

_COLUMNS = (("ImageId", "TrueLabel"), ("name", "label"))


def read_labels(path: Path, label_offset: int = 0) -> dict[str, int]:
    """Labels by file name: names without .png get it, the offset is subtracted.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no CSV in UTF-8, unknown columns, a line that cannot be read, a name that occurs
            twice, or a label below the offset.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no labels at {path}; expected a CSV of name,label")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, cells) for number, cells in enumerate(csv.reader(file), 1) if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error
    name_at, label_at = 0, 1
    if lines and not (len(lines[0][1]) == 2 and _is_integer(lines[0][1][1])):
        name_at, label_at = _find_columns(path, [cell.strip() for cell in lines.pop(0)[1]])
    labels: dict[str, int] = {}
    for number, cells in lines:
        if len(cells) <= max(name_at, label_at) or not _is_integer(cells[label_at]):
            raise ValueError(f"line {number} of {path} is not a name and a whole-number label")
        name, label = cells[name_at].strip(), int(cells[label_at]) - label_offset
        name = name if name.lower().endswith(".png") else f"{name}.png"
        if name in labels:
            raise ValueError(f"line {number} of {path} names {name} a second time")
        if label < 0:
            raise ValueError(
                f"line {number} of {path}: label {cells[label_at]} minus label_offset "
                f"{label_offset} is below 0; set label_offset to the first label of the file"
            )
        labels[name] = label
    return labels


def _is_integer(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def _find_columns(path: Path, header: list[str]) -> tuple[int, int]:
    for name, label in _COLUMNS:
        if name in header and label in header:
            return header.index(name), header.index(label)
    raise ValueError(
        f"{path} must have the columns name,label or ImageId,TrueLabel, or two columns without "
        f"a header; its first line is {','.join(header)!r}"
    )
