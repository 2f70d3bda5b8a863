"""What may join the results in a folder, go on there or make way; nothing is computed twice."""

from dataclasses import replace

import pytest
from whitebox_cases import EPSILON, Counting, evaluate, evaluate_all

from featdenoise.attacks.apgd import APGD
from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation
from featdenoise.evaluation.whitebox import evaluate_whitebox


def test_a_run_cut_short_goes_on_with_equal_rows(tiny_model, source, sweep, tmp_path) -> None:
    whole = evaluate(tiny_model, source, sweep, tmp_path / "whole")

    def fail_at_9(image_id: int) -> None:
        if image_id == 9:
            raise OSError("the disk went away")

    source.on_read = fail_at_9
    with pytest.raises(OSError, match="went away"):
        evaluate(tiny_model, source, sweep, tmp_path / "cut")
    read: list[int] = []
    source.on_read = read.append
    assert evaluate(tiny_model, source, sweep, tmp_path / "cut") == whole
    assert read == [8, 9]  # only the chunk that was missing


def test_another_sweep_in_the_folder_is_refused(tiny_model, source, sweep, tmp_path) -> None:
    evaluate(tiny_model, source, sweep, tmp_path)
    before = (tmp_path / "pgd" / "results.jsonl").read_bytes()
    other = replace(sweep, attack=replace(sweep.attack, epsilon=0.2))
    with pytest.raises(ValueError, match=r"attack.epsilon: 0.1 there, 0.2 here"):
        evaluate(tiny_model, source, other, tmp_path)
    assert (tmp_path / "pgd" / "results.jsonl").read_bytes() == before


def test_adding_an_attack_computes_only_the_new_one(tiny_model, source, sweep, tmp_path) -> None:
    first = evaluate_all(tiny_model, source, [sweep], tmp_path)
    before = (tmp_path / "pgd" / "results.jsonl").read_bytes()
    read: list[int] = []
    source.on_read = read.append
    other = Entry(name="apgd", attack=APGD(epsilon=EPSILON, num_steps=5))
    both = evaluate_all(tiny_model, source, [sweep, other], tmp_path)
    assert (tmp_path / "pgd" / "results.jsonl").read_bytes() == before
    assert both["pgd"] == first["pgd"]
    assert sorted(read) == list(range(10))
    assert all(row["predictions"].keys() == {"final"} for row in both["apgd"])


