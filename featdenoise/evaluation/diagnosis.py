"""Why a model's accuracy is not what its card says: six usual mistakes, each tried out.

Each hypothesis is a change of the images or of the labels. Where the accuracy recovers under one,
that convention is what the model was trained with, or what the pipeline before it does wrong. This
is the only place that feeds a model images outside [0, 1]; nothing but the verdict leaves it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from featdenoise.base.binomial import Proportion, clopper_pearson_upper, two_sided_p_value
from featdenoise.base.frozen import attack_mode
from featdenoise.base.judge import check_logits, judge
from featdenoise.data.imageset import ImageSet

Change = Callable[[Tensor], Tensor]

CHANCE = 0.01
"""How often a healthy model is called sick, and how often luck passes for an explanation."""
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5,) * 3, (0.5,) * 3)

BGR = "BGR"
MINUS_ONE_TO_ONE = "[-1, 1]"
BYTES = "0..255"
NOT_NORMALISED = "missing normalisation"
NORMALISED_TWICE = "double normalisation"
LABEL_OFFSET = "label offset"

ADVICE = {
    BGR: "the model expects blue, green, red: turn the channels of its first convolution round",
    MINUS_ONE_TO_ONE: "the model expects pixels in [-1, 1]: give it mean 0.5 and std 0.5",
    BYTES: "the model expects pixels from 0 to 255: give it mean 0 and std 1/255",
    NOT_NORMALISED: (
        "the model expects normalised images: put InputNormalize with its mean and std before it"
    ),
    NORMALISED_TWICE: "the images are normalised twice: take one normalisation out",
    LABEL_OFFSET: "the labels and the model's classes count from different numbers: shift one",
}
"""Name of a hypothesis to the way out."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the accuracy would be under one hypothesis, or under several at once."""

    names: tuple[str, ...]
    detail: str
    """Which form of it, such as the mean or the sign of the offset."""
    accuracy: Proportion
    explains: bool
    """Whether the accuracy is as expected and better than as it is by more than luck."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The verdict."""

    measured: Proportion
    expected: float
    findings: tuple[Finding, ...]
    """The best form of each hypothesis, best first; empty for a healthy model."""

    @property
    def is_healthy(self) -> bool:
        """Whether the measured accuracy is as expected."""
        return not _is_below(self.measured, self.expected)

    @property
    def culprit(self) -> Finding | None:
        """The best hypothesis that explains it."""
        return next((finding for finding in self.findings if finding.explains), None)


@dataclass(frozen=True)
class _View:
    """One way to change the images."""

    names: tuple[str, ...]
    detail: str
    change: Change


@dataclass(frozen=True)
class _Trial:
    """One view with one offset of the labels, and which images it gets right."""

    names: tuple[str, ...]
    detail: str
    right: Tensor


def diagnose(
    model: Callable[[Tensor], Tensor],
    images: ImageSet,
    image_ids: Sequence[int],
    *,
    expected: float,
    batch_size: int = 32,
    device: torch.device | None = None,
) -> Diagnosis:
    """Measure clean accuracy; where it is below `expected`, find out why.

    Single mistakes are tried first; pairs of mistakes of different kinds only if none explains it.

    Args:
        model: (N, 3, H, W) images to (N, K) logits; left as it was found.
        images: with labels.
        image_ids: which of them; a few hundred are enough.
        expected: clean accuracy in (0, 1].
        batch_size: images judged together.
        device: of the model.

    Raises:
        ValueError: expected outside (0, 1], or no images.
        RuntimeError: logits of an image as it is are not finite.
    """
    if not 0 < expected <= 1:
        hint = f"; write {expected / 100:g}" if 1 < expected <= 100 else ""
        raise ValueError(f"expected accuracy must be in (0, 1], got {expected:g}{hint}")
    if not image_ids:
        raise ValueError("a diagnosis needs at least one image")

    def right_under(views: Sequence[_View], *, shifted: bool) -> list[_Trial]:
        batches = _batches(images, image_ids, batch_size, device or torch.device("cpu"))
        return _try(model, batches, views, shifted=shifted)

    as_it_is = _measure(model, images, image_ids, batch_size, device or torch.device("cpu"))
    measured = Proportion(int(as_it_is.sum()), len(as_it_is))
    findings: list[Finding] = []
    if _is_below(measured, expected):
        singles = _single_views(images)
        same = _View((), "", _unchanged)
        trials = right_under([same, *singles], shifted=True)
        alone = [trial for trial in trials if len(trial.names) == 1]
        findings = _judge_trials(alone, as_it_is, expected)
        if not any(finding.explains for finding in findings):
            pairs = [trial for trial in trials if len(trial.names) == 2]
            pairs += right_under(_pairs_with_bgr(singles), shifted=False)
            explained = [f for f in _judge_trials(pairs, as_it_is, expected) if f.explains]
            findings = [*explained, *findings]
    return Diagnosis(measured=measured, expected=expected, findings=tuple(findings))


