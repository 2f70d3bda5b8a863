import json
from pathlib import Path

import pytest

from featdenoise.base.chunks import hash_subset
from featdenoise.base.results import make_header, to_line
from featdenoise.cli.main import main

ATTACK = {"kind": "PGD", "epsilon": 0.1, "targeted": False, "num_steps": 20}


def write_run(
    folder: Path, model: str, right: tuple[int, int], *, first_id: int = 0, **identity
) -> str:
    """An entry on 40 images of which so many are right after 10 and 20 iterations."""
    ids = range(first_id, first_id + 40)
    whole = {"kind": "whitebox", "model": {"name": model}, "entry": "pgd", "attack": ATTACK}
    header = make_header(
        whole | {"budgets": [10, 20], "seed": 0, "images": hash_subset(ids)} | identity
    )
    rows = [
        {
            "id": i,
            "label": 0,
            "target": None,
            "clean": 0,
            "predictions": {"10": int(k >= right[0]), "20": int(k >= right[1])},
        }
        for k, i in enumerate(ids)
    ]
    (folder / "pgd").mkdir(parents=True)
    (folder / "pgd" / "results.jsonl").write_text("".join(map(to_line, [header, *rows])))
    return str(folder)


def test_compare_prints_counts_and_a_verdict(tmp_path: Path, capsys) -> None:
    first = write_run(tmp_path / "a", "plain", (30, 10))
    second = write_run(tmp_path / "b", "denoise", (31, 22), seed=1)
    checks = [{"name": "zero gradients", "passed": False, "detail": "9 of 40"}]
    content = {"schema": 1, "checks": checks, "suspect": True}
    (tmp_path / "b" / "selfchecks.json").write_text(json.dumps(content))
    assert main(["compare", first, second]) == 0
    text = capsys.readouterr().out
    assert "10 of 40" in text
    assert "22 of 40" in text
    assert "Both right on 10, both wrong on 18." in text
    assert "denoise is better than plain (paired test, p = 0.00049)." in text
    assert "different seeds (0 and 1)" in text
    assert "SUSPECT: denoise failed 1 self-checks" in text
    assert main(["compare", first, second, "--budget", "10"]) == 0
    text = capsys.readouterr().out
    assert "after 10 iterations" in text
    assert "do not differ significantly (paired test, p = 1)." in text


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path, capsys) -> None:
    folders = [write_run(tmp_path / name, "net", (30, 10)) for name in ("a", "b")]
    assert main(["compare", *folders]) == 0
    assert f"net ({folders[1]})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"first_id": 1}, "images: "),
        ({"attack": ATTACK | {"epsilon": 0.2}}, "attack.epsilon: 0.1 there, 0.2 here"),
        ({"protocol": "paper"}, "protocol: None there, 'paper' here"),
        ({"kind": "blackbox"}, "is a blackbox run"),
    ],
)
def test_what_cannot_be_compared_ends_in_one_line(
    tmp_path: Path, capsys, identity: dict, message: str
) -> None:
    first = write_run(tmp_path / "a", "plain", (30, 10))
    second = write_run(tmp_path / "b", "denoise", (31, 22), **identity)
    assert main(["compare", first, f"{second}/pgd"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
