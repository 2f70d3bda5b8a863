"""What the file of self-checks keeps, replaces and refuses."""

import json

import pytest

from featdenoise.base.selfcheck_results import Check, has_checks, read_checks, record_checks

GOOD = Check(name="a", passed=True, detail="fine")
BAD = Check(name="b", passed=False, detail="not fine")


def test_checks_come_back_and_one_failure_marks_the_run(tmp_path) -> None:
    assert read_checks(tmp_path) is None
    record_checks(tmp_path, [({"epsilon": 0.1}, [GOOD])])
    assert read_checks(tmp_path) == ((GOOD,), False)
    record_checks(tmp_path, [({"epsilon": 0.2}, [BAD])])
    assert read_checks(tmp_path) == ((GOOD, BAD), True)
    assert json.loads((tmp_path / "selfchecks.json").read_text())["suspect"] is True


def test_only_checks_made_the_same_way_are_replaced(tmp_path) -> None:
    record_checks(tmp_path, [({"entry": "pgd"}, [BAD])])
    record_checks(tmp_path, [({"entry": "mi-fgsm"}, [BAD])])
    record_checks(tmp_path, [({"entry": "pgd"}, [GOOD])])
    assert read_checks(tmp_path) == ((BAD, GOOD), True)
    assert has_checks(tmp_path, {"entry": "pgd"})
    assert not has_checks(tmp_path, {"entry": "apgd"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"schema": 7, "checks": [], "suspect": 0}', "schema 7"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_overwritten(tmp_path, text, message) -> None:
    (tmp_path / "selfchecks.json").write_text(text)
    with pytest.raises(ValueError, match=f"{message}.*delete it"):
        record_checks(tmp_path, [({}, [GOOD])])
    assert (tmp_path / "selfchecks.json").read_text() == text
