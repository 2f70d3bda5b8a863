from math import comb

import numpy as np
import pytest

from featdenoise.base.binomial import Proportion
from featdenoise.base.paired import PairedComparison, compare_whitebox
from featdenoise.base.whitebox_rows import EntryRows

ATTACK = {"kind": "PGD", "epsilon": 0.1, "targeted": False, "num_steps": 20}


def run(answers, *, name="pgd", budgets=(10, 20), broken=None, **identity):
    """One entry; answers: for each image whether it is right at each budget, as '11', '10', ..."""
    rows = []
    for i, right in enumerate(answers):
        predictions = {
            str(b): 0 if r == "1" else 4 for b, r in zip(budgets or ("final",), right, strict=True)
        }
        rows.append({"id": i, "label": 0, "clean": 0, "target": None, "predictions": predictions})
        if broken is not None:
            rows[-1]["broken_by"] = broken[i]
    whole = {"entry": name, "attack": ATTACK, "budgets": list(budgets), "seed": 0, "images": "h"}
    return EntryRows(identity=whole | identity, rows=rows)


def test_pairs_are_counted_by_who_is_right():
    paired = PairedComparison.of(
        [True, True, True, False, False, False], [True, False, False, True, False, False]
    )
    counts = (paired.both, paired.only_first, paired.only_second, paired.neither)
    assert counts == (1, 2, 1, 2)
    assert (paired.first, paired.second) == (Proportion(3, 6), Proportion(2, 6))


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 5), (12, 0), (3, 11), (1, 0)])
def test_p_value_is_that_of_a_fair_coin_on_the_disagreements(only_first, only_second):
    paired = PairedComparison(both=7, only_first=only_first, only_second=only_second, neither=3)
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(comb(n, j) for j in range(k + 1)) / 2**n
    assert paired.p_value == pytest.approx(min(1.0, 2 * tail))


def test_the_verdict_names_the_better_one_only_where_chance_is_unlikely():
    better = PairedComparison(both=5, only_first=1, only_second=12, neither=0)
    assert better.verdict("a", "b").startswith("b is better than a")
    unclear = PairedComparison(both=5, only_first=4, only_second=8, neither=0)
    assert "do not differ significantly" in unclear.verdict("a", "b")


def test_lists_of_unequal_length_are_no_pairs():
    with pytest.raises(ValueError, match="same images, got 2 and 1"):
        PairedComparison.of([True, False], [True])


def test_the_worst_case_asks_every_common_entry_and_budget():
    first = [run(["11", "10", "11", "00"]), run(["11", "11", "01", "11"], name="two")]
    second = [run(["11", "11", "11", "11"]), run(["11", "11", "11", "00"], name="two")]
    extra = run(["00"] * 4, name="three")
    compared = compare_whitebox([*first, extra], second)
    assert compared.entries == ("pgd", "two")
    assert compared.left_out == ("three",)
    # Image 0 survives in both, 1 and 2 only in the second, 3 in neither.
    counts = compared.counts
    assert (counts.both, counts.only_first, counts.only_second, counts.neither) == (1, 0, 2, 1)


def test_a_budget_and_an_entry_are_judged_alone_and_other_budgets_may_differ():
    first = [run(["01", "11"]), run(["00", "00"], name="two")]
    second = [run(["100", "110"], budgets=(10, 20, 40))]
    at_20 = compare_whitebox(first, second, budget=20, entry="pgd")
    assert (at_20.counts.both, at_20.counts.only_first) == (1, 1)
    assert at_20.left_out == ("two",)


def test_the_order_of_images_does_not_matter():
    draws = np.random.default_rng(0)
    answers = [f"{a}{b}" for a, b in draws.integers(0, 2, size=(30, 2))]
    shuffled = run(answers)
    rows = [shuffled.rows[i] for i in draws.permutation(30)]
    compared = compare_whitebox([run(answers)], [EntryRows(identity=shuffled.identity, rows=rows)])
    assert compared.counts.only_first == compared.counts.only_second == 0
    assert compared.counts.p_value == 1.0


def test_models_seeds_and_folders_of_images_may_differ():
    other = run(["11"], seed=3, model={"name": "b"}, save_adversarial="x", chunk_size=2)
    assert compare_whitebox([run(["11"])], [other]).seeds == (0, 3)


@pytest.mark.parametrize(
    ("second", "arguments", "message"),
    [
        (run(["11"], images="g"), {}, "images: 'h' there, 'g' here"),
        (run(["11"], protocol="paper"), {}, "protocol: None there, 'paper' here"),
        (run(["11"], attack={**ATTACK, "epsilon": 0.2}), {}, "attack.epsilon: 0.1 there, 0.2 here"),
        (run(["11"], data={"fingerprint": "f"}), {}, "data.fingerprint: None there, 'f' here"),
        (run(["11"], budgets=(10, 30)), {}, "budgets.*name a --budget"),
        (run(["11"], name="x"), {}, "no entry in common: the first has pgd; the second has x"),
        (run(["11"]), {"entry": "y"}, "no entry 'y' in common"),
        (run(["11"]), {"budget": 30}, "budget.*got 30"),
        (run(["11"]), {"budget": 30, "entry": "pgd"}, "got 30; entry 'pgd' records 10, 20"),
        (run(["11", "11"]), {}, r"different images.*\[1\]"),
        (run(["11"], broken=["other"]), {}, "dropped images that other broke"),
        (run(["11"], broken=["pgd"]), {"budget": 10}, "leave the budget out"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_by_name(second, arguments, message):
    with pytest.raises(ValueError, match=message):
        compare_whitebox([run(["11"])], [second], **arguments)
