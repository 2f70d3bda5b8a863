"""Backbones with feature-denoising blocks: RGB images in [0, 1] to logits."""

# Imported for the models they register.
from featdenoise.models import cifar as cifar
from featdenoise.models import resnet as resnet
from featdenoise.models.config import ModelConfig
from featdenoise.models.denoise import DenoisingBlock
from featdenoise.models.operations import OPERATIONS, Operation
from featdenoise.models.registry import (
    Classifier,
    copy_matching_weights,
    create_model,
    list_models,
)
from featdenoise.models.weights import load_model, save_weights

__all__ = [
    "OPERATIONS",
    "Classifier",
    "DenoisingBlock",
    "ModelConfig",
    "Operation",
    "copy_matching_weights",
    "create_model",
    "list_models",
    "load_model",
    "save_weights",
]
