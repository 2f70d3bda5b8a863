"""`featdenoise demo`: the main job end to end on real handwritten digits, in minutes, on a CPU.

Trains three small models (clean; adversarial; adversarial with Gaussian non-local denoising),
attacks each with PGD of many budgets, scores each on the images that the others' attacks wrote,
certifies each, and draws everything on one page. Every part is the ordinary command's own code; a
demo that was cut short goes on where it stopped.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from featdenoise.attacks.pgd import PGD
from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.distributed import Device, World
from featdenoise.base.imagefiles import read_image, to_uint8, write_png
from featdenoise.base.paired import PairedComparison
from featdenoise.base.results import Row, read_results
from featdenoise.base.units import format_pixels
from featdenoise.blackbox.score import BlackboxScoring, score_blackbox
from featdenoise.cli.subject import DataChoice, ModelChoice
from featdenoise.data.imageset import ImageSet
from featdenoise.evaluation.certification import Certification, certify_images
from featdenoise.evaluation.checked_run import check_run
from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation
from featdenoise.evaluation.saved_images import png_name
from featdenoise.evaluation.whitebox import evaluate_whitebox
from featdenoise.report.html import Section
from featdenoise.report.plots import picture, picture_strip
from featdenoise.report.runs import report_runs
from featdenoise.smoothing.noise import Gaussian
from featdenoise.training.loop import WEIGHTS_FOLDER, RunOptions, train
from featdenoise.training.recipes import DIGITS_EPSILON, find_recipe

MODELS = {"clean-trained": "digits-clean", "adversarial": "digits", "denoising": "digits-denoise"}
"""Names in tables and plots, and the recipes behind them."""

GOALS = {"untargeted": False, "targeted": True}
BUDGETS = (10, 20, 50, 100, 200)
STEP_SIZE = 2 / 255
NUM_CERTIFIED = 50
SIGMA = 0.25
VERDICT_BUDGET = 100
NUM_PICTURES = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train, attack, certify and draw three small models on handwritten digits."""

    out: Path = Path("runs/demo")
    """Folder of everything the demo makes."""
    processes: int = min(2, os.cpu_count() or 1)
    """Processes that share the work; the results are the same for any number."""
    epochs: float | None = None
    """Training epochs, instead of the recipes' own."""
    num_images: int | None = None
    """Test images to attack; all by default."""

    device: tyro.conf.Suppress[Device] = "cpu"

    def run(self, world: World) -> str:
        """Do it all; the text is the tables and the verdict."""
        if self.processes > 1 and "WORLD_SIZE" not in os.environ:
            return self._run_under_torchrun()
        subset = "all" if self.num_images is None else f"first:{self.num_images}"
        choice = DataChoice(subset=subset)
        images, image_ids = choice.load(seed=0)
        for name, recipe_name in MODELS.items():
            _say(world, f"training {name}")
            recipe = find_recipe(recipe_name)
            if self.epochs is not None:
                recipe = replace(recipe, epochs=self.epochs)
            train(recipe, self.out / name, RunOptions(), world)
        if world.is_main:
            _write_clean_images(self.out / "images", images, image_ids)
        world.barrier()
        about_data = choice.about(images, image_ids)
        for name in MODELS:
            self._judge(name, images, image_ids, about_data, world)
        for name in MODELS:  # needs the images of all attacks
            self._score(name, world)
        return self._report(image_ids) if world.is_main else ""

    def _run_under_torchrun(self) -> str:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc_per_node={self.processes}", "-m", "featdenoise"),
            *("demo", "--out", str(self.out), "--processes", str(self.processes)),
            *(() if self.epochs is None else ("--epochs", str(self.epochs))),
            *(() if self.num_images is None else ("--num-images", str(self.num_images))),
        ]
        code = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
        if code:
            raise RuntimeError(f"the demo's processes ended with code {code}; see above")
        return ""

    def _judge(
        self,
        name: str,
        images: ImageSet,
        image_ids: tuple[int, ...],
        about_data: Row,
        world: World,
    ) -> None:
        chosen = ModelChoice(model=str(self.out / name / WEIGHTS_FOLDER), label=name)
        model = chosen.load(world)
        about = {"model": chosen.about(model), "data": about_data}
        _say(world, f"attacking {name}")
        attack = PGD(epsilon=DIGITS_EPSILON, step_size=STEP_SIZE)
        entries = tuple(
            Entry(name=goal, attack=replace(attack, targeted=targeted), budgets=BUDGETS)
            for goal, targeted in GOALS.items()
        )
        evaluation = WhiteboxEvaluation(entries=entries, chunk_size=32)
        evaluate_whitebox(
            model,
            images,
            image_ids,
            evaluation,
            self.out / name,
            identity=about,
            world=world,
            save_adversarial=self._attacker_folder(name),
        )
        _say(world, f"checking the verdict on {name}")
        check_run(
            model,
            images,
            image_ids,
            evaluation,
            self.out / name,
            identity=about,
            world=world,
        )
        _say(world, f"certifying {name}")
        certify_images(
            model,
            images,
            image_ids[:NUM_CERTIFIED],
            Certification(noise=Gaussian(sigma=SIGMA), n=1000, batch_size=100),
            folder=self.out / name / "certified",
            identity=about,
            world=world,
        )

    def _score(self, name: str, world: World) -> None:
        """All-or-nothing on the images that attacks on the other models wrote."""
        _say(world, f"scoring {name} on the others' attacks")
        chosen = ModelChoice(model=str(self.out / name / WEIGHTS_FOLDER), label=name)
        model = chosen.load(world)
        score_blackbox(
            model,
            BlackboxScoring(epsilon=DIGITS_EPSILON),
            clean=self.out / "images" / "clean",
            labels=self.out / "images" / "labels.csv",
            attackers={f"on {a}": self._attacker_folder(a) for a in MODELS if a != name},
            folder=self.out / name / "transferred",
            identity={"model": chosen.about(model)},
            world=world,
        )

    def _sweep_folder(self, name: str, goal: str) -> Path:
        return self.out / name / goal

    def _attacker_folder(self, name: str) -> Path:
        return self.out / "images" / f"attack_on_{name}"

    def _report(self, image_ids: tuple[int, ...]) -> str:
        verdict = compare_survivors(
            read_results(self._sweep_folder("adversarial", "untargeted") / "results.jsonl")[1],
            read_results(self._sweep_folder("denoising", "untargeted") / "results.jsonl")[1],
        )
        folders = [
            *(self.out / name / "transferred" for name in MODELS),
            *(self.out / name / "certified" for name in MODELS),
            *(self.out / name for name in MODELS),
        ]
        text = report_runs(
            folders,
            self.out,
            title="Robust classifiers of handwritten digits",
            first=[self._opening(verdict, image_ids)],
        )
        return f"{text}\n{verdict}\nreport in {self.out / 'report.html'}"

    def _opening(self, verdict: str, image_ids: tuple[int, ...]) -> Section:
        """What was done, what came out, and pictures of it."""
        shown = image_ids[:NUM_PICTURES]
        names = [png_name(image_id) for image_id in shown]
        clean = [read_image(self.out / "images" / "clean" / name) for name in names]
        pictures = []
        for model in MODELS:
            attacked = [read_image(self._attacker_folder(model) / name) for name in names]
            rows = {
                row["id"]: row
                for row in read_results(self._sweep_folder(model, "untargeted") / "results.jsonl")[
                    1
                ]
            }
            strip = picture_strip(
                _as_floats(clean),
                _as_floats(attacked),
                labels=[rows[i]["label"] for i in shown],
                clean_predictions=[rows[i]["clean"] for i in shown],
                adversarial_predictions=[rows[i]["predictions"][str(max(BUDGETS))] for i in shown],
                epsilon=DIGITS_EPSILON,
            )
            caption = f"Untargeted PGD of {max(BUDGETS)} iterations on the {model} model."
            pictures.append(picture(strip, name=f"strip_{model}", caption=caption))
        return Section(
            heading="What this shows",
            paragraphs=(
                "Three small residual networks learned to read handwritten digits: one on clean "
                "images, one on images attacked while it learned (adversarial), one likewise with "
                "Gaussian non-local denoising blocks (denoising). Then each was attacked with "
                f"PGD of up to {max(BUDGETS)} iterations at epsilon "
                f"{format_pixels(DIGITS_EPSILON)} on {len(image_ids)} test images, scored on the "
                f"images that the others' attacks wrote, and {NUM_CERTIFIED} images were "
                f"certified at sigma {SIGMA:g}.",
                verdict,
            ),
            pictures=tuple(pictures),
        )


