import numpy as np
import pytest

from featdenoise.base.binomial import Proportion
from featdenoise.base.summary import (
    SUMMARIES,
    summarize,
    summarize_blackbox,
    summarize_certification,
    summarize_training,
    summarize_whitebox,
)

TARGETED = {
    "attack": {"kind": "PGD", "epsilon": 16 / 255, "targeted": True, "norm": "linf"},
    "budgets": [20, 10],
}
UNTARGETED = {**TARGETED, "attack": {**TARGETED["attack"], "targeted": False}}


def whitebox_row(image, clean, at_10, at_20, label=0, target=1):
    predictions = {"10": at_10, "20": at_20}
    return {"id": image, "label": label, "target": target, "clean": clean} | {
        "predictions": predictions
    }


# Image 1 breaks at 10 and recovers at 20, image 2 is wrong when clean only, image 3 falls late and
# not to its target, image 4 falls to its target.
ROWS = [
    whitebox_row(0, 0, 0, 0),
    whitebox_row(1, 0, 1, 0),
    whitebox_row(2, 5, 0, 0),
    whitebox_row(3, 0, 0, 7),
    whitebox_row(4, 0, 1, 1),
]


def test_whitebox_tells_now_from_ever_and_robust_from_success():
    run = summarize_whitebox("net", TARGETED, ROWS)
    assert run.budgets == (10, 20)
    assert run.clean_accuracy == Proportion(4, 5)
    assert run.robust_accuracy == (Proportion(3, 5), Proportion(3, 5))
    assert run.worst_case_accuracy == (Proportion(2, 5), Proportion(1, 5))
    assert run.attack_success_rate == (Proportion(2, 5), Proportion(1, 5))
    assert run.attack == "targeted PGD, linf, epsilon 16/255"


def test_untargeted_success_is_any_wrong_answer_on_the_adversarial_image():
    run = summarize_whitebox("net", UNTARGETED, ROWS)
    assert run.attack_success_rate == (Proportion(2, 5), Proportion(2, 5))


def blackbox_rows(right):
    return [
        {"id": i, "attacker": attacker, "label": 3, "prediction": 3 if ok else 4, "correct": ok}
        for attacker, answers in right.items()
        for i, ok in enumerate(answers)
    ]


def test_all_or_nothing_counts_images_right_under_every_attacker():
    right = {
        "clean": [True, True, False, True],
        "b": [True, False, True, True],
        "a": [True, True, True, False],
    }
    run = summarize_blackbox("net", {"attackers": ["a", "b"], "epsilon": 0.1}, blackbox_rows(right))
    assert run.clean_accuracy == Proportion(3, 4)
    assert list(run.robust_accuracy.items()) == [("a", Proportion(3, 4)), ("b", Proportion(3, 4))]
    assert run.all_or_nothing_score == Proportion(2, 4)
    assert run.all_or_nothing_score_with_clean == Proportion(1, 4)
    assert run.worst_attacker == "a"


def test_blackbox_without_clean_images_has_no_clean_counts():
    run = summarize_blackbox("net", {"attackers": ["a"]}, blackbox_rows({"a": [True, False]}))
    assert run.clean_accuracy is None
    assert run.all_or_nothing_score_with_clean is None


def certificate(image, prediction, radius, label=2):
    return {"id": image, "label": label, "prediction": prediction, "radius": radius}


SETTINGS = {"noise": {"kind": "Gaussian", "sigma": 0.25}, "n0": 10, "n": 100, "alpha": 0.001}


def test_certified_accuracy_counts_right_answers_with_at_least_the_radius():
    rows = [
        certificate(0, 2, 0.5),
        certificate(1, 2, 0.25),
        certificate(2, 1, 0.9),
        certificate(3, -1, 0.0),
    ]
    run = summarize_certification("net", SETTINGS, rows)
    assert (run.noise, run.n0, run.n, run.alpha) == ("Gaussian, sigma 0.25", 10, 100, 0.001)
    assert run.abstained == Proportion(1, 4)
    assert [run.certified_accuracy(r).correct for r in (0, 0.25, 0.26, 0.5, 0.51)] == [
        2,
        2,
        1,
        1,
        0,
    ]
    assert run.average_certified_radius == pytest.approx(0.75 / 4)


