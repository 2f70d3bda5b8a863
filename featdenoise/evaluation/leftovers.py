"""What earlier white-box runs left in a folder: may this run join them, must it make way?"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featdenoise.base.results import (
    RESULTS_FILE,
    describe,
    differing_fields,
    read_results,
    require_same_identity,
)

logger = logging.getLogger(__name__)

KIND = "whitebox"
"""Of such runs, in their headers."""

_BUDGETS = ("budgets", "attack.num_steps")


def require_same_subject(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder whose attacks are on another model or other data: reports join them.

    Raises:
        ValueError: names the file and what differs.
    """
    here = _as_read(identity)
    for path in sorted(folder.glob(f"*/{RESULTS_FILE}")):
        there = read_results(path)[0]["identity"]
        if there.get("kind") != KIND:
            continue
        different = differing_fields({name: there.get(name) for name in here}, here)
        if different:
            raise ValueError(
                f"{path} is about another subject ({'; '.join(different)}); choose another "
                "output folder"
            )


def require_joinable(path: Path, identity: Mapping[str, Any], *, other_budgets: bool) -> None:
    """Refuse results of the same name that this attack could neither continue nor replace.

    Args:
        path: the results file, which need not be there.
        identity: of the attack that is to be run.
        other_budgets: whether results of other budgets may make way.

    Raises:
        ValueError: lists the differing fields.
    """
    if not path.exists():
        return
    header, here = read_results(path)[0], _as_read(identity)
    if not (other_budgets and not differing_beyond_budgets(header["identity"], here)):
        require_same_identity(header, identity, path)


def set_aside_other_budgets(path: Path, identity: Mapping[str, Any]) -> None:
    """Rename finished results that differ in the budgets alone: they will be computed anew."""
    if not path.exists():
        return
    there, here = read_results(path)[0]["identity"], _as_read(identity)
    if there == here or differing_beyond_budgets(there, here):
        return
    number = len(list(path.parent.glob("superseded-*.jsonl")))
    aside = path.with_name(f"superseded-{number:03d}.jsonl")
    logger.warning("%s has other budgets; kept as %s", path, aside.name)
    path.replace(aside)


def differing_beyond_budgets(there: Any, here: Any) -> list[str]:
    """Where two identities differ, apart from the budgets."""
    return [
        line
        for line in differing_fields(there, here)
        if not line.startswith(tuple(f"{name}:" for name in _BUDGETS))
    ]


def _as_read(identity: Mapping[str, Any]) -> Any:
    """As it would come back from a file."""
    return json.loads(json.dumps(describe(identity)))
