"""The nets, the attack and the training step against outputs of the original TensorFlow code.

`python acceptance/golden.py [STEPS]`: prints every measured deviation beside its limit, for
ResNet-50 and its denoising form with fixed pseudo-random weights; single attack steps from the
first STEPS of ten recorded iterates.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from launch import require

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "models"))

import golden_lines


def main() -> None:
    """Measure and compare."""
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    for net in golden_lines.NETS:
        print(net)
        lines = []
        for line in _lines(net, num_steps):
            print(f"  {line.what:<60} {line.measured:10.3g}  limit {line.limit:g}")
            lines.append(line)
        require(f"{net} is within every limit", all(line.holds for line in lines))


def _lines(net: str, num_steps: int) -> Iterator[golden_lines.Line]:
    model = golden_lines.make_net(net)
    yield from golden_lines.forward_lines(net, model)
    yield from golden_lines.gradient_lines(net, model)
    yield from golden_lines.attack_lines(net, model)
    if net == "ResNetDenoise50":
        yield from golden_lines.denoising_lines(model)
        yield from golden_lines.attack_step_lines(model, tuple(range(num_steps)))
        yield from golden_lines.training_lines(model, num_steps=1)
        yield from golden_lines.training_lines(golden_lines.make_net(net).double())


if __name__ == "__main__":
    main()
