from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from featdenoise.base.frozen import FrozenTwin
from featdenoise.models.build import _BUILDERS, build_model, list_models, takes_padding
from featdenoise.models.config import ModelConfig, Padding
from featdenoise.models.denoise import DenoisingBlock
from featdenoise.models.hooks import Hooks
from featdenoise.models.operations import OPERATIONS, Operation
from featdenoise.models.registry import Classifier, create_model
from featdenoise.models.resnet import Bottleneck, ResNet, SamePad2d

# Parameters at 1000 classes (torchvision's), residual blocks.
SIZES = {
    "resnet50": (25_557_032, 16),
    "resnet101": (44_549_160, 33),
    "resnet152": (60_192_808, 50),
    # No published net: 152 and four bottlenecks, 70,400 + 280,064 + 1,117,184 + 4,462,592.
    "resnet164": (66_123_048, 54),
    "resnext50_32x4d": (25_028_904, 16),
    "resnext101_32x8d": (88_791_336, 33),
}
PADDINGS: tuple[Padding, ...] = ("torch", "tensorflow")
both_paddings = pytest.mark.parametrize("padding", PADDINGS)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def on_meta(name: str, **fields: Any) -> Classifier:
    with torch.device("meta"):
        return build_model(ModelConfig(name=name, num_classes=1000, **fields))


def trained(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with batch norms as after some training."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.7, generator=generator)
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)  # type: ignore[arg-type]
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1, generator=generator)
    return model.eval()


def small_net(padding: Padding, hooks: Hooks | None = None) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet((1, 2, 1, 1), 5, hooks or Hooks(), padding=padding)


def test_every_net_that_takes_paddings_is_in_the_table() -> None:
    assert {name for name in list_models() if takes_padding(name)} == SIZES.keys()


@both_paddings
@pytest.mark.parametrize("name", SIZES)
def test_net_has_its_published_size(name: str, padding: Padding) -> None:
    model = on_meta(name, padding=padding)
    assert sum(p.numel() for p in model.parameters()) == SIZES[name][0]


@pytest.mark.parametrize("name", SIZES)
def test_hooks_stand_after_every_block_and_every_stage(name: str) -> None:
    at_blocks = on_meta(name, denoise="mean", denoise_at="block")
    at_stages = on_meta(name, denoise="mean", denoise_at="stage")
    count = [
        sum(isinstance(m, DenoisingBlock) for m in x.modules()) for x in (at_blocks, at_stages)
    ]
    assert count == [SIZES[name][1], 4]
    order = [type(m) for m in at_blocks.modules() if isinstance(m, (Bottleneck, DenoisingBlock))]
    assert order == [Bottleneck, DenoisingBlock] * SIZES[name][1]


