import json

import pytest

from featdenoise.base.chunks import hash_subset
from featdenoise.base.results import make_header, to_line
from featdenoise.base.whitebox_plan import mark_checked, plan_entries, read_plan
from featdenoise.report.read import commands_of, read_run, read_runs, read_whitebox_run


def write_entry(folder, name=None, *, command=None, file="results.jsonl", **identity):
    folder.mkdir(parents=True)
    header = make_header({"kind": "whitebox", "model": {"name": "net"}} | identity)
    if name is not None:
        header["identity"]["entry"] = name
    header["volatile"]["command"] = command
    (folder / file).write_text(to_line(header) + to_line({"id": 0, "step": 0}))
    return folder


def write_checks(folder, *, suspect=False, passed=True, schema=1):
    checks = [{"name": "gradients", "passed": passed, "detail": "3 are zero", "share": 0.1}]
    content = {"schema": schema, "checks": checks, "suspect": suspect}
    (folder / "selfchecks.json").write_text(json.dumps(content))


def test_a_run_folder_gives_its_entries_in_their_order(tmp_path):
    write_entry(tmp_path / "run" / "b", "b", preceding=[])
    write_entry(tmp_path / "run" / "a", "a", preceding=["b"])
    (tmp_path / "run" / "report").mkdir()
    run = read_run(tmp_path / "run")
    assert run.kind == "whitebox"
    assert run.name == "net"
    assert [entry.name for entry in run.entries] == ["b", "a"]
    assert run.checks is None
    assert not run.suspect


def test_restarts_stand_by_number_and_not_by_name(tmp_path):
    for k in (10, 2, 1):
        write_entry(tmp_path / f"pgd-{k}", f"pgd-{k}", restart=k, attack={"kind": "PGD"})
    assert [entry.name for entry in read_run(tmp_path).entries] == ["pgd-1", "pgd-2", "pgd-10"]


def test_an_entry_is_as_suspect_as_its_run(tmp_path):
    write_entry(tmp_path / "run" / "a", "a")
    write_checks(tmp_path / "run", suspect=True, passed=False)
    for folder in (tmp_path / "run", tmp_path / "run" / "a"):
        run = read_run(folder)
        assert run.suspect
        assert [(c.name, c.detail) for c in run.failed_checks] == [("gradients", "3 are zero")]


def test_a_failed_check_makes_a_run_suspect_whatever_the_file_says(tmp_path):
    write_entry(tmp_path / "run" / "a", "a")
    write_checks(tmp_path / "run", suspect=False, passed=False)
    assert read_run(tmp_path / "run").suspect


def test_a_single_results_file_is_a_run_as_it_is(tmp_path):
    run = read_run(write_entry(tmp_path / "old"))
    assert [entry.name for entry in run.entries] == [""]
    assert read_run(write_entry(tmp_path / "train", file="log.jsonl")).kind == "training"


def test_commands_are_given_once_and_quoted_for_a_shell(tmp_path):
    command = ["featdenoise", "whitebox", "--model", "my weights"]
    runs = [
        read_run(write_entry(tmp_path / "a", command=command)),
        read_run(write_entry(tmp_path / "b", command="featdenoise demo")),
        read_run(write_entry(tmp_path / "c", command=command)),
        read_run(write_entry(tmp_path / "d")),
    ]
    assert commands_of(runs) == ("featdenoise whitebox --model 'my weights'", "featdenoise demo")


def test_a_run_with_an_unfinished_entry_is_refused(tmp_path):
    write_entry(tmp_path / "a", "a")
    (tmp_path / "b" / "parts").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"run in .*b is not finished"):
        read_run(tmp_path)


def test_a_folder_of_several_runs_is_not_taken_for_one(tmp_path):
    write_entry(tmp_path / "one")
    write_entry(tmp_path / "two")
    with pytest.raises(FileNotFoundError, match="holds several runs, name them"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged"), ('{"schema": 7, "checks": [], "suspect": false}', "schema 7")],
)
def test_selfchecks_that_cannot_be_read_are_named(tmp_path, text, message):
    write_entry(tmp_path / "run" / "a", "a")
    (tmp_path / "run" / "selfchecks.json").write_text(text)
    with pytest.raises(ValueError, match=f"selfchecks.json.*{message}"):
        read_run(tmp_path / "run")


