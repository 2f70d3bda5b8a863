import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from featdenoise.base.checkpoint import save_checkpoint
from featdenoise.base.results import describe
from featdenoise.models.info import ModelInfo
from featdenoise.models.published import PUBLISHED
from featdenoise.models.registry import Classifier, create_model
from featdenoise.models.weights import (
    load_info,
    load_model,
    load_model_and_info,
    published_info,
    save_weights,
)


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


FACTS = ModelInfo(
    classes=("tench", "goldfish", "crane", "maillot", "toilet tissue"),
    input_size=24,
    resampling="stretch-bicubic",
    recipe={"kind": "Recipe", "epochs": 3},
    data_fingerprint="contents-0123",
    licence="CC BY-NC 4.0",
    origin="https://example.org/weights.npz",
    clean_accuracy={"correct": 7, "count": 10, "data": {"name": "digits"}},
    published={"source": "a paper", "clean_accuracy": 0.5},
)


def test_every_fact_comes_back(folder: Path) -> None:
    save_weights(folder, trained_model(), FACTS)
    assert load_info(folder) == FACTS
    assert load_model_and_info(folder)[1] == FACTS
    blank = ModelInfo()
    assert all(getattr(FACTS, f.name) != getattr(blank, f.name) for f in fields(ModelInfo))


def test_facts_may_be_given_by_name(folder: Path) -> None:
    assert load_info(folder) == ModelInfo(
        recipe={"kind": "Recipe", "epochs": 3}, classes=("a", "b", "c", "d", "e")
    )


def test_config_file_reads_well(folder: Path) -> None:
    save_weights(folder, trained_model(), FACTS)
    config = json.loads((folder / "config.json").read_text())
    assert list(config) == ["format", "model", "input", "metadata", "sha256"]
    assert config["model"]["name"] == "resnet8"
    assert config["model"]["denoise"] == "gaussian"
    assert config["input"] == {
        "convention": "float32 RGB (N, 3, H, W) in [0, 1], not normalised",
        "size": 24,
        "resampling": "stretch-bicubic",
    }
    assert config["metadata"]["licence"] == "CC BY-NC 4.0"
    content = (folder / "model.safetensors").read_bytes()
    assert config["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"license": "MIT"}, "unknown fields license; this version knows classes, clean_accuracy"),
        ({"classes": ["a", "b"]}, "classes must be 5 names for num_classes 5, got 2"),
        ({"classes": [1, 2, 3, 4, 5]}, "classes must be names"),
        ({"input_size": 0}, "input_size must be a whole number >= 1, got 0"),
        ({"resampling": "nearest"}, "resampling must be one of center-crop, center-crop-bicubic"),
        ({"licence": 4}, "licence must be text, got 4"),
        ({"recipe": "digits"}, "recipe must be an object"),
        ({"clean_accuracy": {"correct": 7, "count": 3}}, "must hold correct and count"),
        ({"clean_accuracy": {"correct": 0.7, "count": 1}}, "must hold correct and count"),
    ],
)
def test_facts_of_another_name_or_kind_are_refused(
    tmp_path: Path, facts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save_weights(tmp_path / "weights", trained_model(), facts)
    assert not (tmp_path / "weights").exists()


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
        (lambda c: c.pop("sha256"), "must have the fields format, model, input, metadata, sha256"),
        (lambda c: c.update(colour="BGR"), "must have the fields .*, got colour, format"),
        (lambda c: c.update(format=1), "has format 1, this version reads 2; .*featdenoise export"),
        (lambda c: c["metadata"].update(colour="BGR"), "config.json: unknown fields colour"),
        (lambda c: c["metadata"]["classes"].pop(), "classes must be 5 names .*, got 4"),
        (lambda c: c["metadata"].update(classes=5), "config.json: "),
        (lambda c: c["input"].update(convention="BGR"), "input.convention must be .*'BGR'"),
        (lambda c: c["input"].update(size=-3), "input_size must be a whole number >= 1"),
        (lambda c: c["input"].update(crop=0.9), "input must have convention, size, resampling"),
        (lambda c: c.update(metadata=[]), "input and metadata must be objects"),
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
    state = {
        "model_config": describe(model.config),
        "model": model.state_dict(),
        "step": 7,
        "info": describe(FACTS),
    }
    path = save_checkpoint(tmp_path, 7, state)
    loaded, info = load_model_and_info(path)
    assert loaded.config == model.config
    assert info == FACTS
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
    assert load_info(folder) == ModelInfo()
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_hub_snapshot_comes_back_with_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the Hub's client lays it out: links into a folder of blobs, beside files of other kinds.
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(folder, blobs)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(blobs / name)
    (snapshot / ".gitattributes").touch()
    asked = []

    def download(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"], options["allow_patterns"]))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for source in (str(snapshot), "hf-hub:owner/net", "hf-hub:owner/net@v2"):
        assert torch.equal(load_model(source)(images()), trained_model()(images()))
    files = ["model.safetensors", "config.json"]
    assert asked == [("owner/net", None, files), ("owner/net", "v2", files)]


@pytest.mark.parametrize("name", ["hf-hub:net", "hf-hub:", "hf-hub:a/b/c", "hf-hub:/net"])
def test_hub_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is written hf-hub:owner/repository"):
        load_model(name)


def test_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, **options: Any) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(RuntimeError, match=r"cannot get owner/net from the Hub \(no route\)"):
        load_model("hf-hub:owner/net")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_facts_are_labelled_as_the_authors(name: str) -> None:
    info = published_info(name)
    assert info.licence == "CC BY-NC 4.0"
    assert info.classes is not None
    assert info.classes[1] == "goldfish"
    assert info.input_size == 224
    assert info.resampling == "stretch-bicubic"
    assert info.clean_accuracy is None  # nothing was measured here
    assert info.published is not None
    assert set(info.published["robust_accuracy"]) == {"10", "100", "1000"}


def test_published_accuracies_are_those_of_the_authors_errors() -> None:
    published = published_info("resnet152.xie2019_gaussian").published
    assert published is not None
    assert published["clean_accuracy"] == 0.653
    assert published["robust_accuracy"] == {"10": 0.557, "100": 0.455, "1000": 0.428}
    assert published["attack_success_rate"] == {"10": 0.049, "100": 0.266, "1000": 0.327}


def test_a_name_with_published_weights_loads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def create(name: str, *, pretrained: bool) -> Classifier:
        asked.append((name, pretrained))
        return trained_model()

    monkeypatch.setattr("featdenoise.models.weights.create_model", create)
    model, info = load_model_and_info("resnet152.xie2019")
    assert asked == [("resnet152.xie2019", True)]
    assert not model.training
    assert info == published_info("resnet152.xie2019")
