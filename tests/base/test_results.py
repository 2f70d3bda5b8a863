import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from featdenoise.base.results import (
    SCHEMA,
    StepLog,
    append_lines,
    describe,
    differing_fields,
    has_header,
    make_header,
    read_results,
    require_same_identity,
    to_line,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    size: float = 0.1
    shape: tuple[int, ...] = (3, 4)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    folder: Path = Path("a/b")
    dtype: torch.dtype = torch.float32
    nothing: None = None


IDENTITY = {"kind": "test", "outer": Outer(), "seed": 3}
ROWS = [{"id": 0, "radius": 0.1 + 0.2}, {"id": 1, "radius": 1e-300}, {"id": 2, "radius": 1}]


def write(path, rows=ROWS, identity=IDENTITY):
    path.write_text("".join(to_line(row) for row in [make_header(identity), *rows]))
    return path


def test_a_configuration_becomes_json_with_the_kind_of_every_part():
    assert describe(IDENTITY) == {
        "kind": "test",
        "outer": {
            "kind": "Outer",
            "inner": {"kind": "Inner", "size": 0.1, "shape": [3, 4]},
            "folder": "a/b",
            "dtype": "torch.float32",
            "nothing": None,
        },
        "seed": 3,
    }


def test_header_and_rows_come_back_to_the_last_digit(tmp_path):
    header, rows = read_results(write(tmp_path / "r.jsonl"))
    assert header["identity"] == describe(IDENTITY)
    assert header["schema"] == SCHEMA
    assert header["volatile"]["torch"] == torch.__version__
    assert rows == ROWS


@pytest.mark.parametrize(
    ("program", "processes", "command"),
    [
        ("eval_whitebox.py", None, "python eval_whitebox.py --out 'a b'"),
        (
            "/somewhere/eval_whitebox.py",
            "2",
            "torchrun --nproc_per_node=2 eval_whitebox.py --out 'a b'",
        ),
        ("/bin/featdenoise", None, "featdenoise --out 'a b'"),
        (
            "/x/featdenoise/__main__.py",
            "4",
            "torchrun --nproc_per_node=4 -m featdenoise --out 'a b'",
        ),
    ],
)
def test_the_noted_command_runs_in_a_shell(monkeypatch, program, processes, command):
    monkeypatch.setattr(sys, "argv", [program, "--out", "a b"])
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert make_header({})["volatile"]["command"] == command


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [{"id": 7}, {"step": 7}])
def test_value_that_is_not_finite_is_refused_by_the_name_of_its_row(value, place):
    with pytest.raises(ValueError, match="row 7 holds a value that is not finite"):
        to_line({**place, "deep": [{"loss": value}]})


def test_torn_tail_is_dropped_at_every_byte(tmp_path):
    path = write(tmp_path / "r.jsonl")
    content = path.read_bytes()
    ends = [k + 1 for k, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert has_header(path) == (size >= ends[0])
        if size < ends[0]:
            with pytest.raises(ValueError, match="does not begin with a run header"):
                read_results(path)
        else:
            assert read_results(path)[1] == ROWS[: sum(end <= size for end in ends) - 1]


@pytest.mark.parametrize("damage", [b"{", b"", b"7", b"\x00\x00", b"\xff", b'["id"]'])
def test_damaged_line_in_the_middle_is_an_error_that_gives_its_number(tmp_path, damage):
    path = write(tmp_path / "r.jsonl")
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"line 3 of .*r\.jsonl is damaged"):
        read_results(path)


@pytest.mark.parametrize("first", [b"7", b"{", b"[]", b'{"id": 1}'])
def test_file_without_a_header_is_refused(tmp_path, first):
    (tmp_path / "r.jsonl").write_bytes(first + b'\n{"id": 1}\n')
    with pytest.raises(ValueError, match="does not begin with a run header"):
        read_results(tmp_path / "r.jsonl")


def test_another_schema_is_refused(tmp_path):
    header = {**make_header(IDENTITY), "schema": SCHEMA + 1}
    (tmp_path / "r.jsonl").write_text(to_line(header))
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}, this version reads {SCHEMA}"):
        read_results(tmp_path / "r.jsonl")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        read_results(tmp_path / "nothing.jsonl")


def test_differing_fields_are_listed_with_both_values():
    there = {"a": {"b": 1, "c": [1, 2]}, "only": "x", "same": 0}
    here = {"a": {"b": 2, "c": [1, 3]}, "new": {"deep": True}, "same": 0}
    assert differing_fields(there, here) == [
        "a.b: 1 there, 2 here",
        "a.c: [1, 2] there, [1, 3] here",
        "only: 'x' there, None here",
        "new: None there, {'deep': True} here",
    ]
    assert differing_fields(there, json.loads(json.dumps(there))) == []


def test_identity_is_compared_as_it_was_written(tmp_path):
    header, _ = read_results(write(tmp_path / "r.jsonl"))
    require_same_identity(header, IDENTITY, tmp_path)
    other = Outer(inner=Inner(size=0.2, shape=(3, 5)))
    with pytest.raises(ValueError, match="another configuration") as caught:
        require_same_identity(header, {**IDENTITY, "outer": other}, tmp_path / "r.jsonl")
    text = str(caught.value)
    assert "r.jsonl" in text
    assert "outer.inner.size: 0.1 there, 0.2 here" in text
    assert "outer.inner.shape: [3, 4] there, [3, 5] here" in text
    assert "seed" not in text


def test_appended_lines_follow_those_that_were_there(tmp_path):
    path = write(tmp_path / "r.jsonl")
    append_lines(path, [to_line({"id": 3}), to_line({"id": 4})])
    assert [row["id"] for row in read_results(path)[1]] == [0, 1, 2, 3, 4]


def log_steps(path, steps, *, last_step, identity=IDENTITY):
    log = StepLog(path, make_header(identity), last_step=last_step)
    for step in steps:
        log.add({"step": step, "loss": 1 / step})
    log.close()


def test_log_drops_the_rows_after_the_checkpoint(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    log_steps(path, range(1, 8), last_step=0)
    log_steps(path, range(5, 7), last_step=4)
    _, rows = read_results(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["loss"] == 1.0


def test_rows_of_a_log_can_be_read_while_it_is_open(tmp_path):
    log = StepLog(tmp_path / "log.jsonl", make_header(IDENTITY), last_step=0)
    log.add({"step": 1, "loss": 0.5})
    assert read_results(tmp_path / "log.jsonl")[1] == [{"step": 1, "loss": 0.5}]
    log.close()


def test_torn_log_is_cut_and_continued(tmp_path):
    path = tmp_path / "log.jsonl"
    log_steps(path, range(1, 4), last_step=0)
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        log_steps(path, [9], last_step=3)
        _, rows = read_results(path)
        num_whole = max(content[:size].count(b"\n") - 1, 0)
        assert [row["step"] for row in rows] == [*range(1, num_whole + 1), 9]


def test_log_started_anew_with_another_recipe_carries_that_recipe(tmp_path):
    path = tmp_path / "log.jsonl"
    log_steps(path, range(1, 4), last_step=0)
    log_steps(path, [1], last_step=0, identity={"kind": "test", "seed": 4})
    header, rows = read_results(path)
    assert header["identity"] == {"kind": "test", "seed": 4}
    assert len(rows) == 1
