"""White-box evaluation: attacks on a model, one results file an attack, one row an image.

The same start and step visit the 10-, 20-, ..., 2000-step iterates on one path, so a curve costs
its largest budget, not the sum. The evaluator trusts no attack (DESIGN, L5): it re-checks ball
and range of every adversarial image and decides with its own full-precision forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from featdenoise.attacks.apgd import TargetedAPGD
from featdenoise.attacks.autoattack import AutoAttack
from featdenoise.attacks.core import assert_in_ball
from featdenoise.attacks.goal import aim
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD
from featdenoise.base.chunks import Chunk, cut_chunks, pad_batch
from featdenoise.base.distributed import World
from featdenoise.base.evaluation_results import EvaluationResults
from featdenoise.base.judge import judge
from featdenoise.base.results import RESULTS_FILE, Row, numerics
from featdenoise.base.rng import Stream
from featdenoise.base.units import check_classes, check_images
from featdenoise.base.whitebox_rows import CLEAN, FINAL
from featdenoise.data.imageset import LabelledImages
from featdenoise.data.subset import hash_subset
from featdenoise.evaluation.entries import Entry
from featdenoise.evaluation.iterates import KeptIterates
from featdenoise.evaluation.leftovers import (
    KIND,
    require_same_subject,
    set_aside_other_budgets,
)
from featdenoise.evaluation.saved_images import check_savable, save_images, warn_of_missing


@dataclass(frozen=True, kw_only=True)
class WhiteboxEvaluation:
    """Which attacks, and how their images are cut and drawn."""

    entries: tuple[Entry, ...]
    """The attacks, in order."""
    protocol: str | None = None
    """The name under which these entries are known, if they are a named protocol."""
    worst_case: bool = False
    """Ask only whether an image is ever broken: one that is drops out of everything after."""
    chunk_size: int = 64
    """Images attacked together; part of the run's identity, because kernels round by batch."""
    seed: int = 0
    """Seed of starts, targets and all other draws."""

    def __post_init__(self) -> None:
        """Refuse an evaluation without entries, or with two of one name."""
        names = [entry.name for entry in self.entries]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"entries need different names, got {names}")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be >= 1, got {self.chunk_size}")


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
    world.on_main(partial(require_same_subject, folder, identity))
    model = model.to(world.device)
    oracle = GradientOracle(model)
    broken_by: dict[int, str] = {}
    rows_of: dict[str, list[Row]] = {}
    for entry in evaluation.entries:
        saves = save_adversarial if entry is evaluation.entries[0] else None
        run = _EntryRun(model, oracle, images, evaluation, entry, world, saves, dict(broken_by))
        whole_identity = run.identity(identity, image_ids, list(rows_of))
        if not evaluation.worst_case:  # its later entries were built on these very budgets
            path = folder / entry.name / RESULTS_FILE
            world.on_main(partial(set_aside_other_budgets, path, whole_identity))
        chunks = cut_chunks(image_ids, evaluation.chunk_size)
        results = EvaluationResults(folder / entry.name, whole_identity, chunks, world=world)
        if keep_iterates and _has_iterates(entry):
            iterates = folder / entry.name / "iterates"
            run = replace(
                run, kept=world.on_main(partial(KeptIterates.open, iterates, whole_identity))
            )
        _, rows = results.complete(run.attack, what=entry.name, show_progress=show_progress)
        if saves is not None:
            world.on_main(partial(warn_of_missing, saves, image_ids, folder / entry.name))
        rows_of[entry.name] = rows
        for row in rows:
            breaker = _breaker(row, entry.name)
            if evaluation.worst_case and breaker is not None:
                broken_by.setdefault(row["id"], breaker)
    return rows_of


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


