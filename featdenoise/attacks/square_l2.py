"""The moves of Square attack in an l2 ball (Andriushchenko et al. 2020, Alg. 3).

The length of the ball's radius is a budget. It starts spread over tiles; a move takes what two
windows hold, and what clipping has left over, and puts it into the first of them, as the old
direction there plus a bump of two halves of opposite sign.
"""

import torch
from torch import Tensor

from featdenoise.attacks.core import project_l2
from featdenoise.base.rng import Stream

_TINY = 1e-12
_TILES_A_SIDE = 5
_SMALLEST_SIDE = 3


def num_draws(channels: int) -> int:
    """Uniform numbers that one move needs: two places, one orientation, one sign a channel."""
    return 5 + channels


def tiled_start(images: Tensor, epsilon: float, stream: Stream) -> Tensor:
    """A point at the edge of the ball: 5 x 5 tiles or more, each a bump of random sign."""
    channels, height, width = images.shape[1:]
    side = max(min(height, width) // _TILES_A_SIDE, 1)
    rows, columns = height // side, width // side
    # Of each tile: one number for its orientation, one a channel for its sign.
    draws = stream.uniform("square tiles", (1 + channels, rows, columns)).to(images.device)
    change = torch.zeros_like(images)
    for row in range(rows):
        for column in range(columns):
            orientation, signs = draws[:, :, row, column].split([1, channels], dim=1)
            top = (height - rows * side) // 2 + row * side
            left = (width - columns * side) // 2 + column * side
            tile = _bumps(orientation, signs, side).to(images)
            change[:, :, top : top + side, left : left + side] = tile
    return _at_edge(images, change, epsilon)


def move_windows(best: Tensor, images: Tensor, epsilon: float, draws: Tensor, side: int) -> Tensor:
    """One candidate an image.

    Args:
        best: (N, C, H, W), the best points so far, inside the ball.
        images: (N, C, H, W), its centres.
        epsilon: its radius.
        draws: (N, 5 + C), uniform in [0, 1).
        side: of the windows.

    Returns:
        (N, C, H, W), pixels in [0, 1], inside the ball.
    """
    channels, height, width = images.shape[1:]
    side = odd_side(side, height, width)
    places, orientation, signs = draws.split([4, 1, channels], dim=1)
    target = _Windows(places[:, :2], side, images)
    source = _Windows(places[:, 2:], side, images)
    change = best - images
    unused = (epsilon**2 - change.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    old = target.read(change)
    held = torch.where(target.mask | source.mask, change, 0).square().sum((2, 3), keepdim=True)
    new = _bumps(orientation, signs, side).to(images) + old / (_norms(old) + _TINY)
    new = new / (_norms(new) + _TINY) * (unused / channels + held).sqrt()
    change = change.masked_fill(source.mask, 0)
    return _at_edge(images, target.write(change, new), epsilon)


def odd_side(side: int, height: int, width: int) -> int:
    """The planned side made odd and at least 3, as far as the image allows."""
    side = max(side, _SMALLEST_SIDE)
    return min(side + (side + 1) % 2, height, width)


def bump(side: int) -> Tensor:
    """(side, side) float64 of norm 1: a positive hill above a negative one.

    Each hill falls off with the Chebyshev distance d from its middle as the sum of 1 / k**2 over
    k > d, up to the hill's own extent.
    """
    upper, lower = _hill(side // 2, side), _hill(side - side // 2, side)
    both = torch.cat([upper, -lower])
    return both / both.square().sum().sqrt()


def _hill(height: int, width: int) -> Tensor:
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    distance = torch.maximum(rows[:, None], columns[None, :])
    steps = torch.arange(1, max(height // 2, width // 2) + 2, dtype=torch.float64)
    tails = steps.pow(-2).flip(0).cumsum(0).flip(0)
    hill = tails[distance]
    return hill / (hill.square().sum().sqrt() + _TINY)


def _bumps(orientation: Tensor, signs: Tensor, side: int) -> Tensor:
    """(N, C, side, side): upright where orientation (N, 1) is below 1/2, else lying; signed."""
    upright = bump(side).to(signs.device)
    lies = (orientation >= 0.5).reshape(-1, 1, 1, 1)
    return torch.where(lies, upright.T, upright) * torch.where(signs < 0.5, 1, -1)[:, :, None, None]


class _Windows:
    """One square window an image; `places` (N, 2) is uniform in [0, 1)."""

    def __init__(self, places: Tensor, side: int, images: Tensor) -> None:
        count, _, height, width = images.shape
        device = images.device
        # In float64: a float32 product may round up to the bound, which lies outside.
        room = torch.tensor([height - side + 1, width - side + 1], device=device)
        top_left = (places.double() * room).long()
        offsets = torch.arange(side, device=device)
        self._rows = (top_left[:, :1] + offsets)[:, None, :, None]
        self._columns = (top_left[:, 1:] + offsets)[:, None, None, :]
        self._image = torch.arange(count, device=device)[:, None, None, None]
        self._channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
        self.mask = self.write(torch.zeros_like(images, dtype=torch.bool), torch.tensor(True))

    def read(self, values: Tensor) -> Tensor:
        """(N, C, side, side): what the windows show."""
        return values[self._image, self._channel, self._rows, self._columns]

    def write(self, values: Tensor, content: Tensor) -> Tensor:
        """A copy of `values` with new content in the windows."""
        place = (self._image, self._channel, self._rows, self._columns)
        return values.index_put(place, content.to(values))


def _norms(windows: Tensor) -> Tensor:
    return windows.square().sum((2, 3), keepdim=True).sqrt()


def _at_edge(images: Tensor, change: Tensor, epsilon: float) -> Tensor:
    length = change.square().sum((1, 2, 3), keepdim=True).sqrt() + _TINY
    return project_l2(images + change / length * epsilon, images, epsilon)
