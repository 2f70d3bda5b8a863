"""The model card's text; the command that writes it is tested with `featdenoise export`."""

from pathlib import Path
from typing import Any

import pytest

from featdenoise.base.results import append_lines, make_header, to_line
from featdenoise.report.card import (
    NOT_VERIFIED,
    measured_clean_accuracy,
    model_card,
    read_measurements,
)


def config(**facts: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = dict.fromkeys(
        ("classes", "recipe", "data_fingerprint", "licence", "origin", "published")
    )
    return {
        "format": 2,
        "model": {"name": "resnet8", "num_classes": 10, "denoise": "dot", "denoise_at": "stage",
                  "mean": [0.5] * 3, "std": [0.25] * 3},
        "input": {"convention": "RGB in [0, 1]", "size": 16, "resampling": "center-crop"},
        "metadata": {**metadata, **facts},
        "sha256": "abc123",
    }  # fmt: skip


def certified(folder: Path, *, weights: str) -> Path:
    """A certification of five images, four of them certified at radius 0.5."""
    identity = {
        "kind": "certification",
        "model": {"name": "somebody's label", "weights": weights},
        "data": {"name": "digits", "split": "test", "subset": "first:5"},
        "noise": {"kind": "Gaussian", "sigma": 0.25},
        "n0": 100,
        "n": 1000,
        "alpha": 0.001,
    }
    rows = [
        {"id": k, "label": 3, "prediction": 3 if k else -1, "radius": 0.5 if k else 0.0}
        for k in range(5)
    ]
    folder.mkdir()
    append_lines(folder / "results.jsonl", map(to_line, [make_header(identity), *rows]))
    return folder


def test_card_says_what_the_config_says() -> None:
    card = model_card(
        config(
            classes=["zero", "one"], recipe={"epochs": 3}, data_fingerprint="contents-9",
            licence="CC BY-NC 4.0", origin="https://example.org/net.npz",
        ),
        name="net",
    )  # fmt: skip
    for text in (
        "license: cc-by-nc-4.0\n", "# net\n", "`resnet8` with `dot` feature denoising",
        "https://example.org/net.npz", "| denoise_at | `stage` |", "Size: 16 x 16",
        "`center-crop`", '"epochs": 3', "contents-9", "zero, one", "\nCC BY-NC 4.0.\n", "abc123",
        "Nothing has been measured",
    ):  # fmt: skip
        assert text in card


def test_card_says_what_is_not_known() -> None:
    card = model_card(config(), name="net")
    assert "license: other\n" in card
    assert "Not stated: ask before you use them." in card
    assert "The recipe is not recorded." in card
    assert "names of the classes are not recorded" in card
    assert NOT_VERIFIED.capitalize() not in card


def test_published_figures_are_labelled_and_apart_from_measured_ones() -> None:
    published = {
        "source": "the authors",
        "attack": "targeted PGD",
        "clean_accuracy": 0.653,
        "robust_accuracy": {"10": 0.557},
        "attack_success_rate": {"10": 0.049},
    }
    card = model_card(config(published=published), name="net")
    label = card.index("**Published, not verified here")
    assert card.index("Nothing has been measured") < label < card.index("| clean | 65.3% | - |")
    assert "| 10 | 55.7% | 4.9% |" in card
    assert "Source: the authors." in card


def test_measured_figures_come_from_runs_of_these_weights(tmp_path: Path) -> None:
    folder = certified(tmp_path / "certified", weights="aa11")
    measurements = read_measurements([folder], name="net", weights="aa11")
    card = model_card(config(), name="net", measurements=measurements)
    assert "Measured on digits, split test, subset first:5." in card
    assert "| net | Gaussian, sigma 0.25 |" in card
    assert "80.0%" in card
    assert "somebody's label" not in card
    assert measured_clean_accuracy(measurements) is None
    with pytest.raises(ValueError, match=r"measured on other weights \(aa11\) than these \(bb22\)"):
        read_measurements([folder], name="net", weights="bb22")


def test_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is it a run folder"):
        read_measurements([tmp_path], name="net", weights="aa11")
