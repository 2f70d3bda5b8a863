"""ResNet and ResNeXt for ImageNet: bottlenecks with the stride in the 3x3 convolution.

He et al. 2016, Table 1; Xie et al. 2017, Table 1 (ResNeXt); the nets of Xie et al. 2019, Sec. 6.
The batch norm at the end of a residual branch starts at scale zero (Goyal et al. 2017, Sec. 5.1).
The last layer is called `head`. Images of any size, 224x224 by default.

Convolutions of stride 2 are padded as PyTorch does (symmetric), or as TensorFlow's SAME, which the
published weights need: what is odd goes to the right and the bottom. No dropout, no dilation.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from featdenoise.models.build import register_model
from featdenoise.models.config import Padding
from featdenoise.models.hooks import Hooks, make_stage

STAGE_WIDTHS = (64, 128, 256, 512)
"""A stage gives four times as many channels."""
EXPANSION = 4


@register_model
def resnet50(num_classes: int, hooks: Hooks, padding: Padding = "torch") -> nn.Module:
    """ResNet-50 (He et al. 2016, Table 1)."""
    return ResNet((3, 4, 6, 3), num_classes, hooks, padding=padding)


@register_model
def resnet101(num_classes: int, hooks: Hooks, padding: Padding = "torch") -> nn.Module:
    """ResNet-101 (He et al. 2016, Table 1)."""
    return ResNet((3, 4, 23, 3), num_classes, hooks, padding=padding)


@register_model
def resnet152(num_classes: int, hooks: Hooks, padding: Padding = "torch") -> nn.Module:
    """ResNet-152 (He et al. 2016, Table 1)."""
    return ResNet((3, 8, 36, 3), num_classes, hooks, padding=padding)


@register_model
def resnet164(num_classes: int, hooks: Hooks, padding: Padding = "torch") -> nn.Module:
    """ResNet-152 with one more bottleneck at the end of each stage.

    The control of Xie et al. 2019, Table 1: what four standard blocks give in place of four
    denoising blocks.
    """
    return ResNet((4, 9, 37, 4), num_classes, hooks, padding=padding)


@register_model
def resnext50_32x4d(num_classes: int, hooks: Hooks, padding: Padding = "torch") -> nn.Module:
    """ResNeXt-50 32x4d (Xie et al. 2017, Table 1)."""
    return ResNet((3, 4, 6, 3), num_classes, hooks, padding=padding, groups=32, group_width=4)


@register_model
def resnext101_32x8d(num_classes: int, hooks: Hooks, padding: Padding = "torch") -> nn.Module:
    """ResNeXt-101 32x8d, the base of X101-DenoiseAll (Xie et al. 2019, Sec. 6.2)."""
    return ResNet((3, 4, 23, 3), num_classes, hooks, padding=padding, groups=32, group_width=8)


class ResNet(nn.Module):
    """The bottleneck ResNet with four stages; ResNeXt where `groups` is more than one."""

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        hooks: Hooks,
        *,
        padding: Padding = "torch",
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        """Build it.

        Args:
            blocks: residual blocks in each of the four stages.
            num_classes: outputs of the head.
            hooks: what stands after the blocks and the stages.
            padding: of what has stride 2.
            groups: convolution groups of the 3x3 convolutions.
            group_width: channels of a group in the first stage.
        """
        super().__init__()
        self.pad = _padding_before(7, padding)
        self.conv = _strided_conv(3, STAGE_WIDTHS[0], 7, padding)
        self.bn = nn.BatchNorm2d(STAGE_WIDTHS[0])
        self.pool = _max_pool(padding)
        self.stages = nn.Sequential()
        channels = STAGE_WIDTHS[0]
        for k, (width, depth) in enumerate(zip(STAGE_WIDTHS, blocks, strict=True)):
            inner = width * group_width // STAGE_WIDTHS[0] * groups
            stage = []
            for block in range(depth):
                stride = 2 if k and not block else 1
                stage.append(
                    Bottleneck(channels, inner, EXPANSION * width, stride, groups, padding)
                )
                channels = EXPANSION * width
            self.stages.append(make_stage(stage, channels, hooks))
        self.head = nn.Linear(channels, num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 64, H / 4, W / 4)."""
        return self.pool(F.relu(self.bn(self.conv(self.pad(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        return self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, ReLU after the sum (He et al. 2016, Fig. 5)."""

    def __init__(
        self,
        in_channels: int,
        inner: int,
        channels: int,
        stride: int,
        groups: int,
        padding: Padding,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.pad2: nn.Module = nn.Identity()
        if stride == 1:
            self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False)
        else:
            self.pad2 = _padding_before(3, padding)
            self.conv2 = _strided_conv(inner, inner, 3, padding, groups=groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn3.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential()
            conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.shortcut.add_module("conv", conv)
            self.shortcut.add_module("bn", nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(self.pad2(out))))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class SamePad2d(nn.Module):
    """TensorFlow's SAME padding for windows of stride 2: ceil(size / 2) positions come out.

    A module of its own, so that the convolution behind it stays plain and batch norm folds into it.
    """

    def __init__(self, kernel_size: int, value: float = 0.0) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H + k - 2, W + k - 2) for even H and W; one more for odd ones."""
        height = self.kernel_size - 2 + x.shape[2] % 2
        width = self.kernel_size - 2 + x.shape[3] % 2
        sides = (width // 2, width - width // 2, height // 2, height - height // 2)
        return F.pad(x, sides, value=self.value)


def _padding_before(kernel_size: int, padding: Padding) -> nn.Module:
    return SamePad2d(kernel_size) if padding == "tensorflow" else nn.Identity()


def _strided_conv(
    in_channels: int, channels: int, kernel_size: int, padding: Padding, *, groups: int = 1
) -> nn.Conv2d:
    """Stride 2, behind what `_padding_before` gives."""
    own = 0 if padding == "tensorflow" else kernel_size // 2
    return nn.Conv2d(
        in_channels, channels, kernel_size, stride=2, padding=own, groups=groups, bias=False
    )


def _max_pool(padding: Padding) -> nn.Module:
    if padding == "torch":
        return nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(SamePad2d(3, value=float("-inf")), nn.MaxPool2d(3, stride=2))
