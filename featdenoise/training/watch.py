"""What people see of a run: log rows, TensorBoard scalars, a bar with rate and time left."""

import time
from pathlib import Path

from featdenoise.base.progress import Progress, Scalars
from featdenoise.base.results import LOG_FILE, Row, StepLog, make_header
from featdenoise.training.recipes import Recipe
from featdenoise.training.step import StepMetrics


class Watch:
    """Follows one run; silent without a folder, as on all processes but the first."""

    def __init__(
        self,
        recipe: Recipe,
        identity: Row,
        *,
        folder: Path | None,
        done: int,
        last_step: int,
        show: bool,
    ) -> None:
        """Go on after `done` steps: log rows and scalars beyond them are dropped."""
        passes = 1 if recipe.attack is None else recipe.attack.num_steps + 1
        self._batch_size = recipe.batch_size
        self._iterations = recipe.batch_size * passes
        self._first_step = done
        self._started = time.perf_counter()
        self._progress = Progress(
            last_step, what="train", unit="step", done=done, show=show and folder is not None
        )
        header = make_header(identity)
        self._scalars = Scalars(folder and folder / "tensorboard", purge_step=done + 1)
        self._rows = StepLog(folder / LOG_FILE, header, last_step=done) if folder else None

    def step_done(
        self, metrics: StepMetrics, *, step: int, epoch: int, rate: float, log: bool
    ) -> None:
        """Show a finished step; write its row and scalars where `log` says so."""
        steps_a_second = (step - self._first_step) / (time.perf_counter() - self._started)
        images_a_second = steps_a_second * self._batch_size
        iterations_a_second = steps_a_second * self._iterations
        self._progress.advance(
            loss=f"{metrics.loss:.3f}",
            images=f"{images_a_second:.0f}/s",
            image_iterations=f"{iterations_a_second:.0f}/s",
        )
        if self._rows is None or not log:
            return
        scalars = {
            "loss": metrics.loss,
            "clean_accuracy": self._fraction(metrics.clean_correct),
            "adversarial_accuracy": self._fraction(metrics.adversarial_correct),
            "learning_rate": rate,
            "images_per_second": images_a_second,
            "image_iterations_per_second": iterations_a_second,
        }
        self._rows.add({"step": step, "epoch": epoch, **scalars})
        self._scalars.add({k: v for k, v in scalars.items() if v is not None}, step)

    def diverged(self, step: int, reason: str) -> None:
        """Record that the run ended here; a diverged run is a result too."""
        if self._rows is not None:
            self._rows.add({"step": step, "diverged": True, "reason": reason})
        self.close()

    def sync(self) -> None:
        """Make the rows written so far survive a power cut."""
        if self._rows is not None:
            self._rows.sync()

    def close(self) -> None:
        """Sync and close everything."""
        self._progress.close()
        self._scalars.close()
        if self._rows is not None:
            self._rows.close()

    def _fraction(self, correct: int | None) -> float | None:
        return None if correct is None else correct / self._batch_size
