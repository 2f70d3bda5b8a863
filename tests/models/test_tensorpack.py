import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_lines import VARIABLE_LISTS, value_of, variable_list
from torch import Tensor

from featdenoise.models import tensorpack
from featdenoise.models.build import Classifier, build_model
from featdenoise.models.config import ModelConfig
from featdenoise.models.published import PUBLISHED
from featdenoise.models.resnet import ResNet
from featdenoise.models.tensorpack import (
    build_from_variables,
    infer_config,
    load_tensorpack,
    read_variables,
    variable_name,
    variables_of,
)

CONFIGS = {
    "ResNet50": {"name": "resnet50"},
    "ResNetDenoise50": {"name": "resnet50", "denoise": "gaussian"},
    "ResNetDenoise152": {"name": "resnet152", "denoise": "gaussian"},
    "ResNeXtDenoiseAll101": {
        "name": "resnext101_32x8d",
        "denoise": "dot",
        "denoise_at": "block",
    },
}


def config_of(net: str) -> ModelConfig:
    fields: dict[str, Any] = CONFIGS[net]
    return ModelConfig(num_classes=1000, padding="tensorflow", **fields)


def on_meta(config: ModelConfig) -> Classifier:
    with torch.device("meta"):
        return build_model(config)


def small_variables() -> dict[str, np.ndarray]:
    """A ResNet-50 with denoising for 5 classes, in TensorFlow's layout."""
    variables = {v.name: value_of(v.name, v.shape) for v in variable_list("ResNetDenoise50")}
    variables["linear/W"] = value_of("linear/W", (2048, 5))
    variables["linear/b"] = value_of("linear/b", (5,))
    return variables


@pytest.fixture(scope="module")
def variables() -> dict[str, np.ndarray]:
    return small_variables()


@pytest.fixture(scope="module")
def model(variables: dict[str, np.ndarray]) -> Classifier:
    config = infer_config({name: value.shape for name, value in variables.items()})
    return build_from_variables(variables, config, "here").eval()


@pytest.mark.parametrize("net", VARIABLE_LISTS)
def test_every_variable_is_used_once_and_every_tensor_is_filled(net: str) -> None:
    model = on_meta(config_of(net))
    tensor_of = variables_of(model)
    listed = variable_list(net)
    assert len({v.name for v in listed}) == len(listed) == len(tensor_of)
    assert {v.name for v in listed} == tensor_of.keys()
    state = model.state_dict()
    counters = {name for name in state if name.endswith(".num_batches_tracked")}
    unfilled = state.keys() - set(tensor_of.values())
    assert unfilled == {*counters, "normalize.mean", "normalize.std"}
    for v in listed:
        shape = tuple(state[tensor_of[v.name]].shape)
        if len(v.shape) == 4:
            height, width, inputs, outputs = v.shape
            assert shape == (outputs, inputs, height, width)
        else:
            assert shape == v.shape[::-1]


@pytest.mark.parametrize("net", VARIABLE_LISTS)
def test_what_the_original_trains_is_a_parameter_and_the_rest_a_statistic(net: str) -> None:
    model = on_meta(config_of(net))
    tensor_of = variables_of(model)
    parameters = {name for name, _ in model.named_parameters()}
    assert {v.name for v in variable_list(net) if tensor_of[v.name] in parameters} == {
        v.name for v in variable_list(net) if v.trainable
    }


@pytest.mark.parametrize("net", VARIABLE_LISTS)
def test_configuration_is_read_from_names_and_shapes(net: str) -> None:
    assert infer_config({v.name: v.shape for v in variable_list(net)}) == config_of(net)


def test_published_nets_are_among_the_variable_lists() -> None:
    published = [p.config for p in PUBLISHED.values()]
    assert config_of("ResNetDenoise152") in published
    assert config_of("ResNeXtDenoiseAll101") in published