def test_radii_agree_with_a_naive_recount():
    draws = np.random.default_rng(0)
    rows = [
        certificate(i, int(draws.integers(-1, 4)), float(draws.integers(0, 9)) / 8)
        for i in range(200)
    ]
    run = summarize_certification("net", SETTINGS, rows)
    right = [row for row in rows if row["prediction"] == row["label"]]
    for radius in (0.0, 0.125, 0.3, 0.5, 1.0, 1.01):
        count = 0
        for row in right:
            if row["radius"] >= radius:
                count += 1
        assert run.certified_accuracy(radius) == Proportion(count, 200)
    total = 0.0
    for row in right:
        total += row["radius"]
    assert run.average_certified_radius == pytest.approx(total / 200)
    assert run.abstained.correct == len([row for row in rows if row["prediction"] == -1])


def test_blackbox_scores_agree_with_a_naive_recount():
    draws = np.random.default_rng(1)
    names = ("clean", "a", "b", "c")
    right = {name: draws.integers(0, 4, size=60) > 0 for name in names}
    run = summarize_blackbox("net", {"attackers": names[1:]}, blackbox_rows(right))
    survivors = survivors_with_clean = pairs = 0
    for i in range(60):
        under_attack = [bool(right[name][i]) for name in names[1:]]
        survivors += all(under_attack)
        survivors_with_clean += all(under_attack) and bool(right["clean"][i])
        pairs += sum(under_attack)
    assert run.all_or_nothing_score == Proportion(survivors, 60)
    assert run.all_or_nothing_score_with_clean == Proportion(survivors_with_clean, 60)
    assert run.mean_accuracy == Proportion(pairs, 180)
    fewest = min(int(right[name].sum()) for name in names[1:])
    assert run.robust_accuracy[run.worst_attacker] == Proportion(fewest, 60)


def test_training_points_skip_what_was_not_measured():
    log = [{"step": 2, "loss": 0.5, "clean_accuracy": None}, {"step": 1, "loss": 1.0}]
    run = summarize_training("net", {}, log)
    assert run.points("loss") == ([1, 2], [1.0, 0.5])
    assert run.points("clean_accuracy") == ([], [])


@pytest.mark.parametrize(
    ("kind", "identity", "rows", "message"),
    [
        ("weather", {}, [{}], "weather.*whitebox, blackbox, certification, training"),
        ("whitebox", TARGETED, [], "no rows"),
        ("whitebox", TARGETED, [ROWS[0], ROWS[0]], "image 0 occurs twice"),
        ("whitebox", {**TARGETED, "budgets": [30]}, ROWS, "image 0 has no prediction at budget 30"),
        ("whitebox", TARGETED, [whitebox_row(9, 0, 0, 0, target=None)], "image 9.*no target"),
        ("whitebox", {"attack": TARGETED["attack"]}, ROWS, "lacks the field 'budgets'"),
        ("training", {}, [{"step": 1}, {"step": 1}], "step 1 occurs twice"),
        ("certification", {}, [certificate(0, 1, 0.1)] * 2, "image 0 occurs twice"),
        (
            "blackbox",
            {"attackers": []},
            blackbox_rows({"a": [True, True], "b": [True]}),
            r"'b' lacks 1 images, first: \[1\]",
        ),
        ("blackbox", {"attackers": []}, blackbox_rows({"clean": [True]}), "no attacker"),
        ("blackbox", {"attackers": []}, blackbox_rows({"a": [True]}) * 2, "occurs twice"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(kind, identity, rows, message):
    with pytest.raises(ValueError, match=message):
        summarize(kind, "net", identity, rows)


def test_every_kind_of_run_has_a_summary():
    assert list(SUMMARIES) == ["whitebox", "blackbox", "certification", "training"]
