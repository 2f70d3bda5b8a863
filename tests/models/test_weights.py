import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from featdenoise.base.checkpoint import save_checkpoint
from featdenoise.base.results import describe
from featdenoise.models.registry import Classifier, create_model
from featdenoise.models.weights import load_metadata, load_model, save_weights


@dataclass(frozen=True, kw_only=True)
class Recipe:
    epochs: int = 3


def images() -> Tensor:
    return torch.rand((2, 3, 8, 12), generator=torch.Generator().manual_seed(0))


def trained_model() -> Classifier:
    model = create_model("resnet8", num_classes=5, denoise="gaussian", mean=(0.1, 0.2, 0.3))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator).mul(0.2).add(0.1))
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipe = {"recipe": Recipe(), "classes": ("a", "b", "c", "d", "e")}
    return save_weights(tmp_path / "deep" / "weights", trained_model(), recipe)


def rewrite_config(folder: Path, change: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_saved_model_comes_back_with_the_same_bits(folder: Path) -> None:
    original, model = trained_model(), load_model(folder)
    assert model.config == original.config
    assert not model.training
    assert torch.equal(model(images()), original(images()))
    weights = original.state_dict()
    assert all(torch.equal(tensor, weights[n]) for n, tensor in model.state_dict().items())
    assert str(load_model(str(folder)).config) == str(original.config)


def test_saving_a_channels_last_model_changes_nothing(folder: Path, tmp_path: Path) -> None:
    model = trained_model().to(memory_format=torch.channels_last)
    save_weights(tmp_path / "other", model)
    stored = [(f / "model.safetensors").read_bytes() for f in (folder, tmp_path / "other")]
    assert stored[0] == stored[1]


def test_metadata_says_what_the_writer_said(folder: Path) -> None:
    assert load_metadata(folder) == {
        "recipe": {"kind": "Recipe", "epochs": 3},
        "classes": ["a", "b", "c", "d", "e"],
    }
    assert "[0, 1]" in json.loads((folder / "config.json").read_text())["input"]


def test_flipped_byte_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(folder)


def test_missing_weight_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = safetensors.torch.load(path.read_bytes())
    del weights["backbone.head.bias"]
    content = safetensors.torch.save(weights)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_model(folder)
    rewrite_config(folder, lambda c: c.update(sha256=hashlib.sha256(content).hexdigest()))
    with pytest.raises(ValueError, match=r"do not fit the model; 1 missing: backbone\.head\.bias$"):
        load_model(folder)


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    rewrite_config(folder, lambda c: c["model"].update(denoise="mean"))
    with pytest.raises(ValueError, match=r"6 unexpected: .*theta"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_folder_without_its_files_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name} in .*holds model.safetensors and"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("sha256"), "must have the fields format, metadata, model, sha256"),
        (lambda c: c.update(format=2), "has format 2, this version reads 1"),
        (lambda c: c["model"].update(name="resnet21"), "unknown model 'resnet21'"),
        (
            lambda c: c["model"].update(depth=3),
            "cannot rebuild the model of .*unknown fields depth",
        ),
        (lambda c: c.update(model=None), "cannot rebuild the model"),
    ],
)
def test_config_that_rebuilds_no_model_is_refused(folder: Path, change: Any, message: str) -> None:
    rewrite_config(folder, change)
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_damaged_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"format": 1, "mod')
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_model(folder)


def test_training_checkpoint_gives_its_model(tmp_path: Path) -> None:
    model = trained_model()
    state = {"model_config": describe(model.config), "model": model.state_dict(), "step": 7}
    path = save_checkpoint(tmp_path, 7, state)
    loaded = load_model(path)
    assert loaded.config == model.config
    assert torch.equal(loaded(images()), model(images()))


@pytest.mark.parametrize("key", ["model_config", "model"])
def test_checkpoint_of_something_else_is_refused(tmp_path: Path, key: str) -> None:
    model = trained_model()
    state = {"model_config": describe(model.config), "model": model.state_dict()}
    del state[key]
    with pytest.raises(ValueError, match=f"it has no '{key}'"):
        load_model(save_checkpoint(tmp_path, 1, state))


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        load_model(tmp_path / "nowhere.pt")


def test_name_gives_fresh_weights_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = load_model("resnet8")
    assert "resnet8 is a name, not weights: the model is untrained" in caplog.text
    fresh = create_model("resnet8").eval()
    assert torch.equal(model(images()), fresh(images()))
    assert not model.training


def test_source_that_is_nothing_known_is_refused(folder: Path) -> None:
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"neither a weights folder.*nor one of.*resnet20"):
        load_model(folder)


def test_saving_again_replaces_the_old_weights(folder: Path) -> None:
    model = create_model("resnet20").eval()
    save_weights(folder, model)
    assert torch.equal(load_model(folder)(images()), model(images()))
    assert load_metadata(folder) == {}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
