import math

import pytest
from scipy.stats import binom

from featdenoise.base.binomial import (
    Proportion,
    clopper_pearson_lower,
    clopper_pearson_upper,
    interval,
    two_sided_p_value,
)

# k, n, alpha, bound: computed independently in high precision, alpha is spent on one side.
LOWER_BOUNDS = [
    (100, 100, 0.001, 0.933254300796991),
    (100, 100, 0.0005, 0.9268078424558299),
    (99, 100, 0.001, 0.9113731112960424),
    (99, 100, 0.0005, 0.9043898889256569),
    (90, 100, 0.001, 0.7753298801677749),
    (60, 100, 0.001, 0.4409842652212994),
    (1000, 1000, 0.001, 0.9931160484209338),
    (990, 1000, 0.001, 0.9760361871553114),
    (10000, 10000, 0.001, 0.9993094630025899),
    (9990, 10000, 0.001, 0.9975883080325683),
    (9900, 10000, 0.001, 0.9865311593238062),
    (9000, 10000, 0.001, 0.8904097336749064),
    (6000, 10000, 0.001, 0.5847476703522463),
    (5200, 10000, 0.001, 0.5045018488791799),
    (5100, 10000, 0.001, 0.4944993067265927),
    (100000, 100000, 0.001, 0.9999309248330094),
    (99000, 100000, 0.001, 0.9889893403774748),
    (90000, 100000, 0.001, 0.8970364962238291),
    (50500, 100000, 0.001, 0.5001089517395879),
    (50500, 100000, 0.0005, 0.4997922566664366),
]
SMALLEST_COUNTS_ABOVE_HALF = [
    (100, 0.001, 66),
    (100, 0.0005, 67),
    (1000, 0.001, 550),
    (1000, 0.0005, 553),
    (10_000, 0.001, 5156),
    (10_000, 0.0005, 5166),
    (100_000, 0.001, 50_490),
    (100_000, 0.0005, 50_521),
]
COUNTS = [(1, 1), (1, 5), (3, 5), (5, 5), (17, 40), (99, 100), (550, 1000)]


@pytest.mark.parametrize(("k", "n", "alpha", "bound"), LOWER_BOUNDS)
def test_lower_bound_has_the_published_value(k, n, alpha, bound):
    assert clopper_pearson_lower(k, n, alpha) == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize(("n", "alpha", "smallest"), SMALLEST_COUNTS_ABOVE_HALF)
def test_smallest_count_whose_lower_bound_reaches_one_half(n, alpha, smallest):
    assert clopper_pearson_lower(smallest, n, alpha) >= 0.5
    assert clopper_pearson_lower(smallest - 1, n, alpha) < 0.5


@pytest.mark.parametrize("alpha", [0.001, 0.05, 1e-9])
@pytest.mark.parametrize(("k", "n"), COUNTS)
def test_bounds_solve_the_tail_sums_that_define_them(k, n, alpha):
    lower = clopper_pearson_lower(k, n, alpha)
    assert _sum_of_tail(n, lower, range(k, n + 1)) == pytest.approx(alpha, rel=1e-9)
    upper = clopper_pearson_upper(n - k, n, alpha)
    assert _sum_of_tail(n, upper, range(n - k + 1)) == pytest.approx(alpha, rel=1e-9)


def _sum_of_tail(n, p, successes):
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in successes)


def test_lower_bound_is_zero_without_successes_and_closed_form_without_failures():
    assert clopper_pearson_lower(0, 100, 0.001) == 0.0
    assert clopper_pearson_lower(50, 50, 0.001) == pytest.approx(0.001 ** (1 / 50), rel=1e-13)


def test_upper_bound_is_one_without_failures_and_mirrors_the_lower_bound():
    assert clopper_pearson_upper(100, 100, 0.001) == 1.0
    for k in range(20):
        mirrored = 1 - clopper_pearson_lower(20 - k, 20, 0.001)
        assert clopper_pearson_upper(k, 20, 0.001) == pytest.approx(mirrored, abs=1e-14)


def test_upper_bound_of_nothing_keeps_a_tiny_alpha():
    assert clopper_pearson_upper(0, 100, 1e-30) == pytest.approx(1 - 1e-30 ** (1 / 100), rel=1e-12)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_interval_covers_the_truth_with_its_confidence(p):
    n = 60
    covered = sum(
        binom.pmf(k, n, p) for k in range(n + 1) if interval(k, n)[0] <= p <= interval(k, n)[1]
    )
    assert 0.95 <= covered < 0.99


def test_interval_spends_half_the_error_on_each_side():
    low, high = interval(90, 100)
    assert low == clopper_pearson_lower(90, 100, (1 - 0.95) / 2)
    assert high == clopper_pearson_upper(90, 100, (1 - 0.95) / 2)
    assert interval(90, 100, 0.99)[0] < low < 0.9 < high < interval(90, 100, 0.99)[1]


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_p_value_is_twice_the_smaller_tail_of_a_fair_coin(n):
    for k in range(n + 1):
        tail = sum(math.comb(n, i) for i in range(max(k, n - k), n + 1)) / 2**n
        assert two_sided_p_value(k, n) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


@pytest.mark.parametrize(
    ("n", "alpha", "smallest"),
    [(100, 0.001, 67), (100, 0.05, 61), (1000, 0.001, 553), (1000, 0.05, 532)],
)
def test_smallest_count_that_the_two_sided_test_accepts(n, alpha, smallest):
    assert two_sided_p_value(smallest, n) <= alpha < two_sided_p_value(smallest - 1, n)


def test_proportion_prints_percent_with_its_interval():
    assert str(Proportion(90, 100)) == "90.0% [82.4, 95.1]"
    assert Proportion(3, 4).fraction == 0.75
    assert Proportion(3, 4).interval() == interval(3, 4)


@pytest.mark.parametrize("function", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_alpha_outside_zero_and_one_is_refused(function, alpha):
    with pytest.raises(ValueError, match="alpha must be strictly between 0 and 1"):
        function(1, 2, alpha)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match=r"successes must be in 0\.\.2, got 3"):
        clopper_pearson_lower(3, 2, 0.1)
    with pytest.raises(ValueError, match=r"successes must be in 0\.\.2, got -1"):
        clopper_pearson_upper(-1, 2, 0.1)
    with pytest.raises(ValueError, match="count of at least 1"):
        two_sided_p_value(0, 0)
    with pytest.raises(ValueError, match="count of at least 1"):
        Proportion(0, 0)
    with pytest.raises(ValueError, match="confidence"):
        interval(1, 2, 1.0)
