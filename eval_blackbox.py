"""Black-box all-or-nothing score on images that several attackers wrote to disk.

`python eval_blackbox.py --model runs/digits-denoise/weights --clean DIR --labels CSV --attackers
DIR DIR --out runs/score`; several processes: the same under `torchrun --nproc_per_node=N`.
"""

import sys

from featdenoise.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["blackbox", *sys.argv[1:]]))