@pytest.mark.parametrize(
    ("tensor", "variable"),
    [
        ("backbone.conv.weight", "conv0/W"),
        ("backbone.bn.bias", "conv0/bn/beta"),
        ("backbone.stages.2.block11.conv3.weight", "group2/block11/conv3/W"),
        ("backbone.stages.1.block0.bn2.running_var", "group1/block0/conv2/bn/variance/EMA"),
        ("backbone.stages.0.block0.shortcut.bn.weight", "group0/block0/convshortcut/bn/gamma"),
        ("backbone.stages.3.after_stage.operation.phi.weight", "group3_denoise/embedding_phi/W"),
        (
            "backbone.stages.3.after_block2.project.bn.running_mean",
            "group3/block2/non_local/conv/bn/mean/EMA",
        ),
        ("backbone.head.bias", "linear/b"),
        ("backbone.bn.num_batches_tracked", None),
        ("normalize.mean", None),
    ],
)
def test_name_of_a_tensor_in_the_original(tensor: str, variable: str | None) -> None:
    assert variable_name(tensor) == variable


def test_first_convolution_takes_rgb_as_the_original_takes_bgr(
    model: Classifier, variables: dict[str, np.ndarray]
) -> None:
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    backbone = model.backbone
    assert isinstance(backbone, ResNet)
    handle = backbone.conv.register_forward_hook(lambda _, __, output: seen.append(output))
    model(x)
    handle.remove()
    weight = torch.from_numpy(variables["conv0/W"].transpose(3, 2, 0, 1).copy())
    bgr = F.pad(x[:, [2, 1, 0]] * 2 - 1, (2, 3, 2, 3))
    torch.testing.assert_close(seen[0], F.conv2d(bgr, weight, stride=2), atol=1e-5, rtol=1e-5)


def test_linear_layer_is_transposed(model: Classifier, variables: dict[str, np.ndarray]) -> None:
    head = model.get_parameter("backbone.head.weight").detach().numpy()
    assert np.array_equal(head, variables["linear/W"].T)


def test_original_grouped_convolutions_keep_contiguous_groups() -> None:
    weight = np.arange(3 * 3 * 4 * 8, dtype=np.float32).reshape(3, 3, 4, 8)
    x = np.random.default_rng(0).random((1, 8, 5, 5), dtype=np.float32)
    ours = F.conv2d(torch.from_numpy(x), tensorpack._to_torch("a/W", weight), groups=2)
    for k in range(2):
        part = torch.from_numpy(weight[..., 4 * k : 4 * k + 4].transpose(3, 2, 0, 1).copy())
        expected = F.conv2d(torch.from_numpy(x[:, 4 * k : 4 * k + 4]), part)
        torch.testing.assert_close(ours[:, 4 * k : 4 * k + 4], expected)


def test_file_gives_the_same_model_with_and_without_suffix_and_optimizer_state(
    tmp_path: Path, model: Classifier, variables: dict[str, np.ndarray]
) -> None:
    odd = {f"{name}:0": value for name, value in list(variables.items())[::2]}
    even = dict(list(variables.items())[1::2])
    optimizer = {
        "global_step:0": np.array(3),
        "learning_rate": np.array(0.1),
        "conv0/W/Momentum:0": variables["conv0/W"],
        "linear/W/Adam_1": variables["linear/W"],
        "beta1_power:0": np.array(0.9),
        "apply_gradients/linear/W/AccumGrad": variables["linear/W"],
    }
    np.savez(tmp_path / "weights.npz", **odd, **even, **optimizer)
    loaded = load_tensorpack(tmp_path / "weights.npz")
    assert not loaded.training
    assert loaded.config == model.config
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def changed(variables: dict[str, np.ndarray], **fields: Any) -> dict[str, np.ndarray]:
    return {**variables, **{name.replace("__", "/"): value for name, value in fields.items()}}


