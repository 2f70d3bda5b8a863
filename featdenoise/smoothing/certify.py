"""Randomized smoothing (Cohen et al. 2019, Sec. 3): the algorithms PREDICT and CERTIFY.

The smoothed classifier g gives the class that the base classifier f is most likely to see under
noise; g is robust by theorem, and Monte Carlo votes bound its radius with high probability. All
randomness belongs to the image and comes in blocks of fixed size, so neither the batch size nor
the other images change a vote (but for a kernel's rounding).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from featdenoise.base.binomial import clopper_pearson_lower, two_sided_p_value
from featdenoise.base.rng import Stream
from featdenoise.base.summary import ABSTAIN
from featdenoise.base.units import check_images
from featdenoise.smoothing.base_classifier import BaseClassifier
from featdenoise.smoothing.noise import Noise

VOTE_BLOCK = 100
"""Votes that share one draw of noise; a constant, for changing it changes every vote."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What CERTIFY found for one image, and the count from which any bound can be recomputed."""

    prediction: int
    """The class of the smoothed classifier, or ABSTAIN."""
    radius: float
    """Certified radius in pixel units, in the norm of the noise; 0 when abstaining."""
    n_top: int
    """Votes, of the n estimation votes, for the class that the selection votes picked."""
    p_lower: float
    """Lower bound of that class's probability under noise."""


class Smooth:
    """The smoothed classifier g of a base classifier f under a noise (Cohen et al. 2019, Sec. 3).

    Args of the constructor:
        base_classifier: noisy pixels (N, C, H, W), not clipped, to logits (N, num_classes);
            run in evaluation mode and left in the mode it had.
        num_classes: number of classes K, at least 2.
        noise: the noise; its norm is the norm of the radii.
    """

    ABSTAIN = ABSTAIN

    def __init__(
        self, base_classifier: Callable[[Tensor], Tensor], *, num_classes: int, noise: Noise
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.base_classifier = (
            base_classifier
            if isinstance(base_classifier, BaseClassifier)
            else BaseClassifier(base_classifier)
        )
        self.num_classes = num_classes
        self.noise = noise

    def certify(
        self,
        image: Tensor,
        *,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        stream: Stream,
    ) -> Certificate:
        """CERTIFY: with probability at least 1 - alpha, abstain or certify truly.

        "Truly" means that g predicts `prediction` everywhere in the open ball of `radius` around
        the image. The probability is over the votes, for each image by itself.

        Args:
            image: (C, H, W), pixels in [0, 1], on the device of the base classifier.
            n0: votes that select the class.
            n: further votes that bound its probability.
            alpha: failure probability, in (0, 1).
            batch_size: votes a forward pass; changes memory and speed only.
            stream: the randomness of exactly this image.

        Raises:
            ValueError: an argument is out of its range, or the logits are not num_classes wide.
            RuntimeError: the base classifier returned NaN.
        """
        _check_arguments(image, alpha, batch_size, stream, n0=n0, n=n)
        # Select with n0 votes; ties go to the lowest class.
        selection = self._count_votes(image, n0, batch_size, "selection votes", stream)
        top_class = selection.index(max(selection))
        # Estimate with n fresh votes, independent of the choice of class.
        estimation = self._count_votes(image, n, batch_size, "estimation votes", stream)
        n_top = estimation[top_class]
        p_lower = clopper_pearson_lower(n_top, n, alpha)
        abstains = p_lower < 0.5
        return Certificate(
            prediction=ABSTAIN if abstains else top_class,
            radius=0.0 if abstains else self.noise.radius(p_lower),
            n_top=n_top,
            p_lower=p_lower,
        )

    def predict(
        self,
        image: Tensor,
        *,
        n: int = 10_000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        stream: Stream,
    ) -> int:
        """PREDICT: the class of g, or ABSTAIN; a class is wrong with probability at most alpha.

        Args:
            image: (C, H, W), pixels in [0, 1], on the device of the base classifier.
            n: votes.
            alpha: failure probability, in (0, 1).
            batch_size: votes a forward pass; changes memory and speed only.
            stream: the randomness of exactly this image.

        Raises:
            ValueError: an argument is out of its range, or the logits are not num_classes wide.
            RuntimeError: the base classifier returned NaN.
        """
        _check_arguments(image, alpha, batch_size, stream, n=n)
        counts = self._count_votes(image, n, batch_size, "prediction votes", stream)
        n_second, n_top = sorted(counts)[-2:]
        # Two-sided although one side matters: the same votes picked the winner
        # (Hung and Fithian 2019).
        p_value = two_sided_p_value(n_top, n_top + n_second)
        return counts.index(n_top) if p_value <= alpha else ABSTAIN

    @torch.no_grad()
    def _count_votes(
        self, image: Tensor, n: int, batch_size: int, purpose: str, stream: Stream
    ) -> list[int]:
        """How many of n noisy copies of the image go to each class."""
        counts = torch.zeros(self.num_classes, dtype=torch.int64, device=image.device)
        num_nan = torch.zeros((), dtype=torch.int64, device=image.device)
        for batch in _cut_batches(self._noisy_blocks(image, n, purpose, stream), batch_size):
            logits = self.base_classifier(batch)
            if logits.shape != (len(batch), self.num_classes):
                raise ValueError(
                    f"num_classes is {self.num_classes}, but the base classifier maps "
                    f"{tuple(batch.shape)} to logits {tuple(logits.shape)}"
                )
            num_nan += logits.isnan().any(1).sum()
            counts += torch.bincount(logits.argmax(1), minlength=self.num_classes)
        if num_nan:
            raise RuntimeError(
                f"the base classifier returned NaN logits for {int(num_nan)} of {n} votes "
                f"on image {stream.image_ids[0]}"
            )
        return [int(count) for count in counts.tolist()]

    def _noisy_blocks(
        self, image: Tensor, n: int, purpose: str, stream: Stream
    ) -> Iterator[Tensor]:
        """The n noisy copies as blocks (<= VOTE_BLOCK, C, H, W); never clipped."""
        (image_id,) = stream.image_ids
        for block, start in enumerate(range(0, n, VOTE_BLOCK)):
            # A whole block is drawn even if the last is cut, so that n votes begin n + 1 votes.
            noise = self.noise.sample(
                (VOTE_BLOCK, *image.shape),
                stream.seed,
                purpose,
                image_id,
                stream.epoch,
                block,
                device=image.device,
            )
            yield noise.add_(image)[: n - start]


def _cut_batches(blocks: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """The same rows in the same order, batch_size at a time; the last batch may be smaller."""
    waiting: list[Tensor] = []
    missing = batch_size
    for block in blocks:
        rest = block
        while len(rest):
            piece, rest = rest[:missing], rest[missing:]
            waiting.append(piece)
            missing -= len(piece)
            if missing == 0:
                yield torch.cat(waiting)
                waiting, missing = [], batch_size
    if waiting:
        yield torch.cat(waiting)


def _check_arguments(
    image: Tensor, alpha: float, batch_size: int, stream: Stream, **votes: int
) -> None:
    if image.ndim != 3:
        raise ValueError(f"image must be (C, H, W), got shape {tuple(image.shape)}")
    check_images(image[None], "image")
    if not 0 < alpha < 1:  # written so that NaN is refused too
        raise ValueError(f"alpha must be strictly between 0 and 1, got {alpha}")
    for name, value in {**votes, "batch_size": batch_size}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if len(stream) != 1:
        raise ValueError(f"stream must be that of exactly one image, got {len(stream)} image ids")
