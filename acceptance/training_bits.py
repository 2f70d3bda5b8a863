"""Training gives the same bits on any number of processes, also when that number changes.

`python acceptance/training_bits.py [EPOCHS]`: trains `digits-denoise` under 1, 2, 3 and 4 processes
of one thread, and once from 2 to 3 processes half-way; compares weights, running statistics and
optimizer state; then prints what the exact reduction costs against the fast one.
"""

import sys
import tempfile
from pathlib import Path

from launch import digest_training, require, run

from featdenoise.base.results import read_results

STEPS_PER_EPOCH = 11


def main() -> None:
    """Train and compare."""
    epochs = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    last_step = round(epochs * STEPS_PER_EPOCH)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        common = ["digits-denoise", "--epochs", str(epochs)]
        digests = {}
        for processes in (1, 2, 3, 4):
            out = folder / f"processes-{processes}"
            seconds = run("train_adv.py", [*common, "--out", str(out)], processes)
            digests[processes] = digest_training(out)
            print(f"{processes} processes: {digests[processes]} in {seconds:.0f} s")
        require("1, 2, 3 and 4 processes end with the same bits", len(set(digests.values())) == 1)
        changed = folder / "changed"
        stop = ["--stop-after", str(last_step // 2)]
        run("train_adv.py", [*common, "--out", str(changed), *stop], 2)
        middle = digest_training(changed)
        run("train_adv.py", [*common, "--out", str(changed)], 3)
        require("the run went on from half-way", middle != digest_training(changed))
        require(
            "a run changed from 2 to 3 processes half-way ends with the same bits",
            digest_training(changed) == digests[1],
        )
        fast = folder / "fast"
        run("train_adv.py", [*common, "--out", str(fast), "--reduction", "fast"], 2)
        exact_rate, fast_rate = (_images_a_second(f) for f in (folder / "processes-2", fast))
        print(
            f"exact reduction: {exact_rate:.1f} images/s, fast: {fast_rate:.1f} images/s on 2 "
            f"processes; exact costs {fast_rate / exact_rate - 1:+.1%}"
        )


def _images_a_second(folder: Path) -> float:
    return float(read_results(folder / "log.jsonl")[1][-1]["images_per_second"])


if __name__ == "__main__":
    main()
