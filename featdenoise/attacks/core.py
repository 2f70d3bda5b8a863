"""What every attack is built from: checks, balls, steps and random starts, for l-inf and l2.

N images, C channels; all functions keep dtype and device of `images`, whose pixels are in [0, 1].
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from featdenoise.base.frozen import attack_mode as attack_mode
from featdenoise.base.rng import Stream
from featdenoise.base.units import check_images, check_pixels

Norm = Literal["linf", "l2"]
"""The norm that measures a perturbation: the largest pixel difference, or the Euclidean length."""


def check_radius(name: str, value: float, norm: Norm) -> None:
    """Refuse a radius or step that the norm does not allow: l-inf in [0, 1], l2 finite and >= 0.

    Raises:
        ValueError: names the field and the value.
    """
    if norm == "linf":
        check_pixels(name, value)
    elif not 0 <= value < math.inf:  # written so that NaN is refused too
        raise ValueError(f"{name} must be finite and at least 0, got {value:g}")


def check_batch(images: Tensor, labels: Tensor, what: str = "labels") -> None:
    """Refuse images outside [0, 1] and labels that cannot be classes of these images.

    Raises:
        ValueError: names the tensor and what is wrong with it.
    """
    check_images(images)
    if images.dtype not in (torch.float32, torch.float64):
        # Half precision cannot hold a ball of radius n/255 around a pixel.
        raise ValueError(f"images must be float32 or float64, got {images.dtype}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{what} must be int64 of shape ({len(images)},), one an image, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )


def check_stream(stream: Stream, images: Tensor) -> None:
    """Refuse a stream that was made for another batch.

    Raises:
        ValueError: the numbers of images differ.
    """
    if len(stream) != len(images):
        raise ValueError(
            f"stream has {len(stream)} image ids, the batch {len(images)} images; "
            "make it with the ids of this batch"
        )


def project_linf(adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Project onto the l-inf ball around `images`, intersected with [0, 1] (Xie et al., Sec. 6).

    Args:
        adversarial: (N, C, H, W), any finite values.
        images: (N, C, H, W), pixels in [0, 1].
        epsilon: radius in pixel units, so 16/255 and not 16.

    Returns:
        (N, C, H, W), pixels in [0, 1], within epsilon of `images`.

    Raises:
        ValueError: shapes differ, or epsilon is outside [0, 1].
    """
    _check_projection(adversarial, images, epsilon, "linf")
    inside = torch.minimum(torch.maximum(adversarial, images - epsilon), images + epsilon)
    return inside.clamp(0, 1)


