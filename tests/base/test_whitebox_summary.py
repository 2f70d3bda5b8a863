import numpy as np
import pytest

from featdenoise.base.binomial import Proportion
from featdenoise.base.whitebox_rows import EntryRows
from featdenoise.base.whitebox_summary import (
    Spread,
    group_attacks,
    group_seeds,
    summarize_restarts,
    summarize_run,
    summarize_whitebox,
)

ATTACK = {"kind": "PGD", "epsilon": 16 / 255, "targeted": False, "norm": "linf"}


def entry(name, answers, *, clean=None, budgets=(10, 20), restart=0, broken=None, **identity):
    """Answers: for each image its predictions at the budgets; the label is always 0."""
    columns = [str(b) for b in budgets] or ["final"]
    rows = []
    for i, predictions in enumerate(answers):
        row = {
            "id": i,
            "label": 0,
            "target": None,
            "clean": 0 if clean is None else clean[i],
            "predictions": dict(zip(columns, predictions, strict=True)),
        }
        if broken is not None:
            row["broken_by"] = broken[i]
            if broken[i]:
                row["predictions"] = {}
        rows.append(row)
    whole = {"entry": name, "attack": ATTACK, "budgets": list(budgets), "restart": restart}
    whole |= {"preceding": [], "seed": 0, "model": {"name": "net", "weights": "w"}}
    return EntryRows(identity=whole | identity, rows=rows)


def test_restarts_are_counted_as_the_worst_of_them_at_each_budget():
    first = entry("a", [(0, 0), (0, 1), (0, 0), (1, 0)])
    second = entry("b", [(0, 0), (0, 0), (1, 0), (1, 1)], restart=1)
    run = summarize_restarts("net", [first, second])
    assert run.robust_accuracy == (Proportion(2, 4), Proportion(2, 4))
    assert run.worst_case_accuracy == (Proportion(2, 4), Proportion(1, 4))
    assert run.attack_success_rate == (Proportion(2, 4), Proportion(2, 4))
    assert run.restarts == 2
    assert run.attack == "untargeted PGD, linf, epsilon 16/255, 2 restarts"


