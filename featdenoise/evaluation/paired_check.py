"""A stronger attack must not leave a model more accurate than a weaker one: tested over images."""

from typing import NamedTuple

from torch import Tensor

from featdenoise.base.paired import PairedComparison

SIGNIFICANCE = 0.01
"""How rarely two attacks of equal strength fail a check by chance."""


class Finding(NamedTuple):
    """What a check found."""

    passed: bool
    detail: str
    """What was measured, in one sentence."""


def stronger_is_stronger(
    weak_name: str,
    weak: Tensor,
    strong_name: str,
    strong: Tensor,
    *,
    significance: float = SIGNIFICANCE,
) -> Finding:
    """Paired over images: the weaker attack must not break significantly more than the stronger.

    Args:
        weak_name: the weaker attack in words.
        weak: (N,) bool, right under it.
        strong_name: the stronger attack in words.
        strong: (N,) bool, right under it.
        significance: below which probability a difference is no chance.
    """
    counts = PairedComparison.of(weak.tolist(), strong.tolist())
    only_weak_breaks, only_strong_breaks = counts.only_second, counts.only_first
    return Finding(
        only_weak_breaks <= only_strong_breaks or counts.p_value > significance,
        f"{weak_name}: right on {counts.first.correct} of {counts.count}; {strong_name}: right on "
        f"{counts.second.correct}; {only_weak_breaks} broken only by the former, "
        f"{only_strong_breaks} only by the latter (p = {counts.p_value:.2g})",
    )
