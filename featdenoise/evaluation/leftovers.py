"""What earlier white-box runs left in a folder: may this run join them, must it make way?"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featdenoise.base.results import (
    RESULTS_FILE,
    as_read,
    differing_fields,
    has_header,
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
    here = as_read(identity)
    for path, there in _identities(folder, "*"):
        if there.get("kind") != KIND:
            continue
        different = differing_fields({name: there.get(name) for name in here}, here)
        if different:
            raise ValueError(
                f"{path} is about another subject ({'; '.join(different)}); choose another "
                "output folder"
            )


def require_joinable(
    folder: Path, entry: str, identity: Mapping[str, Any], *, other_budgets: bool
) -> None:
    """Refuse results of the same name that this attack could neither continue nor replace.

    Args:
        folder: of the run.
        entry: name of the attack.
        identity: of the attack that is to be run.
        other_budgets: whether finished results of other budgets may make way.

    Raises:
        ValueError: lists the differing fields.
    """
    here = as_read(identity)
    for path, there in _identities(folder, entry):
        may_make_way = other_budgets and path.name == RESULTS_FILE
        if not (may_make_way and not differing_beyond_budgets(there, here)):
            require_same_identity({"identity": there}, identity, path)


def _identities(folder: Path, entry: str) -> Iterator[tuple[Path, Any]]:
    """What the finished and the unfinished files of attacks say they are about."""
    finished = sorted(folder.glob(f"{entry}/{RESULTS_FILE}"))
    for path in [*finished, *sorted(folder.glob(f"{entry}/parts/*.jsonl"))]:
        if has_header(path):
            yield path, read_results(path)[0]["identity"]


def set_aside_other_budgets(path: Path, identity: Mapping[str, Any]) -> None:
    """Rename finished results that differ in the budgets alone: they will be computed anew."""
    if not path.exists():
        return
    there, here = read_results(path)[0]["identity"], as_read(identity)
    if there == here or differing_beyond_budgets(there, here):
        return
    earlier = [int(p.stem.split("-")[1]) for p in path.parent.glob("superseded-*.jsonl")]
    number = max(earlier, default=-1) + 1
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
