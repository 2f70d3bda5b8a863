"""Robust accuracy must not rise along a curve: more iterations of one attack are a stronger attack.

Unlike the other self-checks it makes no attack: it reads all rows of the evaluation itself.
"""

from collections.abc import Sequence

import torch

from featdenoise.base.results import Row
from featdenoise.base.selfcheck_results import Check
from featdenoise.base.whitebox_rows import is_dropped, prediction_at
from featdenoise.evaluation.entries import Entry
from featdenoise.evaluation.paired_check import SIGNIFICANCE, stronger_is_stronger


def check_curve(entry: Entry, rows: Sequence[Row]) -> Check | None:
    """Compare every budget with the smaller one on its path that left the fewest images right.

    Args:
        entry: the attack.
        rows: one an image; those that a worst-case run dropped are left out.

    Returns:
        The comparison that speaks most against the curve; None where no path has two budgets.
    """
    attacked = [row for row in rows if not is_dropped(row)]
    pairs = [
        (earlier, later)
        for _, budgets in entry.paths()
        for place, later in enumerate(budgets)
        if (earlier := budgets[:place])
    ]
    if not attacked or not pairs:
        return None
    right = {
        budget: torch.tensor([prediction_at(row, str(budget)) == row["label"] for row in attacked])
        for budget in entry.budgets
    }
    findings: list[tuple[bool, int, int, str]] = []
    for earlier, later in pairs:
        lowest = min(earlier, key=lambda budget: int(right[budget].sum()))
        passed, detail = stronger_is_stronger(
            f"{lowest} iterations",
            right[lowest],
            f"{later} iterations",
            right[later],
            significance=SIGNIFICANCE / sum(len(smaller) for smaller, _ in pairs),
        )
        rise = int(right[later].sum() - right[lowest].sum())
        findings.append((passed, -rise, len(findings), detail))
    passed, *_, detail = min(findings)
    return Check(name=f"accuracy does not rise along {entry.name}", passed=passed, detail=detail)
