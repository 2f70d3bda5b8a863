"""`featdenoise export`: from a run, a checkpoint or weights to a folder with a card."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from featdenoise.base.distributed import World
from featdenoise.base.imagefiles import to_uint8, write_png
from featdenoise.cli.main import main
from featdenoise.data.config import DataConfig
from featdenoise.data.registry import load_dataset
from featdenoise.models.weights import load_info, load_model
from featdenoise.training.loop import RunOptions, train
from featdenoise.training.recipes import RECIPES


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with its checkpoint and its weights."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    recipe = replace(RECIPES["digits-clean"], epochs=2 / 11, milestones=())
    outcome = train(recipe, folder, RunOptions(show_progress=False), World())
    assert outcome.finished
    return folder


@pytest.fixture(scope="module")
def sweep(run_folder: Path) -> Path:
    """White-box results of those weights."""
    out = run_folder.parent / "sweep"
    model = f"--model {run_folder / 'weights'} --subset first:20 --threads 1"
    assert main(f"whitebox {model} --out {out} --budgets 1 2".split()) == 0
    return out


def images() -> torch.Tensor:
    return torch.rand((3, 3, 16, 16), generator=torch.Generator().manual_seed(0))


def test_run_checkpoint_and_weights_export_alike(run_folder: Path, tmp_path: Path) -> None:
    (checkpoint,) = run_folder.glob("*.pt")
    sources = [run_folder, checkpoint, run_folder / "weights"]
    folders = [tmp_path / str(k) / "net" for k in range(3)]
    for source, folder in zip(sources, folders, strict=True):
        command = ["export", str(source), "--out", str(folder), "--licence", "CC BY 4.0"]
        assert main(command) == 0
    files = ["README.md", "config.json", "model.safetensors"]
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == files
        for name in files:
            assert (folder / name).read_bytes() == (folders[0] / name).read_bytes()
    original = load_model(run_folder / "weights")
    assert torch.equal(load_model(folders[0])(images()), original(images()))
    info = load_info(folders[0])
    assert info.licence == "CC BY 4.0"
    assert info.classes == tuple("0123456789")
    assert (info.input_size, info.resampling) == (16, "stretch-bilinear")
    assert info.recipe is not None
    assert info.recipe["epochs"] == 2 / 11
    assert info.data_fingerprint is not None


def test_exported_model_predicts_the_images_of_its_evaluation(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = load_dataset(DataConfig(name="digits"), "test").batch(range(30))
    for k, pixels in enumerate(to_uint8(images)):
        write_png(tmp_path / f"{k:02d}.png", pixels)
    assert main(["predict", str(run_folder / "weights"), str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    predicted = [int(row.split(",")[1]) for row in rows]
    assert predicted == load_model(run_folder / "weights")(images).argmax(1).tolist()
    assert len(set(predicted)) > 1


def test_card_without_results_claims_nothing(run_folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(run_folder), "--out", str(tmp_path / "net")]) == 0
    card = (tmp_path / "net" / "README.md").read_text()
    assert "Nothing has been measured on these weights." in card
    assert "%" not in card.replace("[0, 1]", "")
    assert "Not stated" in card


def test_results_fill_the_card_and_the_config(run_folder: Path, sweep: Path, tmp_path) -> None:
    out = tmp_path / "robust-net"
    assert main(["export", str(run_folder), "--out", str(out), "--results", str(sweep)]) == 0
    card = (out / "README.md").read_text()
    assert "# robust-net" in card
    assert "Robust accuracy" in card
    assert "| robust-net |" in card
    assert "Measured on digits, split test, subset first:20" in card
    config = json.loads((out / "config.json").read_text())
    measured = config["metadata"]["clean_accuracy"]
    assert measured["count"] == 20
    assert measured["data"]["name"] == "digits"
    # The doctor then knows what to expect, and finds it on the same images.
    assert main(f"doctor --model {out} --subset first:20 --threads 1".split()) == 0


def test_results_of_other_weights_are_refused(sweep: Path, tmp_path: Path, capsys) -> None:
    command = ["export", "resnet8", "--out", str(tmp_path / "net"), "--results", str(sweep)]
    assert main(command) == 2
    assert "was measured on other weights" in capsys.readouterr().err
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ("EMPTY", "", "holds neither checkpoints nor weights"),
        ("nothing", "", "model 'nothing' is neither a weights folder"),
        ("resnet8", "--results EMPTY", "is it a run folder?"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, source: str, more: str, message, capsys) -> None:
    (tmp_path / "empty").mkdir()
    line = f"export {source} --out {tmp_path / 'net'} {more}"
    assert main(line.replace("EMPTY", str(tmp_path / "empty")).split()) == 2
    assert message in capsys.readouterr().err