def test_missing_and_unknown_variables_are_named(variables: dict[str, np.ndarray]) -> None:
    config = infer_config({name: value.shape for name, value in variables.items()})
    gone = [name for name in variables if "/bn/beta" in name][:7]
    broken = {name: value for name, value in variables.items() if name not in gone}
    broken["group0/block0/conv4/W"] = variables["conv0/W"]
    with pytest.raises(ValueError, match="7 missing: conv0/bn/beta, ") as caught:
        build_from_variables(broken, config, "here")
    message = str(caught.value)
    assert "1 unknown: group0/block0/conv4/W" in message
    assert message.count("beta") == 5


def test_variable_of_another_shape_or_type_is_refused(variables: dict[str, np.ndarray]) -> None:
    config = infer_config({name: value.shape for name, value in variables.items()})
    narrow = changed(variables, conv0__W=variables["conv0/W"][..., :32])
    with pytest.raises(ValueError, match=r"1 different: backbone.conv.weight \(\(32, 3, 7, 7\)"):
        build_from_variables(narrow, config, "here")
    flat = changed(variables, conv0__W=variables["conv0/W"].ravel())
    with pytest.raises(ValueError, match=r"1 different: backbone.conv.weight \(\(9408,\)"):
        build_from_variables(flat, config, "here")
    double = changed(variables, linear__b=variables["linear/b"].astype(np.float64))
    with pytest.raises(ValueError, match=r"backbone\.head\.bias .* float64 there"):
        build_from_variables(double, config, "here")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "resnet101"}, "does not fit resnet101 with denoise 'gaussian' at 'stage'"),
        ({"denoise": "dot"}, "8 unknown: group0_denoise/embedding_"),
        ({"denoise_at": "block"}, "unknown: group0_denoise/"),
        ({"padding": "torch"}, "padding must be 'tensorflow' for tensorpack weights"),
        ({"mean": (0.4, 0.4, 0.4)}, "mean must be"),
        ({"std": (0.4, 0.4, 0.4)}, "std must be"),
        ({"num_classes": 6}, r"backbone.head.weight \(\(5, 2048\) .* there, \(6, 2048\)"),
    ],
    ids=str,
)
def test_configuration_that_the_file_does_not_hold_is_refused(
    variables: dict[str, np.ndarray], fields: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {
        "name": "resnet50",
        "num_classes": 5,
        "denoise": "gaussian",
        "padding": "tensorflow",
        **fields,
    }
    with pytest.raises(ValueError, match=message):
        build_from_variables(variables, ModelConfig(**given), "here")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "no variable linear/W.*found nothing"),
        ({"fc/kernel": (10, 3)}, "found fc/kernel"),
        (
            {
                "linear/W": (2048, 10),
                "group0/block0/conv1/W": (1, 1, 64, 64),
                "group0/block0/conv2/W": (3, 3, 64, 64),
            },
            r"no known net has \(1, 0, 0, 0\) blocks .*resnet50 \(3, 4, 6, 3\) 1",
        ),
    ],
    ids=["nothing", "another net", "another depth"],
)
def test_net_that_is_not_the_original_s_is_refused(
    shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        infer_config(shapes)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "R152.npz"
    with pytest.raises(FileNotFoundError, match=r"R152\.npz"):
        read_variables(path)
    path.write_text("<!DOCTYPE html><title>Not found</title>")
    with pytest.raises(ValueError, match=r"R152\.npz is no \.npz file"):
        read_variables(path)
    np.savez(path, a=np.zeros(1000, dtype=np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"is no \.npz file, or not the whole of one"):
        read_variables(path)
    path.write_bytes(whole[:1000] + b"\xff" + whole[1001:])
    with pytest.raises(ValueError, match=r"cannot read the weights of .*R152\.npz"):
        read_variables(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"cannot read the weights .*allow_pickle"):
        read_variables(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="is no array"):
        read_variables(path)


def test_name_in_both_spellings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, **{"linear/b": np.zeros(3), "linear/b:0": np.ones(3)})
    with pytest.raises(ValueError, match="linear/b is there twice"):
        read_variables(path)
