"""The check of a curve against hand-made rows."""

import pytest

from featdenoise.attacks.apgd import APGD
from featdenoise.attacks.pgd import PGD
from featdenoise.evaluation.curve_check import check_curve
from featdenoise.evaluation.entries import Entry
from featdenoise.evaluation.protocols import protocol_entries

CURVE = Entry(name="pgd", attack=PGD(), budgets=(10, 20, 50))


def rows_of(right: dict[int, set[int]], *, count: int = 100, dropped: int = 0) -> list[dict]:
    """Rows of `count` images of label 0; `right[budget]` are the images still right there."""
    rows = [
        {"id": i, "label": 0, "predictions": {str(b): int(i not in ok) for b, ok in right.items()}}
        for i in range(count)
    ]
    gone = {"label": 0, "predictions": {}, "broken_by": "clean"}
    return rows + [{"id": count + k, **gone} for k in range(dropped)]


def test_a_falling_curve_passes_and_a_rising_one_does_not() -> None:
    falling = rows_of({10: set(range(60)), 20: set(range(55)), 50: set(range(50))}, dropped=3)
    check = check_curve(CURVE, falling)
    assert check.passed
    assert check.name == "accuracy does not rise along pgd"
    rising = rows_of({10: set(range(60)), 20: set(range(40)), 50: set(range(55))})
    check = check_curve(CURVE, rising)
    assert not check.passed
    assert "20 iterations: right on 40 of 100; 50 iterations: right on 55" in check.detail


def test_a_rise_within_chance_passes_but_is_shown() -> None:
    # Five images return and one goes: two-sided p = 0.22.
    wavering = rows_of({10: set(range(60)), 20: set(range(1, 56)), 50: {0, *range(2, 60)}})
    check = check_curve(CURVE, wavering)
    assert check.passed
    assert "20 iterations: right on 55 of 100; 50 iterations: right on 59" in check.detail


@pytest.mark.parametrize("budgets", [(), (10,)])
def test_without_two_budgets_there_is_no_curve(budgets) -> None:
    entry = Entry(name="x", attack=PGD() if budgets else APGD(), budgets=budgets)
    assert check_curve(entry, rows_of({10: set()})) is None


def test_without_attacked_images_there_is_no_curve() -> None:
    assert check_curve(CURVE, rows_of({}, count=0, dropped=5)) is None


def test_budgets_of_different_steps_are_not_compared() -> None:
    (paper,) = protocol_entries("paper")
    # The ten larger steps cross the ball, so that they may well be stronger than twenty smaller.
    right = {budget: set(range(80)) for budget in paper.budgets} | {10: set()}
    check = check_curve(paper, rows_of(right))
    assert check.passed
    assert "10 iterations" not in check.detail.replace("100 iterations", "")
