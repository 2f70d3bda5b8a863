"""One attack on one chunk of images: attack, re-check, decide, write down.

The evaluator trusts no attack (DESIGN, L5): it re-checks ball and range of every adversarial image
and decides with its own full-precision forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from featdenoise.base.chunks import Chunk, hash_subset, pad_batch
from featdenoise.base.distributed import World
from featdenoise.base.judge import judge
from featdenoise.base.results import Row, numerics
from featdenoise.base.rng import Stream
from featdenoise.base.units import check_classes, check_images
from featdenoise.base.whitebox_rows import CLEAN, FINAL
from featdenoise.data.imageset import LabelledImages
from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation
from featdenoise.evaluation.iterates import KeptIterates
from featdenoise.evaluation.leftovers import KIND
from featdenoise.evaluation.saved_images import save_images


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
class EntryRun:
    """One entry while it is computed."""

    model: nn.Module
    oracle: GradientOracle
    images: LabelledImages
    evaluation: WhiteboxEvaluation
    entry: Entry
    world: World
    saves_to: Path | None
    preceding: list[str]
    """Earlier entries of the same ball, by name."""
    broken_by: Mapping[int, str] = field(default_factory=dict)
    """Images that those of a worst-case run broke."""
    kept: KeptIterates | None = None
    """Where iterates are kept, if they are."""

    def identity(self, given: Mapping[str, Any], image_ids: Sequence[int]) -> Row:
        """What defines the entry's results."""
        entry, evaluation = self.entry, self.evaluation
        attack = entry.attack
        if isinstance(attack, PGD) and entry.budgets:
            attack = replace(attack, num_steps=max(entry.budgets))
        saves = self.saves_to
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
            "code": entry.code,
            "worst_case": evaluation.worst_case,
            "preceding": self.preceding if evaluation.worst_case else [],
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
            when = f"under {entry.name}" + (f" after {key} iterations" if key != FINAL else "")
            self._require_in_ball(adversarial, batch, when)
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
        if self.saves_to is not None:
            save_images(
                self.saves_to,
                batch.image_ids[: batch.count],
                final[: batch.count],
                batch.images[: batch.count],
                entry.attack.epsilon,
            )

    def _require_in_ball(self, adversarial: Tensor, batch: _Batch, when: str) -> None:
        attack, count = self.entry.attack, batch.count
        try:
            assert_in_ball(adversarial[:count], batch.images[:count], attack.epsilon, attack.norm)
        except RuntimeError as error:
            first, last = batch.image_ids[0], batch.image_ids[count - 1]
            raise RuntimeError(f"{when}, images {first} to {last}: {error}") from None

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