def test_resnet164_is_resnet152_with_a_bottleneck_after_each_stage() -> None:
    small, large = on_meta("resnet152").state_dict(), on_meta("resnet164").state_dict()
    assert small.keys() < large.keys()
    assert all(small[name].shape == large[name].shape for name in small)
    added = {name.split(".block")[1].split(".")[0] for name in large.keys() - small.keys()}
    assert added == {"3", "8", "36"}


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_torch_padding_gives_the_logits_of_torchvision(name: str) -> None:
    theirs = getattr(torchvision.models, name)(num_classes=10)
    trained(theirs)
    ours = create_model(name, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
    # Layers come in the same order but for the shortcut, which torchvision calls downsample.
    own = {n: t for n, t in ours.state_dict().items() if not n.startswith("normalize.")}
    ours.backbone.load_state_dict(
        {
            mine.removeprefix("backbone."): weight
            for mine, weight in zip(own, theirs.state_dict().values(), strict=True)
        }
    )
    x = images(2, 3, 65, 96)
    torch.testing.assert_close(ours(x), theirs(x))


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's definition."""
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", [(7, 8), (8, 9), (14, 14), (224, 15)])
def test_same_padding_is_that_of_tensorflow(kernel_size: int, size: tuple[int, int]) -> None:
    x = images(1, 2, *size)
    top, bottom = same_padding(size[0], kernel_size, 2)
    left, right = same_padding(size[1], kernel_size, 2)
    padded = SamePad2d(kernel_size, value=-1.0)(x)
    expected = torch.full((1, 2, size[0] + top + bottom, size[1] + left + right), -1.0)
    expected[:, :, top : top + size[0], left : left + size[1]] = x
    assert torch.equal(padded, expected)


def test_tensorflow_net_follows_its_formula() -> None:
    model = trained(small_net("tensorflow"))
    x = images(2, 3, 34, 33) - 0.5
    seen: list[Tensor] = []
    model.get_submodule("stages").register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(x)
    # 34 rows: 5 more, 2 before; 33 columns: 6 more, 3 before.
    hidden = F.conv2d(F.pad(x, (3, 3, 2, 3)), model.get_parameter("conv.weight"), stride=2)
    hidden = F.relu(model.get_submodule("bn")(hidden))
    # 17 rows and columns are odd: one on each side.
    padded = F.pad(hidden, (1, 1, 1, 1), value=-torch.inf)
    torch.testing.assert_close(seen[0], F.max_pool2d(padded, 3, stride=2))
    assert seen[0].shape == (2, 64, 9, 9)


@both_paddings
@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_follows_its_formula(stride: int, padding: Padding) -> None:
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    block = trained(Bottleneck(8, 4, 16, stride, 2, padding))
    assert isinstance(block, Bottleneck)
    inner = F.relu(block.bn1(F.conv2d(x, block.conv1.weight)))
    around = (0, 1, 0, 1) if (stride, padding) == (2, "tensorflow") else (1, 1, 1, 1)
    inner = F.conv2d(F.pad(inner, around), block.conv2.weight, stride=stride, groups=2)
    outer = block.bn3(F.conv2d(F.relu(block.bn2(inner)), block.conv3.weight))
    torch.testing.assert_close(block(x), F.relu(outer + block.shortcut(x)))
    assert block(x).shape == (2, 16, 6 // stride, 6 // stride)


def test_paddings_differ_only_where_the_stride_is_two() -> None:
    torch_net, tensorflow_net = trained(small_net("torch")), trained(small_net("tensorflow"))
    tensorflow_net.load_state_dict(torch_net.state_dict())
    x = images(1, 3, 64, 64)
    assert (torch_net(x) - tensorflow_net(x)).abs().max() > 1e-3
    # Odd sizes have a middle, so SAME is symmetric there: 33, 17, 9, 5, 3, 2 rows.
    odd = images(1, 3, 33, 33)
    torch.testing.assert_close(torch_net(odd), tensorflow_net(odd))


def test_residual_branches_start_at_zero_and_nothing_else_does() -> None:
    model = create_model("resnet50", denoise="gaussian")
    zero = {
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.BatchNorm2d) and not m.weight.any()
    }
    ends = {name for name, _ in model.named_modules() if name.endswith((".bn3", ".project.bn"))}
    assert zero == ends
    assert len(zero) == 16 + 4


def test_grouped_convolutions_start_with_the_fan_out_of_all_groups() -> None:
    model = create_model("resnext50_32x4d")
    weight = model.get_parameter("backbone.stages.2.block1.conv2.weight")
    assert weight.shape == (512, 16, 3, 3)
    std = (2 / (9 * 512)) ** 0.5
    assert abs(weight.std().item() / std - 1) < 0.02


@pytest.mark.parametrize("denoise_at", ["stage", "block"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_stands_at_every_place_and_starts_as_the_identity(
    operation: Operation, denoise_at: str
) -> None:
    def block(channels: int) -> nn.Module:
        return DenoisingBlock(channels, operation)

    hooks = Hooks(**{f"after_{denoise_at}": block})
    model = trained(small_net("tensorflow", hooks))
    x = images(2, 3, 32, 32)
    plain = small_net("tensorflow").eval()
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if ".after_" not in n})
    assert (model(x) - plain(x)).abs().max() > 1e-4
    for module in model.modules():
        if isinstance(module, DenoisingBlock):
            nn.init.zeros_(module.get_parameter("project.bn.weight"))
            nn.init.zeros_(module.get_parameter("project.bn.bias"))
    assert torch.equal(model(x), plain(x))


def test_denoising_has_no_relu_behind_it() -> None:
    hooks = Hooks(after_stage=lambda channels: DenoisingBlock(channels, "null"))
    model = trained(small_net("torch", hooks))
    for module in model.modules():
        if isinstance(module, DenoisingBlock):
            nn.init.constant_(module.get_parameter("project.bn.bias"), -5.0)
    seen: list[Tensor] = []
    head = model.get_submodule("head")
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(images(1, 3, 32, 32))
    assert seen[0].min() < -1


@both_paddings
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_all_batch_norm_folds_into_the_frozen_twin(name: str, padding: Padding) -> None:
    model = create_model(name, denoise="gaussian", denoise_at="stage", padding=padding)
    trained(model)
    twin = FrozenTwin(model)
    assert twin.num_folded == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 57
    x = images(2, 3, 64, 64)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-4, atol=1e-4)
    assert twin.num_folded == 57
    other_size = images(1, 3, 47, 65)
    torch.testing.assert_close(twin(other_size), model(other_size), rtol=1e-4, atol=1e-4)


@both_paddings
def test_net_runs_under_bf16_autocast_and_channels_last(padding: Padding) -> None:
    model = trained(small_net(padding))
    x = images(2, 3, 64, 64)
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(last), expected, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(last).float() - expected).norm() < 0.1 * expected.norm()


def test_padding_of_a_net_that_has_one_only_is_refused() -> None:
    with pytest.raises(ValueError, match=r"padding is 'tensorflow', but resnet20 .*resnet50"):
        create_model("resnet20", padding="tensorflow")


def test_unknown_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="padding must be one of torch, tensorflow, got 'same'"):
        create_model("resnet50", padding="same")


@pytest.mark.parametrize("name", SIZES)
def test_every_net_is_traceable(name: str) -> None:
    with torch.device("meta"):
        hooks = Hooks(after_block=lambda channels: DenoisingBlock(channels, "median"))
        net = _BUILDERS[name](10, hooks, padding="tensorflow")
    traced = torch.fx.symbolic_trace(net)
    assert sum(node.op == "call_module" for node in traced.graph.nodes) > 100
