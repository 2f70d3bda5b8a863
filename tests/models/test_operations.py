"""Every operation against a loop over positions written here, in value and gradient."""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from featdenoise.models.operations import (
    OPERATIONS,
    SUBSAMPLED,
    Operation,
    check_operation,
    make_operation,
)

SHAPES = [(2, 4, 5, 3), (1, 2, 3, 6), (1, 2, 1, 4), (1, 4, 2, 2), (1, 2, 1, 1)]


def features(shape: tuple[int, ...], *, with_ties: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (1.5 * x).round().clamp(min=0) if with_ties else x


def operation_on_doubles(name: Operation, channels: int, *, subsample: bool = False) -> nn.Module:
    """The operation with embeddings large enough for attention that is far from uniform."""
    module = make_operation(name, channels, subsample=subsample).double()
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.normal_(std=0.8, generator=generator)
    return module


def inside(x: Tensor, i: int, j: int) -> list[tuple[int, int]]:
    """Positions of the 3x3 neighbourhood of (i, j) that are inside the image, row by row."""
    rows, columns = x.shape[-2:]
    window = [(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]
    return [(a, b) for a, b in window if 0 <= a < rows and 0 <= b < columns]


def pooled(x: Tensor) -> list[Tensor]:
    """Channel-wise maxima of one image's 2x2 cells, cells at the border being smaller."""
    rows, columns = x.shape[-2:]
    return [
        x[:, a : a + 2, b : b + 2].flatten(1).amax(1)
        for a in range(0, rows, 2)
        for b in range(0, columns, 2)
    ]


def embed(module: nn.Module, name: str, image: Tensor) -> Tensor:
    weight = module.get_parameter(f"{name}.weight")[:, :, 0, 0]
    return torch.einsum("ec,chw->ehw", weight, image)


def attended(x: Tensor, subsample: bool) -> list[Tensor]:
    return pooled(x) if subsample else list(x.flatten(1).unbind(1))


def naive_gaussian(module: nn.Module, x: Tensor, i: int, j: int, subsample: bool) -> Tensor:
    query = embed(module, "theta", x)[:, i, j]
    keys = attended(embed(module, "phi", x), subsample)
    values = attended(x, subsample)
    scores = [torch.exp((query @ key) / math.sqrt(x.shape[0] / 2)) for key in keys]
    return sum(s * v for s, v in zip(scores, values, strict=True)) / sum(scores)


def naive_dot(module: nn.Module, x: Tensor, i: int, j: int, subsample: bool) -> Tensor:
    values = attended(x, subsample)
    return sum((x[:, i, j] @ v) * v for v in values) / len(values)


def naive_bilateral_gaussian(
    module: nn.Module, x: Tensor, i: int, j: int, subsample: bool
) -> Tensor:
    query, keys = embed(module, "theta", x)[:, i, j], embed(module, "phi", x)
    scale = math.sqrt(x.shape[0] / 2)
    scores = [torch.exp((query @ keys[:, a, b]) / scale) for a, b in inside(x, i, j)]
    values = [x[:, a, b] for a, b in inside(x, i, j)]
    return sum(s * v for s, v in zip(scores, values, strict=True)) / sum(scores)


def naive_bilateral_dot(module: nn.Module, x: Tensor, i: int, j: int, subsample: bool) -> Tensor:
    neighbours = [x[:, a, b] for a, b in inside(x, i, j)]
    return sum((x[:, i, j] @ v) * v for v in neighbours) / len(neighbours)


def naive_mean(module: nn.Module, x: Tensor, i: int, j: int, subsample: bool) -> Tensor:
    neighbours = [x[:, a, b] for a, b in inside(x, i, j)]
    return sum(neighbours) / len(neighbours)


def naive_median(module: nn.Module, x: Tensor, i: int, j: int, subsample: bool) -> Tensor:
    rows, columns = x.shape[-2:]
    window = [
        (min(max(i + di, 0), rows - 1), min(max(j + dj, 0), columns - 1))
        for di in (-1, 0, 1)
        for dj in (-1, 0, 1)
    ]
    preference = [(i, j), *window]
    chosen = []
    for channel in x:
        median = sorted(channel[a, b].item() for a, b in window)[4]
        a, b = next((a, b) for a, b in preference if channel[a, b].item() == median)
        chosen.append(channel[a, b])
    return torch.stack(chosen)


def naive_null(module: nn.Module, x: Tensor, i: int, j: int, subsample: bool) -> Tensor:
    return x[:, i, j]


NAIVE: dict[str, Callable[[nn.Module, Tensor, int, int, bool], Tensor]] = {
    "gaussian": naive_gaussian,
    "dot": naive_dot,
    "bilateral_gaussian": naive_bilateral_gaussian,
    "bilateral_dot": naive_bilateral_dot,
    "mean": naive_mean,
    "median": naive_median,
    "null": naive_null,
}


def naive(name: str, module: nn.Module, x: Tensor, *, subsample: bool = False) -> Tensor:
    images = []
    for image in x:
        rows, columns = image.shape[-2:]
        cells = [
            NAIVE[name](module, image, i, j, subsample) for i in range(rows) for j in range(columns)
        ]
        images.append(torch.stack(cells, dim=1).reshape(image.shape))
    return torch.stack(images)


def assert_same_value_and_gradients(module: nn.Module, x: Tensor, expected: Tensor) -> None:
    result = module(x)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn(
        x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    inputs = [x, *module.parameters()]
    ours = torch.autograd.grad((result * direction).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_a_loop_over_positions(
    name: Operation, shape: tuple[int, int, int, int]
) -> None:
    x = features(shape).requires_grad_()
    module = operation_on_doubles(name, shape[1])
    assert_same_value_and_gradients(module, x, naive(name, module, x))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SUBSAMPLED)
def test_subsampled_operation_equals_a_loop_over_positions(
    name: Operation, shape: tuple[int, int, int, int]
) -> None:
    x = features(shape).requires_grad_()
    module = operation_on_doubles(name, shape[1], subsample=True)
    assert_same_value_and_gradients(module, x, naive(name, module, x, subsample=True))


@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (1, 2, 1, 4)], ids=str)
def test_gradient_of_the_median_follows_the_rule_for_ties(shape: tuple[int, ...]) -> None:
    x = features(shape, with_ties=True).requires_grad_()
    module = operation_on_doubles("median", shape[1])
    assert_same_value_and_gradients(module, x, naive("median", module, x))


def test_gradient_of_a_flat_region_stays_where_it_is() -> None:
    x = torch.zeros(1, 1, 4, 5, requires_grad=True)
    upstream = torch.arange(20.0).reshape(1, 1, 4, 5)
    (gradient,) = torch.autograd.grad(OPERATIONS["median"](1)(x), x, upstream)
    assert torch.equal(gradient, upstream)


def test_tie_without_the_centre_goes_to_the_first_in_row_major_order() -> None:
    x = torch.tensor([[1.0, 9.0, 1.0], [1.0, 9.0, 1.0], [9.0, 9.0, 1.0]]).reshape(1, 1, 3, 3)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(OPERATIONS["median"](1)(x)[0, 0, 1, 1], x)
    expected = torch.zeros(1, 1, 3, 3)
    expected[0, 0, 0, 0] = 1
    assert torch.equal(gradient, expected)


def test_median_equals_scipy_with_repeated_borders() -> None:
    x = features((1, 3, 6, 9))
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, 3, 3), mode="nearest")
    np.testing.assert_array_equal(OPERATIONS["median"](3)(x).numpy(), expected)


