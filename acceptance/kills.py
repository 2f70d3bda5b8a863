"""Killed with SIGKILL at random moments and started again, training and evaluation lose nothing.

`python acceptance/kills.py [KILLS]`: kills an adversarial training run and a white-box evaluation
(on two processes) that many times each, and compares what they end with to runs never killed.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from launch import count_lines, digest_training, evaluation_rows, kill_all, require, run, start

TRAIN = ["digits-denoise", "--epochs", "1", "--checkpoint-every", "2"]
ATTACK = ["--epsilon", "26/255", "--step-size", "2/255", "--budgets", "5", "150"]
EVALUATE = [*ATTACK, "--no-self-checks", "--subset", "first:120", "--chunk-size", "4"]


def main() -> None:
    """Kill, resume, compare."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    moments = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary) / "whole", Path(temporary) / "killed"
        run("train_adv.py", [*TRAIN, "--out", str(whole)])
        _kill_repeatedly(
            lambda: start("train_adv.py", [*TRAIN, "--out", str(killed)]),
            lambda: count_lines([killed / "log.jsonl"]),
            [round((k + 1) * 10 / (kills + 1)) for k in range(kills)],
            moments,
        )
        run("train_adv.py", [*TRAIN, "--out", str(killed)])
        require(
            f"training killed {kills} times ends with the same bits",
            digest_training(whole) == digest_training(killed),
        )
        evaluate = ["--model", str(whole / "weights"), *EVALUATE]
        rows, torn = Path(temporary) / "rows", Path(temporary) / "torn"
        run("eval_whitebox.py", [*evaluate, "--out", str(rows)], 2)
        _kill_repeatedly(
            lambda: start("eval_whitebox.py", [*evaluate, "--out", str(torn)], 2),
            lambda: count_lines(list((torn / "pgd" / "parts").glob("*.jsonl"))),
            [round((k + 1) * 110 / (kills + 1)) for k in range(kills)],
            moments,
        )
        run("eval_whitebox.py", [*evaluate, "--out", str(torn)], 2)
        require(
            f"an evaluation killed {kills} times ends with equal rows",
            evaluation_rows(rows / "pgd") == evaluation_rows(torn / "pgd"),
        )


def _kill_repeatedly(
    begin: Callable[[], subprocess.Popen[str]],
    progress: Callable[[], int],
    targets: list[int],
    moments: random.Random,
) -> None:
    """Start, wait for the next amount of progress and a random moment more, kill; again."""
    for target in targets:
        process = begin()
        while process.poll() is None and progress() < target:
            time.sleep(0.02)
        time.sleep(moments.random() * 0.5)
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself before it could be killed at {target}")
        kill_all(process)
        print(f"killed after {progress()} lines", flush=True)


if __name__ == "__main__":
    main()
