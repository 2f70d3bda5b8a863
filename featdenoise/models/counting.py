"""The size of a model without its weights: parameters, and multiply-accumulates of one image.

Everything runs on the meta device, so that the largest net takes milliseconds and no memory.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from featdenoise.models.build import build_model
from featdenoise.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """How large a model is."""

    parameters: int
    """Numbers that training changes."""
    macs: int
    """Multiply-accumulates of one image, in convolutions and matrix products."""


def measure_size(config: ModelConfig, image_size: int) -> ModelSize:
    """Count a model's parameters and the multiply-accumulates of one image.

    Products of non-local operations count, whose number grows with the fourth power of the image
    size. Sorting and weighting of neighbours do not: they are no matrix products.

    Args:
        config: the architecture.
        image_size: height and width.
    """
    model = _build(config).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _leave_out_batch_norm(model)
    counter = FlopCounterMode(display=False)
    images = torch.empty(1, 3, image_size, image_size, device="meta")
    with torch.no_grad(), counter:
        model(images)
    # One multiplication and one addition each.
    return ModelSize(parameters=parameters, macs=counter.get_total_flops() // 2)


def count_parameters(config: ModelConfig) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in _build(config).parameters())


def _build(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return build_model(config)


def _leave_out_batch_norm(model: nn.Module) -> None:
    """It has no products to count, and takes half of the time on the meta device."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, nn.Identity())
