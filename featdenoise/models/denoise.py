"""Denoising blocks (Xie et al. 2019, Sec. 4, Fig. 4): operation, 1x1 convolution, residual sum.

A block is x + BN(conv1x1(operation(x))). The BN scale starts at zero, so a new block is the
identity. Shape in = shape out; no ReLU after the sum, no stride, no dropout.
"""

from torch import Tensor, nn

from featdenoise.models.operations import Operation, make_operation


class DenoisingBlock(nn.Module):
    """One denoising block for maps of `channels` channels (Fig. 4)."""

    def __init__(
        self,
        channels: int,
        operation: Operation,
        *,
        subsample: bool = False,
        no_conv: bool = False,
        no_residual: bool = False,
    ) -> None:
        """Build the block, or one of its ablations (Sec. 6.1, "Design decisions").

        Args:
            channels: channels of the input and the output; even for embedded operations.
            operation: which operation denoises.
            subsample: 2x2 max-pool the keys and values of a non-local operation.
            no_conv: x + operation(x); the batch norm belongs to the convolution and goes with it.
            no_residual: BN(conv1x1(operation(x))), the BN scale starting at one.

        Raises:
            ValueError: unknown operation, sub-sampling a local one, or both ablations at once.
        """
        super().__init__()
        check_ablations(no_conv=no_conv, no_residual=no_residual)
        self.operation = make_operation(operation, channels, subsample=subsample)
        self.residual = not no_residual
        self.project: nn.Module = nn.Identity()
        if not no_conv:
            norm = nn.BatchNorm2d(channels)
            if self.residual:
                nn.init.zeros_(norm.weight)
            self.project = nn.Sequential()
            self.project.add_module("conv", nn.Conv2d(channels, channels, 1, bias=False))
            self.project.add_module("bn", norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        denoised = self.project(self.operation(x))
        return x + denoised if self.residual else denoised


def check_ablations(*, no_conv: bool, no_residual: bool) -> None:
    """Refuse a block of which only the operation would be left.

    Raises:
        ValueError: both ablations are asked for.
    """
    if no_conv and no_residual:
        raise ValueError("no_conv and no_residual cannot both be set; choose one ablation")
