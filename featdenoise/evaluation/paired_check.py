"""A stronger attack must not leave a model more accurate than a weaker one: tested over images."""

from typing import NamedTuple

from torch import Tensor

from featdenoise.base.binomial import two_sided_p_value

SIGNIFICANCE = 0.01
"""How rarely an honest model may fail by chance."""


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
    only_weak = int((~weak & strong).sum())
    only_strong = int((weak & ~strong).sum())
    differing = only_weak + only_strong
    p_value = two_sided_p_value(only_weak, differing) if differing else 1.0
    return Finding(
        only_weak <= only_strong or p_value > significance,
        f"{weak_name}: right on {int(weak.sum())} of {len(weak)}; {strong_name}: right on "
        f"{int(strong.sum())}; {only_weak} broken only by the former, {only_strong} only by "
        f"the latter (p = {p_value:.2g})",
    )
