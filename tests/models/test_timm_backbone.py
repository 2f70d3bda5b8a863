import copy
import dataclasses
import logging

import pytest
import timm
import torch
from torch import Tensor, nn

from featdenoise.base.frozen import FrozenTwin
from featdenoise.base.results import describe
from featdenoise.models.build import Classifier
from featdenoise.models.config import ModelConfig
from featdenoise.models.denoise import DenoisingBlock
from featdenoise.models.initialize import initialize
from featdenoise.models.registry import copy_matching_weights, create_model
from featdenoise.models.timm_backbone import FeatureMaps
from featdenoise.models.weights import load_model, save_weights

# One of each family: the places of its blocks, after timm's feature_info.
FAMILIES = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "convnext_atto": ("stages.0", "stages.1", "stages.2", "stages.3"),
    "efficientnet_b0": ("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
    "lcnet_050": ("blocks.1", "blocks.2", "blocks.4", "blocks.5"),
    "regnetx_002": ("s1", "s2", "s3", "s4"),
    "densenet121": (
        "features.denseblock1",
        "features.denseblock2",
        "features.denseblock3",
        "features.norm5",
    ),
}


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def blocks_of(model: nn.Module) -> list[DenoisingBlock]:
    return [m for m in model.modules() if isinstance(m, DenoisingBlock)]


