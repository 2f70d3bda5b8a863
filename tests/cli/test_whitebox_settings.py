"""Settings of `featdenoise whitebox` that contradict one another are refused, not ignored."""

import pytest

from featdenoise.cli.main import main


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
