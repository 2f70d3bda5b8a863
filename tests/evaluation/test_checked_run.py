"""A finished run is checked in each of its balls; what fails is kept and said."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from featdenoise.attacks.pgd import PGD
from featdenoise.base.selfcheck_results import Check, read_checks
from featdenoise.base.whitebox_plan import read_plan
from featdenoise.data.config import DataConfig
from featdenoise.data.registry import load_dataset
from featdenoise.evaluation import checked_run
from featdenoise.evaluation.checked_run import check_run
from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation
from featdenoise.evaluation.selfchecks import SelfChecks, check_evaluation
from featdenoise.evaluation.whitebox import evaluate_whitebox

IDENTITY = {"model": {"name": "m", "weights": "w"}, "data": {"name": "digits"}}
WEAK = PGD(epsilon=0.1, step_size=0.0001)


@pytest.fixture(scope="module")
def digits():
    return load_dataset(DataConfig(name="digits", image_size=8), split="test")


@pytest.fixture(scope="module")
def model(digits) -> nn.Module:
    """Linear, fitted to the test images in closed form: right, and easily fooled."""
    images, labels = digits.batch(digits.image_ids)
    flat = torch.cat([images.flatten(1), torch.ones(len(images), 1)], dim=1)
    wanted = nn.functional.one_hot(labels, 10).float()
    solution = torch.linalg.lstsq(flat, 10 * wanted, driver="gelsd").solution
    linear = nn.Linear(images[0].numel(), 10)
    linear.weight.data, linear.bias.data = solution[:-1].T.clone(), solution[-1].clone()
    return nn.Sequential(nn.Flatten(), linear).eval()


def run(model, digits, folder: Path, *entries: Entry, count: int = 40, **options) -> list[Check]:
    evaluation = WhiteboxEvaluation(entries=entries)
    ids = digits.image_ids[:count]
    given = {"identity": options.pop("identity", IDENTITY)}
    evaluate_whitebox(model, digits, ids, evaluation, folder, show_progress=False, **given)
    check_run(model, digits, ids, evaluation, folder, **given, **options)
    return list(read_checks(folder)[0])


@pytest.fixture
def fast(monkeypatch):
    """Small subsets and few queries."""
    small = partial(SelfChecks, num_images=32, num_queries=30, num_steps=10)
    monkeypatch.setattr(checked_run, "SelfChecks", small)


def entry(name: str = "pgd", attack: PGD = WEAK, **changes) -> Entry:
    return Entry(name=name, attack=replace(attack, **changes), budgets=(1, 3))


def test_a_run_weaker_than_the_checks_is_suspect(model, digits, tmp_path, fast) -> None:
    checks = run(model, digits, tmp_path, entry())
    (failed,) = [check for check in checks if not check.passed]
    assert failed.name == "the run's attacks are no weaker"
    # A stronger attack in the same folder answers for the run.
    checks = run(model, digits, tmp_path, entry("strong", step_size=0.05))
    assert all(check.passed for check in checks)
    assert read_plan(tmp_path) == {"pgd": True, "strong": True}


def test_targeted_attacks_ask_another_question(model, digits, tmp_path, fast) -> None:
    names = [check.name for check in run(model, digits, tmp_path, entry(targeted=True))]
    assert "the run's attacks are no weaker" not in names


def test_every_ball_of_a_run_is_checked(model, digits, tmp_path, fast) -> None:
    still = Entry(name="still", attack=PGD(epsilon=0, step_size=0, num_steps=1))
    l2 = entry("l2", norm="l2", epsilon=0.8, step_size=0.3)
    run(model, digits, tmp_path, still, entry(step_size=0.05), l2)
    listed = json.loads((tmp_path / "selfchecks.json").read_text())["checks"]
    balls = {(c["made_with"].get("norm"), c["made_with"].get("epsilon")) for c in listed}
    assert balls == {(None, None), ("linf", 0.1), ("l2", 0.8)}


def test_checks_belong_to_the_model_and_are_not_made_twice(
    model, digits, tmp_path, fast, monkeypatch
) -> None:
    made = []

    def counting(*args, **kwargs):
        made.append(args)
        return check_evaluation(*args, **kwargs)

    monkeypatch.setattr(checked_run, "check_evaluation", counting)
    strong = entry(step_size=0.05)
    run(model, digits, tmp_path, strong)
    run(model, digits, tmp_path, strong)
    assert len(made) == 1
    for path in tmp_path.glob("pgd/*"):
        path.unlink()
    other = {**IDENTITY, "model": {"name": "m", "weights": "others"}}
    run(model, digits, tmp_path, strong, identity=other)
    assert len(made) == 2


def test_a_model_that_fails_in_a_check_is_suspect_and_keeps_its_rows(digits, tmp_path, fast):
    class OneHot(nn.Module):
        def forward(self, images):
            return nn.functional.one_hot((images.sum((1, 2, 3)) % 10).long(), 10).float()

    one_hot, ids = OneHot(), digits.image_ids[:40]
    settings = SelfChecks(epsilon=0.1, num_images=8, num_queries=5)
    checks = check_evaluation(one_hot, digits, ids, settings)
    by_name = {check.name: check for check in checks}
    failed = by_name["input gradients are not zero"]
    assert not failed.passed
    assert "could not be made: RuntimeError" in failed.detail
    assert by_name["two forward passes agree"].passed


def test_a_check_that_came_to_no_end_is_made_again(
    model, digits, tmp_path, fast, monkeypatch
) -> None:
    class Tired(nn.Module):
        """Out of memory for ten images or more, once."""

        has_failed = False

        def forward(self, images):
            if images.requires_grad and len(images) > 9 and not Tired.has_failed:
                Tired.has_failed = True
                raise RuntimeError("out of memory")
            return model(images)

    ids, evaluation = digits.image_ids[:40], WhiteboxEvaluation(entries=(entry(step_size=0.05),))
    given = {"identity": IDENTITY}
    evaluate_whitebox(model, digits, ids, evaluation, tmp_path, show_progress=False, **given)
    for failed in (["input gradients are not zero"], []):
        check_run(Tired(), digits, ids, evaluation, tmp_path, **given)
        checks, suspect = read_checks(tmp_path)
        assert [check.name for check in checks if not check.passed] == failed
        assert suspect == bool(failed)


def test_a_surrogate_is_checked_on_its_own(model, digits, tmp_path, fast) -> None:
    run(model, digits, tmp_path, entry())
    strong = entry("strong", step_size=0.05)
    checks = run(model, digits, tmp_path, strong, surrogate=("itself", model))
    assert all(check.passed for check in checks)
    names = [check.name for check in checks]
    assert names.count("the run's attacks are no weaker") == 1
    assert names[-1] == "the model's own gradients beat a surrogate's"


def test_few_images_are_said(model, digits, tmp_path, fast, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        run(model, digits, tmp_path, entry(step_size=0.05), count=5)
    assert "self-checks see little on 5 images" in caplog.text


def test_noise_behind_a_large_offset_is_seen(model, digits) -> None:
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, images):
            logits = self.net(images)
            return logits + 3000 + 0.5 * torch.randn_like(logits)

    settings = SelfChecks(epsilon=0.1, num_images=8, num_queries=5, num_steps=2)
    checks = check_evaluation(Offset(), digits, digits.image_ids, settings)
    assert not {c.name: c for c in checks}["two forward passes agree"].passed


class Watched(nn.Module):
    """Remembers the sizes of the batches that it is asked about."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.sizes: list[int] = []

    def __deepcopy__(self, memo):
        raise TypeError("watched as it is")

    def forward(self, images):
        self.sizes.append(len(images))
        return self.net(images)


def test_what_is_found_does_not_depend_on_the_chunk_size_but_its_memory_does(model, digits) -> None:
    found = []
    for size in (1, 9, 64):
        watched = Watched(model)
        settings = SelfChecks(
            epsilon=0.1, num_images=20, num_queries=20, num_steps=5, chunk_size=size
        )
        checks = check_evaluation(watched, digits, digits.image_ids, settings)
        found.append([(check.name, check.passed) for check in checks])
        # One check compares images alone with a batch of eight.
        assert max(watched.sizes) == min(max(size, 8), 20)
    assert found[0] == found[1] == found[2]
