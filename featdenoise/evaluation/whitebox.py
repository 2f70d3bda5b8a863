"""White-box evaluation: a whole curve of accuracy against iterations from one trajectory.

The same start and step visit the 10-, 20-, ..., 2000-step iterates on one path, so a sweep costs
its largest budget, not their sum. The evaluator trusts no attack (DESIGN, L5): it re-checks ball
and range of every adversarial image and decides with its own full-precision forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featdenoise.attacks.core import assert_in_ball
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD, paper_step_size
from featdenoise.attacks.targets import uniform_targets
from featdenoise.base.chunks import Chunk, cut_chunks, pad_batch
from featdenoise.base.distributed import World
from featdenoise.base.evaluation_results import EvaluationResults
from featdenoise.base.imagefiles import quantize_inside_ball, to_uint8, whole_levels, write_png
from featdenoise.base.judge import judge
from featdenoise.base.results import Row
from featdenoise.base.rng import Stream
from featdenoise.base.units import check_classes, check_images
from featdenoise.data.imageset import LabelledImages
from featdenoise.data.subset import hash_subset


@dataclass(frozen=True, kw_only=True)
class WhiteboxSweep:
    """PGD at several iteration budgets (Xie et al. 2019, Sec. 6.1)."""

    attack: PGD = field(default_factory=PGD)
    """Radius, step, goal, norm and start; its num_steps is replaced by the budgets."""
    budgets: tuple[int, ...] = (10, 20, 50, 100, 200)
    """Numbers of iterations to report."""
    reach_edge: bool = False
    """The paper's rule: a step of at least epsilon / budget, so that short attacks cross the ball.
    Budgets with a larger step get a trajectory of their own."""
    chunk_size: int = 64
    """Images attacked together; part of the run's identity, because kernels round by batch."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse budgets that cannot be run."""
        if not self.budgets or min(self.budgets) < 1:
            raise ValueError(f"budgets must be iteration counts >= 1, got {list(self.budgets)}")
        if list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(
                f"budgets must rise and not repeat, got {list(self.budgets)}; "
                f"write {sorted(set(self.budgets))}"
            )
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be >= 1, got {self.chunk_size}")

    def trajectories(self) -> list[tuple[PGD, tuple[int, ...]]]:
        """The attacks to run, each with the budgets recorded on its path."""
        budgets_of: dict[float, list[int]] = {}
        for budget in self.budgets:
            step = self.attack.step_size
            if self.reach_edge:
                step = paper_step_size(self.attack.epsilon, budget, step_size=step)
            budgets_of.setdefault(step, []).append(budget)
        return [
            (replace(self.attack, step_size=step, num_steps=max(budgets)), tuple(budgets))
            for step, budgets in budgets_of.items()
        ]


def evaluate_whitebox(
    model: nn.Module,
    images: LabelledImages,
    image_ids: Sequence[int],
    sweep: WhiteboxSweep,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    world: World | None = None,
    save_adversarial: Path | None = None,
    show_progress: bool = True,
) -> tuple[Row, list[Row]]:
    """Attack `model` on these images and record its predictions at every budget.

    Every process calls this; each computes whole chunks. A run that was cut short goes on.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K).
        images: where they come from.
        image_ids: which of them, in the order of the results.
        sweep: attack and budgets.
        folder: gets results.jsonl.
        identity: what else identifies the run: model, data.
        world: this process among all.
        save_adversarial: folder for the last budget's images as PNG, 8-bit and inside the ball.
        show_progress: whether to draw a bar.

    Returns:
        The run header and one row an image: id, label, target (None if untargeted), clean
        prediction, prediction at each budget.

    Raises:
        ValueError: images outside [0, 1], labels outside the classes, another run in the folder,
            adversarial images to be saved of another norm than linf.
        RuntimeError: the attack left the ball, or logits are not finite.
    """
    world = world or World()
    chunks = cut_chunks(image_ids, sweep.chunk_size)
    if save_adversarial is not None and sweep.attack.norm != "linf":
        raise ValueError(
            f"save_adversarial writes 8-bit images inside an l-infinity ball, got norm "
            f"{sweep.attack.norm}; leave it out"
        )
    whole_identity = {
        "kind": "whitebox",
        **identity,
        "attack": replace(sweep.attack, num_steps=max(sweep.budgets)),
        "budgets": list(sweep.budgets),
        "reach_edge": sweep.reach_edge,
        "chunk_size": sweep.chunk_size,
        "seed": sweep.seed,
        "images": hash_subset(image_ids),
        "save_adversarial": None if save_adversarial is None else str(save_adversarial),
    }
    results = EvaluationResults(folder, whole_identity, chunks, world=world)
    model = model.to(world.device)
    oracle = GradientOracle(model)

    def attack(chunk: Chunk) -> list[Row]:
        batch = _Batch.load(images, chunk, sweep, world)
        rows, last = _attack_chunk(model, oracle, batch, sweep)
        if save_adversarial is not None:
            _save_pngs(save_adversarial, batch, last, sweep)
        return rows

    return results.complete(attack, what="white-box", show_progress=show_progress)


