"""Denoising operations (Xie et al. 2019, Sec. 4.1): what a denoising block does to a feature map.

Every operation takes the number of channels and maps (N, C, H, W) to (N, C, H, W), image by image.
Non-local ones look at all positions, local ones at the 3x3 neighbourhood (the position included).

Border rule: a neighbour outside the image does not exist. `mean` and `bilateral_dot` divide by the
number of neighbours inside (4, 6 or 9), `bilateral_gaussian` takes its softmax over those. `median`
repeats the border pixel instead, so that its windows always hold nine values and an exact middle.

Only kernels with a deterministic backward pass on GPUs are used: slices, constant padding,
elementwise operations, matrix products, pooling. No control flow depends on a shape, so the
operations can be traced by `torch.fx`.

Shape suffixes: N = images, C = channels, E = embedding channels, P = positions H*W, K = positions
attended to (P, or about a quarter of it with sub-sampling).
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDINGS = ("theta", "phi")
"""Attribute names of the embedding convolutions; their initialisation is N(0, 0.01)."""

CENTRE = (1, 1)
NEIGHBOURS = [CENTRE, *((i, j) for i in range(3) for j in range(3) if (i, j) != CENTRE)]
"""Offsets into a map padded by 1: the centre first, then the others row by row."""


class NonLocalGaussian(nn.Module):
    """Softmax of embedded similarities over all positions (Sec. 4.1, "Gaussian (softmax)").

    The values are the features themselves, without an embedding.
    """

    def __init__(self, channels: int, *, subsample: bool = False) -> None:
        super().__init__()
        self.theta = _embedding(channels)
        self.phi = _embedding(channels)
        self.scale = (channels // 2) ** -0.5
        self.pool = _key_pool(subsample)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        theta_NPE = self.theta(x).flatten(2).transpose(1, 2)
        phi_NEK = self.pool(self.phi(x)).flatten(2)
        values_NKC = self.pool(x).flatten(2).transpose(1, 2)
        # The small factor is scaled, not the (P, K) product; that product is used as it lies, since
        # its transpose would be copied in the backward pass.
        weights_NPK = ((theta_NPE * self.scale) @ phi_NEK).softmax(dim=-1)
        return (weights_NPK @ values_NKC).transpose(1, 2).reshape(x.shape)


class NonLocalDot(nn.Module):
    """Dot products over all positions, divided by their number (Sec. 4.1, "Dot product").

    No embedding. X (X^T X) is computed as (X X^T) X, whose cost grows with P and not with P^2.
    """

    def __init__(self, channels: int, *, subsample: bool = False) -> None:
        super().__init__()
        self.pool = _key_pool(subsample)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        keys_NCK = self.pool(x).flatten(2)
        # Divided before the product, which would otherwise grow with the number of positions.
        second_moment_NCC = (keys_NCK / keys_NCK.shape[2]) @ keys_NCK.transpose(1, 2)
        return (second_moment_NCC @ x.flatten(2)).reshape(x.shape)


class BilateralGaussian(nn.Module):
    """The embedded softmax restricted to the 3x3 neighbourhood (Sec. 4.1, "Bilateral filter")."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = _embedding(channels)
        self.phi = _embedding(channels)
        self.scale = (channels // 2) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        theta = self.theta(x) * self.scale
        similarities = [(theta * phi).sum(1) for phi in _neighbours(self.phi(x))]
        inside = torch.stack(_neighbours(torch.ones_like(x[:1, 0]))) > 0
        outside_removed = torch.stack(similarities).masked_fill(~inside, -torch.inf)
        weights = outside_removed.softmax(dim=0)
        return _sum([weights[k][:, None] * v for k, v in enumerate(_neighbours(x))])


class BilateralDot(nn.Module):
    """Dot products with the 3x3 neighbours, divided by their number; no embedding (Sec. 4.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        num_inside = _sum(_neighbours(torch.ones_like(x[:1, :1])))
        terms = [(x * v).sum(1, keepdim=True) * v for v in _neighbours(x)]
        return _sum(terms) / num_inside


class Mean(nn.Module):
    """The mean of the 3x3 neighbourhood (Sec. 4.1, "Mean filter")."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Median(nn.Module):
    """The median of the 3x3 neighbourhood, channel by channel (Sec. 4.1, "Median filter").

    The whole gradient goes to one neighbour that equals the median. Ties are common (zeros after a
    ReLU): then it is the centre if it is among them, else the first in row-major order. The centre
    comes first so that the gradient of a flat region stays where it is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        # Replication padding by hand: its own backward is not deterministic on GPUs.
        rows = torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
        padded = torch.cat([rows[:, :, :, :1], rows, rows[:, :, :, -1:]], dim=3)
        windows = _windows(padded, x)
        result = median = _median_of_nine([window.detach() for window in windows])
        # The last write wins, so the order of preference is walked backwards.
        for window in reversed(windows):
            result = torch.where(window == median, window, result)
        return result


class Null(nn.Module):
    """No denoising: the control with the same 1x1 convolution and parameters (Sec. 6.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), unchanged."""
        return x


Operation = Literal[
    "gaussian", "dot", "bilateral_gaussian", "bilateral_dot", "mean", "median", "null"
]
OPERATIONS: dict[Operation, Callable[..., nn.Module]] = {
    "gaussian": NonLocalGaussian,
    "dot": NonLocalDot,
    "bilateral_gaussian": BilateralGaussian,
    "bilateral_dot": BilateralDot,
    "mean": Mean,
    "median": Median,
    "null": Null,
}
SUBSAMPLED: tuple[Operation, ...] = ("gaussian", "dot")
"""The non-local operations, whose keys and values can be sub-sampled."""


def check_operation(operation: str, *, subsample: bool) -> None:
    """Refuse an unknown operation, and sub-sampling where there is nothing to sub-sample.

    Raises:
        ValueError: names the field, the value and the known ones.
    """
    if operation not in OPERATIONS:
        known = ", ".join(get_args(Operation))
        raise ValueError(f"denoise must be one of {known}, got {operation!r}")
    if subsample and operation not in SUBSAMPLED:
        raise ValueError(
            f"subsample is for the non-local operations {', '.join(SUBSAMPLED)}, "
            f"got denoise {operation!r}; leave subsample off"
        )


def make_operation(operation: Operation, channels: int, *, subsample: bool = False) -> nn.Module:
    """The operation of that name for maps of `channels` channels.

    Raises:
        ValueError: as `check_operation`, or an odd number of channels for an embedded operation.
    """
    check_operation(operation, subsample=subsample)
    if subsample:
        return OPERATIONS[operation](channels, subsample=True)
    return OPERATIONS[operation](channels)


def _embedding(channels: int) -> nn.Conv2d:
    if channels % 2:
        raise ValueError(f"channels must be even, the embeddings have half of them; got {channels}")
    return nn.Conv2d(channels, channels // 2, 1, bias=False)


def _key_pool(subsample: bool) -> nn.Module:
    # Rounding up keeps the last row and column of odd maps, and maps of one pixel.
    return nn.MaxPool2d(2, ceil_mode=True) if subsample else nn.Identity()


def _neighbours(x: Tensor) -> list[Tensor]:
    """The 3x3 neighbours of every position in the order of NEIGHBOURS, zero outside the image."""
    return _windows(F.pad(x, (1, 1, 1, 1)), x)


def _windows(padded: Tensor, x: Tensor) -> list[Tensor]:
    height, width = x.shape[-2:]
    return [padded[..., i : i + height, j : j + width] for i, j in NEIGHBOURS]


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _median_of_nine(values: list[Tensor]) -> Tensor:
    """Sort three triples; the median of nine is the middle of (largest low, middle mid, ...)."""
    lows, middles, highs = zip(*(_sort3(*values[k : k + 3]) for k in (0, 3, 6)), strict=True)
    largest_low = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
    smallest_high = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
    return _sort3(largest_low, _sort3(*middles)[1], smallest_high)[1]


def _sort3(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return (
        torch.minimum(low, c),
        torch.maximum(low, torch.minimum(high, c)),
        torch.maximum(high, c),
    )
