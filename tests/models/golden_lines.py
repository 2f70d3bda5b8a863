"""Our nets against outputs of the original TensorFlow code: what is measured, and the limits.

`test_golden.py` asserts the lines, `acceptance/golden.py` prints them. The files and their making
are described in `tests/golden/README.md`.
"""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featdenoise.attacks.core import project_linf
from featdenoise.attacks.oracle import GradientOracle
from featdenoise.attacks.pgd import PGD, paper_step_size
from featdenoise.base.rng import Stream
from featdenoise.data.config import DataConfig
from featdenoise.models.registry import Classifier
from featdenoise.models.tensorpack import build_from_variables, infer_config, variables_of
from featdenoise.training.loop import _make_optimizer
from featdenoise.training.objectives import CleanTraining
from featdenoise.training.recipes import Recipe
from featdenoise.training.schedule import MicroBatch
from featdenoise.training.step import StepSums, train_step

FOLDER = Path(__file__).parent.parent / "golden"
VARIABLE_LISTS = ("ResNet50", "ResNetDenoise50", "ResNetDenoise152", "ResNeXtDenoiseAll101")
NETS = ("ResNet50", "ResNetDenoise50")
"""Those of which outputs are here."""

EPSILON = 16 / 255
STEP_SIZE = paper_step_size(EPSILON, 10)
EMBEDDING_GAINS = (2.0, 2.0, 1.25, 1.75)
DOT_GAINS = (3.0, 3.0, 1.0, 1.5)
WITHOUT_TRUE_GRADIENT = tuple(f"group{k}_denoise/conv/bn/beta" for k in range(3))


class Line(NamedTuple):
    """One comparison with the original."""

    what: str
    measured: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.limit


class Variable(NamedTuple):
    """One line of a variable list."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    crc32: str


def variable_list(net: str) -> list[Variable]:
    rows = (line.split("\t") for line in (FOLDER / f"vars_{net}.txt").read_text().splitlines())
    return [
        Variable(name, tuple(int(n) for n in shape.split("x")), kind == "trainable", crc32)
        for name, shape, kind, crc32 in rows
    ]


def value_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of the golden nets, from a variable's name and shape alone."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("ascii"))))
    low, high = _uniform_range(name)
    if high > low:
        return (low + (high - low) * rng.random(shape)).astype(np.float32)
    return (_normal_std(name, shape) * rng.standard_normal(shape)).astype(np.float32)


def _uniform_range(name: str) -> tuple[float, float]:
    if name.endswith("/gamma"):
        if "_denoise/" in name:
            return 0.2, 0.5
        if "/conv3/" in name or "/non_local/" in name:
            return 0.1, 0.2
        return 0.5, 1.5
    return (0.5, 1.5) if name.endswith("/variance/EMA") else (0.0, 0.0)


def _normal_std(name: str, shape: tuple[int, ...]) -> float:
    if not name.endswith("/W"):
        return 0.01 if name == "linear/b" else 0.1
    if name == "linear/W":
        return 0.03
    height, width, inputs, outputs = shape
    if name == "conv0/W":
        return 2 * np.sqrt(2 / (height * width * inputs))
    group = int(name[len("group")])
    if "/embedding_" in name:
        return EMBEDDING_GAINS[group] / np.sqrt(inputs)
    if "/non_local/" in name:
        return DOT_GAINS[group] * np.sqrt(2 / outputs) / inputs
    return np.sqrt(2 / (height * width * outputs))


def make_net(net: str) -> Classifier:
    """The net of a variable list with the weights of the rule, in evaluation mode."""
    values = {v.name: value_of(v.name, v.shape) for v in variable_list(net)}
    config = infer_config({v.name: v.shape for v in variable_list(net)})
    return build_from_variables(values, config, net).eval()


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as content:
        return {key: content[key] for key in content.files}


def images_labels_targets() -> tuple[Tensor, Tensor, Tensor]:
    """Two RGB images in [0, 1], their labels, the classes that the attack aims at."""
    given = golden("images")
    pixels = np.ascontiguousarray(given["images"][..., ::-1].transpose(0, 3, 1, 2))
    images = torch.from_numpy(pixels).float() / 255
    return images, torch.from_numpy(given["labels"]), torch.from_numpy(given["targets"])


def forward_lines(net: str, model: Classifier) -> Iterator[Line]:
    """Logits, losses and activations."""
    images, labels, targets = images_labels_targets()
    expected = golden(net)
    seen: dict[str, Tensor] = {}
    handles = list(_watch(model, seen))
    with torch.no_grad():
        logits = model(images)
    for handle in handles:
        handle.remove()
    yield Line("logits", _largest(logits, expected["logits"]), 1e-4)
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.1)
    yield Line("smoothed loss", _largest(smoothed, expected["loss_label_smoothed"]), 1e-4)
    target_loss = F.cross_entropy(logits, targets, reduction="none")
    yield Line("target loss", _largest(target_loss, expected["target_loss_before"]), 1e-4)
    for name, activation in seen.items():
        measures = {
            "mean": activation.double().mean(),
            "std": activation.double().std(correction=0),
            "first64": activation.flatten()[:64],
            "chmean": activation.mean((2, 3)) if activation.ndim == 4 else activation,
        }
        error = max(_largest(v, expected[f"act/{name}/{k}"]) for k, v in measures.items())
        yield Line(f"activation {name}", error, 1e-4)


def _watch(
    model: Classifier, seen: dict[str, Tensor]
) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """Keep the activations that the golden files have."""

    def keep(module: nn.Module, name: str) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda _, __, output: seen.__setitem__(name, output))

    def keep_input(module: nn.Module, name: str) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_pre_hook(lambda _, given: seen.__setitem__(name, given[0]))

    backbone = model.backbone
    yield keep_input(backbone.get_submodule("pool"), "conv0")
    yield keep(backbone.get_submodule("pool"), "pool0")
    yield keep_input(backbone.get_submodule("head"), "gap")
    for k, last in enumerate((2, 3, 5, 2)):
        stage = backbone.get_submodule(f"stages.{k}")
        yield keep(stage, f"group{k}")
        yield keep(stage.get_submodule(f"block{last}"), f"group{k}_last_block_output")
        if k < 2:
            yield keep(stage.get_submodule("block0"), f"group{k}_block0")


def denoising_lines(model: Classifier) -> Iterator[Line]:
    """Single denoising blocks on the original's own feature maps."""
    expected = golden("ResNetDenoise50")
    for k in (2, 3):
        block = model.backbone.get_submodule(f"stages.{k}.after_stage")
        features = torch.from_numpy(expected[f"full/group{k}_last_block_output"])
        with torch.no_grad():
            denoised = block(features)
        error = _largest(denoised, expected[f"full/group{k}"])
        yield Line(f"denoising block of group{k} alone", error, 1e-4)


