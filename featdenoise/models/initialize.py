"""Initial weights as a pure function of (seed, parameter name), without the global random state.

Two models that share a parameter's name and shape begin with the same values there, so a denoising
net and its baseline start from the same backbone.
"""

import zlib

import torch
from torch import nn

from featdenoise.base.rng import device_generator
from featdenoise.models.operations import EMBEDDINGS

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at -2 and 2."""


def initialize(model: nn.Module, seed: int) -> None:
    """Draw the weights of every convolution and linear layer, in place; biases become zero.

    Convolutions: normal cut at two standard deviations, variance 2 / (k^2 * outputs) after the cut
    (He et al. 2015, fan-out). Embeddings and linear layers: N(0, 0.01). Batch norms keep what their
    module gave them: scale one, or zero at the end of a denoising block.
    """
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        generator = device_generator(seed, "init", zlib.crc32(f"{name}.weight".encode()))
        weight = module.weight
        if isinstance(module, nn.Linear) or name.rpartition(".")[2] in EMBEDDINGS:
            nn.init.normal_(weight, std=0.01, generator=generator)
        else:
            _he_fan_out(weight, generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _he_fan_out(weight: torch.Tensor, generator: torch.Generator) -> None:
    fan_out = weight.shape[0] * weight[0, 0].numel()
    std = (2 / fan_out) ** 0.5 / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
