"""AutoAttack (Croce & Hein 2020) through the package pyautoattack, as an attack of ours.

There for its FAB attack and for comparison: `APGD`, `TargetedAPGD` and `Square` are ours. It is a
foreign attack, with what that means for its draws and its result.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from featdenoise.attacks.core import Norm, check_at_least, check_batch, check_name, check_radius
from featdenoise.attacks.foreign import ForeignAttack, Perturb, batch_seed
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import Model
from featdenoise.base.rng import Stream
from featdenoise.base.units import Pixels

AutoAttackName = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """The standard AutoAttack (Croce & Hein 2020) of the package pyautoattack."""

    epsilon: Pixels = 8 / 255
    """Radius of the ball around the clean image."""
    norm: Norm = "linf"
    """Norm of the ball."""
    attacks: tuple[AutoAttackName, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
    """Which of its attacks run, in this order, each on the images that are left."""
    num_targets: int = 9
    """Wrong classes that apgd-t and fab-t try."""

    targeted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_name("norm", self.norm, Norm)
        check_radius("epsilon", self.epsilon, self.norm)
        check_at_least("num_targets", self.num_targets, 1)
        if not self.attacks:
            raise ValueError(f"attacks must name some of {', '.join(get_args(AutoAttackName))}")
        for attack in self.attacks:
            check_name("attacks", attack, AutoAttackName)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        stream: Stream,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Misclassified images where found, else the clean ones; otherwise as `ForeignAttack`.

        Raises:
            ModuleNotFoundError: pyautoattack is not installed.
            ValueError: the model has no more than `num_targets` classes, or see `ForeignAttack`.
        """
        oracle = GradientOracle.of(model)
        foreign = ForeignAttack(
            name="autoattack",
            epsilon=self.epsilon,
            norm=self.norm,
            make=lambda shell: self._build(shell, batch_seed(stream)),
        )
        if any(attack.endswith("-t") for attack in self.attacks) and len(images):
            check_batch(images, labels)
            num_classes = oracle.num_classes(images)
            if self.num_targets >= num_classes:
                raise ValueError(
                    f"num_targets must be below the number of classes, {num_classes}, "
                    f"got {self.num_targets}"
                )
        return foreign(oracle, images, labels, stream=stream, targets=targets)

    def _build(self, model: nn.Module, seed: int) -> Perturb:
        pyautoattack = import_pyautoattack()
        place = next(model.parameters()).device
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        ensemble = pyautoattack.AutoAttack(
            model, norm=norm, eps=self.epsilon, seed=seed, device=place
        )
        # Not its version "custom", which has other restarts than the standard one.
        ensemble.attacks_to_run = list(self.attacks)
        ensemble.apgd_targeted.n_target_classes = self.num_targets
        ensemble.fab.n_target_classes = self.num_targets

        def perturb(images: Tensor, labels: Tensor) -> Tensor:
            adversarial: Tensor
            adversarial, _ = ensemble.run_standard_evaluation(
                images, labels, batch_size=len(images)
            )
            return adversarial

        return perturb


def import_pyautoattack() -> Any:
    """The authors' library; long runs ask for it before they begin.

    Raises:
        ModuleNotFoundError: it is not installed; says how to install it.
    """
    try:
        import pyautoattack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "AutoAttack needs the package pyautoattack: pip install pyautoattack"
        ) from error
    return pyautoattack
