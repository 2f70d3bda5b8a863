"""The released `.npz` files of feature denoising, as ordinary models on RGB images in [0, 1].

TensorFlow's layouts are transposed. The original takes BGR images as x * 2 - 1: the channels are
turned round in the first convolution, and x * 2 - 1 is the input normalisation by mean 0.5 and
standard deviation 0.5. Nothing outside this file knows of either.

The names are mapped in one direction, from a model's tensor to a variable of the file, so a file
fits a model exactly when the names asked for are the names found.
"""

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from featdenoise.models.build import Classifier, build_model, load_strictly
from featdenoise.models.config import Denoise, DenoiseAt, ModelConfig

# Batch norm's names come first: its weights and biases are called as those of other layers.
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.(conv|bn)\.", r"conv0.\1."),
        (r"^conv0\.conv\.", "conv0."),
        (r"^backbone\.head\.", "linear."),
        (r"^backbone\.stages\.(\d+)\.after_stage\.", r"group\1_denoise."),
        (r"^backbone\.stages\.(\d+)\.after_block(\d+)\.", r"group\1.block\2.non_local."),
        (r"^backbone\.stages\.(\d+)\.block(\d+)\.", r"group\1.block\2."),
        (r"\.operation\.(theta|phi)\.", r".embedding_\1."),
        (r"\.project\.conv\.", ".conv."),
        (r"\.project\.bn\.", ".conv.bn."),
        (r"\.shortcut\.conv\.", ".convshortcut."),
        (r"\.shortcut\.bn\.", ".convshortcut.bn."),
        (r"\.bn(\d)\.", r".conv\1.bn."),
        (r"\.bn\.weight$", ".bn.gamma"),
        (r"\.bn\.bias$", ".bn.beta"),
        (r"\.running_mean$", ".mean.EMA"),
        (r"\.running_var$", ".variance.EMA"),
        (r"\.weight$", ".W"),
        (r"\.bias$", ".b"),
    )
)
_WITHOUT_VARIABLE = ("normalize.mean", "normalize.std")
_FIRST_CONVOLUTION = "conv0/W"
_HEAD = "linear/W"

_OPTIMIZER = re.compile(
    r"(^|/)(global_step|learning_rate|beta[12]_power|Momentum|Adam(_\d+)?|RMSProp(_\d+)?"
    r"|Adagrad|ExponentialMovingAverage|AccumGrad)$|^apply_gradients/"
)
"""Variables of TensorFlow's optimizers and of tensorpack's trainers: no part of the network."""

_LAYOUT = {4: (3, 2, 0, 1), 2: (1, 0)}
"""Dimensions: [height, width, in, out] to (out, in, height, width), [in, out] to (out, in)."""

_ARCHITECTURES = {
    ((3, 4, 6, 3), 1): "resnet50",
    ((3, 4, 23, 3), 1): "resnet101",
    ((3, 8, 36, 3), 1): "resnet152",
    ((4, 9, 37, 4), 1): "resnet164",
    ((3, 4, 6, 3), 32): "resnext50_32x4d",
    ((3, 4, 23, 3), 32): "resnext101_32x8d",
}
"""(Blocks of each stage, convolution groups) to name."""


def load_tensorpack(path: str | Path, config: ModelConfig | None = None) -> Classifier:
    """The model of a released file, in evaluation mode, on the CPU.

    Args:
        path: an `.npz` with one array a variable; names with or without `:0`. Nothing in it is
            unpickled.
        config: the architecture that the file must hold; None: the one that its names and shapes
            tell.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, damaged, of another architecture, or `config` cannot hold
            these weights; names the first five variables that are missing, unknown or of another
            shape.
    """
    variables = read_variables(path)
    if config is None:
        config = infer_config({name: value.shape for name, value in variables.items()})
    model = build_from_variables(variables, config, str(path))
    return model.eval()


