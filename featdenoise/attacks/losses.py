"""What an attack ascends (untargeted, against the label) or descends (targeted, to the target).

One loss an image, (N, K) logits and (N,) classes -> (N,), in float32 or higher: a loss in bfloat16
is a measurably weaker attack. Attacks differentiate the sum over the batch, not the mean, so an
image's gradient does not depend on its neighbours.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["cross_entropy", "margin", "dlr"]


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """-log softmax(logits)[class] of each image (Xie et al., Sec. 5)."""
    return functional.cross_entropy(_at_least_float32(logits), classes, reduction="none")


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """The best other logit minus that of the class (f6 of Carlini & Wagner 2017, not cut off).

    Positive when the image is not taken for `classes`; unlike the cross-entropy it does not
    flatten out for confident networks.
    """
    logits = _at_least_float32(logits)
    index = classes.unsqueeze(1)
    others = logits.scatter(1, index, -torch.inf)
    return others.max(1).values - logits.gather(1, index).squeeze(1)


def dlr(logits: Tensor, classes: Tensor) -> Tensor:
    """The margin over the gap from the first to the third logit (Croce & Hein 2020, eq. 6).

    Neither shifting nor scaling the logits changes it, so a network cannot hide behind a
    temperature; positive when the image is not taken for `classes`.

    Raises:
        ValueError: fewer than three classes.
    """
    first, _, third = _leading(logits, 3, "dlr")
    return margin(logits, classes) / (first - third + _TIED)


def dlr_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """How far the target's logit is above the label's, scaled like `dlr` (eq. 7).

    Raises:
        ValueError: fewer than four classes.
    """
    first, _, third, fourth = _leading(logits, 4, "dlr_targeted")
    logits = _at_least_float32(logits)
    target, label = (logits.gather(1, c.unsqueeze(1)).squeeze(1) for c in (targets, labels))
    return (target - label) / (first - (third + fourth) / 2 + _TIED)


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}

_TIED = 1e-12
"""Keeps the quotient finite where the leading logits are equal."""


def _leading(logits: Tensor, count: int, loss: str) -> tuple[Tensor, ...]:
    """The largest logits of each image, the first one first, (N,) each."""
    if logits.shape[1] < count:
        raise ValueError(f"{loss} needs at least {count} classes, got {logits.shape[1]}")
    return _at_least_float32(logits).topk(count).values.unbind(1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
