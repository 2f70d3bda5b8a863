"""The rows of one white-box attack, and what a row says: dropped, right, surviving."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featdenoise.base.results import Row

FINAL = "final"
"""Key of the prediction on the result of an attack without budgets."""
CLEAN = "clean"
"""What broke an image that is wrong without any attack."""


@dataclass(frozen=True, kw_only=True)
class EntryRows:
    """One results file: the rows of one attack, or of one restart of it."""

    identity: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        """Of the entry in its run; empty where a run is a single attack."""
        return str(self.identity.get("entry") or "")

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys of the predictions: the budgets ascending, or `final`."""
        return tuple(str(budget) for budget in sorted(self.identity["budgets"])) or (FINAL,)

    @property
    def num_dropped(self) -> int:
        """Images that were not attacked because something had broken them before."""
        return sum(is_dropped(row) for row in self.rows)


def is_dropped(row: Row) -> bool:
    """Whether a worst-case run did not attack the image because it was broken already."""
    return row.get("broken_by") is not None


def is_right(row: Row, column: str) -> bool:
    """Whether the adversarial image is classified right; a dropped one counts as wrong.

    Raises:
        ValueError: the row lacks that prediction.
    """
    return not is_dropped(row) and prediction_at(row, column) == row["label"]


def survives(entry: EntryRows) -> dict[int, bool]:
    """For each image: right when clean and at everything that the entry recorded."""
    return {
        row["id"]: row["clean"] == row["label"]
        and all(is_right(row, column) for column in entry.columns)
        for row in entry.rows
    }


def prediction_at(row: Row, column: str) -> int:
    """What the model said on the adversarial image.

    Raises:
        ValueError: the row lacks that prediction.
    """
    try:
        return int(row["predictions"][column])
    except KeyError:
        at = "result" if column == FINAL else f"prediction at budget {column}"
        raise ValueError(f"image {row['id']} has no {at}") from None


def require_same_images(entries: Sequence[EntryRows]) -> None:
    """Refuse to count entries together that attacked different images.

    Raises:
        ValueError: names the entries and the first images in which they differ.
    """
    labels_of = []
    for entry in entries:
        ids = [row["id"] for row in entry.rows]
        labels_of.append({row["id"]: row["label"] for row in entry.rows})
        if len(labels_of[-1]) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"image {twice} occurs twice")
    for entry, labels in zip(entries, labels_of, strict=True):
        differing = sorted(i for i, _ in labels.items() ^ labels_of[0].items())
        if differing:
            raise ValueError(
                f"entries {entries[0].name!r} and {entry.name!r} are about different images or "
                f"labels, first: {list(dict.fromkeys(differing))[:5]}"
            )