def test_restarts_agree_with_a_naive_recount():
    draws = np.random.default_rng(0)
    answers = draws.integers(0, 3, size=(3, 50, 2)) // 2
    clean = [int(c) for c in draws.integers(0, 4, size=50) // 3]
    restarts = [
        entry(f"r{k}", answers[k].tolist(), clean=clean, restart=k) for k in range(len(answers))
    ]
    run = summarize_run("net", restarts)
    (attack,) = run.attacks
    (curve,) = run.restart_curves
    alive = [c == 0 for c in clean]
    for k in range(3):
        for i in range(50):
            alive[i] = alive[i] and answers[k][i][0] == 0 and answers[k][i][1] == 0
        assert curve.survivors[k] == Proportion(sum(alive), 50)
    assert attack.worst_case_accuracy[-1] == curve.survivors[-1]
    assert run.worst_cases == ()


def test_restarts_stand_in_their_order_whatever_the_order_of_files():
    late = entry("late", [(0, 0), (1, 1)], restart=10)
    early = entry("early", [(0, 0), (0, 0)], restart=2)
    (curve,) = summarize_run("net", [late, early]).restart_curves
    assert curve.survivors == (Proportion(2, 2), Proportion(1, 2))


def test_worst_case_is_wrong_when_clean_or_under_any_entry_of_the_ball():
    other = {"kind": "Square", "epsilon": 16 / 255, "norm": "linf"}
    small = {**ATTACK, "epsilon": 4 / 255}
    entries = [
        entry("pgd", [(0, 0), (1, 0), (0, 0), (0, 0)], clean=[0, 0, 0, 5]),
        entry("square", [(0,), (0,), (1,), (0,)], clean=[0, 0, 0, 5], budgets=(), attack=other),
        entry("small", [(1, 1)] * 4, clean=[0, 0, 0, 5], attack=small),
    ]
    run = summarize_run("net", entries)
    (case,) = run.worst_cases
    assert case.threat == "linf, epsilon 16/255"
    assert case.entries == ("pgd", "square")
    assert case.clean_accuracy == Proportion(3, 4)
    assert case.survivors == (Proportion(2, 4), Proportion(1, 4))
    assert [a.robust_accuracy[-1].correct for a in run.attacks] == [4, 3, 0]


def test_a_dropped_image_counts_as_broken_and_hides_the_success_rate():
    first = entry("a", [(0,), (1,), (0,)], budgets=(), broken=[None, None, "clean"])
    square = {"kind": "Square", "epsilon": 16 / 255}
    second = entry("b", [(0,), (0,), (0,)], budgets=(), broken=[None, "a", "clean"], attack=square)
    run = summarize_run("net", [first, second])
    assert [a.num_dropped for a in run.attacks] == [1, 2]
    assert [a.attack_success_rate for a in run.attacks] == [None, None]
    assert [a.robust_accuracy for a in run.attacks] == [(Proportion(1, 3),), (Proportion(1, 3),)]
    assert not any(a.is_curve for a in run.attacks)


def test_restarts_from_which_another_attack_took_images_have_no_curve():
    broken = [None, "other"]
    restarts = [entry(f"r{k}", [(0,), (0,)], budgets=(), restart=k, broken=broken) for k in (0, 1)]
    assert summarize_run("net", restarts).restart_curves == ()
    own = [entry(f"r{k}", [(0,), (0,)], budgets=(), restart=k, broken=[None, "r0"]) for k in (0, 1)]
    assert len(summarize_run("net", own).restart_curves) == 1


def test_an_attack_without_radius_or_goal_is_named_all_the_same():
    odd = entry("odd", [(0,)], budgets=(), attack={"kind": "Foreign", "loss": "dlr"})
    run = summarize_whitebox("net", odd.identity, odd.rows)
    assert run.attack == "untargeted Foreign on dlr, linf, epsilon unknown"
    assert run.budgets == ()


def test_entries_about_other_images_are_refused():
    with pytest.raises(ValueError, match=r"'a' and 'b' are about different images.*\[1\]"):
        summarize_run("net", [entry("a", [(0, 0)] * 2), entry("b", [(0, 0)])])


def seed_run(seed, answers=((0, 0), (0, 1)), model="net", weights="w", **identity):
    named = {"name": model, "weights": weights}
    made = entry("a", answers, seed=seed, model=named, **identity)
    return summarize_whitebox(model, made.identity, made.rows)


def test_runs_that_differ_only_in_seed_and_weights_stand_together():
    runs = [seed_run(0), seed_run(0, model="other"), seed_run(1), seed_run(2, weights="v")]
    groups = group_seeds(runs)
    assert [[run.seed for run in group] for group in groups] == [[0, 1, 2], [0]]


def test_models_of_different_training_seeds_stand_together():
    runs = [seed_run(0, weights="a"), seed_run(0, weights="b"), seed_run(0, weights="c")]
    assert [len(group) for group in group_seeds(runs)] == [3]


def test_the_same_attack_under_another_name_is_no_restart():
    twins = [entry("pgd", [(0, 0)]), entry("again", [(0, 1)])]
    run = summarize_run("net", twins)
    assert [(attack.entry, attack.restarts) for attack in run.attacks] == [("pgd", 1), ("again", 1)]
    assert not run.restart_curves
    more = [*twins, entry("pgd-001", [(0, 0)], restart=1)]
    assert [attack.restarts for attack in summarize_run("net", more).attacks] == [2, 1]


@pytest.mark.parametrize(
    "second",
    [seed_run(0), seed_run(1, reach_edge=True), seed_run(1, budgets=(10, 30)), seed_run(1, x=1)],
)
def test_repetitions_and_other_settings_stand_alone(second):
    assert [len(group) for group in group_seeds([seed_run(0), second])] == [1, 1]


def test_a_spread_is_the_mean_and_the_range():
    spread = Spread((Proportion(1, 4), Proportion(3, 4), Proportion(2, 4)))
    assert (spread.mean, spread.low, spread.high) == (0.5, 0.25, 0.75)


def test_attacks_with_equal_words_are_told_apart_by_entry_and_protocol():
    runs = [
        seed_run(0),
        seed_run(0, model="other"),
        seed_run(0, protocol="paper"),
        seed_run(0, protocol="paper", entry="b"),
    ]
    groups = group_attacks(runs)
    assert [len(group) for group in groups.values()] == [2, 1, 1]
    words = "untargeted PGD, linf, epsilon 16/255"
    assert list(groups) == [
        f"{words} (a), no protocol", f"{words} (a), protocol paper", f"{words} (b)"
    ]  # fmt: skip
    assert list(group_attacks(runs[:2])) == [words]


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ({"kind": "ForeignAttack", "name": "theirs", "epsilon": 0.1}, "untargeted theirs, linf"),
        ({"kind": "AutoAttack", "attacks": ["fab-t"]}, "untargeted AutoAttack (fab-t), linf"),
        (
            {"kind": "PGD", "targeted": True, "target_choice": "least_likely", "norm": "l2"},
            "targeted (least_likely) PGD, l2",
        ),
        ({"kind": "APGD", "loss": "dlr", "target_choice": "next"}, "untargeted APGD on dlr, linf"),
    ],
)
def test_attacks_are_told_in_words(attack, words):
    odd = entry("odd", [(0,)], budgets=(), attack={"targeted": False} | attack)
    if odd.identity["attack"]["targeted"]:
        odd.rows[0]["target"] = 1
    assert summarize_whitebox("net", odd.identity, odd.rows).attack.startswith(words + ", epsilon")


def test_the_first_restart_may_have_saved_its_images():
    restarts = [
        entry("r0", [(0, 0)], save_adversarial="images"),
        entry("r1", [(0, 0)], restart=1, save_adversarial=None),
    ]
    assert [attack.restarts for attack in summarize_run("net", restarts).attacks] == [2]
