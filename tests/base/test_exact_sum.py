import itertools
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from featdenoise.base.exact_sum import STATISTICS_BITS, ExactSum, FloatSum


def nothing(_: Tensor) -> None:
    """One process: there is nobody to add."""


def make_terms(count: int) -> list[list[Tensor]]:
    g = torch.Generator().manual_seed(0)
    scale = torch.logspace(-6, 2, 5)
    return [
        [torch.randn(3, 5, generator=g) * scale, torch.randn(7, generator=g)] for _ in range(count)
    ]


def mean_over_processes(terms: list[list[Tensor]], split: list[list[int]], kind=ExactSum) -> list:
    """The mean as processes compute it that hold the terms of `split`."""
    sums = [kind(terms[0], num_terms=len(terms)) for _ in split]
    for total, share in zip(sums, split, strict=True):
        for k in share:
            total.add(terms[k])
    others = sum(s._buffer for s in sums[1:]) if len(sums) > 1 else 0
    return sums[0].mean(lambda buffer: buffer.add_(others))


def test_the_mean_has_the_same_bits_in_any_order_and_split() -> None:
    terms = make_terms(4)
    splits = [
        [[0, 1, 2, 3]], [[3, 2, 1, 0]], [[0, 2], [1, 3]], [[0, 3], [1], [2]], [[3], [2], [1], [0]],
    ]  # fmt: skip
    results = [mean_over_processes(terms, split) for split in splits]
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_float_sums_do_not_have_that_property() -> None:
    # Were they equal too, the test above would prove nothing.
    terms = make_terms(4)
    orders = [
        mean_over_processes(terms, [list(p)], FloatSum) for p in itertools.permutations(range(4))
    ]
    assert any(not torch.equal(orders[0][1], other[1]) for other in orders[1:])


def test_the_mean_is_the_true_mean_to_the_stated_resolution() -> None:
    terms = make_terms(5)
    (first, _) = mean_over_processes(terms, [[0, 1, 2, 3, 4]])
    for position in itertools.product(range(3), range(5)):
        exact = sum(Fraction(float(t[0][position])) for t in terms) / 5
        # Half a unit of 2^-44 from each rounding, then the cast to float32.
        bound = 2.0**-45 + abs(float(exact)) * 2.0**-24
        assert abs(float(first[position]) - float(exact)) <= bound
    assert first.dtype == torch.float32


def test_the_sum_starts_again_after_each_mean() -> None:
    terms = make_terms(1)
    total = ExactSum(terms[0], num_terms=1)
    total.add(terms[0])
    first = total.mean(nothing)
    total.add(terms[0])
    assert torch.equal(total.mean(nothing)[0], first[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [ExactSum, FloatSum])
def test_a_value_that_is_not_finite_is_an_error_not_a_silent_cast(kind, bad: float) -> None:
    total = kind([torch.zeros(3)], num_terms=2)
    total.add([torch.tensor([0.0, bad, 1.0])])
    with pytest.raises(FloatingPointError, match="gradient are not finite"):
        total.mean(nothing)
    total.add([torch.ones(3)])  # usable again
    assert torch.equal(total.mean(nothing)[0], torch.full((3,), 0.5))


def test_a_value_that_could_overflow_is_an_error() -> None:
    total = ExactSum([torch.zeros(2)], num_terms=128)
    largest = 2.0**18 / 128
    total.add([torch.tensor([largest, -largest])])
    assert total.mean(nothing)[0].tolist() == [largest / 128, -largest / 128]
    total.add([torch.tensor([largest * 1.001, 0.0])])
    with pytest.raises(FloatingPointError, match="exceed 2048"):
        total.mean(nothing)


def test_the_largest_allowed_terms_do_not_overflow() -> None:
    total = ExactSum([torch.zeros(1)], num_terms=128)
    for _ in range(128):
        total.add([torch.tensor([2.0**11])])
    assert total.mean(nothing)[0].item() == 2.0**11


def test_statistics_may_be_larger() -> None:
    total = ExactSum([torch.zeros(1)], num_terms=128, bits=STATISTICS_BITS, what="variance")
    total.add([torch.tensor([1e6])])
    assert total.mean(nothing)[0].item() == pytest.approx(1e6 / 128)


def test_an_empty_list_of_tensors_is_a_sum_too() -> None:
    for kind in (ExactSum, FloatSum):
        total = kind([], num_terms=1)
        total.add([])
        assert total.mean(nothing) == []
