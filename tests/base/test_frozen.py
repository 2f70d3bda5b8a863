import copy
import logging
import random

import pytest
import torch
from torch import nn

from featdenoise.base.folding import fold_batch_norm
from featdenoise.base.frozen import FrozenTwin, attack_mode


def randomise_(model):
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
            if module.running_mean is not None:
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


class Residual(nn.Module):
    """Grouped, biased and bias-free convolutions, batch norm with and without affine weights."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=4, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.bn2 = nn.BatchNorm2d(channels, affine=False)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x, *, shortcut=True):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if shortcut:
            y = x + self.scale * y
        return torch.relu(y)


class Net(nn.Module):
    def __init__(self, middle=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = Residual() if middle is None else middle
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, images, scale=1.0):
        if scale != 1.0:
            images = images * scale
        return self.head(self.dropout(self.middle(self.stem(images)).mean((2, 3))))


class DependsOnValues(nn.Module):
    """Control flow that torch.fx cannot trace, with a batch norm inside."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.bn(self.conv(x))
        return y if y.mean() > 1e9 else 2 * y


class OneConvTwoBatchNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.bn1(self.conv(x)) + self.bn2(self.conv(x))


class ConvWithTwoUsers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class TwoBatchNormsInARow(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8))


class SharedBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.bn(self.conv2(self.bn(self.conv1(x))))


class BatchStatistics(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False))


class ScaledConvolution(nn.Conv2d):
    def forward(self, x):
        return 3 * super().forward(x)


