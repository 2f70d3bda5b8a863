"""Recipes: everything that defines a training run's weights, as named Python values.

A recipe says nothing of processes, folders or logging. Two runs of one recipe on equal kinds of
hardware end with the same bits on any number of processes (DESIGN, L3); what else changes the bits
(threads, reduction) is a field here, so it is recorded and compared on resume.
"""

import math
from dataclasses import dataclass

from featdenoise.attacks.pgd import PGD
from featdenoise.base.exact_sum import Reduction
from featdenoise.data.config import DataConfig
from featdenoise.models.config import Denoise, ModelConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Large-batch synchronous SGD on clean or adversarial images (Xie et al. 2019, Sec. 5)."""

    model: ModelConfig
    data: DataConfig
    attack: PGD | None
    """The attack to train on; none trains on clean images."""
    epochs: float
    batch_size: int
    """Images a step, over all processes."""
    micro_batch_size: int = 32
    """Images in a batch-norm group; processes share whole micro-batches."""
    learning_rate: float
    """Peak rate, after warm-up. Sec. 5: 0.1 * batch_size / 256."""
    warmup_epochs: float = 0
    milestones: tuple[float, ...] = ()
    """Epochs at which the rate drops tenfold."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """On convolution and linear weights only."""
    label_smoothing: float = 0.1
    seed: int = 0
    reduction: Reduction = "exact"
    """How gradients are summed: exact integers, or one float sum that depends on the split."""
    threads_per_process: int = 1
    """CPU threads; kernels round differently with another number."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if self.micro_batch_size < 2:
            raise ValueError(f"micro_batch_size must be >= 2, got {self.micro_batch_size}")
        if self.batch_size < 1 or self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size must be a multiple of micro_batch_size {self.micro_batch_size}, "
                f"got {self.batch_size}"
            )
        if not 0 < self.epochs < math.inf:  # written so that NaN is refused too
            raise ValueError(f"epochs must be > 0 and finite, got {self.epochs:g}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate:g}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing:g}")
        if self.threads_per_process < 1:
            raise ValueError(f"threads_per_process must be >= 1, got {self.threads_per_process}")
        if self.attack is not None and self.attack.num_steps == 0:
            raise ValueError("attack.num_steps must be >= 1 in training; use attack None for clean")

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches in a step; at most so many processes can share it."""
        return self.batch_size // self.micro_batch_size


DIGITS_EPSILON = 26 / 255
"""Radius of the digits recipes: about 0.1, of which a clean-trained net keeps nothing."""


def _digits(*, denoise: Denoise, attack: PGD | None) -> Recipe:
    return Recipe(
        model=ModelConfig(name="resnet8", num_classes=10, denoise=denoise),
        data=DataConfig(name="digits"),
        attack=attack,
        epochs=15,
        batch_size=128,
        learning_rate=0.2,
        warmup_epochs=1,
        milestones=(10, 13),
    )


_DIGITS_PGD = PGD(
    epsilon=DIGITS_EPSILON, step_size=6 / 255, num_steps=7, clean_start_probability=0.2
)

RECIPES: dict[str, Recipe] = {
    "digits-clean": _digits(denoise="none", attack=None),
    "digits-denoise-clean": _digits(denoise="gaussian", attack=None),
    "digits": _digits(denoise="none", attack=_DIGITS_PGD),
    "digits-denoise": _digits(denoise="gaussian", attack=_DIGITS_PGD),
    # Madry et al. 2018, Sec. 5: PGD-7, epsilon 8/255, step 2/255, batch 128, 80,000 steps.
    "cifar10-madry": Recipe(
        model=ModelConfig(name="wideresnet28_10", num_classes=10),
        data=DataConfig(name="cifar10"),
        attack=PGD(epsilon=8 / 255, step_size=2 / 255, num_steps=7),
        epochs=200,
        batch_size=128,
        micro_batch_size=128,
        learning_rate=0.1,
        milestones=(100, 150),
        weight_decay=2e-4,
        label_smoothing=0.0,
    ),
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: unknown; lists the known ones.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known recipes: {', '.join(RECIPES)}")
    return RECIPES[name]