def build_from_variables(
    variables: Mapping[str, np.ndarray], config: ModelConfig, source: str
) -> Classifier:
    """The model of a configuration with the weights of TensorFlow variables.

    Args:
        variables: as by `read_variables`.
        config: padding `tensorflow`, mean and std 0.5, as the weights were trained.
        source: where the variables come from, for messages.

    Raises:
        ValueError: as for `load_tensorpack`.
    """
    for field, needed in (("padding", "tensorflow"), ("mean", (0.5,) * 3), ("std", (0.5,) * 3)):
        if getattr(config, field) != needed:
            raise ValueError(
                f"{field} must be {needed!r} for tensorpack weights, which were trained so; got "
                f"{getattr(config, field)!r}"
            )
    model = build_model(config)
    tensor_of = variables_of(model)
    problems = {
        "missing": [name for name in tensor_of if name not in variables],
        "unknown": [name for name in variables if name not in tensor_of],
    }
    found = [
        f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in problems.items() if names
    ]
    if found:
        raise ValueError(
            f"{source} does not fit {config.name} with denoise {config.denoise!r} at "
            f"{config.denoise_at!r}; {'; '.join(found)}"
        )
    own = model.state_dict()
    weights = {name: own[name] for name in own if variable_name(name) is None} | {
        tensor: _to_torch(name, variables[name]) for name, tensor in tensor_of.items()
    }
    load_strictly(model, weights, source)
    return model


def variables_of(model: nn.Module) -> dict[str, str]:
    """TensorFlow variable to tensor, for every tensor of a model that the original has too."""
    names = {tensor: variable_name(tensor) for tensor in model.state_dict()}
    return {variable: tensor for tensor, variable in names.items() if variable is not None}


def variable_name(tensor: str) -> str | None:
    """The TensorFlow variable of a tensor of our state dict, without `:0`; None: it has none."""
    if tensor in _WITHOUT_VARIABLE or tensor.endswith(".num_batches_tracked"):
        return None
    for pattern, replacement in _RULES:
        tensor = pattern.sub(replacement, tensor)
    return tensor.replace(".", "/")


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    """The configuration of a released net, from the names and shapes of its variables.

    Raises:
        ValueError: the names are not those of one of the original's architectures.
    """
    try:
        num_classes = shapes[_HEAD][1]
        groups = shapes["group0/block0/conv1/W"][3] // shapes["group0/block0/conv2/W"][2]
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"not the weights of a ResNet by tensorpack: no variable {_HEAD}, or no bottlenecks; "
            f"found {', '.join(sorted(shapes)[:5]) or 'nothing'}"
        ) from error
    found = {
        match.groups() for name in shapes if (match := re.match(r"group(\d)/block(\d+)/", name))
    }
    blocks = tuple(sum(group == str(k) for group, _ in found) for k in range(4))
    if (blocks, groups) not in _ARCHITECTURES:
        raise ValueError(
            f"no known net has {blocks} blocks and {groups} convolution groups; known are "
            + ", ".join(f"{name} {b} {g}" for (b, g), name in _ARCHITECTURES.items())
        )
    denoise: Denoise = "none"
    denoise_at: DenoiseAt = "stage"
    if any("_denoise/" in name or "/non_local/" in name for name in shapes):
        # Only the softmax form has embeddings.
        denoise = "gaussian" if any("/embedding_" in name for name in shapes) else "dot"
        denoise_at = "block" if any("/non_local/" in name for name in shapes) else "stage"
    return ModelConfig(
        name=_ARCHITECTURES[blocks, groups],
        num_classes=num_classes,
        denoise=denoise,
        denoise_at=denoise_at,
        padding="tensorflow",
    )


def read_variables(path: str | Path) -> dict[str, np.ndarray]:
    """The network's variables of a released file by name without `:0`; no optimizer state.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an `.npz` file, damaged, or a name in both spellings.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .npz file, or not the whole of one; download it again")
    variables: dict[str, np.ndarray] = {}
    try:
        with np.load(path, allow_pickle=False) as content:
            for key in content.files:
                name = key.removesuffix(":0")
                if _OPTIMIZER.search(name):
                    continue
                if name in variables:
                    raise ValueError(f"variable {name} is there twice, with and without ':0'")
                value = content[key]
                if not isinstance(value, np.ndarray):  # numpy hands other members out as bytes
                    raise ValueError(f"{name} is no array")
                variables[name] = value
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"cannot read the weights of {path}: {error}") from error
    return variables


def _to_torch(name: str, value: np.ndarray) -> Tensor:
    value = value.transpose(_LAYOUT.get(value.ndim, range(value.ndim)))
    if name == _FIRST_CONVOLUTION and value.ndim == 4:
        value = value[:, ::-1]  # its input was BGR
    return torch.from_numpy(np.array(value, order="C"))
