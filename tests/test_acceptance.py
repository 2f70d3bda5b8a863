"""The acceptance scripts, shortened; `make acceptance` runs them whole."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "acceptance"
SHORT = {"training_bits": "0.4", "evaluation_rows": "40", "kills": "2", "golden": "1"}

NOT_IN_CI = {"paper_curve", "protocols"}
"""A time is no test; and thousands of queries are too long."""


def test_every_script_is_listed() -> None:
    assert {p.stem for p in SCRIPTS.glob("*.py")} == {*SHORT, *NOT_IN_CI, "launch"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SHORT)
def test_acceptance_script_passes_on_a_short_run(script: str) -> None:
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), SHORT[script]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok  " in done.stdout
