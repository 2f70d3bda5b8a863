"""Target classes of targeted attacks."""

from torch import Tensor

from featdenoise.base.rng import Stream


def uniform_targets(labels: Tensor, num_classes: int, stream: Stream, *, draw: int = 0) -> Tensor:
    """A uniformly random wrong class for each image (Xie et al., Sec. 6).

    label + U{1, ..., K - 1} mod K, so never the true label; the draw belongs to the image.

    Args:
        labels: (N,) int64, true classes.
        num_classes: K, at least 2.
        stream: randomness of the N images.
        draw: number of the draw; another one gives an independent target.

    Returns:
        (N,) int64, on the device of `labels`.

    Raises:
        ValueError: fewer than two classes, or a stream of another length.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2 for a wrong class, got {num_classes}")
    if len(stream) != len(labels):
        raise ValueError(f"stream has {len(stream)} image ids for {len(labels)} labels")
    shift = 1 + stream.integers("target", num_classes - 1, draw=draw)
    return (labels + shift.to(labels.device)) % num_classes
