"""Which attacks a white-box folder was asked for, and which of them self-checks have looked at.

Without it a run that was killed after its first attack would read like a finished run of one
attack, and one that was killed before its self-checks like one that passed them.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.results import RESULTS_FILE

PLAN_FILE = "plan.json"
PLAN_SCHEMA = 1


def read_plan(folder: Path) -> dict[str, bool] | None:
    """Entry to whether it was checked; None where there is no plan.

    Raises:
        ValueError: a damaged file, or one of another schema.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        return None
    advice = "delete it and start the run again, with every attack that it shall hold"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema, entries = content["schema"], dict(content["entries"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {advice}") from None
    if schema != PLAN_SCHEMA:
        raise ValueError(f"{path} has schema {schema}, this version reads {PLAN_SCHEMA}; {advice}")
    return {name: bool(is_checked) for name, is_checked in entries.items()}


def plan_entries(folder: Path, names: Iterable[str]) -> None:
    """Add attacks to the plan; one whose results are still to be made is not checked.

    Raises:
        ValueError: a damaged plan is there, or one of another schema.
    """
    plan = read_plan(folder) or {}
    for name in names:
        has_results = (folder / name / RESULTS_FILE).is_file()
        plan[name] = has_results and plan.get(name, False)
    _write(folder, plan)


def mark_checked(folder: Path, names: Iterable[str]) -> None:
    """Note that self-checks have looked at these attacks; raises as `plan_entries` does."""
    _write(folder, {**(read_plan(folder) or {}), **dict.fromkeys(names, True)})


def _write(folder: Path, plan: Mapping[str, bool]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"schema": PLAN_SCHEMA, "entries": plan}, indent=2) + "\n"
    write_atomically(folder / PLAN_FILE, content.encode())
