import logging
from typing import get_args

import pytest

from featdenoise.attacks.apgd import APGD, TargetedAPGD
from featdenoise.attacks.pgd import PGD
from featdenoise.attacks.square import Square
from featdenoise.evaluation.protocols import (
    PAPER_BUDGETS,
    AttackName,
    CustomAttacks,
    Protocol,
    is_worst_case,
    protocol_entries,
)


def test_the_papers_protocol_is_that_of_section_6_1() -> None:
    (entry,) = protocol_entries("paper")
    assert entry.attack.epsilon == 16 / 255
    assert entry.attack.targeted
    assert entry.attack.random_start
    assert entry.budgets == (10, 20, 30, 40, 50, 60, 70, 80, 90, 100, *tuple(range(200, 2001, 200)))
    steps = {budgets: path.step_size * 255 for path, budgets in entry.paths()}
    assert steps == pytest.approx({(10,): 1.6, PAPER_BUDGETS[1:]: 1.0})


def test_robustbench_is_autoattacks_standard_set_in_the_worst_case() -> None:
    entries = protocol_entries("robustbench", epsilon=4 / 255)
    assert [entry.name for entry in entries] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    kinds = [type(entry.attack) for entry in entries]
    assert kinds[:2] == [APGD, TargetedAPGD]
    assert kinds[3] is Square
    assert entries[1].attack.num_targets == 9
    assert entries[3].attack.num_queries == 5000
    assert all(entry.attack.epsilon == 4 / 255 for entry in entries)
    assert is_worst_case("robustbench")
    assert not is_worst_case("paper")


def test_the_leaderboards_radius_depends_on_the_data() -> None:
    assert {e.attack.epsilon for e in protocol_entries("robustbench", data="cifar10")} == {8 / 255}
    imagenet = protocol_entries("robustbench", data="imagenet")
    assert {e.attack.epsilon for e in imagenet} == {4 / 255}
    with pytest.raises(ValueError, match=r"no radius for digits, only 8/255 for cifar10.*epsilon"):
        protocol_entries("robustbench", data="digits")


def test_restarts_are_runs_of_their_own() -> None:
    entries = protocol_entries("restarts", restarts=20, targeted=True, redraw_targets=True)
    assert len(entries) == 20
    assert [entry.restart for entry in entries] == list(range(20))
    assert len({entry.name for entry in entries}) == 20
    assert all(entry.attack.num_steps == 100 for entry in entries)
    assert all(entry.attack.step_size == 2 / 255 for entry in entries)
    assert all(entry.redraw_targets for entry in entries)
    # Adding restarts to a finished run keeps the names of those it has.
    fewer = protocol_entries("restarts", restarts=3, targeted=True, redraw_targets=True)
    assert entries[:3] == fewer


@pytest.mark.parametrize("name", get_args(Protocol))
def test_every_protocol_has_entries_at_the_asked_radius(name: Protocol) -> None:
    for epsilon in (0, 3 / 255):
        for entry in protocol_entries(name, epsilon=epsilon):
            assert entry.attack.epsilon == epsilon


@pytest.mark.parametrize("name", get_args(AttackName))
def test_every_named_attack_makes_an_entry(name: AttackName) -> None:
    (entry,) = CustomAttacks(attacks=(name,), epsilon=0.1).entries()
    assert entry.name == name
    assert entry.attack.epsilon == 0.1
    assert bool(entry.budgets) == isinstance(entry.attack, PGD)


def test_unsorted_budgets_are_sorted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (entry,) = CustomAttacks(budgets=(50, 10, 50)).entries()
    assert entry.budgets == (10, 50)
    assert "sorted: [10, 50]" in caplog.text


def test_restarts_of_custom_attacks_have_numbers() -> None:
    entries = CustomAttacks(attacks=("pgd", "apgd"), restarts=2).entries()
    assert [entry.name for entry in entries] == ["pgd", "pgd-001", "apgd", "apgd-001"]
    assert entries[0] == CustomAttacks().entries()[0]


def test_steps_that_cannot_cross_the_ball_are_said(caplog: pytest.LogCaptureFixture) -> None:
    (entry,) = CustomAttacks(norm="l2", epsilon=3, budgets=(20,)).entries()
    assert entry.attack.step_size == pytest.approx(0.3)
    assert not caplog.text
    CustomAttacks(norm="l2", epsilon=3, budgets=(20,), step_size=0.1).entries()
    assert "20 steps of 0.1 cannot cross a ball of radius 3" in caplog.text
    assert "looks more robust than it is under pgd" in caplog.text


def test_momentum_may_restart_towards_other_targets() -> None:
    targets = {"targeted": True, "redraw_targets": True}
    assert len(CustomAttacks(attacks=("mi-fgsm",), restarts=3, **targets).entries()) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attacks": ("pdg",)}, "attacks must be some of pgd, mi-fgsm"),
        ({"attacks": ()}, "attacks must be some of"),
        ({"restarts": 0}, "restarts must be >= 1, got 0"),
        ({"attacks": ("mi-fgsm",), "restarts": 3}, "3 restarts would be the same run"),
        ({"attacks": ("square",), "step_size": 0.1}, "step_size is read by pgd and mi-fgsm alone"),
        ({"attacks": ("square", "fab-t"), "budgets": (5,)}, "budgets are not read by square"),
        ({"redraw_targets": True}, "redraw_targets is about targets"),
        ({"budgets": ()}, "budgets must name a number of iterations, got none"),
        ({"budgets": (0,)}, "budgets must be iteration counts"),
        ({"epsilon": 16}, "write 16/255"),
    ],
)
def test_what_cannot_be_run_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CustomAttacks(**wrong).entries()


def test_unknown_protocols_and_too_few_restarts_are_refused() -> None:
    with pytest.raises(ValueError, match="protocol must be one of paper, robustbench"):
        protocol_entries("papre")
    with pytest.raises(ValueError, match="restarts must be >= 1"):
        protocol_entries("restarts", restarts=0)