class StraightThrough(torch.autograd.Function):
    """Rounds; the gradient passes as if it did not."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Rounding(nn.Module):
    def forward(self, x):
        return StraightThrough.apply(5 * x)


class PythonNoise(nn.Module):
    """Random numbers that tracing bakes in."""

    def forward(self, x):
        return x * random.uniform(0.5, 1.5)


MIDDLES = {  # module: batch norms folded, the stem's included
    Residual: 3,
    nn.Identity: 1,
    OneConvTwoBatchNorms: 1,
    ConvWithTwoUsers: 1,
    TwoBatchNormsInARow: 2,
    SharedBatchNorm: 3,
    BatchStatistics: 1,
    Rounding: 1,
}


@pytest.fixture
def images():
    return torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def make_net(middle=None):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return randomise_(Net(middle() if middle else None))


def evaluated(model, images):
    """Logits and input gradient of an evaluation-mode copy."""
    return response(copy.deepcopy(model).eval(), images)


def response(model, images):
    leaf = images.clone().requires_grad_(True)
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)
    return logits.detach(), gradient


def snapshot(model):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    return tensors, flags, [(p.requires_grad, p.grad) for p in model.parameters()]


def assert_same_snapshot(before, after):
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1] == after[1]
    assert all(
        r1 == r2 and g1 is g2 for (r1, g1), (r2, g2) in zip(before[2], after[2], strict=True)
    )


@pytest.mark.parametrize("middle", MIDDLES, ids=lambda middle: middle.__name__)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["fp32", "fp64"]
)
def test_twin_equals_the_model_in_evaluation_mode(middle, dtype, tolerance, images):
    model, images = make_net(middle).to(dtype).train(), images.to(dtype)
    twin = FrozenTwin(model)
    logits, gradient = response(twin, images)
    expected_logits, expected_gradient = evaluated(model, images)
    assert twin.num_folded == MIDDLES[middle]
    assert logits.dtype == gradient.dtype == dtype
    torch.testing.assert_close(logits, expected_logits, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)
    assert expected_gradient.abs().max() > 0


def test_twin_does_not_touch_the_model_nor_the_random_state(images):
    model = make_net().train()
    model.middle.eval()
    model.head.weight.requires_grad_(False)
    model.stem[0].weight.grad = torch.ones_like(model.stem[0].weight)
    before, state = snapshot(model), torch.random.get_rng_state()
    twin = FrozenTwin(model)
    response(twin, images)
    twin.refresh()
    assert_same_snapshot(before, snapshot(model))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("middle", [Residual, BatchStatistics, DependsOnValues, nn.Identity])
def test_twin_follows_the_weights_and_statistics_only_at_refresh(middle, images):
    model = make_net(middle)
    twin = FrozenTwin(model)
    old = twin(images)
    with torch.no_grad():
        model.train()(images)
        for weight in model.parameters():
            weight.mul_(1.3).add_(0.01)
    assert torch.equal(twin(images), old)
    twin.refresh()
    expected, _ = evaluated(model, images)
    torch.testing.assert_close(twin(images), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, old, rtol=1e-3)


def test_refresh_before_the_first_call_counts(images):
    model = make_net()
    twin = FrozenTwin(model)
    with torch.no_grad():
        model.stem[0].weight.mul_(2)
    twin.refresh()
    torch.testing.assert_close(twin(images), evaluated(model, images)[0], rtol=1e-5, atol=1e-5)


def test_refreshed_twin_equals_a_new_one_bit_for_bit(images):
    model = make_net()
    twin = FrozenTwin(model)
    twin(images)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    twin.refresh()
    assert torch.equal(twin(images), FrozenTwin(model)(images))


def test_refresh_of_a_rebuilt_model_is_an_error(images):
    model = make_net()
    twin = FrozenTwin(model)
    model.head = nn.Linear(8, 6)
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        twin.refresh()


def test_twin_takes_batches_and_images_of_other_sizes(images):
    model = make_net()
    twin = FrozenTwin(model)
    for batch in (images[:0], images, images[:1], torch.cat([images] * 3)[..., :4, :]):
        torch.testing.assert_close(twin(batch), evaluated(model, batch)[0], rtol=1e-5, atol=1e-5)


def test_untraceable_module_stays_unfolded_and_says_so_once(images, caplog):
    model = make_net(DependsOnValues)
    twin = FrozenTwin(model)
    for _ in range(2):
        logits = twin(images)
    torch.testing.assert_close(logits, evaluated(model, images)[0], rtol=1e-5, atol=1e-5)
    assert twin.num_folded == 1  # the stem, around it
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "DependsOnValues (symbolically traced variables" in record.getMessage()


def test_untraceable_model_is_copied_whole_and_says_so(images, caplog):
    model = randomise_(nn.Sequential(nn.Conv2d(3, 8, 1), DependsOnValues()))
    twin = FrozenTwin(model[1])
    x = model[0](images).detach()
    torch.testing.assert_close(twin(x), evaluated(model[1], x)[0])
    assert twin.num_folded == 0
    assert "DependsOnValues" in caplog.text


def test_subclass_of_a_convolution_is_not_folded(images):
    model = randomise_(nn.Sequential(ScaledConvolution(3, 8, 1), nn.BatchNorm2d(8)))
    twin = FrozenTwin(model)
    assert twin.num_folded == 0
    torch.testing.assert_close(twin(images), evaluated(model, images)[0])


def test_module_whose_trace_lies_is_used_unfolded_and_says_so(images, caplog):
    state = random.getstate()
    random.seed(0)  # from before the trace: what it bakes in must differ from what comes later
    twin = FrozenTwin(make_net(PythonNoise))
    different = [twin(images) for _ in range(2)]
    random.setstate(state)
    assert not torch.equal(*different)
    assert twin.num_folded == 0
    assert "differs from the module" in caplog.text


def test_hooks_are_traced(images):
    model = make_net()
    model.register_forward_hook(lambda module, inputs, logits: logits * 3)
    model.middle.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    twin = FrozenTwin(model)
    assert twin.num_folded == 3
    torch.testing.assert_close(twin(images), evaluated(model, images)[0], rtol=1e-5, atol=1e-5)


def test_module_that_cannot_be_copied_is_used_in_evaluation_mode(images, caplog):
    model = make_net().train()
    model.handle = (character for character in "generators cannot be copied")
    before = snapshot(model)
    twin = FrozenTwin(model)
    logits, gradient = response(twin, images)
    twin.refresh()
    assert_same_snapshot(before, snapshot(model))
    assert "cannot be copied" in caplog.text
    del model.handle
    expected_logits, expected_gradient = evaluated(model, images)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("middle", [Residual, DependsOnValues])
def test_bf16_twin_is_near_and_keeps_the_image_dtype(middle, images):
    model = make_net(middle)
    twin = FrozenTwin(model, precision="bf16")
    logits, gradient = response(twin, images)
    expected_logits, expected_gradient = evaluated(model, images)
    assert logits.dtype == gradient.dtype == torch.float32
    assert not torch.equal(logits, expected_logits)
    torch.testing.assert_close(logits, expected_logits, rtol=0.05, atol=0.05)
    assert (gradient - expected_gradient).norm() < 0.1 * expected_gradient.norm()
    with torch.no_grad():
        model.stem[0].weight.mul_(2)
        if middle is Residual:
            model.middle.scale.mul_(3)
    twin.refresh()
    refreshed = twin(images)
    assert torch.equal(refreshed, FrozenTwin(model, precision="bf16")(images))
    torch.testing.assert_close(refreshed, evaluated(model, images)[0], rtol=0.05, atol=0.1)


def test_channels_last_can_be_turned_off(images):
    model = make_net()
    weights = [
        fold.folded.weight for twin in (FrozenTwin(model), FrozenTwin(model, channels_last=False))
        for fold in twin._folds
    ]  # fmt: skip
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[3].is_contiguous()
    plain = FrozenTwin(model, channels_last=False)
    torch.testing.assert_close(plain(images), FrozenTwin(model)(images), rtol=1e-5, atol=1e-5)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of"):
        FrozenTwin(make_net(), precision="fp8")


def test_folding_leaves_the_given_model_whole(images):
    model = make_net().eval()
    expected = model(images)
    folded, folds = fold_batch_norm(model)
    assert torch.equal(model(images), expected)
    assert len(folds) == 3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_custom_gradients_work_again_after_tracing():
    FrozenTwin(make_net(Rounding))
    x = torch.tensor([0.3], requires_grad=True)
    StraightThrough.apply(x).backward()
    assert x.grad == 1


def test_attack_mode_restores_everything_also_after_an_error(images):
    model = make_net().train()
    model.middle.eval()
    model.head.weight.requires_grad_(False)
    model.stem[0].weight.grad = torch.ones_like(model.stem[0].weight)
    before = snapshot(model)

    def attack_that_fails():
        with attack_mode(model):
            assert not any(module.training for module in model.modules())
            assert not any(weight.requires_grad for weight in model.parameters())
            model(images)
            model.stem[0].weight.grad = None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attack_that_fails()
    assert_same_snapshot(before, snapshot(model))
