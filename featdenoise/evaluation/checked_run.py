"""Self-checks of a finished white-box run: each of its balls, each of its curves, written down."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from featdenoise.base.distributed import World
from featdenoise.base.results import RESULTS_FILE, Row, describe, read_results
from featdenoise.base.selfcheck_results import Check, has_checks, record_checks
from featdenoise.base.whitebox_plan import mark_checked, read_plan
from featdenoise.base.whitebox_rows import EntryRows, survives
from featdenoise.data.imageset import LabelledImages
from featdenoise.evaluation.curve_check import check_curve
from featdenoise.evaluation.entries import WhiteboxEvaluation
from featdenoise.evaluation.selfchecks import SelfChecks, check_evaluation

logger = logging.getLogger(__name__)

FEW_IMAGES = 32
"""With fewer, paired tests and intervals hardly fail anybody."""


def check_run(
    model: nn.Module,
    images: LabelledImages,
    image_ids: Sequence[int],
    evaluation: WhiteboxEvaluation,
    rows_of: Mapping[str, Sequence[Row]],
    folder: Path,
    *,
    identity: Mapping[str, Any],
    world: World | None = None,
    surrogate: tuple[str, Callable[[], nn.Module]] | None = None,
) -> None:
    """Look at every ball and curve of the run, write down what was found, mark it as checked.

    What the folder holds already for the same model and images is not made again.

    Args:
        model: as evaluated.
        images: where its images come from.
        image_ids: which of them.
        evaluation: the attacks.
        rows_of: their rows.
        folder: of the run.
        identity: what else identifies the run: model, data.
        world: this process among all; the main one checks, the others wait.
        surrogate: name of another model and what loads it.
    """
    work = partial(
        _check, model, images, image_ids, evaluation, rows_of, folder, identity, surrogate
    )
    (world or World()).on_main(work)


def _check(
    model: nn.Module,
    images: LabelledImages,
    image_ids: Sequence[int],
    evaluation: WhiteboxEvaluation,
    rows_of: Mapping[str, Sequence[Row]],
    folder: Path,
    identity: Mapping[str, Any],
    surrogate: tuple[str, Callable[[], nn.Module]] | None,
) -> None:
    if len(image_ids) < FEW_IMAGES:
        logger.warning(
            "self-checks see little on %d images; %d or more are better", len(image_ids), FEW_IMAGES
        )
    findings: list[tuple[Mapping[str, Any], Sequence[Check]]] = []
    for entry in evaluation.entries:
        check = check_curve(entry, rows_of[entry.name])
        if check is not None:
            findings.append(({"entry": entry.name, "budgets": list(entry.budgets)}, [check]))
    is_new = not all((read_plan(folder) or {}).get(e.name, False) for e in evaluation.entries)
    for settings in _balls(evaluation):
        made_with = _as_read(
            {**describe(settings), **identity, "surrogate": surrogate and surrogate[0]}
        )
        if has_checks(folder, made_with) and not is_new:
            continue
        checks = check_evaluation(
            model,
            images,
            image_ids,
            settings,
            survivors=_survivors(folder, settings),
            surrogate=surrogate and surrogate[1](),
        )
        findings.append((made_with, checks))
    record_checks(folder, findings)
    mark_checked(folder, [entry.name for entry in evaluation.entries])


def _balls(evaluation: WhiteboxEvaluation) -> list[SelfChecks]:
    """One setting a ball of the run; a ball of radius 0 holds no attack to check."""
    balls = dict.fromkeys((e.attack.norm, e.attack.epsilon) for e in evaluation.entries)
    return [
        SelfChecks(
            epsilon=epsilon, norm=norm, chunk_size=evaluation.chunk_size, seed=evaluation.seed
        )
        for norm, epsilon in balls
        if epsilon > 0
    ]


def _survivors(folder: Path, settings: SelfChecks) -> dict[int, bool] | None:
    """Whether each image survives every untargeted attack that the folder holds for this ball."""
    alive: dict[int, bool] | None = None
    for path in sorted(folder.glob(f"*/{RESULTS_FILE}")):
        header, rows = read_results(path)
        attack = header["identity"].get("attack", {})
        is_of_ball = (attack.get("norm", "linf"), attack.get("epsilon")) == (
            settings.norm,
            settings.epsilon,
        )
        if is_of_ball and not attack.get("targeted", False):
            survived = survives(EntryRows(identity=header["identity"], rows=rows))
            alive = {i: (alive or survived)[i] and survived[i] for i in survived}
    return alive


def _as_read(value: Any) -> Any:
    """As it would come back from a file."""
    return json.loads(json.dumps(describe(value)))
