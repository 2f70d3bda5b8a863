"""`featdenoise doctor`: is a model as good as its card says, and if not, what is fed wrongly?"""

from dataclasses import dataclass, field
from typing import Annotated

import torch
import tyro

from featdenoise.base.binomial import Proportion
from featdenoise.base.distributed import Device, World
from featdenoise.cli.subject import DataChoice, ModelChoice, load_subject
from featdenoise.data.subset import pick_subset
from featdenoise.evaluation.diagnosis import ADVICE, Diagnosis, Finding, diagnose
from featdenoise.models.info import ModelInfo
from featdenoise.report.card import NOT_VERIFIED
from featdenoise.report.tables import Cell, Table, percent


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Compare a model's clean accuracy with its card; name the mistake where it is off."""

    model: Annotated[ModelChoice, tyro.conf.arg(name="")]
    data: Annotated[DataChoice, tyro.conf.arg(name="")] = field(default_factory=DataChoice)
    expect: float | None = None
    """Clean accuracy it should have, such as 0.62; what the weights say by default."""
    num_images: int = 500
    """At most so many images, drawn at random from the chosen ones."""
    batch_size: int = 32
    """Images judged together."""
    seed: int = 0
    """Seed of the draw."""
    threads: int | None = None
    """CPU threads; all cores by default."""
    device: Device = "auto"
    """auto takes the GPU if there is one."""

    def __post_init__(self) -> None:
        """Refuse numbers below 1."""
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")

    def run(self, world: World) -> str:
        """Diagnose; the text is the verdict.

        Raises:
            RuntimeError: the accuracy is off; names the mistake.
            ValueError: nobody says what the accuracy should be.
        """
        if not world.is_main:
            return ""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        model, info = load_subject(self.model.model, world)
        expected, source = self._expected(info)
        images, image_ids = self.data.load(self.seed)
        if len(image_ids) > self.num_images:
            image_ids = pick_subset(image_ids, f"sample:{self.num_images}", seed=self.seed)
        diagnosis = diagnose(
            model,
            images,
            image_ids,
            expected=expected,
            batch_size=self.batch_size,
            device=world.device,
        )
        lines = [
            f"clean accuracy {diagnosis.measured} on {diagnosis.measured.count} images of "
            f"{self.data.data}",
            f"expected {100 * expected:.1f}% ({source})",
        ]
        if diagnosis.is_healthy:
            return "\n".join([*lines, "healthy: the accuracy is as expected"])
        lines += ["", _table(diagnosis).text(), ""]
        print("\n".join(lines))  # noqa: T201
        raise RuntimeError(_verdict(diagnosis))

    def _expected(self, info: ModelInfo) -> tuple[float, str]:
        """The accuracy that the model should have, and who says so."""
        if self.expect is not None:
            return self.expect, "--expect"
        if info.clean_accuracy is not None:
            measured = Proportion(info.clean_accuracy["correct"], info.clean_accuracy["count"])
            data = info.clean_accuracy.get("data") or {}
            what = f" {data.get('name')}, {data.get('split')}" if data else ""
            return measured.fraction, f"the card, measured on {measured.count} images{what}"
        published = (info.published or {}).get("clean_accuracy")
        if published is not None:
            return float(published), NOT_VERIFIED
        raise ValueError(
            f"the weights of {self.model.model} do not say their clean accuracy; give it with "
            "--expect, such as --expect 0.62"
        )


def _table(diagnosis: Diagnosis) -> Table:
    return Table(
        title="Accuracy if the mistake were",
        caption="",
        columns=("mistake", "accuracy", ""),
        rows=tuple(
            (Cell(_in_words(f)), percent(f.accuracy), Cell("explains it" if f.explains else ""))
            for f in diagnosis.findings
        ),
    )


def _in_words(finding: Finding) -> str:
    name = " and ".join(finding.names)
    return f"{name} ({finding.detail})" if finding.detail else name


def _verdict(diagnosis: Diagnosis) -> str:
    off = (
        f"accuracy is {100 * diagnosis.measured.fraction:.1f}%, expected "
        f"{100 * diagnosis.expected:.1f}%"
    )
    culprit = diagnosis.culprit
    if culprit is None:
        return (
            f"{off}; no hypothesis explains it; look at the order of the classes, at the "
            "resampling of the images and at the weights themselves"
        )
    advice = "; ".join(ADVICE[name] for name in culprit.names)
    return (
        f"{off}; the culprit is {_in_words(culprit)}, without which it is "
        f"{100 * culprit.accuracy.fraction:.1f}%: {advice}"
    )