def with_active_blocks(model: Classifier) -> Classifier:
    """The blocks start as the identity; let them do something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for block in blocks_of(model):
            for weight in block.project.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_network_with_new_blocks_gives_what_it_gave_without(name: str) -> None:
    plain = create_model(f"timm/{name}").eval()
    model = create_model(f"timm/{name}", denoise="gaussian").eval()
    x = images(2, 3, 64, 64)
    assert torch.equal(model(x), plain(x))
    assert model(x).shape == (2, 10)
    assert not torch.equal(with_active_blocks(model)(x), plain(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_stand_after_the_stages_and_leave_the_weights_their_names(name: str) -> None:
    net = timm.create_model(name, num_classes=10)
    model = create_model(f"timm/{name}", denoise="mean")
    blocks = model.get_submodule("backbone.denoising")
    assert [n for n, _ in blocks.named_children()] == [p.replace(".", "_") for p in FAMILIES[name]]
    assert len(blocks_of(model)) == 4
    own = {n for n in model.backbone.state_dict() if not n.startswith("denoising.")}
    assert own == net.state_dict().keys()
    # What timm's network gives there is what its block takes.
    x = images(2, 3, 64, 64)
    seen: dict[str, Tensor] = {}
    for place, block in zip(FAMILIES[name], blocks.children(), strict=True):
        block.register_forward_pre_hook(lambda m, args, p=place: seen.setdefault(p, args[0]))
    model.eval()(x)
    net.load_state_dict({n: w for n, w in model.backbone.state_dict().items() if n in own})
    expected: dict[str, Tensor] = {}
    for place in FAMILIES[name]:
        net.get_submodule(place).register_forward_hook(
            lambda m, args, out, p=place: expected.setdefault(p, out)
        )
    net.eval()(model.normalize(x))
    assert all(torch.equal(seen[place], expected[place]) for place in FAMILIES[name])


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "densenet121"])
def test_frozen_twin_keeps_the_blocks(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = with_active_blocks(create_model(f"timm/{name}", denoise="mean"))
    x = images(2, 3, 64, 64)
    twin = FrozenTwin(model)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-4, atol=1e-4)
    assert twin.num_folded >= 4
    assert not caplog.records


@pytest.mark.parametrize("place", ["conv1", "bn1", "act1"])
def test_block_between_layers_to_be_folded_is_kept(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = "timm/resnet18"
    model = with_active_blocks(create_model(name, denoise="mean", denoise_at=(place,)))
    x = images(2, 3, 64, 64)
    twin = FrozenTwin(model)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-4, atol=1e-4)
    assert twin.num_folded >= 19
    assert not caplog.records
    assert (twin(x) - create_model(name).eval()(x)).abs().max() > 1e-3


def test_copy_uses_its_own_blocks() -> None:
    model = with_active_blocks(create_model("timm/regnetx_002", denoise="mean"))
    x = images(2, 3, 64, 64)
    before = model(x)
    duplicate = copy.deepcopy(model)
    assert torch.equal(duplicate(x), before)
    with torch.no_grad():
        for block in blocks_of(duplicate):
            for weight in block.parameters():
                weight.zero_()
    assert torch.equal(model(x), before)
    assert not torch.equal(duplicate(x), before)


def test_blocks_after_named_modules_match_a_network_taken_apart() -> None:
    at = ("stages.0", "stages.1")
    model = with_active_blocks(create_model("timm/convnext_atto", denoise="dot", denoise_at=at))
    net = model.backbone
    first, second = blocks_of(model)
    x = model.normalize(images(2, 3, 64, 64))
    x = first(_run(net, 0, x))
    x = second(_run(net, 1, x))
    for k in (2, 3):
        x = _run(net, k, x)
    torch.testing.assert_close(net.forward_head(net.norm_pre(x)), model(images(2, 3, 64, 64)))


def _run(net: nn.Module, stage: int, x: Tensor) -> Tensor:
    """A stage alone, without its block; the first with the stem before it."""
    x = net.get_submodule("stem")(x) if stage == 0 else x
    return net.get_submodule(f"stages.{stage}").forward(x)


def test_normalisation_and_classes_are_the_networks_own_unless_given() -> None:
    model = create_model("timm/resnet18")
    assert model.config.mean == (0.485, 0.456, 0.406)
    assert model.config.std == (0.229, 0.224, 0.225)
    net = timm.create_model("resnet18", num_classes=10)
    net.load_state_dict(model.backbone.state_dict())
    x = images(2, 3, 64, 64)
    normal = (x - torch.tensor(model.config.mean).view(3, 1, 1)) / torch.tensor(
        model.config.std
    ).view(3, 1, 1)
    torch.testing.assert_close(model.eval()(x), net.eval()(normal))
    other = create_model("timm/resnet18", mean=(0.1, 0.2, 0.3), num_classes=3)
    assert other.config.mean == (0.1, 0.2, 0.3)
    assert other.eval()(x).shape == (2, 3)


def test_configuration_rebuilds_the_network() -> None:
    model = create_model("timm/resnet18", denoise="mean", denoise_at=("layer2", "layer4"))
    config = ModelConfig.from_description(describe(model.config))
    assert config == model.config
    again = create_model(config)
    weights = again.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[n], w) for n, w in model.state_dict().items())
    other = create_model(ModelConfig(name="timm/resnet18", mean=(0.1, 0.1, 0.1)))
    assert other.config.mean == (0.1, 0.1, 0.1)


def test_weights_folder_rebuilds_the_network(tmp_path: object) -> None:
    model = with_active_blocks(create_model("timm/lcnet_050", denoise="dot", num_classes=7))
    folder = save_weights(f"{tmp_path}/weights", model)
    x = images(2, 3, 64, 64)
    assert torch.equal(load_model(folder)(x), model(x))


def test_initial_weights_come_from_the_seed_and_not_from_the_global_state() -> None:
    torch.manual_seed(1)
    first = create_model("timm/lcnet_050", denoise="gaussian").state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = create_model("timm/lcnet_050", denoise="gaussian").state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = create_model("timm/lcnet_050", denoise="gaussian", seed=1).state_dict()
    drawn = [n for n in first if first[n].dim() == 4 and first[n].numel() > 3]
    assert len(drawn) > 20
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_plain_network_begins_as_the_denoising_one() -> None:
    plain = create_model("timm/resnet18").state_dict()
    denoising = create_model("timm/resnet18", denoise="gaussian").state_dict()
    assert all(torch.equal(plain[name], denoising[name]) for name in plain)
    # timm's own initialisation, not that of our backbones.
    ours = create_model("timm/resnet18")
    initialize(ours, 0)
    assert not torch.equal(ours.state_dict()["backbone.fc.weight"], plain["backbone.fc.weight"])


def test_pretrained_weights_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = timm.create_model("resnet18").state_dict()
    cfg = dataclasses.replace(timm.get_pretrained_cfg("resnet18"), state_dict=weights)
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, "resnet18", cfg)
    model = create_model("timm/resnet18", denoise="dot", pretrained=True)
    assert model.config.num_classes == 1000
    assert len(blocks_of(model)) == 4
    own = model.backbone.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights)
    other = create_model("timm/resnet18", pretrained=True, num_classes=5)
    assert other.backbone.state_dict()["fc.weight"].shape == (5, 512)
    assert torch.equal(other.backbone.state_dict()["conv1.weight"], weights["conv1.weight"])
    from_config = create_model(ModelConfig(name="timm/resnet18"), pretrained=True)
    assert from_config.config.mean == (0.485, 0.456, 0.406)
    with pytest.raises(ValueError, match=r"mean is \(0.5, 0.5, 0.5\), but the pretrained weights"):
        create_model("timm/resnet18", pretrained=True, mean=(0.5, 0.5, 0.5))


def test_copied_weights_leave_a_new_classifier(caplog: pytest.LogCaptureFixture) -> None:
    source = with_active_blocks(create_model("timm/resnet18", denoise="mean"))
    model = create_model("timm/resnet18", denoise="mean", num_classes=4, seed=3)
    with caplog.at_level(logging.INFO):
        kept = copy_matching_weights(model, source)
    assert kept == ["backbone.fc.weight", "backbone.fc.bias"]
    copied = model.state_dict()
    assert all(torch.equal(copied[n], w) for n, w in source.state_dict().items() if n not in kept)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0", "densenet121"])
def test_feature_maps_include_the_blocks(name: str) -> None:
    model = with_active_blocks(create_model(f"timm/{name}", denoise="mean"))
    outputs = []
    for block in blocks_of(model):
        block.register_forward_hook(lambda m, args, out: outputs.append(out))
    x = images(2, 3, 64, 64)
    model(x)
    expected = list(outputs)
    features = FeatureMaps(model).eval()
    maps = features(x)
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    assert [m.shape[1] for m in maps] == features.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == [4, 8, 16, 32]
    assert all(torch.equal(m, e) for m, e in zip(maps, expected, strict=True))
    assert len(blocks_of(features)) == 4
    assert len(list(features.parameters())) >= 4 * 2


def test_feature_maps_at_chosen_positions() -> None:
    features = FeatureMaps(create_model("timm/resnet18"), out_indices=(0, -1))
    assert [m.shape[1] for m in features(images(2, 3, 64, 64))] == [64, 512]
    with pytest.raises(ValueError, match=r"out_indices must be positions in the 5 feature maps"):
        FeatureMaps(create_model("timm/resnet18"), out_indices=(5,))


def test_gradient_reaches_every_weight_of_the_blocks() -> None:
    model = with_active_blocks(create_model("timm/convnext_atto", denoise="gaussian")).train()
    model(images(4, 3, 64, 64)).square().sum().backward()
    for block in blocks_of(model):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224", r"'blocks.11': its output is \(2, 197, 192\), not a feature map"),
        ("swin_tiny_patch4_window7_224", "feature maps NHWC; denoising blocks take NCHW"),
        ("mambaout_femto", "feature maps NHWC"),
        ("hrnet_w18_small", "feature_info names no stages"),
        ("efficientformer_l1", r"'stages.3': its output is \(2, 49, 448\)"),
        ("rexnet_100", "'features.4': channels must be even"),
        ("no_such_net", "unknown model 'timm/no_such_net': timm has no 'no_such_net'"),
        ("resnet81", r"near names are .*resnet18"),
        ("resnet18.no_tag", r"timm has no tag 'no_tag' for resnet18; known are .*a1_in1k"),
        ("hf-hub:someone/net", "unknown model"),
        ("featdenoise_resnet50", "unknown model"),
    ],
)
def test_networks_that_cannot_take_blocks_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(f"timm/{name}", denoise="gaussian")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("block", "denoise_at must be stage or names of modules"),
        (("layer5",), "names 'layer5', but timm/resnet18 has no such module; near names are layer"),
        (("fc",), r"'fc': its output is \(2, 10\), not a feature map"),
        (("layer1", "layer1"), "denoise_at must name different modules"),
        ((), "denoise_at must name different modules"),
    ],
)
def test_places_that_cannot_take_blocks_are_refused(at: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("timm/resnet18", denoise="mean", denoise_at=at)


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("convnext_tiny", "stages.0.blocks.0.mlp.fc1", "its output is .*not a feature map"),
        ("lcnet_050", "blocks.0.0.drop_path", "is used 0 times"),
        ("dla34", "level2.tree1.relu", "is used 2 times"),
    ],
)
def test_module_that_gives_no_one_map_is_refused(name: str, place: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(f"timm/{name}", denoise="mean", denoise_at=(place,))


def test_named_modules_are_for_timm_only() -> None:
    with pytest.raises(ValueError, match=r"denoise_at names modules stages.0.*for resnet8 choose"):
        create_model("resnet8", denoise="mean", denoise_at=("stages.0",))
    with pytest.raises(ValueError, match="padding is 'tensorflow', but timm/resnet18 has its own"):
        create_model("timm/resnet18", padding="tensorflow")
