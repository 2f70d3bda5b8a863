"""`featdenoise import-tensorpack`: the command; the conversion is tested with the models."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from featdenoise.cli.main import main
from featdenoise.models.build import Classifier, build_model
from featdenoise.models.config import ModelConfig
from featdenoise.models.imagenet_names import imagenet_class_names
from featdenoise.models.published import PUBLISHED
from featdenoise.models.tensorpack import load_tensorpack, variables_of
from featdenoise.models.weights import load_info, load_model


def write_npz(path: Path, config: ModelConfig) -> Path:
    """A file with TensorFlow's names and layouts for this architecture."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Classifier = build_model(config)
    state = model.state_dict()
    variables = {}
    for variable, tensor in variables_of(model).items():
        value = state[tensor].numpy()
        variables[variable] = value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, (0,)))
    np.savez(path, **variables)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(name="resnet50", num_classes=1000, padding="tensorflow")
    return write_npz(tmp_path_factory.mktemp("npz") / "R50.npz", config)


def test_converted_folder_gives_the_same_logits(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "r50"
    assert main(["import-tensorpack", str(file), "--out", str(out), "--licence", "MIT"]) == 0
    assert f"resnet50 with denoise none in {out}; the weights are licensed MIT" in (
        capsys.readouterr().out
    )
    images = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_model(out)(images), load_tensorpack(file)(images))
    info = load_info(out)
    assert info.classes == imagenet_class_names()
    assert (info.input_size, info.resampling) == (224, "stretch-bicubic")
    assert info.licence == "MIT"
    assert info.published is None
    assert (out / "README.md").is_file()


def test_released_net_brings_its_figures_and_licence(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A net small enough for a test in place of the released one.
    name = "resnet152.xie2019"
    config = ModelConfig(name="resnet50", num_classes=1000, padding="tensorflow")
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], config=config))
    out = tmp_path / "net"
    assert main(["import-tensorpack", str(file), "--out", str(out), "--model", name]) == 0
    config_file = json.loads((out / "config.json").read_text())
    assert config_file["metadata"]["licence"] == "CC BY-NC 4.0"
    card = (out / "README.md").read_text()
    assert "Published, not verified here" in card
    assert "| clean | 62.3% | - |" in card
    assert "| 1000 | 39.0% | 36.1% |" in card
    assert "license: cc-by-nc-4.0" in card


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("FILE --model resnet152.xie2019", "does not fit resnet152"),
        ("FILE --model resnet151", "model must be one of resnet152.xie2019"),
        ("FILE --model resnet152.xie2019 --licence MIT", "is CC BY-NC 4.0; leave it out"),
        ("PAGE", "is a web page, not weights"),
        ("nowhere.npz", "nowhere.npz"),
    ],
)
def test_bad_input_is_named(file: Path, tmp_path: Path, line: str, message: str, capsys) -> None:
    page = tmp_path / "page.npz"
    page.write_text("<html>sign in</html>")
    line = line.replace("FILE", str(file)).replace("PAGE", str(page))
    assert main(f"import-tensorpack {line} --out {tmp_path / 'net'}".split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "net").exists()
