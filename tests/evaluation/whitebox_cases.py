"""Ten small images, a model that counts, and the evaluation of one or several attacks on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation
from featdenoise.evaluation.whitebox import evaluate_whitebox

EPSILON = 0.1
IDENTITY = {"model": {"name": "tiny"}}


@dataclass
class Source:
    """Ten 3x8x8 images that a test may spoil."""

    images: Tensor
    labels: Tensor
    num_classes: int = 4
    on_read: Callable[[int], None] = lambda _: None

    def batch(self, image_ids) -> tuple[Tensor, Tensor]:
        for image_id in image_ids:
            self.on_read(image_id)
        return self.images[list(image_ids)], self.labels[list(image_ids)]


class Counting(nn.Module):
    """Counts the forward passes that a gradient was asked of."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.count = 0

    def __deepcopy__(self, memo):
        raise TypeError("counted as it is")

    def forward(self, images: Tensor) -> Tensor:
        self.count += images.requires_grad
        return self.net(images)


def evaluate_all(model: nn.Module, source: Source, entries, folder: Path, **options):
    ids = options.pop("image_ids", range(10))
    for_run = {k: options.pop(k) for k in ("save_adversarial", "keep_iterates") if k in options}
    evaluation = WhiteboxEvaluation(entries=tuple(entries), **{"chunk_size": 4, **options})
    return evaluate_whitebox(
        model,
        source,
        ids,
        evaluation,
        folder,
        identity=IDENTITY,
        show_progress=False,
        **for_run,
    )


def evaluate(model: nn.Module, source: Source, sweep: Entry, folder: Path, **options):
    return evaluate_all(model, source, [sweep], folder, **options)[sweep.name]
