from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featdenoise.data.imageset import ArrayImages
from featdenoise.evaluation.diagnosis import (
    ADVICE,
    BGR,
    BYTES,
    LABEL_OFFSET,
    MINUS_ONE_TO_ONE,
    NORMALISED_TWICE,
    NOT_NORMALISED,
    diagnose,
)

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
COLOURS = np.random.default_rng(4).uniform(0.15, 0.85, (10, 3))


@pytest.fixture(scope="module")
def images() -> ArrayImages:
    """Noisy squares of ten colours: order, range and offset of the channels all matter."""
    labels = [i % 10 for i in range(300)]
    noise = np.random.default_rng(5).normal(0, 0.15, (300, 3, 3, 3))
    pixels = np.clip(COLOURS[labels][:, None, None] + noise, 0, 1)
    return ArrayImages(
        np.rint(255 * pixels).astype(np.uint8),
        labels,
        class_names=[str(k) for k in range(10)],
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


class Nearest(nn.Module):
    """A healthy model on RGB in [0, 1]: minus the distance to the colour of each class."""

    def forward(self, images: Tensor) -> Tensor:
        colours = torch.from_numpy(COLOURS).float()
        return -(images.mean((2, 3))[:, None] - colours).square().sum(2)


class Planted(nn.Module):
    """The healthy model behind a change of its input, and before a change of its output."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = lambda images: images,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.before, self.after, self.healthy = before, after, Nearest()

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.healthy(self.before(images)))


def normalise(images: Tensor) -> Tensor:
    return (images - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def undo_normalisation(images: Tensor) -> Tensor:
    return images * STD.view(3, 1, 1) + MEAN.view(3, 1, 1)


def with_background_class(logits: Tensor) -> Tensor:
    return torch.cat([torch.full_like(logits[:, :1], -1e9), logits], 1)


def without_first_class(logits: Tensor) -> Tensor:
    return logits.roll(-1, 1)


# What a model that was made for another convention does with ours.
MISTAKES = {
    BGR: Planted(lambda images: images.flip(1)),
    MINUS_ONE_TO_ONE: Planted(lambda images: (images + 1) / 2),
    BYTES: Planted(lambda images: images / 255),
    NOT_NORMALISED: Planted(undo_normalisation),
    NORMALISED_TWICE: Planted(normalise),
    LABEL_OFFSET: Planted(after=with_background_class),
}


def test_healthy_model_passes(images: ArrayImages) -> None:
    diagnosis = diagnose(Nearest(), images, images.image_ids, expected=0.95)
    assert diagnosis.is_healthy
    assert diagnosis.measured.fraction > 0.95
    assert diagnosis.findings == ()
    assert diagnosis.culprit is None


@pytest.mark.parametrize("name", MISTAKES)
def test_each_planted_mistake_is_named(images: ArrayImages, name: str) -> None:
    diagnosis = diagnose(MISTAKES[name], images, images.image_ids, expected=0.95)
    assert not diagnosis.is_healthy
    assert diagnosis.measured.fraction < 0.9
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.names == (name,)
    healthy = diagnose(Nearest(), images, images.image_ids, expected=0.95).measured
    assert diagnosis.culprit.accuracy == healthy
    accuracies = [finding.accuracy.fraction for finding in diagnosis.findings]
    assert accuracies == sorted(accuracies, reverse=True)


def test_every_hypothesis_has_a_planted_mistake_and_an_advice() -> None:
    assert set(MISTAKES) == set(ADVICE)


@pytest.mark.parametrize(
    ("after", "detail"), [(with_background_class, "+1"), (without_first_class, "-1")]
)
def test_direction_of_the_label_offset_is_told(images: ArrayImages, after, detail: str) -> None:
    # A class below zero cannot be predicted, so one of ten classes stays wrong for -1.
    diagnosis = diagnose(Planted(after=after), images, images.image_ids, expected=0.9)
    assert diagnosis.culprit is not None
    assert (diagnosis.culprit.names, diagnosis.culprit.detail) == ((LABEL_OFFSET,), detail)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Planted(lambda x: ((x + 1) / 2).flip(1)), {BGR, MINUS_ONE_TO_ONE}),
        (Planted(lambda x: (x / 255).flip(1)), {BGR, BYTES}),
        (Planted(lambda x: x.flip(1), with_background_class), {BGR, LABEL_OFFSET}),
        (Planted(lambda x: x / 255, with_background_class), {BYTES, LABEL_OFFSET}),
    ],
)
def test_two_mistakes_at_once_are_named(images: ArrayImages, model, names: set[str]) -> None:
    diagnosis = diagnose(model, images, images.image_ids, expected=0.95)
    assert diagnosis.culprit is not None
    assert set(diagnosis.culprit.names) == names


def test_model_that_is_simply_bad_has_no_culprit(images: ArrayImages) -> None:
    shuffled = Planted(after=lambda logits: logits[:, [3, 9, 0, 7, 1, 8, 2, 6, 5, 4]])
    diagnosis = diagnose(shuffled, images, images.image_ids, expected=0.95)
    assert not diagnosis.is_healthy
    assert diagnosis.culprit is None
    assert {finding.names for finding in diagnosis.findings} == {(name,) for name in ADVICE}


def test_a_small_shortfall_on_few_images_is_no_illness(images: ArrayImages) -> None:
    def half_right(pixels: Tensor) -> Tensor:
        logits = Nearest()(pixels)
        wrong = torch.arange(len(logits)) % 2 == 0
        return logits.where(~wrong[:, None], -logits)

    assert diagnose(half_right, images, images.image_ids, expected=0.55).is_healthy
    assert not diagnose(half_right, images, images.image_ids, expected=0.7).is_healthy


def test_infinite_logits_of_a_tried_convention_are_wrong_and_no_error(images: ArrayImages) -> None:
    model = Planted(after=lambda logits: logits.where(logits > -40, torch.nan))
    diagnosis = diagnose(model, images, images.image_ids, expected=0.95)
    assert diagnosis.is_healthy
    sick = Planted(lambda x: x.flip(1), lambda logits: logits.where(logits > -4000, torch.nan))
    diagnosis = diagnose(sick, images, images.image_ids, expected=0.95)
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.names == (BGR,)
    of_bytes = next(f for f in diagnosis.findings if f.names == (BYTES,))
    assert of_bytes.accuracy.correct == 0


def test_batch_size_changes_nothing_and_the_model_is_left_alone(images: ArrayImages) -> None:
    model = MISTAKES[BGR].train()
    verdicts = [
        diagnose(model, images, images.image_ids[:60], expected=0.95, batch_size=size)
        for size in (7, 60)
    ]
    assert verdicts[0] == verdicts[1]
    assert model.training


@pytest.mark.parametrize(
    ("expected", "message"),
    [(0.0, r"in \(0, 1\], got 0"), (62.0, "got 62; write 0.62"), (float("nan"), "got nan")],
)
def test_impossible_expectations_are_refused(images, expected: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnose(Nearest(), images, images.image_ids, expected=expected)


def test_no_images_are_refused(images: ArrayImages) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        diagnose(Nearest(), images, (), expected=0.5)
