"""What a training step minimises on one micro-batch: clean or adversarial cross-entropy (Sec. 5).

An objective turns clean images into a loss whose gradient is taken with respect to the weights.
It also counts correct predictions, for the log alone.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD
from featdenoise.base.rng import Stream, generator
from featdenoise.training.schedule import MicroBatch


@dataclass(frozen=True)
class MicroBatchLoss:
    """The loss of one micro-batch and what was right in it."""

    loss: Tensor
    """Scalar, mean over the micro-batch, attached to the graph of the weights."""
    clean_correct: int | None
    """Images right when clean; None where not asked for."""
    adversarial_correct: int | None
    """Images right when attacked; None in clean training."""


class Objective(Protocol):
    """A loss over a micro-batch of clean images (N, C, H, W) in [0, 1] with labels (N,)."""

    def refresh(self) -> None:
        """Take note that the weights have moved; called before each step."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, place: MicroBatch, *, count: bool
    ) -> MicroBatchLoss:
        """The loss of `model`, in training mode; `count` asks for clean accuracy as well."""


@dataclass(frozen=True, kw_only=True)
class CleanTraining:
    """Ordinary training on clean images."""

    label_smoothing: float

    def refresh(self) -> None:
        """Nothing to do."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, place: MicroBatch, *, count: bool
    ) -> MicroBatchLoss:
        """Smoothed cross-entropy on the clean images."""
        del place, count
        logits = model(images)
        loss = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return MicroBatchLoss(loss, _count_correct(logits, labels), None)


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining:
    """Training on PGD images alone; the attack sees the network in evaluation mode (Sec. 5)."""

    attack: PGD
    oracle: GradientOracle
    """The attacked network; refreshed before each step."""
    label_smoothing: float
    seed: int

    def refresh(self) -> None:
        """Bring the attacked network up to the current weights and running statistics."""
        self.oracle.refresh()

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, place: MicroBatch, *, count: bool
    ) -> MicroBatchLoss:
        """Smoothed cross-entropy on adversarial images, in training mode."""
        stream = Stream(seed=self.seed, image_ids=place.image_ids, epoch=place.epoch)
        adversarial = self.attack(
            self.oracle, images, labels, stream=stream, start_clean=self._starts_clean(place)
        )
        logits = model(adversarial)
        loss = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        clean = _count_correct(self.oracle.logits(images), labels) if count else None
        return MicroBatchLoss(loss, clean, _count_correct(logits, labels))

    def _starts_clean(self, place: MicroBatch) -> bool:
        # Sec. 5: 20% of training batches start PGD from the clean image. The original draws once
        # a batch and GPU, which is once a micro-batch here.
        draw = generator(self.seed, "clean start", place.epoch, place.step, place.index).random()
        return bool(draw < self.attack.clean_start_probability)


@torch.no_grad()
def _count_correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())