def gradient_lines(net: str, model: Classifier) -> Iterator[Line]:
    """The input gradient of the plain net and of what an attack asks, batch norm folded."""
    images, _, targets = images_labels_targets()
    expected = golden(net)["grad1"]
    for kind, oracle in (("net", GradientOracle(model.__call__)), ("twin", GradientOracle(model))):
        _, gradient = oracle.loss_and_gradient(images, targets)
        # Of BGR values in [-1, 1], whose unit is two of ours.
        found = gradient.flip(1).numpy() / 2
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        signs = int((np.sign(found) != np.sign(expected)).sum())
        yield Line(f"input gradient of the {kind}, relative L2", float(error), 1e-3)
        yield Line(f"input gradient of the {kind}, signs", signs, 60)


def attack_states() -> np.ndarray:
    """(11, 2, 3, 224, 224): the original's iterates, BGR in [-1, 1], rebuilt bit for bit."""
    clean = golden("images")["images"].transpose(0, 3, 1, 2) * np.float32(2 / 255) - np.float32(1)
    radius, step = np.float32(16 * 2 / 255), np.float32(1.6 * 2 / 255)
    low, high = np.maximum(clean - radius, -1), np.minimum(clean + radius, 1)
    states = [clean]
    for signs in golden("attack_steps_ResNetDenoise50")["signs"]:
        states.append(np.clip(states[-1] + signs * step, low, high))
    return np.stack(states)


def attack_step_lines(model: Classifier, states: tuple[int, ...]) -> Iterator[Line]:
    """Single steps of our attack from iterates of the original's."""
    images, labels, targets = images_labels_targets()
    recorded = attack_states()
    oracle = GradientOracle(model)
    # Around the iterate with a ball that is never in the way; the clean image's ball follows.
    one_step = replace(_paper_attack(), epsilon=1.0, num_steps=1)
    stream = Stream(seed=0, image_ids=(0, 1))
    for k in states:
        start = torch.from_numpy(_as_rgb(recorded[k]))
        moved = one_step(oracle, start, labels, stream=stream, targets=targets)
        stepped = project_linf(moved, images, EPSILON)
        share = (2 * np.abs(stepped.numpy() - _as_rgb(recorded[k + 1])) > 1e-6).mean()
        yield Line(f"attack step {k + 1} alone, share of other values", float(share), 1e-3)


def attack_lines(net: str, model: Classifier) -> Iterator[Line]:
    """Ten attack steps on end."""
    images, labels, targets = images_labels_targets()
    stream = Stream(seed=0, image_ids=(0, 1))
    adversarial = _paper_attack()(model, images, labels, stream=stream, targets=targets)
    with torch.no_grad():
        logits = model(adversarial)
    yield Line("ten attack steps, logits", _largest(logits, golden(net)["logits_adv"]), 0.1)


def _paper_attack() -> PGD:
    return PGD(
        epsilon=EPSILON, step_size=STEP_SIZE, num_steps=10, targeted=True, random_start=False
    )


