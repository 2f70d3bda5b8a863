"""Pixel units: every epsilon, step and sigma is a fraction of the [0, 1] pixel range.

The command line reads and prints such values as `16/255` or `0.05`. A bare `16` is never guessed
to mean 16/255: mixing the two scales is the most reported problem of every neighbouring project.
"""

from decimal import ROUND_FLOOR, Decimal
from typing import Annotated

import tyro
from torch import Tensor


def parse_pixels(text: str) -> float:
    """Read `16/255`, `0.05` or `1e-3` as a float in pixel units.

    Raises:
        ValueError: the text is not a number or a quotient of two numbers.
    """
    try:
        if "/" in text:
            numerator, denominator = text.split("/")
            return float(numerator) / float(denominator)
        return float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"cannot read {text!r} as a pixel value; write it like 16/255 or 0.05"
        ) from None


def format_pixels(value: float) -> str:
    """Print a pixel value as `0.25` where that is exact, else as `16/255`, else rounded."""
    plain = f"{value:g}"
    multiple = round(value * 255, 1)
    if float(plain) == value or abs(multiple / 255 - value) > 1e-12:
        return plain
    return f"{multiple:g}/255"


def format_ball(norm: str, epsilon: float) -> str:
    """A ball in words, such as `linf, epsilon 16/255`."""
    return f"{norm}, epsilon {format_pixels(epsilon)}"


def format_radius(radius: float, *, digits: int) -> str:
    """Print a certified radius with so many decimals, never rounded up: that would certify more."""
    # Through Decimal: a product with 10**digits would round before the floor sees it.
    return str(Decimal(radius).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def _pixels_from_args(args: list[str]) -> float:
    return parse_pixels(args[0])


_PIXELS_ARGUMENT: tyro.constructors.PrimitiveConstructorSpec[float] = (
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PIXELS",
        instance_from_str=_pixels_from_args,
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [format_pixels(value)],
    )
)

Pixels = Annotated[float, _PIXELS_ARGUMENT]
"""A float in pixel units that the command line reads as `16/255` or `0.05`."""


def check_pixels(name: str, value: float, *, upper: float = 1.0, lower: float = 0.0) -> None:
    """Refuse a radius or step outside [lower, upper] of the pixel range.

    Raises:
        ValueError: names the field, the value and, for values above 1, the likely slip of scale.
    """
    if not lower <= value <= upper:  # written so that NaN is refused too
        hint = f"; write {value:g}/255" if 1 < value <= 255 else ""
        raise ValueError(f"{name} must be in [{lower:g}, {upper:g}], got {value:g}{hint}")


def check_images(images: Tensor, what: str = "images") -> None:
    """Refuse a batch that is not (N, C, H, W) floating point in [0, 1] and finite.

    Raises:
        ValueError: names the batch and what is wrong with it.
    """
    if not images.is_floating_point():
        raise ValueError(
            f"{what} must be floating point in [0, 1], got {images.dtype}; "
            "divide uint8 pixels by 255 first"
        )
    if images.ndim != 4:
        raise ValueError(f"{what} must be (N, C, H, W), got shape {tuple(images.shape)}")
    if images.numel() == 0:
        return
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{what} must be in [0, 1], got values from {low:g} to {high:g}; "
            "do not normalise them: the model's first layer does"
        )


def check_classes(labels: Tensor, num_classes: int, what: str = "labels") -> None:
    """Refuse labels that are not among the classes 0 to num_classes - 1.

    Raises:
        ValueError: names a label and the range.
    """
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(
            f"{what} must be in [0, {num_classes - 1}] for {num_classes} classes, "
            f"got {int(outside[0])}"
        )