@pytest.mark.parametrize("name", ["gaussian", "bilateral_gaussian", "mean", "median", "null"])
def test_averaging_operation_keeps_a_constant_map_also_at_the_border(name: Operation) -> None:
    x = torch.full((1, 4, 5, 6), 0.75, dtype=torch.float64)
    torch.testing.assert_close(operation_on_doubles(name, 4)(x), x)


def test_softmax_attention_survives_large_similarities() -> None:
    x = (100 * features((1, 4, 3, 5))).requires_grad_()
    for name in ("gaussian", "bilateral_gaussian"):
        result = operation_on_doubles(name, 4)(x)
        (gradient,) = torch.autograd.grad(result.sum(), x)
        assert result.isfinite().all()
        assert gradient.isfinite().all()


def test_subsampling_attends_to_fewer_positions() -> None:
    x = features((1, 4, 6, 6))
    assert not torch.allclose(
        operation_on_doubles("gaussian", 4)(x),
        operation_on_doubles("gaussian", 4, subsample=True)(x),
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_never_mixes_images(name: Operation) -> None:
    x = features((3, 4, 5, 6))
    module = operation_on_doubles(name, 4)
    alone = torch.cat([module(image[None]) for image in x])
    torch.testing.assert_close(module(x), alone)


def test_reference_loop_is_not_trivial() -> None:
    x = features((1, 4, 5, 6))
    for name in OPERATIONS:
        changed = not torch.allclose(naive(name, operation_on_doubles(name, 4), x), x)
        assert changed == (name != "null")


def test_literal_and_registry_name_the_same_operations() -> None:
    assert list(get_args(Operation)) == list(OPERATIONS)


def test_mean_differs_from_counting_zeros_at_the_border_only() -> None:
    x = features((1, 2, 5, 6))
    ours = OPERATIONS["mean"](2)(x)
    zeros_counted = F.avg_pool2d(x, 3, stride=1, padding=1)
    same = torch.isclose(ours, zeros_counted)
    assert same[..., 1:-1, 1:-1].all()
    assert not same[..., 0, :].any()


def test_unknown_operation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"denoise must be one of gaussian, dot.*'blur'"):
        check_operation("blur", subsample=False)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in SUBSAMPLED])
def test_subsampling_a_local_operation_is_refused(name: Operation) -> None:
    with pytest.raises(ValueError, match="subsample"):
        make_operation(name, 4, subsample=True)


@pytest.mark.parametrize("name", ["gaussian", "bilateral_gaussian"])
def test_embedding_of_odd_channels_is_refused(name: Operation) -> None:
    with pytest.raises(ValueError, match="channels must be even"):
        make_operation(name, 5)