def training_lines(model: Classifier, *, num_steps: int = 2) -> Iterator[Line]:
    """Steps of our training in the precision of the model, which is changed; the cost after two.

    From the second step on only float64 is comparable: equal runs in float32 whose inputs differ by
    1e-7 end with third costs up to 0.04 apart.
    """
    dtype = next(model.parameters()).dtype
    name = f"training in {str(dtype).removeprefix('torch.')}"
    expected = golden("training_ResNetDenoise50")
    trainable = [v.name for v in variable_list("ResNetDenoise50") if v.trainable]
    has_gradient = np.array([v not in WITHOUT_TRUE_GRADIENT for v in trainable])
    recipe = _training_recipe(model)
    optimizer = _make_optimizer(recipe, model)
    objective = CleanTraining(label_smoothing=recipe.label_smoothing)
    sums = StepSums(model, num_micro_batches=1, reduction=recipe.reduction)
    norms: list[np.ndarray] = []
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(_gradient_norms(model, trainable, recipe.weight_decay))
    )
    logits: list[Tensor] = []
    handle = model.register_forward_hook(lambda _, __, output: logits.append(output.detach()))
    images, labels, _ = images_labels_targets()
    images = images.to(dtype)
    for step in range(num_steps):
        decay = _decay(optimizer)
        place = MicroBatch(epoch=0, step=step, index=0, image_ids=(0, 1))
        batch = [(place, images, labels)]
        metrics = train_step(model, optimizer, objective, batch, sums, lambda _: None)
        error = abs(metrics.loss + decay - float(expected[f"step{step}/cost"]))
        yield Line(f"{name}, step {step}, cost", error, (2e-5, 2e-3)[step])
        wanted = expected[f"step{step}/grad_norm"][has_gradient]
        off = np.abs(norms[step][has_gradient] / wanted - 1)
        if step == 0:
            error = _largest(logits[0], expected["step0/logits"])
            yield Line(f"{name}, step 0, logits", error, 1e-4)
            yield Line(f"{name}, step 0, gradient norms, worst", float(off.max()), 3e-3)
        median = float(np.median(off))
        yield Line(f"{name}, step {step}, gradient norms, median", median, (3e-4, 5e-2)[step])
    handle.remove()
    if num_steps == 2:
        yield from _lines_after_two_steps(name, model, optimizer)


def _lines_after_two_steps(
    name: str, model: Classifier, optimizer: torch.optim.SGD
) -> Iterator[Line]:
    expected = golden("training_ResNetDenoise50")
    off = np.abs(_weight_norms(model) / expected["after2/norm"] - 1)
    what = f"{name}, norms of weights and statistics after"
    yield Line(f"{what}, median", float(np.median(off)), 1e-4)
    yield Line(f"{what}, worst", float(off.max()), 1e-2)
    images, labels, _ = images_labels_targets()
    with torch.no_grad():
        logits = model.train()(images.to(next(model.parameters()).dtype))
    cost = float(F.cross_entropy(logits, labels, label_smoothing=0.1)) + _decay(optimizer)
    yield Line(f"{name}, step 2, cost", abs(cost - float(expected["step2/cost"])), 1e-2)


def _training_recipe(model: Classifier) -> Recipe:
    return Recipe(
        model=model.config,
        data=DataConfig(name="fake"),
        attack=None,
        epochs=1,
        batch_size=2,
        micro_batch_size=2,
        learning_rate=0.02,
    )


def _decay(optimizer: torch.optim.SGD) -> float:
    """The part of the original's cost that is no cross-entropy here but the optimizer's decay."""
    return sum(
        group["weight_decay"] / 2 * float(p.detach().double().square().sum())
        for group in optimizer.param_groups
        for p in group["params"]
    )


def _gradient_norms(model: Classifier, variables: list[str], weight_decay: float) -> np.ndarray:
    """Of the original's cost, weight decay included, in the order of `variables`."""
    tensor_of = variables_of(model)
    norms = []
    for name in variables:
        parameter = model.get_parameter(tensor_of[name])
        assert parameter.grad is not None
        gradient = parameter.grad.double()
        if name.endswith("/W"):
            gradient = gradient + weight_decay * parameter.detach().double()
        norms.append(float(gradient.norm()))
    return np.array(norms)


def _weight_norms(model: Classifier) -> np.ndarray:
    tensor_of, state = variables_of(model), model.state_dict()
    names = [v.name for v in variable_list("ResNetDenoise50")]
    return np.array([float(state[tensor_of[name]].double().norm()) for name in names])


def _as_rgb(network_input: np.ndarray) -> np.ndarray:
    """(N, 3, H, W) BGR in [-1, 1] to RGB in [0, 1]."""
    return ((network_input[:, ::-1].astype(np.float64) + 1) / 2).astype(np.float32)


def _largest(found: Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.double().numpy() - expected).max())