@dataclass(frozen=True)
class _Batch:
    """A chunk's images, padded to full size; only the first `count` rows are real."""

    images: Tensor
    labels: Tensor
    stream: Stream
    count: int

    @classmethod
    def load(
        cls, source: LabelledImages, chunk: Chunk, sweep: WhiteboxSweep, world: World
    ) -> "_Batch":
        images, labels = source.batch(chunk.ids)
        check_images(images, f"images of chunk {chunk.index}")
        check_classes(labels, source.num_classes, f"labels of images {list(chunk.ids)}")
        padding = sweep.chunk_size - len(chunk.ids)
        return cls(
            images=pad_batch(images, sweep.chunk_size).to(world.device),
            labels=pad_batch(labels, sweep.chunk_size).to(world.device),
            stream=Stream(seed=sweep.seed, image_ids=chunk.ids + chunk.ids[-1:] * padding),
            count=len(chunk.ids),
        )

    def names(self, when: str) -> list[str]:
        """What errors call the real images."""
        return [f"image {i} {when}" for i in self.stream.image_ids[: self.count]]


def _attack_chunk(
    model: nn.Module, oracle: GradientOracle, batch: _Batch, sweep: WhiteboxSweep
) -> tuple[list[Row], Tensor]:
    """The rows of a chunk and the adversarial images of the largest budget."""
    clean_logits = judge(model, batch.images, batch.names("when clean"))
    targets = None
    if sweep.attack.targeted:
        targets = uniform_targets(batch.labels, clean_logits.shape[1], batch.stream)
    predictions: dict[int, list[int]] = {}
    adversarial = batch.images
    for attack, budgets in sweep.trajectories():
        path = attack.trajectory(
            oracle,
            batch.images,
            batch.labels,
            record_at=budgets,
            stream=batch.stream,
            targets=targets,
        )
        for budget in budgets:
            adversarial = path[budget]
            assert_in_ball(adversarial, batch.images, attack.epsilon, attack.norm)
            names = batch.names(f"after {budget} iterations")
            predictions[budget] = judge(model, adversarial, names).argmax(1).tolist()
    clean = clean_logits.argmax(1).tolist()
    rows = [
        {
            "id": batch.stream.image_ids[k],
            "label": int(batch.labels[k]),
            "target": None if targets is None else int(targets[k]),
            "clean": clean[k],
            "predictions": {str(budget): predictions[budget][k] for budget in sweep.budgets},
        }
        for k in range(batch.count)
    ]
    return rows, adversarial


def _save_pngs(folder: Path, batch: _Batch, adversarial: Tensor, sweep: WhiteboxSweep) -> None:
    """Write 8-bit images that stay inside the ball around the 8-bit clean image."""
    folder.mkdir(parents=True, exist_ok=True)
    clean = to_uint8(batch.images[: batch.count])
    rounded = quantize_inside_ball(
        adversarial[: batch.count], clean, whole_levels(sweep.attack.epsilon)
    )
    for image_id, image in zip(batch.stream.image_ids, rounded, strict=False):
        write_png(folder / png_name(image_id), image)


def png_name(image_id: int) -> str:
    """The file name of an image by its id, equal in clean and adversarial folders."""
    return f"{image_id:06d}.png"
