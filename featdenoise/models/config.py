"""What defines a model: the command line fills it, a checkpoint stores it, a registry builds it."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from featdenoise.models.denoise import check_ablations
from featdenoise.models.operations import Operation, check_operation

Denoise = Operation | Literal["none"]
DenoiseAt = Literal["stage", "block"]
Padding = Literal["torch", "tensorflow"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """An architecture with everything but its weights."""

    name: str
    """Backbone, one of `featdenoise models`."""
    num_classes: int = 10
    """Number of classes."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of the red, green and blue input pixels, in [0, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of the red, green and blue input pixels."""
    denoise: Denoise = "none"
    """Denoising operation; none builds the plain backbone."""
    denoise_at: DenoiseAt | tuple[str, ...] = "stage"
    """Where the blocks stand: after every stage, after every residual block, or, for networks of
    timm, after modules given by name (such as stages.0 stages.1)."""
    subsample: bool = False
    """Max-pool the keys and values of a non-local operation 2x2."""
    no_conv: bool = False
    """Ablation: x + operation(x), without convolution and batch norm."""
    no_residual: bool = False
    """Ablation: no sum with the block's input."""
    padding: Padding = "torch"
    """Padding of windows of stride 2: symmetric, or TensorFlow's SAME as in the published nets."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built, before anything is built."""
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be >= 1, got {self.num_classes}")
        _check_channels("mean", self.mean, above=-math.inf)
        _check_channels("std", self.std, above=0)
        if self.padding not in get_args(Padding):
            known = ", ".join(get_args(Padding))
            raise ValueError(f"padding must be one of {known}, got {self.padding!r}")
        if isinstance(self.denoise_at, tuple):
            self._check_places(self.denoise_at)
        elif self.denoise_at not in get_args(DenoiseAt):
            known = ", ".join(get_args(DenoiseAt))
            raise ValueError(f"denoise_at must be one of {known}, got {self.denoise_at!r}")
        if self.denoise == "none":
            self._check_nothing_ignored()
            return
        if self.denoise not in get_args(Operation):
            known = ", ".join(("none", *get_args(Operation)))
            raise ValueError(f"denoise must be one of {known}, got {self.denoise!r}")
        check_operation(self.denoise, subsample=self.subsample)
        check_ablations(no_conv=self.no_conv, no_residual=self.no_residual)

    def _check_places(self, places: tuple[str, ...]) -> None:
        if not self.name.startswith("timm/"):
            raise ValueError(
                f"denoise_at names modules {', '.join(places)}, which is for networks of timm "
                f"(timm/NAME); for {self.name} choose from {', '.join(get_args(DenoiseAt))}"
            )
        if not places or len(set(places)) != len(places):
            raise ValueError(f"denoise_at must name different modules, got {places}")

    def _check_nothing_ignored(self) -> None:
        for name in ("denoise_at", "subsample", "no_conv", "no_residual"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} but denoise is 'none', so it would have no "
                    f"effect; choose denoise from {', '.join(get_args(Operation))}"
                )

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "ModelConfig":
        """The configuration that `describe` wrote to a file.

        Raises:
            ValueError: not a model's configuration, a field unknown to this version or none at all.
        """
        given = dict(description)
        kind = given.pop("kind", None)
        if kind != cls.__name__:
            raise ValueError(f"kind must be {cls.__name__}, got {kind!r}")
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(given.keys() - known)
        if unknown or "name" not in given:
            wrong = f"unknown fields {', '.join(unknown)}" if unknown else "no field name"
            raise ValueError(
                f"model configuration has {wrong}; this version knows {', '.join(sorted(known))}"
            )
        fields: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in given.items()
        }
        return cls(**fields)


def _check_channels(name: str, values: tuple[float, ...], *, above: float) -> None:
    if len(values) != 3 or not all(math.isfinite(v) and v > above for v in values):
        raise ValueError(f"{name} must be three finite numbers above {above:g}, got {values}")
