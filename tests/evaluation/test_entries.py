"""What an evaluation may consist of."""

from dataclasses import replace

import pytest

from featdenoise.attacks.apgd import APGD
from featdenoise.attacks.pgd import PGD
from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation


def test_the_papers_rule_gives_short_budgets_a_trajectory_of_their_own() -> None:
    attack = PGD(epsilon=16 / 255, step_size=1 / 255)
    sweep = Entry(name="paper", attack=attack, budgets=(10, 20, 100), reach_edge=True)
    paths = {budgets: path.step_size for path, budgets in sweep.paths()}
    assert paths == pytest.approx({(10,): 1.6 / 255, (20, 100): 1 / 255})
    plain = replace(sweep, reach_edge=False)
    assert [budgets for _, budgets in plain.paths()] == [(10, 20, 100)]


@pytest.mark.parametrize(
    ("budgets", "message"),
    [((0, 5), "budgets"), ((5, 3), r"write \[3, 5\]"), ((5, 5), r"write \[5\]")],
)
def test_budgets_that_cannot_be_run_are_refused(budgets, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Entry(name="pgd", attack=PGD(), budgets=budgets)


@pytest.mark.parametrize("name", ["", "PGD", "a/b", "..", "-a"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="entry name must be"):
        Entry(name=name, attack=PGD())


def test_two_entries_of_one_name_and_budgets_without_a_path_are_refused(sweep) -> None:
    with pytest.raises(ValueError, match="different names"):
        WhiteboxEvaluation(entries=(sweep, sweep))
    with pytest.raises(ValueError, match="different names"):
        WhiteboxEvaluation(entries=())
    with pytest.raises(ValueError, match="budgets need an attack with a fixed step, got APGD"):
        Entry(name="apgd", attack=APGD(), budgets=(5,))


def test_an_attack_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="step_size must be > 0"):
        Entry(name="pgd", attack=PGD(step_size=0), budgets=(5,))
