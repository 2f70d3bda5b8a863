"""Weights on disk: a folder of `model.safetensors` and `config.json`, which rebuilds its model.

`config.json` holds the architecture, the input (convention, size, resampling), the sha256 of the
weights file and the facts of `ModelInfo`. Such a folder may lie on the Hugging Face Hub. Nothing is
ever unpickled, every load is strict.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from featdenoise.base.checkpoint import load_checkpoint, write_atomically
from featdenoise.base.results import describe
from featdenoise.models.config import ModelConfig
from featdenoise.models.imagenet_names import imagenet_class_names
from featdenoise.models.info import ModelInfo
from featdenoise.models.published import PUBLISHED
from featdenoise.models.registry import Classifier, create_model, list_models, load_strictly
from featdenoise.models.timm_backbone import is_timm_name

logger = logging.getLogger(__name__)

FORMAT = 2
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
INPUT_CONVENTION = "float32 RGB (N, 3, H, W) in [0, 1], not normalised"
HUB_PREFIX = "hf-hub:"
_FIELDS = ("format", "model", "input", "metadata", "sha256")
_INPUT_FIELDS = {"size": "input_size", "resampling": "resampling"}
"""Entries of `input` in the file to fields of `ModelInfo`."""


def save_weights(
    folder: str | Path, model: Classifier, info: ModelInfo | Mapping[str, Any] | None = None
) -> Path:
    """Write a model's weights and configuration to a folder, made if missing.

    Args:
        folder: its `model.safetensors` and `config.json` are replaced.
        model: as made by `create_model`.
        info: what else is known, as a `ModelInfo` or its fields by name.

    Returns:
        The folder.

    Raises:
        ValueError: a fact of another name or kind, or names for another number of classes.
    """
    if not isinstance(info, ModelInfo):
        info = ModelInfo.from_description(describe(info or {}))
    _check_classes(info, model.config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    content = safetensors.torch.save(tensors)
    config = describe_weights(model.config, info, sha256=hashlib.sha256(content).hexdigest())
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    # The hash comes last: a kill in between leaves a folder that is refused, not a wrong model.
    write_atomically(folder / WEIGHTS_FILE, content)
    write_atomically(folder / CONFIG_FILE, text.encode())
    return folder


def describe_weights(config: ModelConfig, info: ModelInfo, *, sha256: str) -> dict[str, Any]:
    """The content of `config.json`."""
    facts = describe(info)
    del facts["kind"]
    entry = {name: facts.pop(field) for name, field in _INPUT_FIELDS.items()}
    return {
        "format": FORMAT,
        "model": describe(config),
        "input": {"convention": INPUT_CONVENTION, **entry},
        "metadata": facts,
        "sha256": sha256,
    }


def load_model(source: str | Path) -> Classifier:
    """A model in evaluation mode, on the CPU, from wherever its weights are.

    Args:
        source: a weights folder, `hf-hub:owner/repository` (with `@revision` if wanted), a training
            checkpoint (`*.pt`), a name with published weights, or a name of `list_models`, whose
            weights are then fresh (logged as a warning).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, weights that do not fit, or an unknown name.
        RuntimeError: a download fails.
    """
    return load_model_and_info(source)[0]


def load_model_and_info(source: str | Path) -> tuple[Classifier, ModelInfo]:
    """A model as by `load_model`, and what its writer said about it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, weights that do not fit, or an unknown name.
        RuntimeError: a download fails.
    """
    name, path = str(source), Path(source)
    info = ModelInfo()
    if name.startswith(HUB_PREFIX):
        model, info = _load_folder(fetch_from_hub(name))
    elif path.is_dir():
        model, info = _load_folder(path)
    elif path.suffix == ".pt":
        model, info = _load_training_checkpoint(path)
    elif name in PUBLISHED:
        model, info = create_model(name, pretrained=True), published_info(name)
    elif name in list_models() or is_timm_name(name):
        logger.warning("%s is a name, not weights: the model is untrained", source)
        model = create_model(name)
    else:
        known = ", ".join((*PUBLISHED, *list_models()))
        raise ValueError(
            f"model {name!r} is neither a weights folder, nor {HUB_PREFIX}owner/repository, nor a "
            f"checkpoint (*.pt), nor one of {known}, timm/NAME"
        )
    return model.eval(), info


def load_info(folder: str | Path) -> ModelInfo:
    """What the writer of a weights folder said about it.

    Raises:
        FileNotFoundError: there is no `config.json`.
        ValueError: it is damaged.
    """
    return _read_config(Path(folder))[1]


def published_info(name: str) -> ModelInfo:
    """What is known of the weights of a name of `PUBLISHED`."""
    published = PUBLISHED[name]
    return ModelInfo(
        classes=imagenet_class_names(),
        input_size=published.image_size,
        # How the original classifies a folder; its evaluation crops (see `PublishedModel`).
        resampling="stretch-bicubic",
        licence=published.licence,
        origin=published.url,
        published={
            "source": published.source,
            "attack": "targeted PGD, uniform wrong class, linf, epsilon 16/255, step 1/255",
            "clean_accuracy": round(1 - published.clean_error, 6),
            "robust_accuracy": {
                str(steps): round(1 - error, 6) for steps, error in published.robust_error.items()
            },
            "attack_success_rate": {
                str(steps): rate for steps, rate in published.attack_success_rate.items()
            },
        },
    )


def fetch_from_hub(name: str) -> Path:
    """The local folder of a repository on the Hugging Face Hub, downloaded unless it is there.

    Args:
        name: `hf-hub:owner/repository`, with `@revision` if wanted.

    Raises:
        ValueError: a name of another form.
        RuntimeError: there is no such repository, or it cannot be reached.
    """
    # Not at the top: the client takes long to import, and most users never need it.
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"a model on the Hub is written {HUB_PREFIX}owner/repository, got {name}")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=[WEIGHTS_FILE, CONFIG_FILE]
        )
    except OSError as error:
        raise RuntimeError(
            f"cannot get {repository} from the Hub ({str(error).splitlines()[0]}); check the name "
            "and the network, or download the repository another way and give its folder"
        ) from error
    return Path(folder)


def fingerprint_weights(model: nn.Module) -> str:
    """A digest of all parameters and buffers, so that a run is not continued on other weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())  # numpy knows no bfloat16
    return digest.hexdigest()[:16]


