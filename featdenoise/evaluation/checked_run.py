"""Self-checks of a finished white-box run: each of its balls, each of its curves, written down."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from featdenoise.base.distributed import World
from featdenoise.base.results import RESULTS_FILE, as_read, describe, read_results
from featdenoise.base.selfcheck_results import Check, has_checks, record_checks
from featdenoise.base.whitebox_plan import mark_checked, read_plan
from featdenoise.base.whitebox_rows import EntryRows, survives
from featdenoise.data.imageset import LabelledImages
from featdenoise.evaluation.curve_check import check_curve
from featdenoise.evaluation.entries import WhiteboxEvaluation
from featdenoise.evaluation.selfchecks import OWN_BEATS_TRANSFER, SelfChecks, check_evaluation
from featdenoise.models.weights import fingerprint_weights

logger = logging.getLogger(__name__)

FEW_IMAGES = 32
"""With fewer, paired tests and intervals hardly fail anybody."""


def check_run(
    model: nn.Module,
    images: LabelledImages,
    image_ids: Sequence[int],
    evaluation: WhiteboxEvaluation,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    world: World | None = None,
    surrogate: tuple[str, nn.Module] | None = None,
) -> None:
    """Look at every ball and curve of the run, write down what was found, mark it as checked.

    What the folder holds already for the same model and images is not made again.

    Args:
        model: as evaluated.
        images: where its images come from.
        image_ids: which of them.
        evaluation: the attacks.
        folder: of the run, with all their results.
        identity: what else identifies the run: model, data.
        world: this process among all; the main one checks, the others wait.
        surrogate: another model, by name, whose adversarial images must not beat the model's own.
    """
    world = world or World()

    def look() -> None:
        findings = _look_at_curves(evaluation, folder)
        plan = read_plan(folder) or {}
        is_checked = all(plan.get(entry.name, False) for entry in evaluation.entries)
        for settings in _balls(evaluation):
            groups = _groups(settings, identity, surrogate)
            if is_checked and all(has_checks(folder, made_with) for made_with in groups):
                continue
            checks = check_evaluation(
                model,
                images,
                image_ids,
                settings,
                device=world.device,
                survivors=_survivors(folder, settings),
                surrogate=surrogate and surrogate[1],
            )
            # Of its own group, so that a run without the surrogate replaces all the others.
            findings.append((groups[0], [c for c in checks if c.name != OWN_BEATS_TRANSFER]))
            if surrogate:
                findings.append((groups[1], [c for c in checks if c.name == OWN_BEATS_TRANSFER]))
        record_checks(folder, findings)
        mark_checked(folder, [entry.name for entry in evaluation.entries])

    if len(image_ids) < FEW_IMAGES:
        logger.warning(
            "self-checks see little on %d images; %d or more are better", len(image_ids), FEW_IMAGES
        )
    world.on_main(look)


def _look_at_curves(
    evaluation: WhiteboxEvaluation, folder: Path
) -> list[tuple[Mapping[str, Any], Sequence[Check]]]:
    findings: list[tuple[Mapping[str, Any], Sequence[Check]]] = []
    for entry in evaluation.entries:
        check = check_curve(entry, read_results(folder / entry.name / RESULTS_FILE)[1])
        if check is not None:
            findings.append(({"entry": entry.name}, [check]))
    return findings


def _groups(
    settings: SelfChecks, identity: Mapping[str, Any], surrogate: tuple[str, nn.Module] | None
) -> list[Any]:
    """How the checks of a ball are made, and how the one with a surrogate is."""
    made_with = {**describe(settings), **identity}
    if surrogate is None:
        return [as_read(made_with)]
    about = {"name": surrogate[0], "weights": fingerprint_weights(surrogate[1])}
    return [as_read(made_with), as_read({**made_with, "surrogate": about})]


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
