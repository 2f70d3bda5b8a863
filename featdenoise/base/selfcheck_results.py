"""The self-checks of a white-box run: one JSON file beside the folders of its attacks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featdenoise.base.checkpoint import write_atomically

SELFCHECKS_FILE = "selfchecks.json"
SELFCHECKS_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Check:
    """One symptom of an evaluation that cannot be trusted, which was looked for."""

    name: str
    passed: bool
    detail: str
    """What was measured, in one sentence."""
    ball: str = ""
    """In which ball, such as `linf, epsilon 16/255`; empty where none is meant."""
    was_made: bool = True
    """Whether it came to an end; one that did not has failed, and is made again."""


def read_checks(folder: Path) -> tuple[tuple[Check, ...], bool] | None:
    """The checks of the run in this folder and whether it is suspect; None: it was not checked.

    Raises:
        ValueError: a damaged file, or one of another schema.
    """
    path = folder / SELFCHECKS_FILE
    if not path.is_file():
        return None
    content = _read(path)
    checks = tuple(
        Check(
            name=c["name"],
            passed=bool(c["passed"]),
            detail=str(c.get("detail", "")),
            ball=str(c.get("ball", "")),
            was_made=bool(c.get("was_made", True)),
        )
        for c in content["checks"]
    )
    return checks, bool(content["suspect"]) or not all(check.passed for check in checks)


def has_checks(folder: Path, made_with: Mapping[str, Any]) -> bool:
    """Whether checks that were made so are recorded, all of them to their end.

    Raises:
        ValueError: a damaged file, or one of another schema.
    """
    path = folder / SELFCHECKS_FILE
    earlier = _read(path)["checks"] if path.is_file() else []
    same = [check for check in earlier if check.get("made_with") == made_with]
    return bool(same) and all(check.get("was_made", True) for check in same)


def record_checks(
    folder: Path, findings: Sequence[tuple[Mapping[str, Any], Sequence[Check]]]
) -> None:
    """Write checks down at once, each group in the place of those that were made so before.

    All others stay: a later run does not wash an earlier one clean.

    Args:
        folder: of the run.
        findings: how a group was made, as JSON values, and its checks.

    Raises:
        ValueError: a damaged file is there, or one of another schema.
    """
    path = folder / SELFCHECKS_FILE
    listed = _read(path)["checks"] if path.is_file() else []
    for made_with, checks in findings:
        listed = [check for check in listed if check.get("made_with") != made_with]
        listed += [{**asdict(check), "made_with": made_with} for check in checks]
    content = {
        "schema": SELFCHECKS_SCHEMA,
        "suspect": not all(check["passed"] for check in listed),
        "checks": listed,
    }
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    advice = "delete it and run the self-checks again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema, _, _ = content["schema"], content["checks"], content["suspect"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {advice}") from None
    if schema != SELFCHECKS_SCHEMA:
        raise ValueError(
            f"{path} has schema {schema}, this version reads {SELFCHECKS_SCHEMA}; {advice}"
        )
    return dict(content)
