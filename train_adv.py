"""Adversarial training.

One process: `python train_adv.py digits-denoise`; four: `torchrun --nproc_per_node=4 train_adv.py
digits-denoise`, with the same weights to the last bit; smoke test: add `--epochs 1`.
"""

import sys

from featdenoise.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
