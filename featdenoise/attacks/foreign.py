"""Attacks of other libraries as attacks of ours: advertorch, foolbox, torchattacks.

They see the network as a module images -> logits that has neither parameters to train nor a mode to
switch, so they leave no trace on it. Their random numbers are the one exception to the rule that
every draw belongs to an image: the global generators are seeded for each batch from its stream, and
put back afterwards. Nobody vouches for their results: whoever evaluates checks ball and range.

The libraries are imported only when an adapter that needs one runs.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from featdenoise.attacks.core import (
    Norm,
    check_batch,
    check_name,
    check_radius,
    check_stream,
)
from featdenoise.attacks.goal import aim
from featdenoise.attacks.losses import Loss
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import Model
from featdenoise.attacks.targets import TargetChoice
from featdenoise.base.judge import FOREIGN_FAILURES
from featdenoise.base.rng import Stream
from featdenoise.base.units import Pixels

Perturb = Callable[[Tensor, Tensor], Tensor]
"""Images and classes (labels, or targets when targeted) -> adversarial images."""


@dataclass(frozen=True, kw_only=True)
class ForeignAttack:
    """Somebody else's attack; `epsilon`, `norm` and `targeted` are what it is held to."""

    name: str
    """What results and errors call it."""
    epsilon: Pixels
    """Radius of the ball it promises to stay in."""
    norm: Norm = "linf"
    """Norm of the ball."""
    targeted: bool = False
    """Whether it is given target classes instead of labels."""
    target_choice: TargetChoice = "uniform"
    """Which wrong class a targeted attack aims at where no targets are given."""
    make: InitVar[Callable[[nn.Module], Perturb]]
    """Builds the attack for a network; called once a batch, under the batch's seed."""

    loss: ClassVar[Loss] = "margin"

    def __post_init__(self, make: Callable[[nn.Module], Perturb]) -> None:
        check_name("norm", self.norm, Norm)
        check_name("target_choice", self.target_choice, TargetChoice)
        check_radius("epsilon", self.epsilon, self.norm)
        # Not a field: a results header describes fields, and a function has no description.
        object.__setattr__(self, "_make", make)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        stream: Stream,
        targets: Tensor | None = None,
    ) -> Tensor:
        """What the foreign attack returns, as it is: not clipped, not checked but for its shape.

        Args:
            model: a module (in any mode, it is not touched), a callable images -> logits, or a
                `GradientOracle`.
            images: (N, C, H, W) float32 or float64, pixels in [0, 1].
            labels: (N,) int64, true classes.
            stream: randomness of the N images; seeds the batch by its first image.
            targets: (N,) int64, classes to aim at, for a targeted attack.

        Returns:
            (N, C, H, W), of the dtype and on the device of `images`.

        Raises:
            ValueError: images, labels, targets or stream do not fit, with what is wrong.
            RuntimeError: the foreign attack fails, or returns something else than one image an
                image.
        """
        images = images.detach()
        check_batch(images, labels)
        check_stream(stream, images)
        if len(images) == 0:
            return images.clone()
        oracle = GradientOracle.of(model)
        goal = aim(self, oracle, images, labels, stream=stream, targets=targets)
        shell = _Shell(oracle, images)
        with _seeded(batch_seed(stream), images.device), torch.enable_grad():
            adversarial = self._perturb(shell, images.clone(), goal.classes.clone())
        if not isinstance(adversarial, Tensor) or adversarial.shape != images.shape:
            got = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial)
            raise RuntimeError(
                f"{self.name} must return a tensor of shape {tuple(images.shape)}, got {got}"
            )
        return adversarial.detach().to(images)

    def _perturb(self, shell: nn.Module, images: Tensor, classes: Tensor) -> Any:
        make: Callable[[nn.Module], Perturb] = self.__dict__["_make"]
        try:
            return make(shell)(images, classes)
        except FOREIGN_FAILURES as error:
            kind = type(error).__name__
            raise RuntimeError(f"{self.name} failed with {kind}: {error}") from error


def from_advertorch(
    make: Callable[[nn.Module], Any],
    *,
    name: str,
    epsilon: float,
    norm: Norm = "linf",
    targeted: bool = False,
) -> ForeignAttack:
    """Any object with advertorch's `perturb(images, classes)`.

    Args:
        make: builds the object for a network, as in
            `lambda model: LinfPGDAttack(model, eps=8 / 255, targeted=True)`.
        name: what results and errors call it.
        epsilon: radius of the ball it is held to; the object's own radius is set in `make`.
        norm: norm of that ball.
        targeted: whether `perturb` takes targets.
    """

    def build(model: nn.Module) -> Perturb:
        perturb: Perturb = make(model).perturb
        return perturb

    return ForeignAttack(name=name, epsilon=epsilon, norm=norm, targeted=targeted, make=build)


def from_torchattacks(
    make: Callable[[nn.Module], Any],
    *,
    name: str,
    epsilon: float,
    norm: Norm = "linf",
    targeted: bool = False,
) -> ForeignAttack:
    """An attack of torchattacks, as in `lambda model: torchattacks.PGD(model, eps=8 / 255)`.

    Arguments as for `from_advertorch`; a targeted one is switched to targets by label here.
    """

    def build(model: nn.Module) -> Perturb:
        attack = make(model)
        if targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        perturb: Perturb = attack
        return perturb

    return ForeignAttack(name=name, epsilon=epsilon, norm=norm, targeted=targeted, make=build)


def from_foolbox(
    attack: Any, *, name: str, epsilon: float, norm: Norm = "linf", targeted: bool = False
) -> ForeignAttack:
    """An attack of foolbox, such as `foolbox.attacks.LinfPGD()`, run at `epsilon`.

    Arguments as for `from_advertorch`, but the object itself: foolbox's attacks know no network.
    """

    def build(model: nn.Module) -> Perturb:
        import foolbox

        criteria = foolbox.criteria
        criterion = criteria.TargetedMisclassification if targeted else criteria.Misclassification

        def perturb(images: Tensor, classes: Tensor) -> Tensor:
            network = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
            _, clipped, _ = attack(network, images, criterion(classes), epsilons=epsilon)
            clipped_images: Tensor = clipped
            return clipped_images

        return perturb

    return ForeignAttack(name=name, epsilon=epsilon, norm=norm, targeted=targeted, make=build)


def batch_seed(stream: Stream) -> int:
    """What the global generators are seeded with for this batch."""
    return int(stream.generators("foreign")[0].integers(0, 1 << 31))


class _Shell(nn.Module):
    """The oracle as a module in evaluation mode; its one parameter says dtype and device."""

    def __init__(self, oracle: GradientOracle, images: Tensor) -> None:
        super().__init__()
        self._oracle = oracle
        self.place = nn.Parameter(torch.zeros_like(images[0, 0, 0, 0]), requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        return self._oracle(images.to(self.place))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Python's, numpy's and torch's global generators seeded; afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
