import json

import pytest

from featdenoise.base.results import make_header, to_line
from featdenoise.report.read import commands_of, read_run, read_whitebox_run


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


def test_a_white_box_run_is_found_in_the_folder_of_its_training(tmp_path):
    write_entry(tmp_path / "run", file="log.jsonl")
    with pytest.raises(ValueError, match="is a training run"):
        read_whitebox_run(tmp_path / "run")
    write_entry(tmp_path / "run" / "pgd", "pgd")
    assert read_run(tmp_path / "run").kind == "training"
    assert [entry.name for entry in read_whitebox_run(tmp_path / "run").entries] == ["pgd"]
