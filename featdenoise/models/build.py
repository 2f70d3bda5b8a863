"""From a configuration to a module: the backbones' builders, and the classifier around a backbone.

Weights are whatever the layers draw; `registry.py` initialises them, `tensorpack.py` fills them.
"""

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from featdenoise.models.config import ModelConfig
from featdenoise.models.hooks import denoising_hooks
from featdenoise.models.normalize import InputNormalize
from featdenoise.models.published import PUBLISHED

Builder = Callable[..., nn.Module]
"""(num_classes, hooks) to a backbone whose last layer is called `head`.

One that knows several paddings takes `padding` as a third argument.
"""

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


def takes_padding(name: str) -> bool:
    """Whether a model of `list_models` can be built with another padding than torch's."""
    return "padding" in inspect.signature(_BUILDERS[name]).parameters


def build_model(config: ModelConfig) -> Classifier:
    """The module of a configuration, its weights not yet anything: for who fills or counts them.

    Raises:
        ValueError: an unknown name, or a padding that this backbone does not have.
    """
    if config.name not in _BUILDERS:
        raise ValueError(
            f"unknown model {config.name!r}; known are {', '.join(list_models())}, and to "
            f"create_model the published {', '.join(PUBLISHED)}"
        )
    builder = _BUILDERS[config.name]
    if config.padding != ModelConfig.padding:
        if not takes_padding(config.name):
            able = ", ".join(name for name in list_models() if takes_padding(name))
            raise ValueError(
                f"padding is {config.padding!r}, but {config.name} has {ModelConfig.padding!r} "
                f"only; models that have both: {able}"
            )
        builder = functools.partial(builder, padding=config.padding)
    # Layers draw their usual initial weights as they are built; those draws are thrown away.
    with torch.random.fork_rng(devices=[]):
        return Classifier(config, builder(config.num_classes, denoising_hooks(config)))


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
