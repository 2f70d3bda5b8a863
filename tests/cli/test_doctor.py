"""`featdenoise doctor` from the command line; what it can tell is tested with the diagnosis."""

from pathlib import Path

import pytest

from featdenoise.cli.doctor import Doctor
from featdenoise.cli.main import main
from featdenoise.cli.subject import ModelChoice
from featdenoise.models.info import ModelInfo
from featdenoise.models.registry import create_model
from featdenoise.models.weights import save_weights

# The mean training image of each class makes a classifier of the coloured patterns.
ZOO = """
import torch
from featdenoise.data.fake import make_fake_images

class Nearest(torch.nn.Module):
    def __init__(self, before=lambda images: images):
        super().__init__()
        training = make_fake_images("train", num_images=100)
        pixels, labels = training.batch(training.image_ids)
        self.means = torch.stack([pixels[labels == k].mean(0) for k in range(10)])
        self.before = before

    def forward(self, images):
        return -(self.before(images)[:, None] - self.means).square().flatten(2).sum(2)

def healthy():
    return Nearest()

def bgr():
    return Nearest(lambda images: images.flip(1))

def useless():
    return Nearest(lambda images: images * 0)
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo_of_doctor.py").write_text(ZOO)
    monkeypatch.syspath_prepend(str(tmp_path))


def doctor(name: str, *more: str) -> int:
    model = f"--model zoo_of_doctor:{name} --data fake --threads 1"
    return main(["doctor", *model.split(), *more])


def test_healthy_model_passes(zoo: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("healthy", "--expect", "0.97") == 0
    text = capsys.readouterr().out
    assert "on 64 images of fake" in text
    assert "expected 97.0% (--expect)" in text
    assert "healthy" in text


def test_culprit_is_named_with_the_way_out(zoo: None, capsys) -> None:
    assert doctor("bgr", "--expect", "0.97") == 2
    captured = capsys.readouterr()
    assert "the culprit is BGR, without which it is 100.0%: the model expects blue" in captured.err
    assert "explains it" in captured.out
    for name in ("[-1, 1]", "0..255", "missing normalisation", "double normalisation", "offset"):
        assert name in captured.out


def test_model_that_nothing_explains_is_said_to_be_so(zoo: None, capsys) -> None:
    assert doctor("useless", "--expect", "0.97") == 2
    assert "no hypothesis explains it" in capsys.readouterr().err


def test_number_of_images_is_bounded(zoo: None, capsys) -> None:
    assert doctor("healthy", "--expect", "0.97", "--num-images", "20") == 0
    assert "on 20 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("facts", "source"),
    [
        (
            {"clean_accuracy": {"correct": 9, "count": 10, "data": {"name": "f", "split": "test"}}},
            "expected 90.0% (the card, measured on 10 images f, test)",
        ),
        (
            {"published": {"source": "a paper", "clean_accuracy": 0.8}},
            "expected 80.0% (published, not verified here)",
        ),
    ],
)
def test_card_says_what_to_expect(tmp_path: Path, facts, source: str, capsys) -> None:
    weights = save_weights(tmp_path / "weights", create_model("resnet8"), ModelInfo(**facts))
    assert main(f"doctor --model {weights} --data fake --threads 1".split()) == 2
    captured = capsys.readouterr()
    assert source in captured.out
    assert "accuracy is" in captured.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "do not say their clean accuracy; give it with --expect"),
        (("--expect", "62"), "must be in (0, 1], got 62; write 0.62"),
    ],
)
def test_missing_and_impossible_expectations_are_named(zoo: None, more, message, capsys) -> None:
    assert doctor("healthy", *more) == 2
    assert message in capsys.readouterr().err


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="num_images must be >= 1, got 0"):
        Doctor(model=ModelChoice(model="resnet8"), num_images=0)
