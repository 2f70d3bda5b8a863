"""Planted masked models are caught by the right check; honest models of different training pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featdenoise.base.distributed import World
from featdenoise.data.config import DataConfig
from featdenoise.data.registry import load_dataset
from featdenoise.evaluation.selfchecks import SelfChecks, check_evaluation
from featdenoise.models.weights import load_model
from featdenoise.training.loop import RunOptions, train
from featdenoise.training.recipes import RECIPES

pytestmark = pytest.mark.slow  # three models are trained

EPSILON = 26 / 255
DIGITS = DataConfig(name="digits", image_size=8)
HONEST = {
    "clean": replace(RECIPES["digits-clean"], epochs=4),
    "adversarial": replace(RECIPES["digits"], epochs=8),
    "denoising": replace(RECIPES["digits-denoise"], epochs=6),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nn.Module]:
    folder = tmp_path_factory.mktemp("honest")
    models = {}
    for name, recipe in HONEST.items():
        recipe = replace(recipe, data=DIGITS, warmup_epochs=0.5, milestones=())
        outcome = train(recipe, folder / name, RunOptions(show_progress=False), World())
        models[name] = load_model(Path(outcome.weights))
    return models


@pytest.fixture(scope="module")
def digits():
    return load_dataset(DIGITS, split="test")


def failed(model: nn.Module, digits, **changes) -> list[str]:
    settings = SelfChecks(**{"epsilon": EPSILON, **changes})
    checks = check_evaluation(model.eval(), digits, digits.image_ids, settings)
    assert len(checks) == 11
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_pass_every_check(honest, digits, name: str) -> None:
    assert failed(honest[name], digits) == []


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_pass_in_an_l2_ball(honest, digits, name: str) -> None:
    assert failed(honest[name], digits, norm="l2", epsilon=1.0) == []


def test_masked_models_are_flagged_in_an_l2_ball(honest, digits) -> None:
    quantised = failed(QuantisedInput(honest["clean"]), digits, norm="l2", epsilon=2.0)
    assert "input gradients are not zero" in quantised
    assert "gradients beat queries" in quantised


class Masked(nn.Module):
    """A model that hides behind something."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class QuantisedInput(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(torch.round(images * 8) / 8)


class SaturatedLogits(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return 1000 * torch.tanh(self.model(images))


class RandomLayer(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.2 * torch.randn_like(images))


class ColdTemperature(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) / 1e-4


class ShatteredGradient(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.02 * torch.sin(400 * images))


class ForgottenSoftmax(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).softmax(1)


class BatchStatistics(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) - self.model(images).mean(0) * (len(images) > 1)


class RecognisesSearches(Masked):
    """A stateful defence: after many queries it answers for the image that it saw first nearby."""

    queries = 0
    seen: Tensor | None = None

    def __deepcopy__(self, memo):
        raise TypeError("a service, of which there is no copy")

    def forward(self, images: Tensor) -> Tensor:
        self.queries += 1
        self.seen = images.detach() if self.seen is None else self.seen
        if self.queries > 260:  # in the middle of the restarts
            distances = torch.cdist(images.detach().flatten(1), self.seen.flatten(1))
            images = self.seen[distances.argmin(1)] + 0 * images
        return self.model(images)


@pytest.mark.parametrize(
    ("disguise", "caught_by"),
    [
        (QuantisedInput, "input gradients are not zero"),
        (SaturatedLogits, "logits are not saturated"),
        (RandomLayer, "two forward passes agree"),
        (ColdTemperature, "logits are not saturated"),
        (ShatteredGradient, "gradients beat queries"),
        (ForgottenSoftmax, "outputs are logits"),
        (RecognisesSearches, "more restarts do not help the model"),
        (BatchStatistics, "an image alone and in a batch agree"),
    ],
)
def test_a_masked_model_is_flagged_by_the_right_check(
    honest, digits, disguise: type[Masked], caught_by: str
) -> None:
    assert caught_by in failed(disguise(honest["clean"]), digits)


def test_transfer_that_beats_the_own_gradients_is_flagged(honest, digits) -> None:
    settings = SelfChecks(epsilon=EPSILON)
    masked = QuantisedInput(honest["clean"]).eval()
    last = check_evaluation(masked, digits, digits.image_ids, settings, surrogate=honest["clean"])[
        -1
    ]
    assert last.name == "the model's own gradients beat a surrogate's"
    assert not last.passed
    honest_last = check_evaluation(
        honest["clean"], digits, digits.image_ids, settings, surrogate=honest["adversarial"]
    )[-1]
    assert honest_last.passed


def test_the_subset_is_seeded_and_the_model_left_alone(honest, digits) -> None:
    model = honest["clean"].train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    settings = SelfChecks(epsilon=EPSILON, num_images=16, num_queries=50)
    first = check_evaluation(model, digits, digits.image_ids, settings)
    assert model.training
    assert first == check_evaluation(model, digits, digits.image_ids, settings)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