def _is_below(measured: Proportion, expected: float) -> bool:
    return clopper_pearson_upper(measured.correct, measured.count, CHANCE) < expected


def _single_views(images: ImageSet) -> list[_View]:
    statistics = {"ImageNet's mean and std": _IMAGENET, "the data's": (images.mean, images.std)}
    missing = [
        _View((NOT_NORMALISED,), name, partial(_normalised, mean=mean, std=std))
        for name, (mean, std) in statistics.items()
    ]
    twice = [
        _View((NORMALISED_TWICE,), name, partial(_normalisation_undone, mean=mean, std=std))
        for name, (mean, std) in {**statistics, "mean 0.5 and std 0.5": _HALF}.items()
    ]
    return [
        _View((BGR,), "", _channels_turned),
        _View((MINUS_ONE_TO_ONE,), "", partial(_normalised, mean=_HALF[0], std=_HALF[1])),
        _View((BYTES,), "", partial(torch.mul, other=255)),
        *missing,
        *twice,
    ]


def _pairs_with_bgr(singles: Sequence[_View]) -> list[_View]:
    return [
        _View((BGR, *view.names), view.detail, partial(_one_after_another, view.change))
        for view in singles
        if view.names != (BGR,)
    ]


def _unchanged(images: Tensor) -> Tensor:
    return images


def _channels_turned(images: Tensor) -> Tensor:
    return images.flip(1)


def _one_after_another(change: Change, images: Tensor) -> Tensor:
    return _channels_turned(change(images))


def _normalised(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return (images - _per_channel(mean, images)) / _per_channel(std, images)


def _normalisation_undone(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return images * _per_channel(std, images) + _per_channel(mean, images)


def _per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    return images.new_tensor(values).view(1, -1, 1, 1)


def _batches(
    images: ImageSet, image_ids: Sequence[int], batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    for first in range(0, len(image_ids), batch_size):
        ids = image_ids[first : first + batch_size]
        pixels, labels = images.batch(ids)
        yield pixels.to(device), labels, [f"image {i}" for i in ids]


def _measure(
    model: Callable[[Tensor], Tensor],
    images: ImageSet,
    image_ids: Sequence[int],
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """(N,) whether the model is right on each image as it is."""
    right = [
        judge(model, pixels, names).argmax(1).cpu() == labels
        for pixels, labels, names in _batches(images, image_ids, batch_size, device)
    ]
    return torch.cat(right)


def _try(
    model: Callable[[Tensor], Tensor],
    batches: Iterator[tuple[Tensor, Tensor, list[str]]],
    views: Sequence[_View],
    *,
    shifted: bool,
) -> list[_Trial]:
    """Every view with every offset of the labels; offset 0 without a change is no trial."""
    offsets = (0, 1, -1) if shifted else (0,)
    right: dict[tuple[int, int], list[Tensor]] = {}
    for pixels, labels, _ in batches:
        for k, view in enumerate(views):
            predictions = _predict(model, view.change(pixels))
            for offset in offsets:
                right.setdefault((k, offset), []).append(predictions == labels + offset)
    trials = []
    for k, offset in product(range(len(views)), offsets):
        names, detail = views[k].names, views[k].detail
        if offset:
            names = (*names, LABEL_OFFSET)
            detail = ", ".join(filter(None, (detail, f"{offset:+d}")))
        if names:
            trials.append(_Trial(names, detail, torch.cat(right[k, offset])))
    return trials


def _predict(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """(N,) classes; -2, which is no class, where the logits of a wrong input are not finite."""
    autocast = torch.autocast(images.device.type, enabled=False)
    with attack_mode(model), torch.no_grad(), autocast:
        logits = model(images)
    check_logits(logits, images)
    finite = logits.isfinite().all(1)
    return logits.argmax(1).where(finite, -2).cpu()


def _judge_trials(trials: Sequence[_Trial], as_it_is: Tensor, expected: float) -> list[Finding]:
    """The best form of each hypothesis, best first."""
    best: dict[tuple[str, ...], _Trial] = {}
    for trial in trials:
        there = best.get(trial.names)
        if there is None or int(trial.right.sum()) > int(there.right.sum()):
            best[trial.names] = trial
    findings = []
    for trial in best.values():
        accuracy = Proportion(int(trial.right.sum()), len(trial.right))
        mended = int((trial.right & ~as_it_is).sum())
        spoilt = int((as_it_is & ~trial.right).sum())
        # McNemar's test: of the images that change sides, luck mends as many as it spoils.
        is_luck = mended <= spoilt or two_sided_p_value(mended, mended + spoilt) > CHANCE
        explains = not is_luck and not _is_below(accuracy, expected)
        findings.append(
            Finding(names=trial.names, detail=trial.detail, accuracy=accuracy, explains=explains)
        )
    return sorted(findings, key=lambda finding: -finding.accuracy.correct)
