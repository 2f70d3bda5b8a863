from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featdenoise.models.build import _BUILDERS, list_models, takes_padding
from featdenoise.models.cifar import BasicBlock, PreActBlock
from featdenoise.models.denoise import DenoisingBlock
from featdenoise.models.hooks import Hooks
from featdenoise.models.operations import OPERATIONS, Operation
from featdenoise.models.registry import create_model

# (parameters at 10 classes, residual blocks, stages)
SIZES = {
    "preactresnet18": (11_171_146, 8, 4),
    "resnet8": (78_042, 3, 3),
    "resnet20": (272_474, 9, 3),
    "resnet32": (466_906, 15, 3),
    "resnet44": (661_338, 21, 3),
    "resnet56": (855_770, 27, 3),
    "resnet110": (1_730_714, 54, 3),
    "wideresnet28_10": (36_479_194, 12, 3),
    "wideresnet40_10": (55_841_754, 18, 3),
}
small_models = pytest.mark.parametrize("name", ["resnet8", "resnet20", "preactresnet18"])


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def on_meta(name: str, hooks: Hooks) -> nn.Module:
    with torch.device("meta"):
        return _BUILDERS[name](10, hooks)


def trained(model: nn.Module) -> nn.Module:
    """The model with denoising blocks that do something."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)  # type: ignore[arg-type]
    return model.eval()


def test_every_small_image_model_has_its_published_size() -> None:
    sizes = {
        name: sum(p.numel() for p in on_meta(name, Hooks()).parameters())
        for name in list_models()
        if not takes_padding(name)
    }
    assert sizes == {name: size for name, (size, _, _) in SIZES.items()}


@pytest.mark.parametrize("name", SIZES)
def test_hooks_stand_after_every_block_and_every_stage(name: str) -> None:
    placed: dict[str, list[int]] = {"block": [], "stage": []}

    def note(where: str) -> Any:
        return lambda channels: placed[where].append(channels)

    on_meta(name, Hooks(after_block=note("block"), after_stage=note("stage")))
    _, num_blocks, num_stages = SIZES[name]
    assert len(placed["block"]) == num_blocks
    assert len(placed["stage"]) == num_stages
    assert set(placed["block"]) == set(placed["stage"])


@small_models
@pytest.mark.parametrize("denoise_at", ["stage", "block"])
def test_denoising_blocks_are_placed_as_configured(name: str, denoise_at: str) -> None:
    model = create_model(name, denoise="mean", denoise_at=denoise_at)
    blocks = [n for n, m in model.named_modules() if isinstance(m, DenoisingBlock)]
    _, num_blocks, num_stages = SIZES[name]
    assert len(blocks) == (num_blocks if denoise_at == "block" else num_stages)
    assert all(f"after_{denoise_at}" in n for n in blocks)


def test_denoising_takes_the_output_of_the_residual_block_and_feeds_the_next() -> None:
    order: list[str] = []
    model = create_model("resnet20", denoise="null", denoise_at="block")
    for module in model.modules():
        if isinstance(module, (BasicBlock, DenoisingBlock)):
            module.register_forward_hook(lambda m, _, __: order.append(type(m).__name__))
    model(images(1, 3, 8, 8))
    assert order == ["BasicBlock", "DenoisingBlock"] * 9


@small_models
def test_model_takes_any_image_size_and_gives_logits(name: str) -> None:
    model = create_model(name, num_classes=7).eval()
    for height, width in [(16, 16), (9, 21)]:
        logits = model(images(2, 3, height, width))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
        assert not torch.equal(logits[0], logits[1])


@small_models
def test_new_denoising_blocks_change_no_logit(name: str) -> None:
    x = images(2, 3, 12, 8)
    plain = create_model(name).eval()(x)
    for denoise_at in ("stage", "block"):
        denoising = create_model(name, denoise="gaussian", denoise_at=denoise_at).eval()
        assert torch.equal(denoising(x), plain)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("denoise_at", ["stage", "block"])
def test_every_model_is_traceable(name: str, denoise_at: str) -> None:
    hook = {f"after_{denoise_at}": lambda channels: DenoisingBlock(channels, "median")}
    traced = torch.fx.symbolic_trace(on_meta(name, Hooks(**hook)))
    assert sum(node.op == "call_module" for node in traced.graph.nodes) > 10


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["resnet8", "preactresnet18"])
def test_traced_denoising_net_gives_the_same_logits_at_another_size(
    name: str, operation: Operation
) -> None:
    model = trained(create_model(name, denoise=operation, denoise_at="stage"))
    traced = torch.fx.symbolic_trace(model)
    for x in (images(2, 3, 8, 12), images(1, 3, 9, 8)):
        assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_net_runs_under_bf16_autocast_and_channels_last(operation: Operation) -> None:
    x = images(2, 3, 8, 12)
    model = trained(create_model("resnet8", denoise=operation, denoise_at="block"))
    nn.init.normal_(model.get_parameter("backbone.head.weight"))
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(last), expected, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(last)
    assert (rounded.float() - expected).norm() < 0.1 * expected.norm()


def test_logits_of_an_image_do_not_depend_on_its_batch() -> None:
    x = images(4, 3, 8, 12)
    model = trained(create_model("resnet8", denoise="gaussian", denoise_at="block")).double()
    alone = torch.cat([model(image[None].double()) for image in x])
    torch.testing.assert_close(model(x.double()), alone)


def test_basic_block_follows_its_formula() -> None:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    block = trained(BasicBlock(4, 8, 2))
    inner = F.relu(block.bn1(F.conv2d(x, block.conv1.weight, stride=2, padding=1)))
    outer = block.bn2(F.conv2d(inner, block.conv2.weight, padding=1))
    torch.testing.assert_close(block(x), F.relu(outer + block.shortcut(x)))
    assert block(x).shape == (2, 8, 3, 3)
    assert block(x).min() == 0


def test_pre_activation_block_passes_its_raw_input_on() -> None:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    block = trained(PreActBlock(4, 4, 1))
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)
    projecting = trained(PreActBlock(4, 8, 2))
    nn.init.zeros_(projecting.conv2.weight)
    expected = projecting.shortcut(F.relu(projecting.bn1(x)))
    assert torch.equal(projecting(x), expected)
