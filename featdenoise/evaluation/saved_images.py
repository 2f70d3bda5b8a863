"""Adversarial images as PNG files: 8-bit, still inside the ball, named as the clean ones are."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from featdenoise.attacks import Attack, ForeignAttack
from featdenoise.base.imagefiles import quantize_inside_ball, to_uint8, whole_levels, write_png

logger = logging.getLogger(__name__)


def png_name(image_id: int) -> str:
    """The file name of an image by its id, equal in clean and adversarial folders."""
    return f"{image_id:06d}.png"


def check_savable(attack: Attack | ForeignAttack, *, worst_case: bool) -> None:
    """Refuse an evaluation whose images cannot all be written.

    Raises:
        ValueError: the ball is not l-infinity, or images drop out.
    """
    if attack.norm != "linf":
        raise ValueError(
            "save_adversarial writes 8-bit images inside an l-infinity ball, got norm "
            f"{attack.norm}; leave it out"
        )
    if worst_case:
        raise ValueError(
            "save_adversarial needs an image from every attack, and a worst-case run drops those "
            "already broken; leave one of the two out"
        )


def save_images(
    folder: Path, image_ids: Sequence[int], adversarial: Tensor, clean: Tensor, epsilon: float
) -> None:
    """Write 8-bit images that stay inside the ball around the 8-bit clean image.

    Args:
        folder: made if missing.
        image_ids: N ids.
        adversarial: (N, 3, H, W), pixels in [0, 1].
        clean: likewise.
        epsilon: radius of the l-infinity ball, in pixel units.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rounded = quantize_inside_ball(adversarial, to_uint8(clean), whole_levels(epsilon))
    for image_id, image in zip(image_ids, rounded, strict=True):
        write_png(folder / png_name(image_id), image)


def warn_of_missing(folder: Path, image_ids: Sequence[int], results: Path) -> None:
    """Say which images are gone: rows that are already computed write no image again."""
    missing = [i for i in image_ids if not (folder / png_name(i)).is_file()]
    if missing:
        logger.warning(
            "%d of %d adversarial images are not in %s, first %s; delete %s to make them again",
            len(missing),
            len(image_ids),
            folder,
            png_name(missing[0]),
            results,
        )
