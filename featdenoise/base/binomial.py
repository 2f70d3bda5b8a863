"""Counts with exact bounds: Clopper-Pearson, the two-sided binomial test, printed proportions.

All bounds are computed in float64 on the CPU. The one-sided bounds are those of certificates
(Cohen et al. 2019, Sec. 3.2); the two-sided interval is the one printed behind every percentage.
"""

from dataclasses import dataclass

from scipy.stats import beta, binomtest


def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """One-sided lower bound of a success probability: it is too high with probability <= alpha.

    Args:
        k: successes.
        n: trials, at least 1.
        alpha: failure probability in (0, 1); the whole of it is spent on this one side.

    Raises:
        ValueError: k outside 0..n, n below 1, or alpha outside (0, 1).
    """
    _check_counts(k, n)
    _check_probability("alpha", alpha)
    return 0.0 if k == 0 else float(beta.ppf(alpha, k, n - k + 1))


def clopper_pearson_upper(k: int, n: int, alpha: float) -> float:
    """One-sided upper bound of a success probability: it is too low with probability <= alpha.

    Args:
        k: successes.
        n: trials, at least 1.
        alpha: failure probability in (0, 1); the whole of it is spent on this one side.

    Raises:
        ValueError: k outside 0..n, n below 1, or alpha outside (0, 1).
    """
    _check_counts(k, n)
    _check_probability("alpha", alpha)
    # isf(alpha) and not ppf(1 - alpha): 1 - alpha loses the digits of a tiny alpha.
    return 1.0 if k == n else float(beta.isf(alpha, k + 1, n - k))


def two_sided_p_value(k: int, n: int) -> float:
    """P-value of k successes in n trials under a fair coin, exact and two-sided.

    Raises:
        ValueError: k outside 0..n, or n below 1.
    """
    _check_counts(k, n)
    return float(binomtest(k, n, 0.5, alternative="two-sided").pvalue)


def interval(correct: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval of a proportion, as fractions in [0, 1].

    Raises:
        ValueError: correct outside 0..count, count below 1, or confidence outside (0, 1).
    """
    _check_probability("confidence", confidence)
    each_side = (1 - confidence) / 2
    return (
        clopper_pearson_lower(correct, count, each_side),
        clopper_pearson_upper(correct, count, each_side),
    )


@dataclass(frozen=True)
class Proportion:
    """So many of so many; becomes a percentage only when printed, and then with its interval."""

    correct: int
    count: int

    def __post_init__(self) -> None:
        """Refuse impossible counts."""
        _check_counts(self.correct, self.count)

    @property
    def fraction(self) -> float:
        """The share in [0, 1]."""
        return self.correct / self.count

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided Clopper-Pearson interval, as fractions."""
        return interval(self.correct, self.count, confidence)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.fraction:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def _check_counts(k: int, n: int) -> None:
    if n < 1:
        raise ValueError(f"a proportion needs a count of at least 1, got {n}")
    if not 0 <= k <= n:
        raise ValueError(f"successes must be in 0..{n}, got {k}")


def _check_probability(name: str, value: float) -> None:
    if not 0 < value < 1:  # written so that NaN is refused too
        raise ValueError(f"{name} must be strictly between 0 and 1, got {value}")
