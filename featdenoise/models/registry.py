"""The models by name: one function builds any of them, with normalisation inside."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from featdenoise.models.config import ModelConfig
from featdenoise.models.hooks import Hooks, denoising_hooks
from featdenoise.models.initialize import initialize
from featdenoise.models.normalize import InputNormalize

logger = logging.getLogger(__name__)

Builder = Callable[[int, Hooks], nn.Module]
"""(num_classes, hooks) to a backbone whose last layer is called `head`."""

HEAD = "backbone.head"
"""Name of the classifier's last layer inside a `Classifier`."""

_BUILDERS: dict[str, Builder] = {}


class Classifier(nn.Module):
    """Input normalisation, then a backbone: RGB images in [0, 1] to logits."""

    def __init__(self, config: ModelConfig, backbone: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.normalize = InputNormalize(config.mean, config.std)
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) pixels in [0, 1] to (N, num_classes) logits."""
        return self.backbone(self.normalize(images))


def register_model(builder: Builder) -> Builder:
    """Make a backbone known under the name of its function."""
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"a model called {name} is registered already")
    _BUILDERS[name] = builder
    return builder


def list_models() -> list[str]:
    """The names of all models, in alphabetical order."""
    return sorted(_BUILDERS)


def create_model(model: str | ModelConfig, *, seed: int = 0, **fields: Any) -> Classifier:
    """Build a model with fresh weights, in training mode, on the CPU.

    Args:
        model: a name of `list_models`, or a whole configuration.
        seed: seed of the initial weights; the global random state is neither used nor changed.
        fields: fields of `ModelConfig`, which replace those of a configuration.

    Returns:
        A module from (N, 3, H, W) RGB images in [0, 1] to (N, num_classes) logits; its `config`
        rebuilds it.

    Raises:
        ValueError: an unknown name, or a field outside its range.
    """
    if isinstance(model, str):
        config = ModelConfig(name=model, **fields)
    else:
        config = dataclasses.replace(model, **fields)
    if config.name not in _BUILDERS:
        raise ValueError(f"unknown model {config.name!r}; known are {', '.join(list_models())}")
    # Layers draw their usual initial weights as they are built; those draws are thrown away.
    with torch.random.fork_rng(devices=[]):
        backbone = _BUILDERS[config.name](config.num_classes, denoising_hooks(config))
        classifier = Classifier(config, backbone)
    initialize(classifier, seed)
    return classifier


def copy_matching_weights(model: Classifier, source: Classifier) -> list[str]:
    """Start `model` from the weights of `source`, with a new head if the classes differ in number.

    Everything else must match exactly. The input normalisation is copied too, as the weights were
    trained with it, and `model.config` then says so.

    Returns:
        The names of the weights that were not copied.

    Raises:
        ValueError: weights other than the head's differ in name, shape or type.
    """
    weights = source.state_dict()
    kept: list[str] = []
    if model.config.num_classes != source.config.num_classes:
        kept = [name for name in weights if name.startswith(f"{HEAD}.")]
        own = model.state_dict()
        weights |= {name: own[name] for name in kept}
    load_strictly(model, weights, f"{source.config.name} with denoise {source.config.denoise}")
    model.config = dataclasses.replace(model.config, mean=source.config.mean, std=source.config.std)
    if kept:
        logger.info("new head for %d classes: %s", model.config.num_classes, ", ".join(kept))
    return kept


def load_strictly(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights that must fit exactly.

    Args:
        model: changed in place, only if everything fits.
        weights: name to tensor.
        source: where the weights come from, for the message.

    Raises:
        ValueError: lists the first five missing, unexpected and differing weights.
    """
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in weights],
        "unexpected": [name for name in weights if name not in own],
        "different": [
            f"{name} ({_kind_of(weights[name])} there, {_kind_of(own[name])} here)"
            for name in own
            if name in weights and _kind_of(weights[name]) != _kind_of(own[name])
        ],
    }
    found = [
        f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in problems.items() if names
    ]
    if found:
        raise ValueError(f"weights of {source} do not fit the model; {'; '.join(found)}")
    model.load_state_dict(weights, strict=True)


def _kind_of(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
