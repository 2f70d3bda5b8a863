import pytest
import torch
from torch import Tensor, nn

from featdenoise.models.denoise import DenoisingBlock
from featdenoise.models.operations import OPERATIONS, Operation, make_operation

operations = pytest.mark.parametrize("operation", OPERATIONS)


def features(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def trained(block: nn.Module) -> nn.Module:
    """The block with every weight and statistic away from its start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator).mul(0.3))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return block.eval()


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@operations
@pytest.mark.parametrize("training", [True, False])
def test_block_is_identity_at_initialisation(operation: Operation, training: bool) -> None:
    x = features(2, 6, 5, 7)
    block = DenoisingBlock(6, operation).train(training)
    assert torch.equal(block(x), x)


@operations
def test_trained_block_keeps_the_shape_and_changes_the_features(operation: Operation) -> None:
    x = features(2, 6, 5, 7)
    result = trained(DenoisingBlock(6, operation))(x)
    assert result.shape == x.shape
    assert not torch.allclose(result, x, atol=1e-2)


@operations
def test_block_is_residual_sum_of_normalised_convolution_of_operation(operation: Operation) -> None:
    x = features(2, 6, 5, 7)
    block = trained(DenoisingBlock(6, operation))
    weights = block.state_dict()
    convolved = torch.einsum(
        "oc,nchw->nohw",
        weights["project.conv.weight"][:, :, 0, 0],
        block.get_submodule("operation")(x),
    )

    def channel(name: str) -> Tensor:
        return weights[f"project.bn.{name}"].view(1, -1, 1, 1)

    normalised = (convolved - channel("running_mean")) / (channel("running_var") + 1e-5).sqrt()
    torch.testing.assert_close(block(x), x + normalised * channel("weight") + channel("bias"))


@operations
def test_gradients_are_finite_and_reach_input_and_weights(operation: Operation) -> None:
    x = features(2, 6, 5, 7).relu().requires_grad_()
    block = trained(DenoisingBlock(6, operation)).train()
    gradients = torch.autograd.grad(block(x).square().sum(), [x, *block.parameters()])
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


@operations
def test_bf16_autocast_stays_close_to_full_precision(operation: Operation) -> None:
    x = features(2, 6, 5, 7).requires_grad_()
    block = trained(DenoisingBlock(6, operation))
    expected = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = block(x)
    assert (result.float() - expected).norm() < 0.03 * expected.norm()
    (gradient,) = torch.autograd.grad(result.float().square().sum(), x)
    assert gradient.isfinite().all()


@operations
def test_channels_last_equals_contiguous(operation: Operation) -> None:
    x = features(2, 6, 5, 7)
    block = trained(DenoisingBlock(6, operation))
    expected = block(x)
    block.to(memory_format=torch.channels_last)
    result = block(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(result, expected)


@operations
def test_no_conv_adds_the_bare_operation(operation: Operation) -> None:
    x = features(2, 6, 5, 7)
    block = DenoisingBlock(6, operation, no_conv=True)
    assert torch.equal(block(x), x + block.operation(x))
    assert num_parameters(block) == num_parameters(make_operation(operation, 6))


@operations
def test_no_residual_starts_with_scale_one_and_drops_the_input(operation: Operation) -> None:
    x = features(2, 6, 5, 7)
    block = DenoisingBlock(6, operation, no_residual=True)
    norm = block.project.get_submodule("bn")
    assert isinstance(norm, nn.BatchNorm2d)
    assert torch.equal(norm.weight, torch.ones(6))
    result = block(x)
    # Training mode: every channel is standardised, which x + anything would not be.
    torch.testing.assert_close(result.mean(dim=(0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)
    assert not torch.allclose(result, x, atol=1e-2)


def test_operations_without_embedding_add_the_same_number_of_parameters() -> None:
    names: list[Operation] = ["null", "mean", "median", "bilateral_dot", "dot"]
    counts = {num_parameters(DenoisingBlock(16, name)) for name in names}
    assert counts == {16 * 16 + 2 * 16}
    for name in ("gaussian", "bilateral_gaussian"):
        assert num_parameters(DenoisingBlock(16, name)) == 16 * 16 + 2 * 16 + 2 * 16 * 8


def test_subsampled_block_runs_on_odd_maps() -> None:
    x = features(2, 6, 5, 7)
    block = DenoisingBlock(6, "dot", subsample=True)
    assert torch.equal(block(x), x)


def test_block_that_would_be_only_its_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="no_conv and no_residual"):
        DenoisingBlock(6, "mean", no_conv=True, no_residual=True)


def test_block_with_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="bilateral_dot, mean, median, null"):
        DenoisingBlock(6, "blur")  # type: ignore[arg-type]
