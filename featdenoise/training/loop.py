"""The training loop: from a recipe to weights, through kills and changes of process count.

What is here decides nothing about the weights: it feeds steps, logs, checkpoints, and stops when
asked. Killed at any moment, a run resumes from its last checkpoint and ends with the same bits.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featdenoise.attacks.oracle import GradientOracle
from featdenoise.base.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from featdenoise.base.distributed import World
from featdenoise.base.results import (
    Row,
    describe,
    differing_fields,
    numerics,
    require_same_identity,
)
from featdenoise.data.imagefolder import FolderImages
from featdenoise.data.imageset import ImageSet
from featdenoise.data.registry import load_dataset
from featdenoise.models.info import ModelInfo
from featdenoise.models.registry import Classifier, copy_matching_weights, create_model
from featdenoise.models.weights import fingerprint_weights, load_model, save_weights
from featdenoise.training.feed import feed_steps
from featdenoise.training.objectives import AdversarialTraining, CleanTraining, Objective
from featdenoise.training.recipes import Recipe
from featdenoise.training.schedule import learning_rate, steps_per_epoch
from featdenoise.training.step import StepSums, train_step
from featdenoise.training.watch import Watch

logger = logging.getLogger(__name__)

STOPPED_FILE = "STOPPED"
WEIGHTS_FOLDER = "weights"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; nothing here changes the weights."""

    init_from: str | None = None
    """Weights to start from; a classifier head of another size is made anew."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints to keep."""
    log_every: int = 1
    """Steps between log rows; clean accuracy costs one forward pass each."""
    workers: int = 0
    """Background processes that read images."""
    stop_after: int | None = None
    """Checkpoint and stop once this step is reached; run again to go on."""
    force: bool = False
    """Resume although the library, the device or the recipe differ; the bits may then differ."""
    show_progress: bool = True
    """Draw a progress bar."""

    def __post_init__(self) -> None:
        """Refuse intervals that would never come."""
        for name in ("checkpoint_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.stop_after is not None and self.stop_after < 1:
            raise ValueError(f"stop_after must be >= 1, got {self.stop_after}")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    finished: bool
    step: int
    """Steps done."""
    weights: Path | None
    """Folder of the final weights, once finished."""


@dataclass
class _Run:
    """What a run consists of while it is going on."""

    recipe: Recipe
    images: ImageSet
    model: Classifier
    optimizer: torch.optim.SGD
    objective: Objective
    identity: Row
    per_epoch: int
    last_step: int
    step: int = 0


def train(recipe: Recipe, folder: Path, options: RunOptions, world: World) -> Outcome:
    """Train, or go on with, the run in `folder`; every process calls this.

    The folder gets checkpoints, log.jsonl, TensorBoard scalars and, at the end, weights/.

    Raises:
        ValueError: the recipe does not fit the data, the processes, or the run in the folder.
        RuntimeError: the loss or a gradient is not finite; names the step and the last checkpoint.
    """
    run = _prepare(recipe, options, world)
    _resume(run, folder, options, world)
    if world.is_main:  # only now: a run that is refused leaves the folder as it was
        (folder / STOPPED_FILE).unlink(missing_ok=True)
    if run.step < run.last_step:
        with _stop_on_sigterm() as stop_requested:
            _run_steps(run, folder, options, world, stop_requested)
    if run.step < run.last_step:
        return Outcome(False, run.step, None)
    weights = folder / WEIGHTS_FOLDER
    if world.is_main:
        save_weights(weights, run.model, _info(run))
    world.barrier()
    return Outcome(True, run.step, weights)


def _prepare(recipe: Recipe, options: RunOptions, world: World) -> _Run:
    _set_numerics(recipe, world)
    images = load_dataset(recipe.data, split="train")
    if recipe.model.num_classes != images.num_classes:
        raise ValueError(
            f"num_classes is {recipe.model.num_classes}, but the data has {images.num_classes} "
            f"classes; set num_classes to {images.num_classes}"
        )
    if world.size > recipe.num_micro_batches:
        raise ValueError(
            f"{world.size} processes cannot share the {recipe.num_micro_batches} micro-batches "
            f"of a step; use at most {recipe.num_micro_batches}"
        )
    config = replace(recipe.model, mean=images.mean, std=images.std)
    model = create_model(config, seed=recipe.seed)
    start = None
    if options.init_from is not None:
        source = load_model(options.init_from)
        copy_matching_weights(model, source)
        start = fingerprint_weights(source)
    model = model.to(world.device)
    per_epoch = steps_per_epoch(len(images), recipe.batch_size)
    last_step = round(recipe.epochs * per_epoch)
    if last_step == 0:
        raise ValueError(
            f"epochs {recipe.epochs:g} is less than one step of {per_epoch} an epoch; "
            f"use at least {1 / per_epoch:.3g}"
        )
    # Where the files lie and how they came there is no part of the run: the fingerprint is.
    data = replace(recipe.data, root=None, download=False)
    return _Run(
        recipe=recipe,
        images=images,
        model=model,
        optimizer=_make_optimizer(recipe, model),
        objective=_make_objective(recipe, model),
        identity={
            "kind": "training",
            "recipe": describe(replace(recipe, model=model.config, data=data)),
            "init_from": start,
            "data_fingerprint": images.fingerprint,
            "numerics": {**numerics(world), "optimizer": "SGD foreach"},
        },
        per_epoch=per_epoch,
        last_step=last_step,
    )


def _set_numerics(recipe: Recipe, world: World) -> None:
    torch.set_num_threads(recipe.threads_per_process)
    if world.device.type == "cuda":
        # cuBLAS is deterministic only with a fixed workspace, named before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.SGD:
    # Sec. 5 / Goyal et al. 2017: weight decay on convolution and linear weights, which have more
    # than one dimension; none on batch norm and biases.
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.SGD(
        [
            {"params": weights, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
        foreach=True,
    )


def _make_objective(recipe: Recipe, model: nn.Module) -> Objective:
    if recipe.attack is None:
        return CleanTraining(label_smoothing=recipe.label_smoothing)
    return AdversarialTraining(
        attack=recipe.attack,
        oracle=GradientOracle(model),
        label_smoothing=recipe.label_smoothing,
        seed=recipe.seed,
    )


def _resume(run: _Run, folder: Path, options: RunOptions, world: World) -> None:
    """Continue from the last checkpoint of the folder, if there is one."""
    path = world.share(_last_checkpoint(folder) if world.is_main else None)
    if path is None:
        return
    state = load_checkpoint(path)
    if options.force:
        for line in differing_fields(state["identity"], describe(run.identity)):
            logger.warning("forced to resume although %s", line)
    else:
        require_same_identity({"identity": state["identity"]}, run.identity, path)
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step = state["step"]
    logger.info("resuming %s at step %d of %d", folder, run.step, run.last_step)


def _last_checkpoint(folder: Path) -> Path | None:
    checkpoints = list_checkpoints(folder)
    return checkpoints[-1] if checkpoints else None


def _run_steps(
    run: _Run,
    folder: Path,
    options: RunOptions,
    world: World,
    stop_requested: "_StopRequest",
) -> None:
    recipe = run.recipe
    end = min(run.last_step, options.stop_after or run.last_step)
    sums = StepSums(
        run.model, num_micro_batches=recipe.num_micro_batches, reduction=recipe.reduction
    )
    steps = feed_steps(
        run.images, recipe, first_step=run.step, last_step=end, world=world, workers=options.workers
    )
    watch = Watch(
        recipe,
        run.identity,
        folder=folder if world.is_main else None,
        done=run.step,
        last_step=run.last_step,
        show=options.show_progress,
    )
    for batch in steps:
        rate = _set_learning_rate(run)
        logged = (run.step + 1) % options.log_every == 0 or run.step + 1 == end
        try:
            metrics = train_step(
                run.model,
                run.optimizer,
                run.objective,
                batch,
                sums,
                world.all_reduce,
                count=logged,
            )
        except FloatingPointError as error:
            watch.diverged(run.step + 1, str(error))
            raise RuntimeError(_divergence_text(run.step + 1, error, folder)) from error
        run.step += 1
        watch.step_done(
            metrics, step=run.step, epoch=(run.step - 1) // run.per_epoch, rate=rate, log=logged
        )
        stopping = world.any(stop_requested.flag)
        if stopping or run.step % options.checkpoint_every == 0 or run.step == end:
            _write_checkpoint(run, folder, options.keep, world, watch)
        if stopping:
            break
    watch.close()
    if run.step < run.last_step and world.is_main:
        (folder / STOPPED_FILE).write_text(f"step {run.step} of {run.last_step}\n")
    world.barrier()


def _set_learning_rate(run: _Run) -> float:
    rate = learning_rate(
        run.step,
        per_epoch=run.per_epoch,
        peak=run.recipe.learning_rate,
        warmup_epochs=run.recipe.warmup_epochs,
        milestones=run.recipe.milestones,
    )
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    return rate


def _divergence_text(step: int, error: FloatingPointError, folder: Path) -> str:
    last = _last_checkpoint(folder)
    return (
        f"training diverged at step {step}: {error}; last good checkpoint: "
        f"{last or 'none yet'}; lower learning_rate or lengthen warmup_epochs"
    )


def _write_checkpoint(run: _Run, folder: Path, keep: int, world: World, watch: Watch) -> None:
    if world.is_main:
        watch.sync()
        state: dict[str, Any] = {
            "step": run.step,
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "model_config": describe(run.model.config),
            "identity": describe(run.identity),
            "info": describe(_info(run)),
        }
        save_checkpoint(folder, run.step, state, keep=keep)
    world.barrier()


def _info(run: _Run) -> ModelInfo:
    """What the weights say about themselves, wherever they are copied."""
    images = run.images
    return ModelInfo(
        classes=images.class_names,
        input_size=images.image_size,
        # Only pictures of any size are cropped; small images are fed whole.
        resampling=images.resampling if isinstance(images, FolderImages) else "stretch-bilinear",
        recipe=run.identity["recipe"],
        data_fingerprint=images.fingerprint,
    )


class _StopRequest:
    """Whether somebody has asked this process to stop."""

    flag = False


@contextmanager
def _stop_on_sigterm() -> Iterator[_StopRequest]:
    """Turn SIGTERM into a request to stop after the current step."""
    request = _StopRequest()

    def note(*_: object) -> None:
        request.flag = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
