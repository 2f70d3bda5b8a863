"""Target classes of targeted attacks; every choice belongs to the image, none to its batch."""

from typing import Literal

import torch
from torch import Tensor

from featdenoise.base.rng import Stream

TargetChoice = Literal["uniform", "least_likely", "next"]
"""A random wrong class, the wrong class of the lowest logit, or the class after the label's."""


def uniform_targets(labels: Tensor, num_classes: int, stream: Stream, *, draw: int = 0) -> Tensor:
    """A uniformly random wrong class for each image (Xie et al., Sec. 6).

    label + U{1, ..., K - 1} mod K, so never the true label; the draw belongs to the image.

    Args:
        labels: (N,) int64, true classes.
        num_classes: K, at least 2.
        stream: randomness of the N images.
        draw: number of the draw; another one gives an independent target.

    Returns:
        (N,) int64, on the device of `labels`.

    Raises:
        ValueError: fewer than two classes, or a stream of another length.
    """
    _check_wrong_class(num_classes)
    if len(stream) != len(labels):
        raise ValueError(f"stream has {len(stream)} image ids for {len(labels)} labels")
    shift = 1 + stream.integers("target", num_classes - 1, draw=draw)
    return (labels + shift.to(labels.device)) % num_classes


def next_targets(labels: Tensor, num_classes: int) -> Tensor:
    """The class after the label's, label + 1 mod K, (N,) int64.

    Raises:
        ValueError: fewer than two classes.
    """
    _check_wrong_class(num_classes)
    return (labels + 1) % num_classes


def least_likely_targets(logits: Tensor, labels: Tensor) -> Tensor:
    """The wrong class of the lowest logit (Kurakin et al. 2017), (N,) int64; the first of equals.

    Args:
        logits: (N, K) of the clean images.
        labels: (N,) int64, true classes.

    Raises:
        ValueError: fewer than two classes.
    """
    _check_wrong_class(logits.shape[1])
    return _without_label(logits, labels, torch.inf).sort(dim=1, stable=True).indices[:, 0]


def top_k_targets(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """The k wrong classes of the highest logits, the likeliest first, (N, k) int64.

    Args:
        logits: (N, K) of the clean images.
        labels: (N,) int64, true classes.
        k: how many, at most K - 1.

    Raises:
        ValueError: there are not so many wrong classes.
    """
    num_classes = logits.shape[1]
    if not 1 <= k < num_classes:
        raise ValueError(
            f"{k} target classes asked, but {num_classes} classes leave {num_classes - 1} wrong "
            f"ones; ask for 1 to {num_classes - 1}"
        )
    others = _without_label(logits, labels, -torch.inf)
    return others.sort(dim=1, descending=True, stable=True).indices[:, :k]


def _without_label(logits: Tensor, labels: Tensor, value: float) -> Tensor:
    """The logits with the label's replaced, so that it sorts last."""
    return logits.scatter(1, labels.unsqueeze(1), value)


def _check_wrong_class(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2 for a wrong class, got {num_classes}")
