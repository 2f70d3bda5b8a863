"""What does the exact integer sum cost against one float sum?

`python benchmarks/exact_reduction.py`: the summing alone, one micro-batch's gradients added and the
mean taken, for networks of several sizes, both kinds interleaved; the share of a PGD-7 training
step is estimated from one measured forward and backward pass.
"""

import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from featdenoise.base.exact_sum import ExactSum, FloatSum
from featdenoise.models.registry import create_model

MODELS = ("resnet8", "resnet110", "preactresnet18")
ROUNDS = 15
PASSES = 8  # of PGD-7 training: seven attack steps and the update


def main() -> None:
    """Measure and print, and write the same under benchmarks/results/."""
    torch.set_num_threads(1)
    lines = [
        f"command: python {' '.join(sys.argv)}",
        f"date: {datetime.now(UTC):%Y-%m-%d}",
        f"hardware: {platform.processor() or platform.machine()}, 1 thread; "
        f"torch {torch.__version__}, python {platform.python_version()}",
        "",
        f"{'model':<16}{'parameters':>12}{'float ms':>10}{'exact ms':>10}{'ratio':>7}"
        f"{'step ms':>10}{'exact share':>13}",
    ]
    for name in MODELS:
        lines.append(_measure(name))
    text = "\n".join(lines) + "\n"
    print(text)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "exact_reduction.txt").write_text(text)


def _measure(name: str) -> str:
    model = create_model(name).train()
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(p.shape, generator=generator) for p in parameters]
    sums = {"exact": ExactSum(gradients, num_terms=1), "float": FloatSum(gradients, num_terms=1)}
    times: dict[str, list[float]] = {"exact": [], "float": []}
    for _ in range(ROUNDS):
        for kind, total in sums.items():
            began = time.perf_counter()
            total.add(gradients)
            total.mean(_nothing)
            times[kind].append(1e3 * (time.perf_counter() - began))
    exact, plain = median(times["exact"]), median(times["float"])
    step = _training_step_ms(model, parameters)
    count = sum(p.numel() for p in parameters)
    return (
        f"{name:<16}{count:>12,}{plain:>10.2f}{exact:>10.2f}{exact / plain:>7.1f}"
        f"{step:>10.0f}{exact / step:>13.1%}"
    )


def _training_step_ms(model: torch.nn.Module, parameters: list[Tensor]) -> float:
    images = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        torch.autograd.grad(model(images).logsumexp(1).sum(), parameters)
        times.append(1e3 * (time.perf_counter() - began))
    return PASSES * median(times)


def _nothing(_: Tensor) -> None:
    """One process has nobody to add to."""


if __name__ == "__main__":
    main()
