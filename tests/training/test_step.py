"""One training step against the plainest possible implementation, and against its split."""

import copy

import pytest
import torch
from torch import Tensor, nn

from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD
from featdenoise.base.rng import Stream
from featdenoise.training.objectives import AdversarialTraining, CleanTraining
from featdenoise.training.schedule import MicroBatch
from featdenoise.training.step import StepMetrics, StepSums, train_step


def make_batch(count: int = 4) -> list[tuple[MicroBatch, Tensor, Tensor]]:
    g = torch.Generator().manual_seed(2)
    return [
        (
            MicroBatch(epoch=0, step=5, index=k, image_ids=tuple(range(8 * k, 8 * k + 8))),
            torch.rand(8, 3, 8, 8, generator=g),
            torch.randint(0, 4, (8,), generator=g),
        )
        for k in range(count)
    ]


def make_optimizer(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )


def run_split(model: nn.Module, split: list[list[int]], *, attacked: bool) -> StepMetrics:
    """One step of `model` as `split` says: a list of micro-batches for each process."""
    batch = make_batch()

    def objective(m: nn.Module):
        if not attacked:
            return CleanTraining(label_smoothing=0.1)
        attack = PGD(epsilon=0.1, step_size=0.05, num_steps=3, clean_start_probability=0.5)
        oracle = GradientOracle(m)
        return AdversarialTraining(attack=attack, oracle=oracle, label_smoothing=0.1, seed=0)

    others = []
    for share in split[1:]:
        other = copy.deepcopy(model)
        sums = StepSums(other, num_micro_batches=len(batch), reduction="exact")
        seen: list[Tensor] = []
        train_step(
            other,
            make_optimizer(other),
            objective(other),
            [batch[k] for k in share],
            sums,
            lambda buffer, seen=seen: seen.append(buffer.clone()),
        )
        others.append(seen)
    calls = iter(range(2))

    def all_reduce(buffer: Tensor) -> None:
        call = next(calls)
        for seen in others:
            buffer.add_(seen[call])

    sums = StepSums(model, num_micro_batches=len(batch), reduction="exact")
    return train_step(
        model, make_optimizer(model), objective(model), [batch[k] for k in split[0]], sums,
        all_reduce,
    )  # fmt: skip


@pytest.mark.parametrize("attacked", [False, True])
def test_a_step_has_the_same_bits_for_any_split_over_processes(tiny_model, attacked: bool) -> None:
    models = []
    for split in ([[0, 1, 2, 3]], [[2, 0, 3, 1]], [[0, 2], [1, 3]], [[0, 3], [1], [2]]):
        model = copy.deepcopy(tiny_model)
        metrics = run_split(model, split, attacked=attacked)
        models.append((model.state_dict(), metrics))
    for state, metrics in models[1:]:
        assert metrics == models[0][1]
        for name, value in state.items():
            assert torch.equal(value, models[0][0][name]), name


def test_a_clean_step_is_the_mean_of_micro_batch_gradients_and_statistics(tiny_model) -> None:
    expected = copy.deepcopy(tiny_model)
    batch = make_batch()
    optimizer = make_optimizer(expected)
    gradients, means, variances, losses = [], [], [], []
    for _, images, labels in batch:
        fresh = copy.deepcopy(expected).train()  # old weights and old statistics each time
        loss = nn.functional.cross_entropy(fresh(images), labels, label_smoothing=0.1)
        loss.backward()
        gradients.append([p.grad for p in fresh.parameters()])
        means.append(fresh[1].running_mean)
        variances.append(fresh[1].running_var)
        losses.append(loss.item())
    for parameter, *terms in zip(expected.parameters(), *gradients, strict=True):
        parameter.grad = torch.stack(terms).mean(0)
    optimizer.step()
    metrics = run_split(tiny_model, [[0, 1, 2, 3]], attacked=False)
    for name, value in expected.named_parameters():
        torch.testing.assert_close(tiny_model.get_parameter(name), value, rtol=1e-5, atol=1e-7)
    norm = tiny_model[1]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    assert norm.num_batches_tracked == 1  # steps, not micro-batches
    assert metrics.loss == pytest.approx(sum(losses) / 4)
    assert metrics.adversarial_correct is None


def test_adversarial_training_trains_on_what_the_attack_gives_in_evaluation_mode(
    tiny_model,
) -> None:
    place, images, labels = make_batch(1)[0]
    attack = PGD(epsilon=0.1, step_size=0.05, num_steps=3)
    frozen = copy.deepcopy(tiny_model).eval()
    stream = Stream(seed=0, image_ids=place.image_ids, epoch=0)
    adversarial = attack(frozen, images, labels, stream=stream)
    learner = copy.deepcopy(tiny_model).train()
    expected = nn.functional.cross_entropy(learner(adversarial), labels, label_smoothing=0.1)
    objective = AdversarialTraining(
        attack=attack, oracle=GradientOracle(tiny_model), label_smoothing=0.1, seed=0
    )
    tiny_model.train()
    result = objective(tiny_model, images, labels, place, count=True)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    clean = nn.functional.cross_entropy(learner(images), labels, label_smoothing=0.1)
    assert result.loss.item() > clean.item()
    assert result.clean_correct == int((frozen(images).argmax(1) == labels).sum())


def test_the_share_of_clean_starts_is_the_probability(tiny_model) -> None:
    objective = AdversarialTraining(
        attack=PGD(num_steps=1, clean_start_probability=0.2),
        oracle=GradientOracle(tiny_model),
        label_smoothing=0.1,
        seed=0,
    )
    places = [MicroBatch(0, step, index, (1,)) for step in range(500) for index in range(4)]
    share = sum(objective._starts_clean(place) for place in places) / len(places)
    assert share == pytest.approx(0.2, abs=0.03)


def test_a_loss_that_is_not_finite_stops_before_any_weight_moves(tiny_model) -> None:
    batch = make_batch()
    batch[2][1][0, 0, 0, 0] = float("nan")
    before = copy.deepcopy(tiny_model.state_dict())
    sums = StepSums(tiny_model, num_micro_batches=4, reduction="exact")
    objective = CleanTraining(label_smoothing=0.1)
    with pytest.raises(FloatingPointError, match="not finite"):
        train_step(tiny_model, make_optimizer(tiny_model), objective, batch, sums, lambda _: None)
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_process_without_micro_batches_is_an_error(tiny_model) -> None:
    sums = StepSums(tiny_model, num_micro_batches=4, reduction="exact")
    with pytest.raises(RuntimeError, match="use fewer processes"):
        train_step(
            tiny_model,
            make_optimizer(tiny_model),
            CleanTraining(label_smoothing=0.1),
            [],
            sums,
            lambda _: None,
        )


def test_a_net_without_batch_norm_trains(batch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    before = model[1].weight.clone()
    run_split(model, [[0, 1, 2, 3]], attacked=True)
    assert not torch.equal(before, model[1].weight)
