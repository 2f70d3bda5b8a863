"""Settings of `featdenoise whitebox` that contradict one another are refused, not ignored."""

import re
from pathlib import Path

import pytest

from featdenoise.cli.main import main

README = Path(__file__).parent.parent.parent / "README.md"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("--protocol paper --budgets 10", "protocol paper fixes budgets"),
        ("--protocol quick --norm l2 --attacks apgd", "protocol quick fixes attacks, norm"),
        ("--protocol robustbench --restarts 5", "protocol robustbench fixes restarts"),
        ("--protocol restarts --step-size 4/255", "protocol restarts fixes step_size"),
        ("--surrogate resnet8 --no-self-checks", "surrogate is for the self-checks"),
        ("--keep-iterates --attacks apgd", "keep_iterates needs plain PGD"),
    ],
)
def test_contradicting_settings_are_refused(settings: str, message: str, tmp_path, capsys) -> None:
    command = f"whitebox --model resnet8 --subset first:2 --out {tmp_path / 'run'} {settings}"
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


ATTACKS = """
import torch
import featdenoise as fd
from featdenoise.attacks import ForeignAttack, TargetedAPGD

def darker(model):
    return lambda images, classes: images - 0.05 * images

def entries():
    margin = fd.PGD(epsilon=0.1, loss="margin", targeted=True, target_choice="least_likely")
    foreign = ForeignAttack(name="darker", epsilon=0.05, make=darker)
    return [
        fd.Entry(name="margin", attack=margin, budgets=(1, 3)),
        fd.Entry(name="nearest", attack=TargetedAPGD(epsilon=0.1, num_steps=2, num_targets=3)),
        fd.Entry(name="darker", attack=foreign),
    ]

def attacks():
    return [fd.PGD()]

def nothing():
    return []
"""


@pytest.fixture
def own_attacks(tmp_path, monkeypatch):
    (tmp_path / "own_attacks.py").write_text(ATTACKS)
    monkeypatch.chdir(tmp_path)


def test_any_list_of_attacks_runs_from_a_users_own_module(own_attacks, tmp_path, capsys) -> None:
    common = "whitebox --model resnet8 --subset first:3 --no-self-checks --out run"
    assert main([*common.split(), "--attacks", "own_attacks:entries"]) == 0
    text = capsys.readouterr().out
    assert "targeted (least_likely) PGD on margin" in text
    assert "darker" in text
    names = {path.parent.name for path in tmp_path.glob("run/*/results.jsonl")}
    assert names == {"margin", "nearest", "darker"}
    both = [*common.split(), "--epsilon", "0.1", "--budgets", "2", "--attacks", "pgd"]
    assert main([*both, "own_attacks:entries"]) == 0
    names = {path.parent.name for path in tmp_path.glob("run/*/results.jsonl")}
    assert names == {"pgd", "margin", "nearest", "darker"}


def test_the_attacks_of_the_readme_run(tmp_path, monkeypatch, capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (code,) = [block for block in blocks if block.startswith("# my_attacks.py")]
    (tmp_path / "my_attacks.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    common = "whitebox --model resnet8 --subset first:3 --no-self-checks --out run"
    assert main([*common.split(), "--attacks", "my_attacks:entries"]) == 0
    assert "vmi-fgsm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("attacks", "", "returned a PGD among its entries; wrap attacks as featdenoise.Entry"),
        ("nothing", "", "must return a list of featdenoise.Entry"),
        ("entries", "--epsilon 8/255 --budgets 3", "fixes epsilon, budgets; leave out one"),
        ("entries", "--protocol paper", "protocol paper fixes attacks; leave out one"),
    ],
)
def test_own_entries_that_cannot_run_are_refused(
    own_attacks, source: str, settings: str, message: str, capsys
) -> None:
    command = f"whitebox --model resnet8 --out run --attacks own_attacks:{source} {settings}"
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err
