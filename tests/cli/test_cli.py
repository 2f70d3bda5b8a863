"""The command line's surface, and that bad input ends in one line that names the way out."""

import re
from pathlib import Path

import pytest
import torch

from featdenoise.cli.main import main

FLAGS = {
    "demo": "--epochs --num-images --out --processes",
    "train": (
        "--checkpoint-every --data --data-root --device --download --epochs --force --image-size "
        "--init-from --keep --log-every --num-classes --out --reduction --seed --show-progress "
        "--stop-after --threads-per-process --workers"
    ),
    "whitebox": (
        "--attacks --budgets --chunk-size --data --data-root --device --epsilon --image-size "
        "--keep-iterates --label --model --norm --out --protocol --redraw-targets --restarts "
        "--save-adversarial --seed --self-checks --split --step-size --subset --surrogate "
        "--targeted --threads --worst-case"
    ),
    "blackbox": (
        "--attackers --chunk-size --clean --device --epsilon --label --label-offset --labels "
        "--model --out --threads"
    ),
    "certify": (
        "--alpha --batch-size --chunk-size --data --data-root --device --image-size --label "
        "--model --n --n0 --out --seed --sigma --split --subset --threads"
    ),
    "report": "--json --out",
    "compare": "--budget --entry",
    "models": "",
}


@pytest.mark.parametrize("command", FLAGS)
def test_flags_do_not_appear_by_accident(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    # An option's own line is indented by two; what help texts mention stands further right.
    named = re.findall(r"^.{2}(--[a-z][a-z0-9-]*)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(set(named) - {"--help"}) == sorted(FLAGS[command].split())
    assert len(named) <= 27


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train digitz", "unknown recipe 'digitz'; known recipes: digits-clean"),
        ("train digits --epochs 0", "epochs must be > 0 and finite, got 0"),
        ("train digits --epochs inf", "epochs must be > 0 and finite, got inf"),
        ("train digits --epochs 0.01", "epochs 0.01 is less than one step of 11 an epoch"),
        ("train digits --stop-after 0", "stop_after must be >= 1, got 0"),
        ("train digits --out FILE", "FILE"),
        ("whitebox --model resnet8 --subset first:2 --out FILE", "FILE"),
        ("whitebox --model math:pi --out OUT", "math:pi is a float, not a function"),
        ("train digits --data nothing", "data.name must be one of digits, cifar10"),
        ("train digits --data fake --num-classes 3", "num_classes is 3, but the data has 10"),
        ("train cifar10-madry", "data.root is needed for cifar10"),
        ("train cifar10-madry --data-root nowhere", "nowhere"),
        ("whitebox --model resnet9 --out OUT", "resnet9"),
        ("whitebox --model resnet8 --out OUT --epsilon 16", "write 16/255"),
        ("whitebox --model resnet8 --out OUT --budgets 0", "budgets must be iteration counts"),
        ("whitebox --model resnet8 --out OUT --attacks squares", "attacks must be some of pgd"),
        ("whitebox --model resnet8 --out OUT --subset first:999", "999"),
        ("whitebox --model no.such:module --out OUT", "write package.module:function"),
        ("certify --model resnet8 --out OUT --alpha 2", "alpha"),
        ("report nowhere", "no run folder at nowhere"),
        ("compare nowhere OUT", "no run folder at nowhere"),
        ("blackbox --model resnet8 --out OUT --clean no --labels no.csv --attackers a b", "no"),
    ],
)
def test_bad_input_ends_in_one_line_that_names_it(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    assert main(arguments.replace("OUT", str(tmp_path / "out")).split()) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("whitebox --model resnet8 --out OUT --epsilon 16/zero", "write it like"),
        ("certify --model resnet8 --out OUT --sigma 0", "sigma must be in"),
        ("whitebox --model resnet8 --out OUT --norm l3", "linf"),
        ("whitebox --model resnet8", "--out"),
        ("trian digits", "train"),
    ],
)
def test_what_cannot_be_parsed_is_refused_by_name(arguments: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_users_own_module_is_evaluated_attacked_scored_certified_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_zoo.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    flat = torch.nn.Flatten()\n"
        "    return torch.nn.Sequential(flat, torch.nn.Linear(3 * 16 * 16, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = "--model my_zoo:net --label mine --subset first:20"
    png = "--save-adversarial attack --chunk-size 8"
    state = torch.get_rng_state()
    assert main(f"whitebox {model} --out sweep --budgets 2 5 {png} --threads 1".split()) == 0
    torch.set_rng_state(state)
    table = capsys.readouterr().out
    assert "mine" in table
    assert "%" in table
    assert len(list((tmp_path / "attack").glob("*.png"))) == 20
    assert main(f"certify {model} --out certified --n 100 --threads 1".split()) == 0
    assert (tmp_path / "certified" / "report" / "report.html").is_file()
    assert main(["report", "sweep", "certified", "--out", "both"]) == 0
    page = (tmp_path / "both" / "report.html").read_text()
    assert "mine" in page


def test_the_models_command_lists_models_and_recipes(capsys) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "resnet110" in text
    assert "1.731 M" in text
    assert "cifar10-madry" in text
    (row,) = [line for line in text.splitlines() if line.startswith("resnet152.xie2019_gaussian")]
    for cell in ("71.342 M", "17.47", "65.3%", "55.7%", "45.5%", "42.8%", "CC BY-NC 4.0"):
        assert cell in row
    assert "published, not verified here" in row
