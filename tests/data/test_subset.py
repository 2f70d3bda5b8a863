"""Subsets by text."""

import pytest

from featdenoise.base.chunks import hash_subset
from featdenoise.data.subset import pick_subset

IDS = tuple(range(100, 150))


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (None, IDS),
        ("all", IDS),
        ("first:3", (100, 101, 102)),
        ("first:50", IDS),
        ("every:20", (100, 120, 140)),
        ("every:1", IDS),
        ("sample:50", IDS),
    ],
)
def test_each_form_gives_its_images(subset: str | None, expected: tuple[int, ...]) -> None:
    assert pick_subset(IDS, subset) == expected


def test_samples_are_keyed_nested_and_in_order() -> None:
    small, large = (pick_subset(IDS, f"sample:{n}", seed=3) for n in (5, 20))
    assert len(set(small)) == 5
    assert len(set(large)) == 20
    assert set(small) < set(large) < set(IDS)
    assert list(large) == sorted(large)
    assert pick_subset(IDS, "sample:20", seed=3) == large
    assert pick_subset(IDS, "sample:20", seed=4) != large


@pytest.mark.parametrize("subset", ["", "some", "first", "first:", "first:x", "last:3", "every:-2"])
def test_other_texts_are_refused_with_the_forms(subset: str) -> None:
    with pytest.raises(ValueError, match=r"all, first:100, every:20, sample:100 or file:ids.txt"):
        pick_subset(IDS, subset)


@pytest.mark.parametrize("subset", ["first:0", "every:0", "sample:0"])
def test_zero_is_refused(subset: str) -> None:
    with pytest.raises(ValueError, match=">= 1"):
        pick_subset(IDS, subset)


@pytest.mark.parametrize("subset", ["first:51", "sample:51"])
def test_more_than_there_are_is_refused(subset: str) -> None:
    with pytest.raises(ValueError, match="more than the 50 images"):
        pick_subset(IDS, subset)


def test_hash_tells_ids_and_orders_apart() -> None:
    assert len({hash_subset(ids) for ids in ((1, 2), (2, 1), (12,), (1, 2, 3))}) == 4
    assert hash_subset([1, 2]) == hash_subset((1, 2))


def test_a_file_lists_ids_in_its_own_order(tmp_path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("7\n3\n\n5\n")
    assert pick_subset(range(10), f"file:{listed}") == (7, 3, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [("7\nx\n", "got 'x'"), ("7\n10\n", "unknown id 10"), ("3\n3\n", "twice"), ("\n", "no id")],
)
def test_a_file_of_other_things_is_refused(tmp_path, content: str, message: str) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text(content)
    with pytest.raises(ValueError, match=message):
        pick_subset(range(10), f"file:{listed}")
    with pytest.raises(FileNotFoundError, match=r"no file of image ids at .*gone"):
        pick_subset(range(10), f"file:{tmp_path / 'gone'}")