def test_a_run_that_lacks_planned_attacks_is_not_finished(tmp_path):
    write_entry(tmp_path / "run" / "apgd-ce", "apgd-ce")
    plan_entries(tmp_path / "run", ["apgd-ce", "apgd-t", "square"])
    with pytest.raises(FileNotFoundError, match="not finished: apgd-t, square have no results"):
        read_run(tmp_path / "run")
    assert [e.name for e in read_run(tmp_path / "run" / "apgd-ce").entries] == ["apgd-ce"]


def test_attacks_that_no_self_check_has_seen_are_named(tmp_path):
    for name in ("a", "b"):
        write_entry(tmp_path / "run" / name, name)
    plan_entries(tmp_path / "run", ["a", "b"])
    mark_checked(tmp_path / "run", ["a"])
    assert read_run(tmp_path / "run").unchecked == ("b",)
    assert read_run(tmp_path / "run" / "a").unchecked == ()
    # Results that make way for others of the same name are to be checked again.
    (tmp_path / "run" / "a" / "results.jsonl").unlink()
    plan_entries(tmp_path / "run", ["a"])
    assert read_plan(tmp_path / "run") == {"a": False, "b": False}


def test_attacks_stand_in_the_order_in_which_they_were_planned(tmp_path):
    for name in ("a", "b", "c"):
        write_entry(tmp_path / "run" / name, name)
    plan_entries(tmp_path / "run", ["c", "a"])
    assert [entry.name for entry in read_run(tmp_path / "run").entries] == ["c", "a", "b"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1, "entries": 3}', '{"schema": 9}'])
def test_a_damaged_plan_is_named(tmp_path, text):
    write_entry(tmp_path / "run" / "a", "a")
    (tmp_path / "run" / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json.*delete it"):
        read_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"plan\.json.*delete it"):
        plan_entries(tmp_path / "run", ["b"])
    assert (tmp_path / "run" / "plan.json").read_text() == text


@pytest.mark.parametrize("lost", [slice(1, 3), slice(0, 3, 2), slice(2, None, -1)])
def test_rows_that_were_lost_or_moved_are_no_results(tmp_path, lost):
    folder = write_entry(tmp_path / "run" / "a", "a", images=hash_subset(range(3)))
    header = (folder / "results.jsonl").read_text().splitlines()[0]
    rows = [json.dumps({"id": i}) for i in range(3)]
    (folder / "results.jsonl").write_text("\n".join([header, *rows]) + "\n")
    assert len(read_run(folder).files[0].rows) == 3
    (folder / "results.jsonl").write_text("\n".join([header, *rows[lost]]) + "\n")
    with pytest.raises(ValueError, match="lost, doubled or moved rows"):
        read_run(folder)


@pytest.mark.parametrize(("count", "is_whole"), [(6, True), (5, False), (7, False)])
def test_black_box_rows_are_one_an_attacker_and_image(tmp_path, count, is_whole):
    header = make_header({"kind": "blackbox", "attackers": ["x"], "num_images": 3})
    rows = [{"id": k // 2, "attacker": ("clean", "x")[k % 2]} for k in range(count)]
    (tmp_path / "results.jsonl").write_text("".join(map(to_line, [header, *rows])))
    if is_whole:
        assert len(read_run(tmp_path).files[0].rows) == 6
    else:
        with pytest.raises(ValueError, match="lost, doubled or moved rows"):
            read_run(tmp_path)


def test_a_white_box_run_is_found_in_the_folder_of_its_training(tmp_path):
    write_entry(tmp_path / "run", file="log.jsonl")
    with pytest.raises(ValueError, match="is a training run"):
        read_whitebox_run(tmp_path / "run")
    write_entry(tmp_path / "run" / "pgd", "pgd")
    assert read_run(tmp_path / "run").kind == "training"
    assert [entry.name for entry in read_whitebox_run(tmp_path / "run").entries] == ["pgd"]
    assert [run.kind for run in read_runs(tmp_path / "run")] == ["training", "whitebox"]
