"""timm's networks as backbones: any network whose feature maps are (N, C, H, W) takes blocks.

`timm/NAME` names them. Blocks stand after stages (`denoise_at="stage"`: after the last module that
timm's `feature_info` names at each reduction from 4 to 32, as after res2 to res5), or after modules
named one by one (`denoise_at=("stages.0", "stages.1")`).

timm's network is left whole: its modules and weights keep their names, so that its own weights fit.
A forward hook on a module hands its output through the block that follows it; the weights of the
blocks are in `denoising`, a child added to the network. torch.fx traces through such hooks.
"""

import dataclasses
import difflib
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.models import FeatureHookNet, FeatureInfo
from torch import Tensor, nn
from torch.func import functional_call

from featdenoise.models.build import Classifier
from featdenoise.models.config import ModelConfig
from featdenoise.models.hooks import denoising_hooks
from featdenoise.models.initialize import initialize

PREFIX = "timm/"
"""What a model's name begins with if timm builds it."""

STAGE_REDUCTIONS = range(4, 33)
"""Image pixels a pixel of the feature map, from res2 to res5."""


def is_timm_name(name: str) -> bool:
    """Whether the name asks for a network of timm."""
    return name.startswith(PREFIX)


def timm_cfg(net: nn.Module) -> dict[str, Any]:
    """What timm says of a network's input, classifier and weights."""
    cfg = getattr(net, "pretrained_cfg", {})
    assert isinstance(cfg, dict)
    return cfg


def create_timm_model(
    config: ModelConfig, *, seed: int = 0, pretrained: bool = False, given: Collection[str] = ()
) -> Classifier:
    """Build timm's network with the configured denoising blocks, in training mode, on the CPU.

    Every weight is a function of the seed; timm's initial weights are the same with and without
    blocks, and the global random state is neither used nor changed.

    Args:
        config: its name begins with `timm/` and may end with one of timm's tags.
        seed: seed of the initial weights.
        pretrained: start from timm's weights, downloaded by timm, whose errors pass through; with
            another number of classes the classifier is new.
        given: fields of `config` that were chosen. Of the others, mean and std become timm's for
            this network, and `num_classes` that of the pretrained weights.

    Returns:
        A module from (N, 3, H, W) RGB images in [0, 1] to (N, num_classes) logits; its `config`
        rebuilds it.

    Raises:
        ValueError: a name that timm does not know, places that cannot take a block (no feature
            maps (N, C, H, W) there, not used exactly once, no stages in `feature_info`), or another
            normalisation than that of the pretrained weights.
    """
    name = config.name.removeprefix(PREFIX)
    _check_name(name)
    if config.padding != ModelConfig.padding:
        raise ValueError(f"padding is {config.padding!r}, but {config.name} has its own padding")
    config = dataclasses.replace(config, **_own_fields(config, pretrained, given))
    # timm draws initial weights from the global state: a fork of it, with the seed.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = timm.create_model(name, pretrained=pretrained, num_classes=config.num_classes)
    if config.denoise != "none":
        _add_blocks(net, config, seed)
    return Classifier(config, net)


class FeatureMaps(nn.Module):
    """The feature maps of a model of `create_timm_model`, for a detector or a segmenter.

    A block after a module belongs to its map. The network itself is used, without its classifier.
    """

    feature_info: FeatureInfo

    def __init__(self, model: Classifier, out_indices: Sequence[int] | None = None) -> None:
        """Take a model apart.

        Args:
            model: loses its classifier.
            out_indices: positions in timm's `feature_info`; by default those of the stages, with
                reductions from 4 to 32.

        Raises:
            ValueError: timm has no `feature_info` of this network, or not these positions.
        """
        super().__init__()
        rows = _feature_rows(model.backbone)
        if out_indices is None:
            out_indices = sorted(rows.index(row) for row in _stages(rows))
        if not out_indices or not all(-len(rows) <= k < len(rows) for k in out_indices):
            raise ValueError(
                f"out_indices must be positions in the {len(rows)} feature maps of "
                f"{model.config.name}, got {list(out_indices)}"
            )
        self.normalize = model.normalize
        self.net = FeatureHookNet(model.backbone, out_indices=tuple(out_indices), no_rewrite=True)
        self.feature_info = self.net.feature_info

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) pixels in [0, 1] to maps (N, C, H / reduction, W / reduction)."""
        return self.net(self.normalize(images))


def _own_fields(config: ModelConfig, pretrained: bool, given: Collection[str]) -> dict[str, Any]:
    """The fields of the configuration that timm's description of the network decides."""
    described = timm.get_pretrained_cfg(config.name.removeprefix(PREFIX))
    own: dict[str, Any] = {}
    if described is None:
        return own
    for field in ("mean", "std"):
        values = tuple(float(value) for value in getattr(described, field))
        if pretrained and field in given and getattr(config, field) != values:
            raise ValueError(
                f"{field} is {getattr(config, field)}, but the pretrained weights of {config.name} "
                f"were trained with {values}; leave it out"
            )
        if pretrained or field not in given:
            own[field] = values
    if pretrained and "num_classes" not in given:
        own["num_classes"] = described.num_classes
    return own


