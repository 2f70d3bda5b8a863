"""Weights on disk: a folder of `model.safetensors` and `config.json`, which rebuilds its model.

`config.json` holds the architecture, the input convention, the sha256 of the weights file and
whatever else the writer wants to say (classes, recipe, licence). Nothing is ever unpickled, every
load is strict.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from featdenoise.base.checkpoint import load_checkpoint, write_atomically
from featdenoise.base.results import describe
from featdenoise.models.config import ModelConfig
from featdenoise.models.registry import Classifier, create_model, list_models, load_strictly

logger = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
INPUT_CONVENTION = "float32 RGB (N, 3, H, W) in [0, 1], not normalised"


def save_weights(
    folder: str | Path, model: Classifier, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write a model's weights and configuration to a folder, made if missing.

    Args:
        folder: its `model.safetensors` and `config.json` are replaced.
        model: as made by `create_model`.
        metadata: JSON values or dataclasses, such as the training recipe and the class names.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    content = safetensors.torch.save(tensors)
    config = {
        "format": FORMAT,
        "model": describe(model.config),
        "input": INPUT_CONVENTION,
        "sha256": hashlib.sha256(content).hexdigest(),
        "metadata": describe(metadata or {}),
    }
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    # The hash comes last: a kill in between leaves a folder that is refused, not a wrong model.
    write_atomically(folder / WEIGHTS_FILE, content)
    write_atomically(folder / CONFIG_FILE, text.encode())
    return folder


def load_model(source: str | Path) -> Classifier:
    """A model in evaluation mode, on the CPU, from wherever its weights are.

    Args:
        source: a weights folder, a training checkpoint (`*.pt`), or a name of `list_models`, whose
            weights are then fresh (logged as a warning).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, weights that do not fit, or an unknown name.
    """
    path = Path(source)
    if path.is_dir():
        model = _load_folder(path)
    elif path.suffix == ".pt":
        model = _load_training_checkpoint(path)
    elif str(source) in list_models():
        logger.warning("%s is a name, not weights: the model is untrained", source)
        model = create_model(str(source))
    else:
        raise ValueError(
            f"model {str(source)!r} is neither a weights folder, nor a checkpoint (*.pt), "
            f"nor one of {', '.join(list_models())}"
        )
    return model.eval()


def load_metadata(folder: str | Path) -> dict[str, Any]:
    """What the writer of a weights folder said about it.

    Raises:
        FileNotFoundError: there is no `config.json`.
        ValueError: it is damaged.
    """
    return _read_config(Path(folder))["metadata"]


def fingerprint_weights(model: nn.Module) -> str:
    """A digest of all parameters and buffers, so that a run is not continued on other weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).numpy().tobytes())
    return digest.hexdigest()[:16]


def _load_folder(folder: Path) -> Classifier:
    config = _read_config(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(_what_is_missing(path))
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != config["sha256"]:
        raise ValueError(
            f"{path} is damaged or belongs to another {CONFIG_FILE}: its sha256 is {found[:12]}, "
            f"not {str(config['sha256'])[:12]}; copy or save the folder again"
        )
    model = create_model(_model_config(config["model"], folder / CONFIG_FILE))
    load_strictly(model, safetensors.torch.load(content), str(folder))
    return model


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(_what_is_missing(path))
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} is damaged: it is not JSON; save the folder again") from None
    required = {"format", "model", "sha256", "metadata"}
    if not isinstance(config, dict) or not required <= config.keys():
        raise ValueError(f"{path} must have the fields {', '.join(sorted(required))}")
    if config["format"] != FORMAT:
        raise ValueError(f"{path} has format {config['format']}, this version reads {FORMAT}")
    return config


def _load_training_checkpoint(path: Path) -> Classifier:
    state = load_checkpoint(path)
    for key in ("model_config", "model"):
        if key not in state:
            raise ValueError(
                f"{path} is not a training checkpoint of this package: it has no {key!r}"
            )
    model = create_model(_model_config(state["model_config"], path))
    load_strictly(model, state["model"], str(path))
    return model


def _model_config(description: Any, path: Path) -> ModelConfig:
    try:
        return ModelConfig.from_description(description)
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot rebuild the model of {path}: {error}") from error


def _what_is_missing(path: Path) -> str:
    return (
        f"no {path.name} in {path.parent}; a weights folder holds {WEIGHTS_FILE} and {CONFIG_FILE}"
    )
