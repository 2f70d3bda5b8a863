import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_lines import value_of, variable_list

from featdenoise.models import registry
from featdenoise.models.config import ModelConfig
from featdenoise.models.published import PUBLISHED, PublishedModel
from featdenoise.models.registry import Classifier, create_model
from featdenoise.models.tensorpack import load_tensorpack

NAME = "resnet50.test"
CONFIG = ModelConfig(name="resnet50", num_classes=5, padding="tensorflow")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the released file of a ResNet-50 for five classes."""
    folder = tmp_path_factory.mktemp("mirror")
    variables = {v.name: value_of(v.name, v.shape) for v in variable_list("ResNet50")}
    variables["linear/W"] = value_of("linear/W", (2048, 5))
    variables["linear/b"] = value_of("linear/b", (5,))
    np.savez(folder / "R50.npz", **variables)
    return folder


@pytest.fixture
def released(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The table with one small net more, whose file is in an offline folder."""
    net = dataclasses.replace(
        PUBLISHED["resnet152.xie2019"], config=CONFIG, url="https://localhost/v0/R50.npz"
    )
    monkeypatch.setitem(PUBLISHED, NAME, net)
    monkeypatch.setenv("FEATDENOISE_MIRROR", str(mirror))
    monkeypatch.setenv("FEATDENOISE_CACHE", str(tmp_path))
    registry._announce_licence.cache_clear()
    yield mirror / "R50.npz"
    registry._announce_licence.cache_clear()


def equal(first: Classifier, second: Classifier) -> bool:
    mine, others = first.state_dict(), second.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(mine[n], others[n]) for n in mine)


@pytest.mark.parametrize("name", PUBLISHED)
def test_table_is_whole_and_its_numbers_are_plausible(name: str) -> None:
    net: PublishedModel = PUBLISHED[name]
    assert name.startswith(f"{net.config.name}.xie2019")
    assert net.config.num_classes == 1000
    assert net.config.padding == "tensorflow"
    assert net.url.startswith("https://github.com/facebookresearch/")
    assert net.licence == "CC BY-NC 4.0"
    assert list(net.robust_error) == list(net.attack_success_rate) == [10, 100, 1000]
    errors = [net.clean_error, *net.robust_error.values()]
    assert errors == sorted(errors)
    assert 0.3 < errors[0] < errors[-1] < 0.62
    assert list(net.attack_success_rate.values()) == sorted(net.attack_success_rate.values())


def test_published_name_gives_its_architecture_with_fresh_weights() -> None:
    model = create_model("resnet152.xie2019_gaussian", num_classes=3, seed=4)
    assert model.config == ModelConfig(
        name="resnet152", num_classes=3, denoise="gaussian", padding="tensorflow"
    )
    assert equal(model, create_model(model.config, seed=4))


def test_pretrained_weights_are_those_of_the_released_file(
    released: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model(NAME, pretrained=True)
    assert model.training
    assert model.config == CONFIG
    assert equal(model, load_tensorpack(released, CONFIG))
    create_model(NAME, pretrained=True)
    said = [r for r in caplog.records if "CC BY-NC 4.0" in r.message]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING


def test_other_classes_get_a_fresh_head_on_pretrained_weights(released: Path) -> None:
    model = create_model(NAME, pretrained=True, num_classes=7, seed=3)
    source = load_tensorpack(released, CONFIG).state_dict()
    fresh = create_model(NAME, num_classes=7, seed=3).state_dict()
    assert model.config == dataclasses.replace(CONFIG, num_classes=7)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, (fresh if ".head." in name else source)[name]), name


@pytest.mark.parametrize(
    ("field", "value"),
    [("padding", "torch"), ("denoise", "dot"), ("mean", (0.4, 0.4, 0.4))],
)
def test_pretrained_weights_in_another_net_are_refused(
    released: Path, field: str, value: object
) -> None:
    with pytest.raises(ValueError, match=f"{field} is .* but the published weights were trained"):
        create_model(NAME, pretrained=True, **{field: value})


@pytest.mark.parametrize("model", ["resnet50", CONFIG], ids=["name", "configuration"])
def test_pretrained_without_published_weights_is_refused(model: str | ModelConfig) -> None:
    message = r"resnet50 has no published weights; these have: resnet152\.xie2019, "
    with pytest.raises(ValueError, match=message):
        create_model(model, pretrained=True)


def test_unknown_tag_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'resnet152\.xie'; .*resnet152\.xie2019_gaussian"):
        create_model("resnet152.xie")