def _add_blocks(net: nn.Module, config: ModelConfig, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        blocks = _make_blocks(net, config)
    for place, block in blocks.items():
        net.get_submodule(place).register_forward_hook(_After(block))
    # Names of modules have no dots.
    net.denoising = nn.ModuleDict({p.replace(".", "_"): block for p, block in blocks.items()})
    initialize(net.denoising, seed)


class _After:
    """A forward hook that hands a module's output through a block."""

    # An object and not a closure: a copied network calls its own copy of the block.
    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.block(output)


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    # Only timm's own registry: a path or another source would not rebuild from the name alone, and
    # our own nets are there under names of ours.
    known = [other for other in timm.list_models() if not other.startswith("featdenoise_")]
    if architecture not in known:
        close = ", ".join(difflib.get_close_matches(architecture, known))
        raise ValueError(
            f"unknown model {PREFIX + name!r}: timm has no {architecture!r}"
            f"{f'; near names are {close}' if close else ''}; timm.list_models() has them all"
        )
    if tag and name not in timm.list_pretrained(f"{architecture}.*"):
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise ValueError(f"timm has no tag {tag!r} for {architecture}; known are {tags}")


def _make_blocks(net: nn.Module, config: ModelConfig) -> dict[str, nn.Module]:
    """A block for each place, by the place's name."""
    places, expected = _find_places(net, config)
    if getattr(net, "output_fmt", "NCHW") != "NCHW":
        raise ValueError(
            f"{config.name} has feature maps {net.output_fmt}; denoising blocks take NCHW: choose "
            "a convolutional network, or denoise none"
        )
    size = timm_cfg(net).get("input_size", (3, 224, 224))[1:]
    shapes = probe_shapes(net, places, size)
    shapes_at_another_size = shapes
    if not timm_cfg(net).get("fixed_input_size", False):
        shapes_at_another_size = probe_shapes(net, places, [2 * length for length in size])
    blocks: dict[str, nn.Module] = {}
    for place in places:
        where = f"{config.name} cannot take a denoising block after {place!r}"
        channels = _num_channels(shapes[place], shapes_at_another_size[place], where)
        if expected.get(place, channels) != channels:
            raise ValueError(
                f"{where}: {channels} channels, where its feature_info says {expected[place]}"
            )
        try:
            block = denoising_hooks(config).after_stage(channels)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        assert block is not None
        blocks[place] = block
    return blocks


def _find_places(net: nn.Module, config: ModelConfig) -> tuple[list[str], dict[str, int]]:
    """The modules to be followed by a block, and the channels that timm says some of them have."""
    modules = [name for name, _ in net.named_modules() if name]
    if isinstance(config.denoise_at, tuple):
        for place in config.denoise_at:
            if place not in modules:
                near = difflib.get_close_matches(place, modules, cutoff=0) or modules[:3]
                raise ValueError(
                    f"denoise_at names {place!r}, but {config.name} has no such module; "
                    f"near names are {', '.join(near)}"
                )
        return list(config.denoise_at), {}
    if config.denoise_at != "stage":
        raise ValueError(
            f"denoise_at must be stage or names of modules for {config.name}, "
            f"got {config.denoise_at!r}"
        )
    channels = {row["module"]: row["num_chs"] for row in _stages(_feature_rows(net))}
    if not channels or not channels.keys() <= set(modules):
        raise ValueError(
            f"denoise_at is 'stage', but timm's feature_info names no stages of {config.name}; "
            "give names of modules instead"
        )
    return list(channels), channels


def _feature_rows(net: nn.Module) -> list[dict[str, Any]]:
    info = getattr(net, "feature_info", [])
    return list(info.info if isinstance(info, FeatureInfo) else info)


def _stages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Of several modules at one reduction the last, which ends the stage.
    return list({r["reduction"]: r for r in rows if r["reduction"] in STAGE_REDUCTIONS}.values())


Shapes = list[tuple[int, ...] | None]
"""Of a module's outputs in one forward pass; None for what is no tensor."""


def probe_shapes(net: nn.Module, places: Sequence[str], size: Sequence[int]) -> dict[str, Shapes]:
    """What modules give for two images of `size` pixels; nothing is computed.

    Args:
        net: images (N, 3, H, W) to anything; in training mode before and after.
        places: names of modules.
        size: height and width.
    """
    seen: dict[str, Shapes] = {place: [] for place in places}
    handles = [
        net.get_submodule(place).register_forward_hook(partial(_note_shape, seen[place]))
        for place in places
    ]
    tensors = [*net.named_parameters(), *net.named_buffers()]
    shells = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    net.eval()
    try:
        functional_call(net, shells, torch.empty(2, 3, *size, device="meta"))
    finally:
        net.train()
        for handle in handles:
            handle.remove()
    return seen


def _note_shape(shapes: Shapes, module: nn.Module, args: Any, output: Any) -> None:
    shapes.append(tuple(output.shape) if isinstance(output, Tensor) else None)


def _num_channels(shapes: Shapes, at_another_size: Shapes, where: str) -> int:
    if len(shapes) != 1:
        raise ValueError(
            f"{where}: it is used {len(shapes)} times in a forward pass, not once; choose another "
            "module"
        )
    shape, other = shapes[0], at_another_size[0]
    if shape is None or other is None or len(shape) != 4 or shape[1] != other[1]:
        raise ValueError(
            f"{where}: its output is {shape or 'no tensor'}, not a feature map (N, C, H, W); "
            "choose another module, a convolutional network, or denoise none"
        )
    return shape[1]
