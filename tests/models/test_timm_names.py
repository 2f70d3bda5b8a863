import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from featdenoise.base.frozen import FrozenTwin
from featdenoise.models.build import list_models
from featdenoise.models.config import ModelConfig
from featdenoise.models.denoise import DenoisingBlock
from featdenoise.models.published import PUBLISHED
from featdenoise.models.registry import Classifier, create_model
from featdenoise.models.timm_names import TimmClassifier, TimmFeatures
from featdenoise.models.weights import save_weights


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def with_trained_weights(model: nn.Module) -> nn.Module:
    """Running statistics and scales that are not those of a fresh model, equal by position."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator).add(0.5))
    return model.eval()


def test_timms_own_names_are_untouched() -> None:
    program = """
import json, sys, timm
if sys.argv[1] == "with":
    import featdenoise
names = timm.list_models() + timm.list_models(pretrained=True)
print(json.dumps(sorted(names)))
"""
    names = {}
    for how in ("with", "without"):
        done = subprocess.run(
            [sys.executable, "-c", program, how], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        names[how] = json.loads(done.stdout)
    ours = [name for name in names["with"] if name.startswith("featdenoise_")]
    assert [name for name in names["with"] if name not in ours] == names["without"]
    expected = {f"featdenoise_{name}" for name in (*list_models(), *PUBLISHED)}
    assert set(ours) == expected


def test_every_model_and_tag_of_the_zoo_is_registered() -> None:
    assert {f"featdenoise_{n}" for n in list_models()} == set(timm.list_models("featdenoise_*"))
    tags = timm.list_models("featdenoise_*", pretrained=True)
    assert set(tags) == {f"featdenoise_{name}" for name in PUBLISHED}


@pytest.mark.parametrize("name", ["resnet50", "resnet20", "preactresnet18"])
def test_model_by_timm_is_the_model_of_the_zoo(name: str) -> None:
    by_timm = timm.create_model(f"featdenoise_{name}", num_classes=7, denoise="mean")
    model = create_model(name, num_classes=7, denoise="mean")
    assert by_timm.training
    assert by_timm.config == model.config
    weights = by_timm.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[n], w) for n, w in model.state_dict().items())
    with_trained_weights(by_timm)
    model.load_state_dict(by_timm.state_dict())
    x = images(2, 3, 64, 64)
    assert torch.equal(by_timm(x), model.eval()(x))


@pytest.mark.parametrize(
    ("name", "num_classes", "side"), [("resnet50", 1000, 224), ("resnet20", 10, 32)]
)
def test_description_is_the_data_sets(name: str, num_classes: int, side: int) -> None:
    model = timm.create_model(f"featdenoise_{name}")
    assert model.num_classes == num_classes == model.config.num_classes
    cfg = model.pretrained_cfg
    assert cfg["mean"] == (0.0, 0.0, 0.0)
    assert cfg["std"] == (1.0, 1.0, 1.0)
    assert cfg["input_size"] == (3, side, side)
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert model.get_submodule(cfg["first_conv"]).in_channels == 3


def test_timms_transform_gives_the_right_input() -> None:
    model = timm.create_model("featdenoise_resnet50")
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    pixels = np.tile(np.array([0, 51, 255], dtype=np.uint8), (256, 256, 1))
    x = transform(Image.fromarray(pixels))
    assert x.shape == (3, 224, 224)
    torch.testing.assert_close(x.mean(dim=(1, 2)), torch.tensor([0, 0.2, 1.0]), atol=1e-5, rtol=0)


def test_features_have_the_strides_and_channels_they_say() -> None:
    features = timm.create_model("featdenoise_resnet50", features_only=True)
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    assert features.feature_info.channels() == [256, 512, 1024, 2048]
    maps = features.eval()(images(1, 3, 64, 96))
    sizes = [(256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 2, 3)]
    assert [tuple(m.shape) for m in maps] == [(1, *size) for size in sizes]
    assert not [n for n, _ in features.named_parameters() if "head" in n]


def test_features_are_those_after_the_denoising_blocks() -> None:
    kind = {"denoise": "mean"}
    model = with_trained_weights(timm.create_model("featdenoise_resnet20", **kind))
    outputs = []
    for module in model.modules():
        if isinstance(module, DenoisingBlock):
            module.register_forward_hook(lambda m, args, out: outputs.append(out))
    x = images(2, 3, 32, 32)
    model(x)
    features = timm.create_model("featdenoise_resnet20", features_only=True, **kind)
    with_trained_weights(features)
    maps = features(x)
    assert features.feature_info.reduction() == [1, 2, 4]
    assert len(outputs) == 3
    assert all(torch.equal(m, out) for m, out in zip(maps, outputs, strict=True))


def test_chosen_stages_are_pruned_after_the_last() -> None:
    whole = timm.create_model("featdenoise_resnet20", features_only=True)
    some = timm.create_model("featdenoise_resnet20", features_only=True, out_indices=(0, -2))
    last = timm.create_model("featdenoise_resnet20", features_only=True, out_indices=2)
    x = images(1, 3, 8, 8)
    maps = whole.eval()(x)
    assert len(maps) == 3
    chosen = some.eval()(x)
    assert [torch.equal(a, b) for a, b in zip(chosen, maps[:2], strict=True)] == [True, True]
    assert some.feature_info.channels() == [16, 32]
    assert not [n for n, _ in some.named_parameters() if "stages.2" in n]
    assert [m.shape[1] for m in last(x)] == [32, 64]
    with pytest.raises(ValueError, match="indices must be among the 3 stages 0 to 2"):
        timm.create_model("featdenoise_resnet20", features_only=True, out_indices=(3,))


def test_norm_after_the_last_stage_is_no_part_of_the_features() -> None:
    with torch.device("meta"):
        features = timm.create_model("featdenoise_wideresnet28_10", features_only=True)
    assert features.feature_info.channels() == [160, 320, 640]
    assert not [n for n, _ in features.named_parameters() if "final" in n or "head" in n]


@pytest.mark.parametrize("name", ["resnet20", "wideresnet28_10"])
def test_forward_is_its_parts(name: str) -> None:
    model = with_trained_weights(timm.create_model(f"featdenoise_{name}"))
    x = images(2, 3, 8, 8)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 2, 2)
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean(dim=(2, 3)))
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(model.get_classifier()(pooled), model(x))
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, features)
    assert [m.shape[-1] for m in maps] == [8, 4, 2]
    normed = model.forward_intermediates(x, norm=True, intermediates_only=True)
    assert torch.equal(normed[-1], features)
    assert len(model.forward_intermediates(x, indices=1, intermediates_only=True)) == 1
    with pytest.raises(ValueError, match="output_fmt must be NCHW, got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_model_without_classes_gives_features() -> None:
    x = images(2, 3, 16, 16)
    whole = timm.create_model("featdenoise_resnet20").eval()
    pooled = timm.create_model("featdenoise_resnet20", num_classes=0).eval()
    assert torch.equal(pooled(x), whole.forward_head(whole.forward_features(x), pre_logits=True))
    maps = timm.create_model("featdenoise_resnet20", num_classes=0, global_pool="").eval()
    assert torch.equal(maps(x), whole.forward_features(x))
    assert maps.num_features == maps.head_hidden_size == 64


def test_new_classifier_is_that_of_a_new_model() -> None:
    model = timm.create_model("featdenoise_resnet20")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model.reset_classifier(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.num_classes == model.config.num_classes == 5
    assert model(images(2, 3, 16, 16)).shape == (2, 5)
    fresh = create_model("resnet20", num_classes=5)
    assert torch.equal(model.get_classifier().weight, fresh.get_parameter("backbone.head.weight"))
    with pytest.raises(ValueError, match="global_pool '' leaves maps"):
        model.reset_classifier(5, global_pool="")
    with pytest.raises(ValueError, match="global_pool must be 'avg' or '', got 'max'"):
        model.reset_classifier(5, global_pool="max")


def test_tag_fixes_the_architecture_of_its_weights() -> None:
    with torch.device("meta"):
        model = timm.create_model("featdenoise_resnet152.xie2019_gaussian")
        plain = timm.create_model("featdenoise_resnet152")
    assert model.config == PUBLISHED["resnet152.xie2019_gaussian"].config
    assert model.pretrained_cfg["tag"] == "xie2019_gaussian"
    assert model.pretrained_cfg["license"] == PUBLISHED["resnet152.xie2019_gaussian"].licence
    assert plain.config == ModelConfig(name="resnet152", num_classes=1000)
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("featdenoise_resnet152.nobody2020")


def test_pretrained_takes_the_published_weights_of_the_tag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def load(model: str, *, pretrained: bool = False, **fields: object) -> Classifier:
        asked.append((model, pretrained, fields))
        return create_model("resnet8")

    monkeypatch.setattr("featdenoise.models.timm_names.create_model", load)
    timm.create_model("featdenoise_resnet152.xie2019_gaussian", pretrained=True)
    timm.create_model("featdenoise_resnet152", pretrained=True, num_classes=3)
    assert asked == [
        ("resnet152.xie2019_gaussian", True, {}),
        ("resnet152.xie2019", True, {"num_classes": 3}),
    ]


def test_pretrained_without_published_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet20 has no published weights"):
        timm.create_model("featdenoise_resnet20", pretrained=True)


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_overlay_loads_a_weights_folder(tmp_path: Path, file: str) -> None:
    source = with_trained_weights(create_model("resnet8", denoise="mean", num_classes=6))
    folder = save_weights(tmp_path / "weights", source)
    overlay = {"file": str(folder / file)}
    create: Callable[..., TimmClassifier] = timm.create_model
    model = create("featdenoise_resnet8", pretrained=True, pretrained_cfg_overlay=overlay)
    assert model.config == source.config
    assert model.num_classes == 6
    assert model.training
    x = images(2, 3, 16, 16)
    assert torch.equal(model.eval()(x), source(x))
    other = create(
        "featdenoise_resnet8", pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay
    ).eval()
    assert torch.equal(other.forward_features(x), model.forward_features(x))
    assert other(x).shape == (2, 3)
    with pytest.raises(ValueError, match="holds weights of resnet8, not of resnet20"):
        create("featdenoise_resnet20", pretrained=True, pretrained_cfg_overlay=overlay)
    with pytest.raises(ValueError, match="do not fit the model"):
        create(
            "featdenoise_resnet8",
            pretrained=True,
            denoise="none",
            pretrained_cfg_overlay=overlay,
        )


def test_model_of_timm_can_be_saved_and_frozen(tmp_path: Path) -> None:
    model = with_trained_weights(timm.create_model("featdenoise_resnet8", denoise="dot"))
    x = images(2, 3, 16, 16)
    again = timm.create_model(
        "featdenoise_resnet8",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(save_weights(tmp_path, model))},
    )
    assert torch.equal(again.eval()(x), model(x))
    twin = FrozenTwin(model)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-4, atol=1e-4)
    assert twin.num_folded > 7


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"in_chans": 1}, "in_chans must be 3"),
        ({"drop_rate": 0.1}, "drop_rate must be 0.0"),
        ({"drop_path_rate": 0.1}, "drop_path_rate must be 0.0"),
        ({"output_stride": 8}, "output_stride must be 32"),
        ({"img_size": 32}, "models take no img_size; their own keywords are denoise, denoise_at"),
        ({"cache_dir": "somewhere"}, "cache_dir is not used"),
        ({"out_indices": (1,)}, "out_indices is for features_only=True"),
        ({"global_pool": "max"}, "global_pool must be 'avg' or ''"),
        ({"global_pool": ""}, "global_pool '' leaves maps"),
        ({"denoise": "blur"}, "denoise must be one of"),
        (
            {"pretrained": True, "pretrained_cfg_overlay": {"url": "https://example.org/x.pth"}},
            "url in pretrained_cfg_overlay cannot be loaded",
        ),
    ],
)
def test_what_these_nets_do_not_have_is_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model("featdenoise_resnet8", **keywords)


def test_keywords_that_change_nothing_are_taken() -> None:
    model = timm.create_model("featdenoise_resnet8", in_chans=3, drop_rate=0.0, drop_path_rate=None)
    assert isinstance(model, TimmClassifier)
    model.set_grad_checkpointing(False)
    with pytest.raises(ValueError, match="grad_checkpointing must be off"):
        model.set_grad_checkpointing()


class Pyramid(nn.Module):
    """A detector's neck: maps to one width, coarse ones added to fine ones."""

    def __init__(self, body: TimmFeatures) -> None:
        super().__init__()
        self.body = body
        self.laterals = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in body.feature_info.channels())

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [conv(m) for conv, m in zip(self.laterals, self.body(x), strict=True)]
        for k in range(len(maps) - 1, 0, -1):
            maps[k - 1] = maps[k - 1] + F.interpolate(maps[k], size=maps[k - 1].shape[-2:])
        return maps


def test_detector_trains_on_the_features() -> None:
    body = timm.create_model("featdenoise_resnet50", features_only=True, denoise="mean")
    detector = Pyramid(body)
    maps = detector(images(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 8, s, s) for s in (16, 8, 4, 2)]
    maps[0].square().sum().backward()
    without = [n for n, p in detector.named_parameters() if p.grad is None]
    assert without == []