@dataclass(frozen=True)
class _Batch:
    """Images under attack, padded to one size; only the first `count` rows are real."""

    images: Tensor
    labels: Tensor
    image_ids: tuple[int, ...]
    count: int

    @classmethod
    def load(
        cls, source: LabelledImages, ids: tuple[int, ...], size: int, world: World
    ) -> "_Batch":
        images, labels = source.batch(ids)
        check_images(images, f"images {list(ids)}")
        check_classes(labels, source.num_classes, f"labels of images {list(ids)}")
        return cls(
            images=pad_batch(images, size).to(world.device),
            labels=pad_batch(labels, size).to(world.device),
            image_ids=ids + ids[-1:] * (size - len(ids)),
            count=len(ids),
        )

    def keep(self, places: list[int]) -> "_Batch":
        """The real images at these places, without padding."""
        return _Batch(
            images=self.images[places],
            labels=self.labels[places],
            image_ids=tuple(self.image_ids[place] for place in places),
            count=len(places),
        )

    def names(self, when: str) -> list[str]:
        """What errors call the real images."""
        return [f"image {i} {when}" for i in self.image_ids[: self.count]]


@dataclass(frozen=True)
class _EntryRun:
    """One entry while it is computed."""

    model: nn.Module
    oracle: GradientOracle
    images: LabelledImages
    evaluation: WhiteboxEvaluation
    entry: Entry
    world: World
    save_adversarial: Path | None
    broken_by: dict[int, str]
    """Images that earlier entries of a worst-case run broke."""
    kept: KeptIterates | None = None
    """Where iterates are kept, if they are."""

    def identity(
        self, given: Mapping[str, Any], image_ids: Sequence[int], preceding: list[str]
    ) -> Row:
        """What defines the entry's results."""
        entry, evaluation = self.entry, self.evaluation
        attack = entry.attack
        if isinstance(attack, PGD) and entry.budgets:
            attack = replace(attack, num_steps=max(entry.budgets))
        saves = self.save_adversarial
        return {
            "kind": KIND,
            **given,
            "entry": entry.name,
            "protocol": evaluation.protocol,
            "attack": attack,
            "budgets": list(entry.budgets),
            "reach_edge": entry.reach_edge,
            "restart": entry.restart,
            "redraw_targets": entry.redraw_targets,
            "worst_case": evaluation.worst_case,
            "preceding": preceding if evaluation.worst_case else [],
            "chunk_size": evaluation.chunk_size,
            "seed": evaluation.seed,
            "images": hash_subset(image_ids),
            "numerics": numerics(self.world),
            "save_adversarial": None if saves is None else str(saves),
        }

    def attack(self, chunk: Chunk) -> list[Row]:
        """The rows of a chunk."""
        batch = _Batch.load(self.images, chunk.ids, self.evaluation.chunk_size, self.world)
        clean = judge(self.model, batch.images, batch.names("when clean"))
        if clean.shape[1] != self.images.num_classes:
            raise ValueError(
                f"the model gives {clean.shape[1]} logits, but the data has "
                f"{self.images.num_classes} classes; judge it on its own data"
            )
        rows = [
            {
                "id": image_id,
                "label": label,
                "target": None,
                "clean": prediction,
                "predictions": {},
            }
            for image_id, label, prediction in zip(
                chunk.ids,
                batch.labels[: batch.count].tolist(),
                clean.argmax(1).tolist(),
                strict=True,
            )
        ]
        places = list(range(batch.count))
        if self.evaluation.worst_case:
            places = self._mark_broken(rows)
            # Compacted inside the chunk and never across, so that chunks stay units of work.
            batch = batch.keep(places)
        if places:
            self._attack_batch(batch, [rows[place] for place in places], chunk.index)
        return rows

    def _mark_broken(self, rows: list[Row]) -> list[int]:
        """Write down who broke the broken images; the places of the others."""
        for row in rows:
            wrong = CLEAN if row["clean"] != row["label"] else None
            row["broken_by"] = self.broken_by.get(row["id"], wrong)
        return [place for place, row in enumerate(rows) if row["broken_by"] is None]

    def _attack_batch(self, batch: _Batch, rows: list[Row], chunk: int) -> None:
        """Attack, re-check, decide; fills in the rows of the batch's real images."""
        entry = self.entry
        # The draws of a restart are its own: its number stands where training has the epoch.
        stream = Stream(seed=self.evaluation.seed, image_ids=batch.image_ids, epoch=entry.restart)
        targets = self._targets(batch, stream)
        start_losses: list[float] | None = None
        final = batch.images
        for key, adversarial in self._walk(batch, stream, targets, chunk):
            attack = entry.attack
            assert_in_ball(adversarial, batch.images, attack.epsilon, attack.norm)
            when = f"after {key} iterations" if key != FINAL else f"under {entry.name}"
            logits = judge(self.model, adversarial, batch.names(when))
            losses = _losses(logits, batch.labels if targets is None else targets)
            if key == "0":
                start_losses = losses
                continue
            final = adversarial
            for row, prediction in zip(rows, logits.argmax(1).tolist(), strict=True):
                row["predictions"][key] = prediction
        if start_losses is None:
            logits = judge(self.model, batch.images, batch.names("when clean"))
            start_losses = _losses(logits, batch.labels if targets is None else targets)
        for place, row in enumerate(rows):
            row["target"] = None if targets is None else int(targets[place])
            row["losses"] = {"start": start_losses[place], "final": losses[place]}
        if self.save_adversarial is not None:
            save_images(
                self.save_adversarial,
                batch.image_ids[: batch.count],
                final[: batch.count],
                batch.images[: batch.count],
                entry.attack.epsilon,
            )

    def _targets(self, batch: _Batch, stream: Stream) -> Tensor | None:
        """Classes to aim at, where the attack aims at one class an image."""
        attack = self.entry.attack
        # APGD-T and AutoAttack try many classes an image and count any mistake.
        if isinstance(attack, (TargetedAPGD, AutoAttack)) or not attack.targeted:
            return None
        if not self.entry.redraw_targets:
            stream = replace(stream, epoch=0)
        goal = aim(attack, self.oracle, batch.images, batch.labels, stream=stream, targets=None)
        return goal.classes

    def _walk(
        self, batch: _Batch, stream: Stream, targets: Tensor | None, chunk: int
    ) -> list[tuple[str, Tensor]]:
        """Adversarial images by budget, the start under "0"; or the attack's result alone."""
        entry = self.entry
        if not entry.budgets:
            attack = entry.attack
            final = attack(self.oracle, batch.images, batch.labels, stream=stream, targets=targets)
            return [(FINAL, final)]
        walked: dict[int, Tensor] = {}
        for path, budgets in entry.paths():
            for start, wanted in self._stretches(path, (0, *budgets), chunk):
                resume = None
                if start is not None and self.kept is not None:
                    resume = (start, self.kept.load(chunk, start, batch.images.device))
                walked |= path.trajectory(
                    self.oracle,
                    batch.images,
                    batch.labels,
                    record_at=wanted,
                    stream=stream,
                    targets=targets,
                    resume=resume,
                )
        if self.kept is not None:
            for budget in walked.keys() - self.kept.budgets(chunk):
                self.kept.save(chunk, budget, walked[budget])
        return [(str(budget), walked[budget]) for budget in sorted(walked)]

    def _stretches(
        self, path: PGD, budgets: tuple[int, ...], chunk: int
    ) -> list[tuple[int | None, tuple[int, ...]]]:
        """The budgets of a path, grouped by the kept iterate from which they are reached."""
        there = set() if self.kept is None else self.kept.budgets(chunk)
        there = {b for b in there if b == 0 or self.entry.step_size(path, b) == path.step_size}
        groups: dict[int | None, list[int]] = {}
        for budget in budgets:
            start = max((b for b in there if b <= budget), default=None)
            groups.setdefault(start, []).append(budget)
        return [(start, tuple(wanted)) for start, wanted in groups.items()]


@torch.no_grad()
def _losses(logits: Tensor, classes: Tensor) -> list[float]:
    """Cross-entropy of each image with respect to the class that the attack is about."""
    values = cross_entropy(logits.double(), classes[: len(logits)], reduction="none")
    return [float(value) for value in values]
