"""Certification of many images: one row an image, resumable, sharded, and a log peers can read.

Composes `smoothing` with `base`. `results.jsonl` holds the rows in full precision; once it is
complete, a tab-separated log in the format of Cohen et al. 2019 is written beside it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import Tensor

from featdenoise.base.binomial import clopper_pearson_lower
from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.chunks import Chunk, cut_chunks, hash_subset
from featdenoise.base.distributed import World
from featdenoise.base.evaluation_results import EvaluationResults
from featdenoise.base.results import Row
from featdenoise.base.rng import Stream
from featdenoise.base.units import check_classes, format_radius
from featdenoise.data.imageset import LabelledImages
from featdenoise.smoothing.base_classifier import BaseClassifier
from featdenoise.smoothing.certify import Smooth
from featdenoise.smoothing.noise import Gaussian, Noise

LOG_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
"""What the analysis scripts of the field read; ours add columns after these."""
EXTRA_COLUMNS = ("nA", "n0", "n", "alpha", "pA_low", "noise", "norm", "scale", "seed")


@dataclass(frozen=True, kw_only=True)
class Certification:
    """How to certify: Cohen et al. 2019, with the sample numbers of Salman et al. 2020, A.3."""

    noise: Noise = field(default_factory=Gaussian)
    """Noise of the votes."""
    n0: int = 100
    """Votes that select an image's class."""
    n: int = 10_000
    """Votes that bound that class's probability."""
    alpha: float = 0.001
    """Failure probability of one image's certificate."""
    batch_size: int = 1000
    """Noisy copies in one forward pass."""
    chunk_size: int = 10
    """Images in one unit of work, of sharding and of resumption."""
    seed: int = 0
    """Seed of the votes' noise; on the command line of sampled subsets too."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for name in ("n0", "n", "batch_size", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be strictly between 0 and 1, got {self.alpha}")

    @property
    def largest_radius(self) -> float:
        """The radius of an image whose votes all agree: no row can hold a larger one."""
        return self.noise.radius(clopper_pearson_lower(self.n, self.n, self.alpha))

    @property
    def log_name(self) -> str:
        """Name of the log; analysis scripts look for `sigma` and two decimals in it."""
        return f"certificates_sigma_{self.noise.sigma:.2f}.tsv"


def certify_images(
    model: Callable[[Tensor], Tensor],
    images: LabelledImages,
    image_ids: Sequence[int],
    config: Certification,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    world: World | None = None,
    show_progress: bool = True,
) -> tuple[Row, list[Row]]:
    """Certify images into `folder`, continuing what is already there; every process calls this.

    Args:
        model: pixels (N, C, H, W) to logits (N, K); a module is moved to the world's device.
        images: the data set.
        image_ids: which images, in the order of the rows.
        config: how.
        folder: gets `results.jsonl` and the log.
        identity: what else defines the run: model, data; compared when it is continued.
        world: this process among all.
        show_progress: whether the main process shows a bar.

    Returns:
        On every process: the run header, and one row an image: id, label, prediction, radius,
        correct, n_top, p_lower, seconds.

    Raises:
        ValueError: the folder belongs to another configuration, a label is no class of the
            data set, or the model's logits do not fit it.
        RuntimeError: an image is missing at the end, or a radius is impossible.
    """
    world = world or World()
    classifier = BaseClassifier(model).to(world.device)
    smooth = Smooth(classifier, num_classes=images.num_classes, noise=config.noise)
    settings = {f.name: getattr(config, f.name) for f in fields(config)}
    whole_identity = {
        "kind": "certification",
        **identity,
        **settings,
        "precision": classifier.precision,
        # The votes' noise is made on the device, so rows of a CPU and a GPU do not mix.
        "device": world.device.type,
        "images": hash_subset(image_ids),
    }
    chunks = cut_chunks(image_ids, config.chunk_size)
    results = EvaluationResults(folder, whole_identity, chunks, world=world)

    def certify(chunk: Chunk) -> Iterator[Row]:
        batch, labels = images.batch(chunk.ids)
        check_classes(labels, images.num_classes, f"labels of images {list(chunk.ids)}")
        for image_id, image, label in zip(chunk.ids, batch, labels.tolist(), strict=True):
            yield _certify_one(smooth, image.to(world.device), image_id, label, config)

    header, rows = results.complete(certify, what="certify", show_progress=show_progress)
    _check_radii(rows, config)
    if world.is_main:
        write_log(folder / config.log_name, rows, config)
    world.barrier()
    return header, rows


def write_log(path: Path, rows: Sequence[Row], config: Certification) -> None:
    """Write the tab-separated log of Cohen et al. 2019, radii rounded down to six digits."""
    lines = ["\t".join(LOG_COLUMNS + EXTRA_COLUMNS)]
    noise = config.noise
    for row in rows:
        values = [
            *(row["id"], row["label"], row["prediction"]),
            format_radius(row["radius"], digits=6),
            int(row["correct"]),
            timedelta(seconds=row["seconds"]),
            *(row["n_top"], config.n0, config.n, config.alpha, repr(row["p_lower"])),
            *(type(noise).__name__.lower(), noise.norm, noise.sigma, config.seed),
        ]
        lines.append("\t".join(str(value) for value in values))
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _certify_one(
    smooth: Smooth, image: Tensor, image_id: int, label: int, config: Certification
) -> Row:
    start = time.perf_counter()
    certificate = smooth.certify(
        image,
        n0=config.n0,
        n=config.n,
        alpha=config.alpha,
        batch_size=config.batch_size,
        stream=Stream(seed=config.seed, image_ids=(image_id,)),
    )
    return {
        "id": image_id,
        "label": label,
        "prediction": certificate.prediction,
        "radius": certificate.radius,
        "correct": certificate.prediction == label,
        "n_top": certificate.n_top,
        "p_lower": certificate.p_lower,
        "seconds": time.perf_counter() - start,
    }


def _check_radii(rows: Sequence[Row], config: Certification) -> None:
    for row in rows:
        if not 0 <= row["radius"] <= config.largest_radius:
            raise RuntimeError(
                f"image {row['id']} has radius {row['radius']}, but {config.n} votes at alpha "
                f"{config.alpha} give at most {config.largest_radius}"
            )
