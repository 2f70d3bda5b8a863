"""Small-image backbones: CIFAR ResNets, pre-activation ResNet-18, wide ResNets.

He et al. 2016 (ResNet, Sec. 4.2; pre-activation), Zagoruyko & Komodakis 2016 (wide). All begin with
one 3x3 convolution of stride 1 and end with global average pooling, so they take images of any
size, 32x32 by default. The last layer is called `head`. No dropout.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from featdenoise.models.build import register_model
from featdenoise.models.hooks import Hooks, make_stage


@register_model
def resnet8(num_classes: int, hooks: Hooks) -> nn.Module:
    """CIFAR ResNet of 8 layers (one block a stage), for demonstrations on small images."""
    return ResNet(8, num_classes, hooks)


@register_model
def resnet20(num_classes: int, hooks: Hooks) -> nn.Module:
    """CIFAR ResNet of 20 layers (He et al. 2016, Table 6)."""
    return ResNet(20, num_classes, hooks)


@register_model
def resnet32(num_classes: int, hooks: Hooks) -> nn.Module:
    """CIFAR ResNet of 32 layers (He et al. 2016, Table 6)."""
    return ResNet(32, num_classes, hooks)


@register_model
def resnet44(num_classes: int, hooks: Hooks) -> nn.Module:
    """CIFAR ResNet of 44 layers (He et al. 2016, Table 6)."""
    return ResNet(44, num_classes, hooks)


@register_model
def resnet56(num_classes: int, hooks: Hooks) -> nn.Module:
    """CIFAR ResNet of 56 layers (He et al. 2016, Table 6)."""
    return ResNet(56, num_classes, hooks)


@register_model
def resnet110(num_classes: int, hooks: Hooks) -> nn.Module:
    """CIFAR ResNet of 110 layers (He et al. 2016, Table 6), the base of Cohen et al. 2019."""
    return ResNet(110, num_classes, hooks)


@register_model
def preactresnet18(num_classes: int, hooks: Hooks) -> nn.Module:
    """Pre-activation ResNet-18 with a CIFAR stem; 11,171,146 parameters at 10 classes."""
    # Differs from the paper (He et al. 2016b): no batch norm and ReLU before the pooling, as in the
    # CIFAR form in common use, so that parameter counts agree with published ones.
    return PreActResNet(
        num_classes, hooks, stem=64, widths=(64, 128, 256, 512), num_blocks=2, final_norm=False
    )


@register_model
def wideresnet28_10(num_classes: int, hooks: Hooks) -> nn.Module:
    """WRN-28-10 (Zagoruyko & Komodakis 2016)."""
    return PreActResNet(num_classes, hooks, stem=16, widths=(160, 320, 640), num_blocks=4)


@register_model
def wideresnet40_10(num_classes: int, hooks: Hooks) -> nn.Module:
    """WRN-40-10 (Zagoruyko & Komodakis 2016)."""
    return PreActResNet(num_classes, hooks, stem=16, widths=(160, 320, 640), num_blocks=6)


class ResNet(nn.Module):
    """The ResNet for small images: 6n + 2 layers in three stages (He et al. 2016, Sec. 4.2)."""

    def __init__(self, depth: int, num_classes: int, hooks: Hooks) -> None:
        super().__init__()
        num_blocks, rest = divmod(depth - 2, 6)
        assert rest == 0
        widths = (16, 32, 64)
        self.conv = _conv3x3(3, widths[0])
        self.bn = nn.BatchNorm2d(widths[0])
        self.stages = _make_stages(BasicBlock, widths[0], widths, num_blocks, hooks)
        self.head = nn.Linear(widths[-1], num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 16, H, W)."""
        return F.relu(self.bn(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        return self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, ReLU after the sum (He et al. 2016, Fig. 2)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            # Differs from the paper: its option B (a projection) and not A (zero padding), as the
            # 1,730,714 parameters of the ResNet-110 in common use for certification.
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class PreActResNet(nn.Module):
    """The pre-activation ResNet (He et al. 2016b), also the wide one, for small images."""

    def __init__(
        self,
        num_classes: int,
        hooks: Hooks,
        *,
        stem: int,
        widths: Sequence[int],
        num_blocks: int,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv = _conv3x3(3, stem)
        self.stages = _make_stages(PreActBlock, stem, widths, num_blocks, hooks)
        self.final: nn.Module = nn.Identity()
        if final_norm:
            self.final = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.head = nn.Linear(widths[-1], num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, stem, H, W)."""
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        x = self.final(self.stages(self.stem(x)))
        return self.head(x.mean(dim=(2, 3)))


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each 3x3 convolution, nothing after the sum."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        # The projection takes the activated input, the identity the raw one.
        return out + (x if self.shortcut is None else self.shortcut(active))


def _make_stages(
    block: type[BasicBlock] | type[PreActBlock],
    stem: int,
    widths: Sequence[int],
    num_blocks: int,
    hooks: Hooks,
) -> nn.Sequential:
    """One stage a width; every stage but the first halves height and width."""
    stages = []
    for k, width in enumerate(widths):
        first = block(widths[k - 1] if k else stem, width, 2 if k else 1)
        others = [block(width, width, 1) for _ in range(num_blocks - 1)]
        stages.append(make_stage([first, *others], width, hooks))
    return nn.Sequential(*stages)


def _conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
