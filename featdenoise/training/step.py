"""One training step, defined by its micro-batches and not by the hardware (DESIGN, L3).

Every micro-batch starts from the same weights and the same old running statistics. Gradients and
new running statistics are averaged over all micro-batches of all processes by exact integer sums,
then each process makes the same optimizer step.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featdenoise.base.exact_sum import STATISTICS_BITS, ExactSum, FloatSum, MeanSum, Reduction
from featdenoise.training.objectives import MicroBatchLoss, Objective
from featdenoise.training.schedule import MicroBatch

NUM_METRICS = 3
"""Loss, clean and adversarial counts: they ride along with the gradients."""


@dataclass(frozen=True)
class StepMetrics:
    """What a step measured, over its whole batch."""

    loss: float
    clean_correct: int | None
    adversarial_correct: int | None


class StepSums:
    """The two sums of a step: gradients (with loss and counts riding along), statistics."""

    def __init__(self, model: nn.Module, *, num_micro_batches: int, reduction: Reduction) -> None:
        """Make buffers for the model's parameters and running statistics."""
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self.statistics = _present(s for m in norms for s in (m.running_mean, m.running_var))
        self.step_counters = _present(m.num_batches_tracked for m in norms)
        self.num_micro_batches = num_micro_batches
        metrics = [_no_metrics(self)]
        if reduction == "exact":
            self.gradient_sum: MeanSum = ExactSum(
                [*self.parameters, *metrics], num_terms=num_micro_batches
            )
            self.statistics_sum: MeanSum = ExactSum(
                self.statistics,
                num_terms=num_micro_batches,
                bits=STATISTICS_BITS,
                what="running statistics",
            )
        else:
            self.gradient_sum = FloatSum([*self.parameters, *metrics], num_terms=num_micro_batches)
            self.statistics_sum = FloatSum(
                self.statistics, num_terms=num_micro_batches, what="running statistics"
            )


def _present(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    return [t for t in tensors if t is not None]


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batch: Iterable[tuple[MicroBatch, Tensor, Tensor]],
    sums: StepSums,
    all_reduce: Callable[[Tensor], None],
    *,
    count: bool = True,
) -> StepMetrics:
    """Update the model once from this process's share of the batch.

    Args:
        model: put in training mode; the objective attacks it in evaluation mode.
        optimizer: over the model's parameters, its learning rate already set.
        objective: gives each micro-batch's loss.
        batch: this process's micro-batches: place, images (n, C, H, W) in [0, 1], labels (n,).
        sums: made once for this model.
        all_reduce: adds a tensor in place over the processes.
        count: whether to measure clean accuracy too.

    Raises:
        FloatingPointError: on every process, before any weight moves: a gradient, the loss or a
            running statistic is not finite or too large.
    """
    old = [s.clone() for s in sums.statistics]
    old_counts = [c.clone() for c in sums.step_counters]
    objective.refresh()
    result = None
    num_done = 0
    for place, images, labels in batch:
        model.train()
        try:
            result = objective(model, images, labels, place, count=count)
            terms = [*torch.autograd.grad(result.loss, sums.parameters), _metrics(result)]
        except FloatingPointError:
            # The attack failed here alone: the sum carries the news to every process.
            terms = [torch.full_like(p, torch.nan) for p in sums.parameters] + [_no_metrics(sums)]
        sums.gradient_sum.add(terms)
        sums.statistics_sum.add(sums.statistics)
        _write_back(sums.statistics, old)
        _write_back(sums.step_counters, old_counts)
        num_done += 1
    if not num_done:
        raise RuntimeError("this process has no micro-batch; use fewer processes")
    # Both sums are checked before the first weight moves.
    *mean_gradients, metrics = sums.gradient_sum.mean(all_reduce)
    statistics = sums.statistics_sum.mean(all_reduce)
    for parameter, mean_gradient in zip(sums.parameters, mean_gradients, strict=True):
        parameter.grad = mean_gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    _write_back(sums.statistics, statistics)
    _write_back(sums.step_counters, [c + 1 for c in old_counts])
    assert result is not None  # had every micro-batch failed, the sum would have raised
    loss, clean, adversarial = metrics.tolist()
    return StepMetrics(
        loss=loss,
        clean_correct=None if result.clean_correct is None else _to_count(clean, sums),
        adversarial_correct=(
            None if result.adversarial_correct is None else _to_count(adversarial, sums)
        ),
    )


def _no_metrics(sums: StepSums) -> Tensor:
    return torch.zeros(NUM_METRICS, dtype=torch.float64, device=sums.parameters[0].device)


def _metrics(result: MicroBatchLoss) -> Tensor:
    values = [
        float(result.loss.detach()),
        result.clean_correct or 0,
        result.adversarial_correct or 0,
    ]
    return torch.tensor(values, dtype=torch.float64, device=result.loss.device)


def _to_count(mean: float, sums: StepSums) -> int:
    return round(mean * sums.num_micro_batches)


@torch.no_grad()
def _write_back(statistics: list[Tensor], values: list[Tensor]) -> None:
    for statistic, value in zip(statistics, values, strict=True):
        statistic.copy_(value)
