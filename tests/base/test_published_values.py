import json
from pathlib import Path

import pytest

import featdenoise.base
from featdenoise.base.published import (
    EPSILON,
    follows_paper,
    papers,
    published_curves,
    published_values,
)

CURVES = {curve.model: curve for curve in published_curves()}


def reading(model, iterations):
    found = [p for p in CURVES[model].points if p.iterations == iterations]
    return (found[0].robust_accuracy, found[0].exact) if found else None


@pytest.mark.parametrize(
    ("model", "iterations", "expected"),
    [
        ("ResNet-152 denoise", 10, (0.557, True)),
        ("ResNet-152 denoise", 100, (0.455, True)),
        ("ResNet-152 denoise", 2000, (0.426, True)),
        ("ResNet-152", 10, (0.525, True)),
        ("ResNet-152", 2000, (0.392, True)),
        ("ResNet-101", 2000, (0.358, True)),
        ("ALP, Inception-v3", 10, (0.279, True)),
        ("ResNet-152 denoise without 1x1", 100, (0.368, True)),
        ("ResNeXt-101 denoise-all", 1000, (0.404, True)),  # 100 - 59.6 of the zoo
        ("ResNet-152", 90, (0.419, False)),
        ("ResNet-101", 200, (0.372, False)),
        # The zoo's exact 39.0 wins over the figure's inferred 38.9.
        ("ResNet-152", 1000, (0.39, True)),
        # Labels whose curve nobody can tell are never part of one.
        ("ResNet-152", 20, None),
        ("ResNet-152 denoise", 30, None),
    ],
)
def test_curves_hold_what_the_paper_prints(model, iterations, expected):
    assert reading(model, iterations) == expected


def test_curves_ascend_in_iterations_and_hold_no_open_reading():
    for curve in CURVES.values():
        iterations = [point.iterations for point in curve.points]
        assert iterations == sorted(set(iterations))
    open_values = [v for v in published_values() if v.certainty == "open"]
    assert {v.confidence for v in open_values} == {"x unknown", "row unknown", "ambiguous pair"}
    assert not {v.value for v in open_values if v.row.startswith("(unattributed")} & {
        round(100 * p.robust_accuracy, 1) for p in CURVES["ResNet-152"].points
    }


def test_every_value_names_its_place_and_paper():
    values = published_values()
    assert len(values) > 100
    assert all(v.paper in papers() and v.ref and v.confidence for v in values)
    refs = {v.ref for v in values}
    assert {"Table 1", "Table 2", "Table 3", "Figure 7", "Model Zoo", "Figure 6 left"} <= refs
    nan = [v for v in values if v.row == "removing residual"]
    assert [v.robust_accuracy for v in nan] == [None, None]
    blackbox = [v.value for v in values if v.ref == "Table 2"]
    assert blackbox == [0.04, 13.4, 43.1, 44.1, 46.2, 46.4, 49.5]


def test_networks_that_never_saw_an_adversarial_image_are_not_called_like_the_others():
    assert {v.model for v in published_values() if v.ref == "Table 3"} == {None}


def test_the_data_lie_in_the_package_and_are_installed_with_it():
    path = Path(featdenoise.base.__file__).parent / "published.json"
    assert json.loads(path.read_text())["schema"] == 1
    project = (Path(__file__).parent.parent.parent / "pyproject.toml").read_text()
    assert "published.json" in project


PAPER_RUN = {
    "protocol": "paper",
    "worst_case": False,
    "reach_edge": True,
    "attack": {
        "kind": "PGD",
        "targeted": True,
        "norm": "linf",
        "epsilon": EPSILON,
        "step_size": 1 / 255,
    },
    "data": {"name": "imagenet", "split": "test", "image_size": 224},
}


def test_the_papers_own_protocol_on_imagenet_matches():
    assert follows_paper(PAPER_RUN)


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": None},
        {"protocol": "restarts"},
        {"worst_case": True},
        {"attack": {**PAPER_RUN["attack"], "targeted": False}},
        {"attack": {**PAPER_RUN["attack"], "epsilon": 8 / 255}},
        {"attack": {**PAPER_RUN["attack"], "norm": "l2"}},
        {"attack": {**PAPER_RUN["attack"], "step_size": 0.1 / 255}},
        {"reach_edge": False},
        {"attack": {"kind": "Foreign"}},
        {"data": {"name": "digits", "num_classes": 10}},
        {"data": {**PAPER_RUN["data"], "name": "imagefolder"}},
        {"data": {**PAPER_RUN["data"], "split": "train"}},
        {"data": {**PAPER_RUN["data"], "image_size": 256}},
    ],
)
def test_any_other_question_does_not_match(change):
    assert not follows_paper({**PAPER_RUN, **change})
