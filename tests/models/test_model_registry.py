import logging

import pytest
import torch
from torch import Tensor, nn

from featdenoise.models.config import ModelConfig
from featdenoise.models.hooks import Hooks
from featdenoise.models.registry import (
    Classifier,
    copy_matching_weights,
    create_model,
    list_models,
    load_strictly,
    register_model,
)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def with_trained_weights(model: Classifier) -> Classifier:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator).add(0.1))
    return model.eval()


def test_list_names_every_model_once_in_order() -> None:
    names = list_models()
    assert names == sorted(set(names))
    assert {"resnet8", "resnet110", "preactresnet18", "wideresnet28_10"} <= set(names)


def test_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'resnet21'.*resnet20"):
        create_model("resnet21")


def test_name_cannot_be_registered_twice() -> None:
    def resnet8(num_classes: int, hooks: Hooks) -> nn.Module:
        return nn.Identity()

    with pytest.raises(ValueError, match="resnet8 is registered already"):
        register_model(resnet8)


def test_model_carries_the_configuration_that_rebuilds_it() -> None:
    model = create_model("resnet8", num_classes=3, denoise="dot", subsample=True)
    assert model.config == ModelConfig(name="resnet8", num_classes=3, denoise="dot", subsample=True)
    again = create_model(model.config)
    x = images(2, 3, 8, 8)
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert create_model(model.config, num_classes=4).config.num_classes == 4


def test_normalisation_is_the_first_layer() -> None:
    x = images(2, 3, 8, 8)
    plain = create_model("resnet8", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
    model = create_model("resnet8", mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3)).eval()
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(model(x), plain((x - mean) / std))


def test_initial_weights_come_from_the_seed_and_not_from_the_global_state() -> None:
    torch.manual_seed(1)
    first = create_model("resnet8", denoise="gaussian").state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = create_model("resnet8", denoise="gaussian").state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = create_model("resnet8", denoise="gaussian", seed=1).state_dict()
    drawn = [n for n in first if first[n].dim() > 1 and not n.startswith("normalize")]
    assert len(drawn) > 10
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_denoising_net_and_baseline_begin_with_the_same_backbone() -> None:
    plain = create_model("resnet8").state_dict()
    denoising = create_model("resnet8", denoise="mean", denoise_at="block").state_dict()
    assert plain.keys() < denoising.keys()
    assert all(torch.equal(plain[name], denoising[name]) for name in plain)


def test_initial_weights_have_their_distributions() -> None:
    model = create_model("wideresnet28_10", denoise="gaussian")
    weight = model.get_parameter("backbone.stages.0.block1.conv1.weight")
    std = (2 / (9 * 160)) ** 0.5
    assert abs(weight.std().item() / std - 1) < 0.01
    assert abs(weight.mean().item()) < 0.01 * std
    # Cut at two standard deviations of the normal before the cut.
    assert 2.2 * std < weight.abs().max().item() <= 2 / 0.8796 * std
    for name in ("operation.theta", "operation.phi"):
        embedding = model.get_parameter(f"backbone.stages.2.after_stage.{name}.weight")
        assert abs(embedding.std().item() / 0.01 - 1) < 0.01
        assert embedding.abs().max().item() > 0.03
    assert abs(model.get_parameter("backbone.head.weight").std().item() / 0.01 - 1) < 0.05
    assert not model.get_parameter("backbone.head.bias").any()


def test_no_two_layers_begin_with_the_same_weights() -> None:
    model = create_model("resnet20")
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    same_shape = [w for w in weights if w.shape == (16, 16, 3, 3)]
    assert len({w.flatten()[0].item() for w in same_shape}) == len(same_shape) > 5


def test_copied_weights_give_the_same_logits() -> None:
    source = with_trained_weights(create_model("resnet8", denoise="mean"))
    model = create_model("resnet8", denoise="mean", seed=3).eval()
    assert copy_matching_weights(model, source) == []
    x = images(2, 3, 8, 8)
    assert torch.equal(model(x), source(x))


def test_copy_for_other_classes_keeps_the_new_head_only(caplog: pytest.LogCaptureFixture) -> None:
    source = with_trained_weights(create_model("resnet8", mean=(0.1, 0.2, 0.3)))
    model = create_model("resnet8", num_classes=4, seed=3)
    head = model.get_parameter("backbone.head.weight").clone()
    with caplog.at_level(logging.INFO):
        kept = copy_matching_weights(model, source)
    assert kept == ["backbone.head.weight", "backbone.head.bias"]
    assert "new head for 4 classes" in caplog.text
    assert torch.equal(model.get_parameter("backbone.head.weight"), head)
    copied, original = model.state_dict(), source.state_dict()
    assert all(torch.equal(copied[n], original[n]) for n in original if n not in kept)
    assert model.config.mean == source.config.mean
    assert model.config.num_classes == 4


def test_copy_between_architectures_is_refused_and_changes_nothing() -> None:
    source = with_trained_weights(create_model("resnet8", denoise="mean", num_classes=4))
    model = create_model("resnet8")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"18 unexpected: backbone\.stages\.0\.after_stage"):
        copy_matching_weights(model, source)
    assert all(torch.equal(before[n], tensor) for n, tensor in model.state_dict().items())


def test_strict_loading_lists_five_of_each_kind_of_mismatch() -> None:
    model = create_model("resnet8")
    weights = model.state_dict()
    for name in [n for n in weights if "stages.0" in n][:7]:
        weights[f"old.{name}"] = weights.pop(name)
    weights["backbone.head.bias"] = torch.zeros(11)
    weights["backbone.bn.weight"] = weights["backbone.bn.weight"].double()
    with pytest.raises(ValueError, match="weights of here do not fit") as caught:
        load_strictly(model, weights, "here")
    message = str(caught.value)
    assert "7 missing: backbone.stages.0.block0.conv1.weight, " in message
    assert "7 unexpected: old.backbone.stages.0.block0.conv1.weight, " in message
    assert "backbone.head.bias ((11,) float32 there, (10,) float32 here)" in message
    assert "backbone.bn.weight ((16,) float64 there, (16,) float32 here)" in message
    assert message.count("old.") == 5
