"""The paper's whole curve in one run costs little more than its 2000-step attack alone.

`python acceptance/paper_curve.py [IMAGES]`: on the smallest net, times the protocol `paper`
(budgets 10 to 2000 in one evaluation) against one evaluation at 2000 iterations.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from launch import require

from featdenoise.attacks.pgd import PGD
from featdenoise.data.config import DataConfig
from featdenoise.data.registry import load_dataset
from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation
from featdenoise.evaluation.protocols import protocol_entries
from featdenoise.evaluation.whitebox import evaluate_whitebox
from featdenoise.models.registry import create_model


def main() -> None:
    """Time both."""
    num_images = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    torch.set_num_threads(1)
    model = create_model("resnet8").eval()
    images = load_dataset(DataConfig(name="digits", image_size=8), split="test")
    attack = PGD(epsilon=16 / 255, step_size=1 / 255, targeted=True)
    runs = {
        "2000 iterations": (Entry(name="longest", attack=attack, budgets=(2000,)),),
        "the paper's curve": protocol_entries("paper"),
    }
    seconds = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, entries in runs.items():
            began = time.process_time()
            evaluate_whitebox(
                model,
                images,
                images.image_ids[:num_images],
                WhiteboxEvaluation(entries=entries, chunk_size=num_images),
                Path(temporary) / entries[0].name,
                identity={"model": {"name": "resnet8"}},
                show_progress=False,
            )
            seconds[name] = time.process_time() - began
            print(f"{name}: {seconds[name]:.1f} s of CPU time")
    ratio = seconds["the paper's curve"] / seconds["2000 iterations"]
    require(f"the curve costs {ratio:.3f} times the 2000-step attack, at most 1.05", ratio <= 1.05)


if __name__ == "__main__":
    main()
