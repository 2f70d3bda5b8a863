"""White-box PGD sweep.

One process: `python eval_whitebox.py --model runs/digits-denoise/weights --epsilon 26/255 --out
runs/sweep`; several: the same under `torchrun --nproc_per_node=N`.
"""

import sys

from featdenoise.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["whitebox", *sys.argv[1:]]))
