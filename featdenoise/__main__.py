"""`python -m featdenoise COMMAND`: the form that `torchrun -m` needs."""

import sys

from featdenoise.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