def project_l2(adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Project onto the l2 ball around each image, then clamp to [0, 1].

    The clamp stays inside the ball: the clean pixel is in [0, 1], so moving the adversarial pixel
    to the nearer end of [0, 1] only brings it closer.

    Args:
        adversarial: (N, C, H, W), any finite values.
        images: (N, C, H, W), pixels in [0, 1].
        epsilon: radius in pixel units, may exceed 1.

    Returns:
        (N, C, H, W), pixels in [0, 1], within epsilon of `images`.

    Raises:
        ValueError: shapes differ, or epsilon is negative.
    """
    _check_projection(adversarial, images, epsilon, "l2")
    change = adversarial - images
    smallest = torch.finfo(change.dtype).tiny
    shrink = (epsilon / _norms_l2(change).clamp_min(smallest)).clamp_max(1)
    return (images + change * shrink).clamp(0, 1)


def steepest_linf(gradient: Tensor) -> Tensor:
    """The direction of l-inf length 1 along which the loss rises fastest: the sign."""
    return gradient.sign()


def steepest_l2(gradient: Tensor) -> Tensor:
    """The direction of l2 length 1, for each image; zero where the gradient is zero."""
    # Scaled by the largest entry first: the square of a tiny gradient is zero in float32.
    largest = gradient.flatten(1).abs().amax(1).reshape(-1, *[1] * (gradient.ndim - 1))
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return scaled / torch.where(largest > 0, _norms_l2(scaled), 1)


def random_start_linf(images: Tensor, epsilon: float, stream: Stream, *, draw: int = 0) -> Tensor:
    """A point of the l-inf ball, uniform in each pixel, clamped to [0, 1] (Xie et al., Sec. 5).

    Args:
        images: (N, C, H, W), pixels in [0, 1].
        epsilon: radius in pixel units.
        stream: randomness of the N images.
        draw: number of the restart.
    """
    uniform = stream.uniform("start", images.shape[1:], draw=draw).to(images)
    # Differs from the paper: its start leaves the pixel range until the first step has clipped it;
    # here no gradient is ever taken at something that is not an image.
    return project_linf(images + epsilon * (2 * uniform - 1), images, epsilon)


def random_start_l2(images: Tensor, epsilon: float, stream: Stream, *, draw: int = 0) -> Tensor:
    """A point of the l2 ball, uniform in volume, clamped to [0, 1]; arguments as for l-inf."""
    direction = steepest_l2(stream.normal("start", images.shape[1:], draw=draw).to(images))
    uniform = stream.uniform("start radius", (1, 1, 1), draw=draw).to(images)
    radius = epsilon * uniform ** (1 / max(1, images[0].numel()))
    return project_l2(images + radius * direction, images, epsilon)


PROJECTIONS: dict[Norm, Callable[[Tensor, Tensor, float], Tensor]] = {
    "linf": project_linf,
    "l2": project_l2,
}
STEEPEST: dict[Norm, Callable[[Tensor], Tensor]] = {"linf": steepest_linf, "l2": steepest_l2}


def random_start(
    images: Tensor, epsilon: float, norm: Norm, stream: Stream, *, draw: int = 0
) -> Tensor:
    """A random point of the ball of `norm` around each image, clamped to [0, 1]."""
    start = random_start_linf if norm == "linf" else random_start_l2
    return start(images, epsilon, stream, draw=draw)


def assert_in_ball(adversarial: Tensor, images: Tensor, epsilon: float, norm: Norm) -> None:
    """Refuse adversarial images that are no images or too far from the clean ones (law L5).

    Range is exact. The distance, taken in float64, may exceed epsilon by what float32 rounding of
    the pixels explains: 1e-6 for l-inf, 1e-6 (1 + epsilon) + 1e-7 sqrt(CHW) for l2.

    Args:
        adversarial: (N, C, H, W), to be judged.
        images: (N, C, H, W), the clean images.
        epsilon: radius in pixel units.
        norm: how the distance is measured.

    Raises:
        RuntimeError: says how many images break which promise and by how much.
    """
    if adversarial.shape != images.shape:
        raise RuntimeError(
            f"adversarial images have shape {tuple(adversarial.shape)}, "
            f"the clean ones {tuple(images.shape)}"
        )
    if images.numel() == 0:
        return
    flat = adversarial.detach().double().flatten(1)
    if not flat.isfinite().all():
        count = int((~flat.isfinite()).any(1).sum())
        raise RuntimeError(f"{count} of {len(flat)} adversarial images are not finite")
    beyond = torch.maximum(-flat, flat - 1).amax(1)
    if (beyond > 0).any():
        raise RuntimeError(
            f"{int((beyond > 0).sum())} of {len(flat)} adversarial images leave [0, 1], "
            f"the worst by {float(beyond.max()):.3g}"
        )
    change = flat - images.detach().double().flatten(1)
    if norm == "linf":
        distance, tolerance = change.abs().amax(1), 1e-6
    else:
        distance = change.norm(dim=1)
        tolerance = 1e-6 * (1 + epsilon) + 1e-7 * math.sqrt(flat.shape[1])
    outside = distance > epsilon + tolerance
    if outside.any():
        raise RuntimeError(
            f"{int(outside.sum())} of {len(flat)} adversarial images are outside the {norm} ball: "
            f"the worst is {float(distance.max()):.6g} away, "
            f"{float(distance.max()) - epsilon:.3g} beyond epsilon {epsilon:.6g}"
        )


def check_name(field: str, value: str, literal: object) -> None:
    """Refuse a value that is not among the names of a `Literal`.

    Raises:
        ValueError: lists the known names.
    """
    if value not in get_args(literal):
        raise ValueError(f"{field} must be one of {', '.join(get_args(literal))}; got {value!r}")


def check_at_least(field: str, value: int, least: int) -> None:
    """Refuse a count below its least value.

    Raises:
        ValueError: names the field and the value.
    """
    if value < least:
        raise ValueError(f"{field} must be at least {least}, got {value}")


def refuse_non_finite(is_finite: Tensor, num_steps: int, attack: object) -> None:
    """Stop where a gradient was NaN or infinite: its sign is 0, the attack would just stand still.

    Raises:
        FloatingPointError: names the attack and the number of steps.
    """
    if not is_finite:  # this waits for the device, so it is asked seldom
        raise FloatingPointError(
            f"the input gradient was not finite within {num_steps} steps of {attack}; "
            "the model's loss is not finite on these images"
        )


def _norms_l2(change: Tensor) -> Tensor:
    """(N, 1, 1, 1) l2 norm of each image's change."""
    return change.flatten(1).norm(dim=1).reshape(-1, *[1] * (change.ndim - 1))


def _check_projection(adversarial: Tensor, images: Tensor, epsilon: float, norm: Norm) -> None:
    if adversarial.shape != images.shape:
        raise ValueError(
            f"adversarial has shape {tuple(adversarial.shape)}, images {tuple(images.shape)}"
        )
    check_radius("epsilon", epsilon, norm)
