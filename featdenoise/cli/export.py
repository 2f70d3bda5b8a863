"""`featdenoise export SOURCE`: a weights folder with its model card, from a run or a checkpoint."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from featdenoise.base.checkpoint import list_checkpoints, write_atomically
from featdenoise.base.distributed import Device, World
from featdenoise.models.info import ModelInfo
from featdenoise.models.registry import Classifier
from featdenoise.models.weights import (
    CONFIG_FILE,
    fingerprint_weights,
    load_model_and_info,
    save_weights,
)
from featdenoise.report.card import measured_clean_accuracy, model_card, read_measurements

CARD_FILE = "README.md"
_WEIGHTS_OF_A_RUN = "weights"


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write model.safetensors, config.json and a model card, ready to be shared."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of a training run (its last checkpoint), a checkpoint, or a weights folder."""
    out: Path
    """Folder of the weights; its name is the card's title."""
    results: tuple[Path, ...] = ()
    """Folders of evaluations of these weights, for the card."""
    licence: str | None = None
    """Licence of the weights, such as CC-BY-4.0."""

    device: tyro.conf.Suppress[Device] = "cpu"

    def run(self, world: World) -> str:
        """Write the folder; the text says where it is."""
        if not world.is_main:
            return ""
        model, info = load_model_and_info(_weights_of(self.source))
        if self.licence is not None:
            info = dataclasses.replace(info, licence=self.licence)
        write_folder(self.out, model, info, results=self.results)
        return f"weights, config and card in {self.out}"


def write_folder(
    out: Path, model: Classifier, info: ModelInfo, *, results: Sequence[Path] = ()
) -> None:
    """Write a weights folder with its card; the results decide what the card says is measured.

    Raises:
        FileNotFoundError: a results folder without results.
        ValueError: results of other weights.
    """
    name = out.resolve().name
    measurements = read_measurements(results, name=name, weights=fingerprint_weights(model))
    measured = measured_clean_accuracy(measurements)
    if measured is not None:
        info = dataclasses.replace(info, clean_accuracy=measured)
    save_weights(out, model, info)
    config = json.loads((out / CONFIG_FILE).read_bytes())
    card = model_card(config, name=name, measurements=measurements)
    write_atomically(out / CARD_FILE, card.encode())


def _weights_of(source: str) -> str:
    """A run folder's last checkpoint or final weights; anything else as it is."""
    folder = Path(source)
    if not folder.is_dir() or (folder / CONFIG_FILE).is_file():
        return source
    checkpoints = list_checkpoints(folder)
    if checkpoints:
        return str(checkpoints[-1])
    if (folder / _WEIGHTS_OF_A_RUN).is_dir():
        return str(folder / _WEIGHTS_OF_A_RUN)
    raise FileNotFoundError(
        f"{folder} holds neither checkpoints nor weights; give a run folder, a checkpoint or a "
        "weights folder"
    )
