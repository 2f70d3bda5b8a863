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

Loss = Literal["cross_entropy", "margin"]


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


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
}


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
