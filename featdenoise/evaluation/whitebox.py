"""White-box evaluation: attacks on a model, one results file an attack, one row an image.

The same start and step visit the 10-, 20-, ..., 2000-step iterates on one path, so a curve costs
its largest budget, not the sum. What happens to a chunk of images: `entry_run.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from featdenoise.attacks.autoattack import AutoAttack, import_pyautoattack
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD
from featdenoise.base.chunks import cut_chunks
from featdenoise.base.distributed import World
from featdenoise.base.evaluation_results import EvaluationResults
from featdenoise.base.results import RESULTS_FILE, Row
from featdenoise.base.whitebox_plan import plan_entries
from featdenoise.base.whitebox_rows import CLEAN
from featdenoise.data.imageset import LabelledImages
from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation
from featdenoise.evaluation.entry_run import EntryRun
from featdenoise.evaluation.iterates import KeptIterates
from featdenoise.evaluation.leftovers import (
    require_joinable,
    require_same_subject,
    set_aside_other_budgets,
)
from featdenoise.evaluation.saved_images import check_savable, warn_of_missing


def evaluate_whitebox(
    model: nn.Module,
    images: LabelledImages,
    image_ids: Sequence[int],
    evaluation: WhiteboxEvaluation,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    world: World | None = None,
    save_adversarial: Path | None = None,
    keep_iterates: bool = False,
    show_progress: bool = True,
) -> dict[str, list[Row]]:
    """Attack `model` on these images by every entry and record its predictions.

    Every process calls this; each computes whole chunks. What is already in the folder is kept: an
    evaluation that was cut short goes on, one with more entries computes only the new ones.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K).
        images: where they come from.
        image_ids: which of them, in the order of the results.
        evaluation: the attacks.
        folder: gets a sub-folder with results.jsonl for each entry.
        identity: what else identifies the run: model, data.
        world: this process among all.
        save_adversarial: folder for the final images of the first entry as PNG, 8-bit and inside
            the ball.
        keep_iterates: whether to keep the iterates of plain PGD on disk, so that budgets added
            later cost only their own steps.
        show_progress: whether to draw bars.

    Returns:
        The rows of each entry, one an image: id, label, target (None if untargeted), clean
        prediction, prediction at each budget ("final" without budgets), losses at start and end
        (of an entry without budgets, the clean image is the start); in a worst-case run, for an
        image already broken, `broken_by` and no predictions.

    Raises:
        ValueError: images outside [0, 1], labels outside the classes, another run in the folder,
            adversarial images to be saved of another norm than linf or in a worst-case run,
            iterates to be kept of no attack that has them.
        RuntimeError: an attack left the ball or the range, or logits are not finite.
    """
    world = world or World()
    if save_adversarial is not None:
        check_savable(evaluation.entries[0].attack, worst_case=evaluation.worst_case)
    if keep_iterates:
        _check_keepable(evaluation)
    for entry in evaluation.entries:
        if isinstance(entry.attack, AutoAttack):
            import_pyautoattack()
    model = model.to(world.device)
    runs = _entry_runs(model, images, evaluation, world, save_adversarial)
    identities = [run.identity(identity, image_ids) for run in runs]
    world.on_main(partial(_prepare, folder, identity, runs, identities))
    broken_by: dict[_Ball, dict[int, str]] = {}
    rows_of: dict[str, list[Row]] = {}
    for run, whole_identity in zip(runs, identities, strict=True):
        name = run.entry.name
        chunks = cut_chunks(image_ids, evaluation.chunk_size)
        results = EvaluationResults(folder / name, whole_identity, chunks, world=world)
        if keep_iterates and _has_iterates(run.entry):
            open_kept = partial(KeptIterates.open, folder / name / "iterates", whole_identity)
            run = replace(run, kept=world.on_main(open_kept))
        broken = broken_by.setdefault(_ball(run.entry), {})
        run = replace(run, broken_by=dict(broken))
        _, rows = results.complete(run.attack, what=name, show_progress=show_progress)
        if run.saves_to is not None:
            world.on_main(partial(warn_of_missing, run.saves_to, image_ids, folder / name))
        rows_of[name] = rows
        for row in rows:
            breaker = _breaker(row, name)
            if evaluation.worst_case and breaker is not None:
                broken.setdefault(row["id"], breaker)
    return rows_of


_Ball = tuple[str, float]
"""Norm and radius: only attacks of one ball answer one question."""


def _ball(entry: Entry) -> _Ball:
    return entry.attack.norm, entry.attack.epsilon


def _entry_runs(
    model: nn.Module,
    images: LabelledImages,
    evaluation: WhiteboxEvaluation,
    world: World,
    save_adversarial: Path | None,
) -> list[EntryRun]:
    """What is to be run, in order; only the first entry's images are saved."""
    oracle = GradientOracle(model)
    runs = []
    for place, entry in enumerate(evaluation.entries):
        preceding = [e.name for e in evaluation.entries[:place] if _ball(e) == _ball(entry)]
        saves = save_adversarial if place == 0 else None
        runs.append(EntryRun(model, oracle, images, evaluation, entry, world, saves, preceding))
    return runs


def _prepare(
    folder: Path,
    identity: Mapping[str, Any],
    runs: Sequence[EntryRun],
    identities: Sequence[Row],
) -> None:
    """Refuse what cannot join the folder before anything changes there; then plan, make way."""
    require_same_subject(folder, identity)
    # The later entries of a worst-case run were built on the budgets of the earlier ones.
    may_make_way = not runs[0].evaluation.worst_case
    for run, whole in zip(runs, identities, strict=True):
        require_joinable(folder, run.entry.name, whole, other_budgets=may_make_way)
    for run, whole in zip(runs, identities, strict=True):
        if may_make_way:
            set_aside_other_budgets(folder / run.entry.name / RESULTS_FILE, whole)
    plan_entries(folder, [run.entry.name for run in runs])


def _has_iterates(entry: Entry) -> bool:
    """Whether its path can be continued from an iterate."""
    return type(entry.attack) is PGD and bool(entry.budgets) and entry.attack.restarts == 1


def _check_keepable(evaluation: WhiteboxEvaluation) -> None:
    if evaluation.worst_case or not any(map(_has_iterates, evaluation.entries)):
        raise ValueError(
            "keep_iterates needs plain PGD with budgets, not in a worst-case run, whose batches "
            "shrink; leave it out"
        )


def _breaker(row: Row, entry_name: str) -> str | None:
    """What broke the image of this row so far, if anything did."""
    if row.get("broken_by"):
        return str(row["broken_by"])
    if row["clean"] != row["label"]:
        return CLEAN
    wrong = any(prediction != row["label"] for prediction in row["predictions"].values())
    return entry_name if wrong else None
