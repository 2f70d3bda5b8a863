"""Input normalisation as the first layer of a model, so that epsilon and sigma are in pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class InputNormalize(nn.Module):
    """(images - mean) / std, channel by channel; images are RGB in [0, 1].

    Mean and std are persistent buffers: a model's weights carry the normalisation they were trained
    with, also where they are loaded into a model made for another data set.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.num_channels = len(mean)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixels to (N, C, H, W) network input; RuntimeError for another C."""
        # Unflatten refuses another number of channels, which would be broadcast silently.
        return (images.unflatten(1, (self.num_channels,)) - self.mean) / self.std
