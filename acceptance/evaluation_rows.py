"""White-box rows do not depend on the number of processes, and hardly on the chunk size.

`python acceptance/evaluation_rows.py [IMAGES]`: evaluates one trained model under 1, 2 and 3
processes, then with chunks of 1, 7 and 64 images. Starts and targets must be exactly the same;
robust counts may differ by at most 2 images, because kernels round differently per batch shape.
"""

import sys
import tempfile
from pathlib import Path

from launch import evaluation_rows, require, run

from featdenoise.attacks.core import random_start
from featdenoise.base.chunks import cut_chunks
from featdenoise.base.rng import Stream
from featdenoise.data.config import DataConfig
from featdenoise.data.registry import load_dataset

EPSILON = 26 / 255
BUDGETS = ("10", "50")
ATTACK = ["--no-self-checks", "--epsilon", "26/255", "--step-size", "2/255", "--targeted"]
EVALUATE = [*ATTACK, "--budgets", *BUDGETS]


def main() -> None:
    """Evaluate in all these ways and compare."""
    num_images = int(sys.argv[1]) if len(sys.argv) > 1 else 355
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run("train_adv.py", ["digits", "--epochs", "6", "--out", str(folder / "model")])
        subset = ["--subset", f"first:{num_images}"]
        common = ["--model", str(folder / "model" / "weights"), *EVALUATE, *subset]
        by_processes = []
        for processes in (1, 2, 3):
            out = folder / f"processes-{processes}"
            seconds = run("eval_whitebox.py", [*common, "--out", str(out)], processes)
            by_processes.append(evaluation_rows(out / "pgd"))
            print(f"{processes} processes: {len(by_processes[-1])} rows in {seconds:.0f} s")
        require(
            "rows under 1, 2 and 3 processes are equal",
            by_processes[0] == by_processes[1] == by_processes[2],
        )
        by_chunk = []
        for size in (1, 7, 64):
            out = folder / f"chunk-{size}"
            run("eval_whitebox.py", [*common, "--chunk-size", str(size), "--out", str(out)])
            by_chunk.append(evaluation_rows(out / "pgd"))
        _compare_chunk_sizes(by_chunk)
    _compare_starts(num_images)


def _compare_chunk_sizes(runs: list[list[dict]]) -> None:
    targets = [[row["target"] for row in rows] for rows in runs]
    require("targets with chunks of 1, 7, 64 are the same", targets.count(targets[0]) == 3)
    for budget in BUDGETS:
        counts = [sum(r["predictions"][budget] == r["label"] for r in rows) for rows in runs]
        require(
            f"robust counts at {budget} steps with chunks of 1, 7, 64: {counts}",
            max(counts) - min(counts) <= 2,
        )


def _compare_starts(num_images: int) -> None:
    images = load_dataset(DataConfig(name="digits"), split="test")
    starts = []
    for size in (1, 7, 64):
        pieces = []
        for chunk in cut_chunks(images.image_ids[:num_images], size):
            batch, _ = images.batch(chunk.ids)
            stream = Stream(seed=0, image_ids=chunk.ids)
            pieces += list(random_start(batch, EPSILON, "linf", stream))
        starts.append(pieces)
    same = all(
        bool((a == b).all()) for other in starts[1:] for a, b in zip(starts[0], other, strict=True)
    )
    require("starts with chunks of 1, 7, 64 are the same", same)


if __name__ == "__main__":
    main()