def _say(world: World, text: str) -> None:
    if world.is_main:
        logger.info("%s", text)


def _write_clean_images(folder: Path, images: ImageSet, image_ids: Sequence[int]) -> None:
    """The clean images and their labels, as a black-box evaluation reads them."""
    (folder / "clean").mkdir(parents=True, exist_ok=True)
    batch, labels = images.batch(image_ids)
    lines = ["name,label"]
    for image_id, pixels, label in zip(image_ids, to_uint8(batch), labels.tolist(), strict=True):
        name = png_name(image_id)
        write_png(folder / "clean" / name, pixels)
        lines.append(f"{name},{label}")
    write_atomically(folder / "labels.csv", ("\n".join(lines) + "\n").encode())


def _as_floats(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(pictures).astype(np.float32) / 255


def compare_survivors(baseline: Sequence[Row], denoising: Sequence[Row]) -> str:
    """Whether denoising helped: a paired comparison over the same images, stated plainly."""
    budget = str(VERDICT_BUDGET)
    survives = [
        [row["predictions"][budget] == row["label"] for row in rows]
        for rows in (baseline, denoising)
    ]
    paired = PairedComparison.of(*survives)
    counts = (
        f"under untargeted PGD of {budget} iterations it is right on {paired.second.correct} of "
        f"{paired.count} images, the baseline on {paired.first.correct} ({paired.only_second} only "
        f"by it, {paired.only_first} only by the baseline; paired test, p = {paired.p_value:.2g})."
    )
    if paired.only_second <= paired.only_first:
        return f"On this tiny task the denoising model is NOT better than the baseline: {counts}"
    if not paired.is_significant:
        return (
            "On this tiny task the denoising model is not significantly better than the "
            f"baseline: {counts}"
        )
    return f"The denoising model is better than the baseline: {counts}"