def test_a_refused_entry_changes_nothing_in_the_folder(tiny_model, source, sweep, tmp_path) -> None:
    evaluate(tiny_model, source, sweep, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = replace(sweep, attack=replace(sweep.attack, step_size=0.01))
    first = replace(sweep, name="another")
    with pytest.raises(ValueError, match="another configuration"):
        evaluate_all(tiny_model, source, [first, other], tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_budgets_added_later_cost_only_their_own_steps_where_iterates_were_kept(
    tiny_model, source, sweep, tmp_path
) -> None:
    more = replace(sweep, budgets=(2, 4, 7, 9, 12))
    model = Counting(tiny_model)
    fresh = evaluate(model, source, more, tmp_path / "fresh", chunk_size=10)
    assert model.count == 12
    evaluate(model, source, sweep, tmp_path / "kept", chunk_size=10, keep_iterates=True)
    model.count = 0
    rows = evaluate(model, source, more, tmp_path / "kept", chunk_size=10, keep_iterates=True)
    assert rows == fresh
    # From the iterates at 1, 4 and 9: one, three and three steps.
    assert model.count == 7
    assert (tmp_path / "kept" / "pgd" / "superseded-000.jsonl").is_file()
    # A torn iterate is no iterate: from those at 9 and 12, one, and from that at 7, one more.
    (tmp_path / "kept" / "pgd" / "iterates" / "000000-000009.npy").write_bytes(b"")
    model.count = 0
    last = replace(sweep, budgets=(10, 13))
    rows = evaluate(model, source, last, tmp_path / "kept", chunk_size=10, keep_iterates=True)
    assert rows == evaluate(tiny_model, source, last, tmp_path / "last", chunk_size=10)
    assert model.count == 4


def test_budgets_added_later_run_anew_where_nothing_was_kept(
    tiny_model, source, sweep, tmp_path
) -> None:
    evaluate(tiny_model, source, sweep, tmp_path / "run")
    more = replace(sweep, budgets=(4, 12))
    rows = evaluate(tiny_model, source, more, tmp_path / "run")
    assert rows == evaluate(tiny_model, source, more, tmp_path / "fresh")
    assert (tmp_path / "run" / "pgd" / "superseded-000.jsonl").is_file()


def test_iterates_of_another_attack_are_refused(tiny_model, source, sweep, tmp_path) -> None:
    evaluate(tiny_model, source, sweep, tmp_path, keep_iterates=True)
    (tmp_path / "pgd" / "results.jsonl").unlink()
    other = replace(sweep, attack=replace(sweep.attack, step_size=0.01))
    with pytest.raises(ValueError, match=r"iterates of another run \(attack.step_size: 0.02 there"):
        evaluate(tiny_model, source, other, tmp_path, keep_iterates=True)


def test_a_folder_about_another_model_is_refused(tiny_model, source, sweep, tmp_path) -> None:
    evaluate(tiny_model, source, sweep, tmp_path)
    evaluation = WhiteboxEvaluation(entries=(replace(sweep, name="other"),), chunk_size=4)
    with pytest.raises(ValueError, match=r"another subject \(model.name: 'tiny' there, 'b' here\)"):
        evaluate_whitebox(
            tiny_model, source, range(10), evaluation, tmp_path, identity={"model": {"name": "b"}}
        )
    assert not (tmp_path / "other").exists()


def test_budgets_of_a_worst_case_run_stay_what_later_entries_were_built_on(
    tiny_model, source, sweep, tmp_path
) -> None:
    strong = replace(sweep, name="strong", attack=replace(sweep.attack, epsilon=0.2))
    evaluate_all(tiny_model, source, [sweep, strong], tmp_path, worst_case=True)
    changed = replace(sweep, budgets=(4, 9))
    with pytest.raises(ValueError, match="budgets"):
        evaluate_all(tiny_model, source, [changed, strong], tmp_path, worst_case=True)
    assert not list(tmp_path.glob("*/superseded-*"))


@pytest.mark.parametrize("worst_case", [True, False])
def test_iterates_that_cannot_be_kept_are_refused(
    tiny_model, source, sweep, tmp_path, worst_case: bool
) -> None:
    entry = sweep if worst_case else replace(sweep, budgets=())
    with pytest.raises(ValueError, match="keep_iterates needs plain PGD with budgets"):
        evaluate(tiny_model, source, entry, tmp_path, keep_iterates=True, worst_case=worst_case)


def test_unfinished_results_of_another_model_are_refused_before_anything_is_computed(
    tiny_model, source, sweep, tmp_path
) -> None:
    def stop_at_the_last(image_id: int) -> None:
        if image_id == 9:
            raise KeyboardInterrupt

    source.on_read = stop_at_the_last
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_model, source, sweep, tmp_path)
    assert not (tmp_path / "pgd" / "results.jsonl").exists()
    source.on_read = lambda _: None
    before = sorted(tmp_path.rglob("*"))
    evaluation = WhiteboxEvaluation(entries=(replace(sweep, name="first"), sweep), chunk_size=4)
    with pytest.raises(ValueError, match=r"parts.* is about another subject"):
        evaluate_whitebox(
            tiny_model, source, range(10), evaluation, tmp_path, identity={"model": {"name": "b"}}
        )
    assert sorted(tmp_path.rglob("*")) == before


def test_superseded_results_are_never_written_over(tiny_model, source, sweep, tmp_path) -> None:
    for budgets in ((1, 4), (1, 5), (1, 6)):
        evaluate(tiny_model, source, replace(sweep, budgets=budgets), tmp_path)
    (tmp_path / "pgd" / "superseded-000.jsonl").unlink()
    evaluate(tiny_model, source, replace(sweep, budgets=(1, 7)), tmp_path)
    names = sorted(path.name for path in (tmp_path / "pgd").glob("superseded-*"))
    assert names == ["superseded-001.jsonl", "superseded-002.jsonl"]
