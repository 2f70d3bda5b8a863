"""`featdenoise predict`: names, classes, probabilities, and what happens to corrupt files."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featdenoise.cli.main import main
from featdenoise.data.resampling import RESAMPLINGS
from featdenoise.models.info import ModelInfo
from featdenoise.models.registry import create_model
from featdenoise.models.weights import load_model, save_weights

CLASSES = ("ant", "bee", "cat, domestic", "dog", "emu")


def make_weights(folder: Path, **info: object) -> Path:
    facts = {"classes": CLASSES, "input_size": 24, **info}
    model = create_model("resnet8", num_classes=5)
    with torch.no_grad():
        model.backbone.head.weight.mul_(50)  # type: ignore[union-attr, operator]
    return save_weights(folder, model, ModelInfo(**facts))  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k, name in enumerate(["b.png", "a.png", "deep/c.png", "deep/d.png"]):
        pixels = rng.integers(0, 256, (30 + 7 * k, 60 - 9 * k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_rows_are_the_models_own_verdicts(
    tmp_path: Path, pictures: Path, resampling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = make_weights(tmp_path / "weights", resampling=resampling)
    assert main(["predict", str(weights), str(pictures), "--batch-size", "3"]) == 0
    rows = table(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["a.png", "b.png", "deep/c.png", "deep/d.png"]
    model = load_model(weights)
    for row in rows:
        pixels = np.asarray(Image.open(pictures / row["name"]))
        square = RESAMPLINGS[resampling](pixels, 24)
        image = torch.from_numpy(square.copy()).permute(2, 0, 1)[None].float() / 255
        probabilities = model(image).detach().softmax(1)[0]
        index = int(probabilities.argmax())
        assert int(row["class_index"]) == index
        assert row["class_name"] == CLASSES[index]
        assert float(row["probability"]) == pytest.approx(float(probabilities[index]), abs=1e-5)
    assert len({row["probability"] for row in rows}) > 1


def test_file_gets_the_same_rows(tmp_path: Path, pictures: Path, capsys) -> None:
    weights, out = make_weights(tmp_path / "weights"), tmp_path / "new" / "out.csv"
    assert main(["predict", str(weights), str(pictures)]) == 0
    printed = capsys.readouterr().out
    assert main(["predict", str(weights), str(pictures), "--out", str(out)]) == 0
    assert out.read_text() == printed
    assert out.read_text().startswith("name,class_index,class_name,probability\n")
    assert f"4 of 4 images classified; results in {out}" in capsys.readouterr().out


def test_corrupt_files_are_listed_and_the_others_classified(
    tmp_path: Path, pictures: Path, capsys, caplog: pytest.LogCaptureFixture
) -> None:
    weights, out = make_weights(tmp_path / "weights"), tmp_path / "out.csv"
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:90])
    (pictures / "text.jpg").write_text("not a picture")
    command = ["predict", str(weights), str(pictures), "--out", str(out)]
    assert main(command) == 2
    assert "2 of 6 images could not be decoded; mend them" in capsys.readouterr().err
    named = [r.getMessage() for r in caplog.records if "cannot decode" in r.getMessage()]
    assert len(named) == 2
    assert "broken.png" in named[0]
    assert "text.jpg" in named[1]
    assert len(table(out.read_text())) == 4
    caplog.clear()
    assert main([*command, "--skip-corrupt"]) == 0
    assert "broken.png" in caplog.text
    assert "4 of 6 images classified" in capsys.readouterr().out


def test_corrupt_files_do_not_swallow_the_printed_rows(tmp_path: Path, pictures: Path, capsys):
    (pictures / "a.png").write_bytes(b"")
    assert main(["predict", str(make_weights(tmp_path / "weights")), str(pictures)]) == 2
    assert len(table(capsys.readouterr().out)) == 3


def test_size_can_be_given_where_the_weights_do_not_say(tmp_path: Path, pictures: Path, capsys):
    weights = str(make_weights(tmp_path / "weights", input_size=None, classes=None))
    assert main(["predict", weights, str(pictures)]) == 2
    assert "does not say the size of its input; give it with --image-size" in (
        capsys.readouterr().err
    )
    assert main(["predict", weights, str(pictures), "--image-size", "16"]) == 0
    rows = table(capsys.readouterr().out)
    assert all(row["class_name"] == row["class_index"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict WEIGHTS EMPTY", "there are no images in"),
        ("predict WEIGHTS nowhere", "no image folder at nowhere"),
        ("predict nothing PICTURES", "model 'nothing' is neither a weights folder, nor hf-hub:"),
        ("predict hf-hub:net PICTURES", "is written hf-hub:owner/repository"),
    ],
)
def test_bad_input_is_named(tmp_path, pictures, arguments: str, message: str, capsys) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "WEIGHTS": make_weights(tmp_path / "weights"),
        "PICTURES": pictures,
        "EMPTY": tmp_path / "empty",
    }
    assert main([str(places.get(word, word)) for word in arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_users_own_module_classifies_too(tmp_path, pictures, monkeypatch, capsys) -> None:
    (tmp_path / "zoo_of_predict.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images.mean((2, 3))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["predict", "zoo_of_predict:Net", str(pictures), "--image-size", "8"]
    assert main(command) == 0
    assert len(table(capsys.readouterr().out)) == 4
