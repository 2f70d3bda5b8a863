"""Networks that a frozen twin must follow, fold or leave alone, and what is asked of both."""

import copy
import random

import torch
from torch import nn


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
