"""Image files: decoding, lossless writing, and the step between [0, 1] floats and 8-bit pixels.

Arrays are (H, W, 3) or (N, H, W, 3) uint8, as in the files; batches are (N, 3, H, W) floats in
[0, 1]. All decoding is Pillow's. Orientation tags of photographs are ignored, as in every ImageNet
loader.
"""

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.units import check_images, check_pixels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
_CONTENT_LIMIT = 1 << 28


def list_images(
    folder: Path, *, suffixes: Sequence[str] = IMAGE_SUFFIXES, recursive: bool = False
) -> list[Path]:
    """The image files of a folder in path order; hidden files are left out.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder at {folder}")
    found = folder.rglob("*") if recursive else folder.iterdir()
    images = [
        path
        for path in found
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(images, key=lambda path: path.relative_to(folder).as_posix())


def read_image(path: Path) -> np.ndarray:
    """Decode a file as an (H, W, 3) uint8 RGB array; grey is repeated, transparency dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no image, or has more than 8 bits a channel.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"cannot decode image {path}: {error}; replace the file or take it out"
        ) from error
    if mode.startswith(("I", "F")):  # Pillow would clip these values to 255, not scale them
        raise ValueError(f"image {path} has more than 8 bits a channel; convert it to 8 bits")
    return pixels


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 array as PNG, lossless; a reader never sees a part of it.

    Raises:
        ValueError: another shape or type, or a name that does not end in .png.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}; see to_uint8"
        )
    if path.suffix != ".png":
        raise ValueError(f"path must end in .png, got {path}")
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    write_atomically(path, content.getvalue())


def from_uint8(pixels: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 pixels as a (N, 3, H, W) float32 batch in [0, 1]."""
    channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).float().div(255)


def to_uint8(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) images in [0, 1] as (N, H, W, 3) uint8 pixels, rounded to the nearest level.

    Raises:
        ValueError: the batch is not floating point in [0, 1].
    """
    check_images(images)
    levels = images.detach().cpu().double().mul(255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().numpy()


def whole_levels(epsilon: float) -> int:
    """How many 8-bit levels a pixel may move inside a ball of this radius: 16 for 16/255.

    A radius between two levels allows the lower one only: 0.1 is 25.5/255 and allows 25.

    Raises:
        ValueError: epsilon is outside [0, 1].
    """
    check_pixels("epsilon", epsilon)
    return math.floor(epsilon * 255 + 1e-6)  # the margin absorbs the float error of n / 255 * 255


def quantize_inside_ball(
    adversarial: Tensor, clean_pixels: np.ndarray, epsilon_255: int
) -> np.ndarray:
    """Round adversarial images to 8 bits, then clip them into the 8-bit ball around the clean ones.

    Args:
        adversarial: (N, 3, H, W) in [0, 1].
        clean_pixels: (N, H, W, 3) uint8.
        epsilon_255: radius in levels, so 16 for 16/255.

    Returns:
        (N, H, W, 3) uint8, at most epsilon_255 levels from the clean pixels.

    Raises:
        ValueError: shapes differ, the clean pixels are not uint8, or the radius is negative.
    """
    if clean_pixels.dtype != np.uint8:
        raise ValueError(f"clean_pixels must be uint8, got {clean_pixels.dtype}")
    if not 0 <= epsilon_255 <= 255:
        raise ValueError(f"epsilon_255 must be in 0..255, got {epsilon_255}")
    rounded = to_uint8(adversarial)
    if rounded.shape != clean_pixels.shape:
        raise ValueError(
            f"adversarial images have shape {rounded.shape}, clean ones {clean_pixels.shape}"
        )
    clean = clean_pixels.astype(np.int16)
    return np.clip(rounded, clean - epsilon_255, clean + epsilon_255).astype(np.uint8)


def fingerprint_files(root: Path, paths: Sequence[Path]) -> str:
    """A short digest of these files under `root`: of names and contents, or of names and sizes.

    Up to 256 MiB in all the contents are read; above, names and sizes must do. The digest's first
    word says which.
    """
    sizes = [path.stat().st_size for path in paths]
    read_contents = sum(sizes) <= _CONTENT_LIMIT
    digest = hashlib.sha256()
    for path, size in zip(paths, sizes, strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        if read_contents:
            digest.update(path.read_bytes())
    return f"{'contents' if read_contents else 'sizes'}-{digest.hexdigest()[:16]}"
