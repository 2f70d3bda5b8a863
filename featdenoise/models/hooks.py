"""The two places where a backbone takes extra modules: after a residual block, after a stage.

A backbone knows nothing of denoising; a denoising variant is the same backbone with other hooks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from featdenoise.models.config import ModelConfig
from featdenoise.models.denoise import DenoisingBlock

Hook = Callable[[int], nn.Module | None]
"""Number of channels in; a module that keeps the shape out, or None."""


def nothing(channels: int) -> None:
    """The hook of a plain backbone: no module."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What stands after every residual block and after every stage."""

    after_block: Hook = nothing
    after_stage: Hook = nothing


def denoising_hooks(config: ModelConfig) -> Hooks:
    """Put the configured denoising blocks after every stage or every residual block (Sec. 6)."""
    operation = config.denoise
    if operation == "none":
        return Hooks()

    def make_block(channels: int) -> nn.Module:
        return DenoisingBlock(
            channels,
            operation,
            subsample=config.subsample,
            no_conv=config.no_conv,
            no_residual=config.no_residual,
        )

    if config.denoise_at == "block":
        return Hooks(after_block=make_block)
    return Hooks(after_stage=make_block)


def make_stage(blocks: Sequence[nn.Module], channels: int, hooks: Hooks) -> nn.Sequential:
    """Residual blocks that all give `channels` channels, with the hooks' modules between them.

    The backbone's own modules have the same names with and without hooks.
    """
    stage = nn.Sequential()
    for k, block in enumerate(blocks):
        stage.add_module(f"block{k}", block)
        _add(stage, f"after_block{k}", hooks.after_block(channels))
    _add(stage, "after_stage", hooks.after_stage(channels))
    return stage


def _add(stage: nn.Sequential, name: str, module: nn.Module | None) -> None:
    if module is not None:
        stage.add_module(name, module)