def _load_folder(folder: Path) -> tuple[Classifier, ModelInfo]:
    config, info = _read_config(folder)
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
    model_config = _model_config(config["model"], folder / CONFIG_FILE)
    _check_classes(info, model_config)
    model = create_model(model_config)
    load_strictly(model, safetensors.torch.load(content), str(folder))
    return model, info


def _read_config(folder: Path) -> tuple[dict[str, Any], ModelInfo]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(_what_is_missing(path))
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} is damaged: it is not JSON; save the folder again") from None
    if isinstance(config, dict) and config.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} has format {config['format']}, this version reads {FORMAT}; write the folder "
            "again with featdenoise export"
        )
    if not isinstance(config, dict) or config.keys() != set(_FIELDS):
        fields = ", ".join(sorted(config)) if isinstance(config, dict) else "no fields"
        raise ValueError(f"{path} must have the fields {', '.join(_FIELDS)}, got {fields}")
    try:
        return config, _info_of(config["input"], config["metadata"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}; save the folder again") from error


def _info_of(entry: Any, metadata: Any) -> ModelInfo:
    if not isinstance(entry, dict) or not isinstance(metadata, dict):
        raise ValueError("input and metadata must be objects")
    convention, *rest = entry.get("convention"), *sorted(entry.keys() - {"convention"})
    if convention != INPUT_CONVENTION:
        raise ValueError(f"input.convention must be {INPUT_CONVENTION!r}, got {convention!r}")
    if rest != sorted(_INPUT_FIELDS):
        raise ValueError(f"input must have convention, {', '.join(_INPUT_FIELDS)}, got {rest}")
    inputs = {field: entry[name] for name, field in _INPUT_FIELDS.items()}
    return ModelInfo.from_description({**metadata, **inputs})


def _check_classes(info: ModelInfo, config: ModelConfig) -> None:
    if info.classes is not None and len(info.classes) != config.num_classes:
        raise ValueError(
            f"classes must be {config.num_classes} names for num_classes {config.num_classes}, "
            f"got {len(info.classes)}"
        )


def _load_training_checkpoint(path: Path) -> tuple[Classifier, ModelInfo]:
    state = load_checkpoint(path)
    for key in ("model_config", "model"):
        if key not in state:
            raise ValueError(
                f"{path} is not a training checkpoint of this package: it has no {key!r}"
            )
    model = create_model(_model_config(state["model_config"], path))
    load_strictly(model, state["model"], str(path))
    try:
        return model, ModelInfo.from_description(state.get("info", {}))
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot read what {path} says about its model: {error}") from error


def _model_config(description: Any, path: Path) -> ModelConfig:
    try:
        return ModelConfig.from_description(description)
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot rebuild the model of {path}: {error}") from error


def _what_is_missing(path: Path) -> str:
    return (
        f"no {path.name} in {path.parent}; a weights folder holds {WEIGHTS_FILE} and {CONFIG_FILE}"
    )
