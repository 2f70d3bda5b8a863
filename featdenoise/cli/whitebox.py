"""`featdenoise whitebox`: how accurate a model stays under attacks that know all about it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn

from featdenoise.attacks.core import Norm
from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.distributed import Device, World
from featdenoise.base.units import Pixels
from featdenoise.cli.judging import Judging
from featdenoise.cli.subject import DataChoice, ModelChoice
from featdenoise.data.imageset import ImageSet
from featdenoise.evaluation.entries import Entry
from featdenoise.evaluation.protocols import (
    AttackName,
    CustomAttacks,
    Protocol,
    is_worst_case,
    protocol_entries,
)
from featdenoise.evaluation.selfchecks import SelfChecks, check_evaluation
from featdenoise.evaluation.whitebox import WhiteboxEvaluation, evaluate_whitebox

SELF_CHECKS_FILE = "selfchecks.json"


@dataclass(frozen=True, kw_only=True)
class Whitebox:
    """Attack a model by a protocol or a list of attacks, and check that the verdict holds."""

    model: Annotated[ModelChoice, tyro.conf.arg(name="")]
    data: Annotated[DataChoice, tyro.conf.arg(name="")] = field(default_factory=DataChoice)
    judging: Annotated[Judging, tyro.conf.arg(name="")]
    protocol: Protocol | None = None
    """paper, robustbench, restarts or quick; otherwise the attacks listed with --attacks."""
    attacks: tuple[AttackName, ...] = ("pgd",)
    """Attacks to run, without a protocol."""
    epsilon: Pixels | None = None
    """Radius of the ball; the protocol's own, or 16/255."""
    step_size: Pixels = 1 / 255
    """Step of PGD, without a protocol."""
    budgets: tuple[int, ...] = (10, 20, 50, 100, 200)
    """Numbers of iterations to report, without a protocol; a sweep costs only the largest."""
    targeted: bool = False
    """Attack towards a uniformly drawn wrong class (Xie et al., Sec. 6.1)."""
    norm: Norm = "linf"
    """Norm of the ball."""
    restarts: int | None = None
    """Independent runs of each attack; 10 in the protocol restarts, else 1."""
    redraw_targets: bool = False
    """Draw new targets for each restart."""
    worst_case: bool = False
    """Ask only whether an image is ever broken: broken images drop out."""
    self_checks: bool = True
    """Look for signs that the verdict is wrong."""
    surrogate: str | None = None
    """Another model, whose adversarial images must not beat the model's own."""
    chunk_size: int = 64
    """Images attacked together."""
    seed: int = 0
    """Seed of starts, targets and sampled subsets."""
    save_adversarial: Path | None = None
    """Folder for the first attack's adversarial images, as PNG."""

    keep_iterates: bool = False
    """Keep PGD's iterates on disk, so that budgets added later cost only their own steps."""

    @property
    def device(self) -> Device:
        """Where to compute."""
        return self.judging.device

    def entries(self) -> tuple[Entry, ...]:
        """The attacks that these settings name."""
        if self.protocol is not None:
            return protocol_entries(
                self.protocol,
                epsilon=self.epsilon,
                restarts=10 if self.restarts is None else self.restarts,
                targeted=self.targeted,
                redraw_targets=self.redraw_targets,
            )
        return CustomAttacks(
            attacks=self.attacks,
            epsilon=16 / 255 if self.epsilon is None else self.epsilon,
            step_size=self.step_size,
            budgets=self.budgets,
            targeted=self.targeted,
            norm=self.norm,
            restarts=1 if self.restarts is None else self.restarts,
            redraw_targets=self.redraw_targets,
        ).entries()

    def run(self, world: World) -> str:
        """Evaluate; the text is the tables and the self-checks."""
        evaluation = WhiteboxEvaluation(
            entries=self.entries(),
            protocol=self.protocol,
            worst_case=self.worst_case
            or (self.protocol is not None and is_worst_case(self.protocol)),
            chunk_size=self.chunk_size,
            seed=self.seed,
        )
        self.judging.prepare()
        model = self.model.load(world)
        images, image_ids = self.data.load(self.seed)
        evaluate_whitebox(
            model,
            images,
            image_ids,
            evaluation,
            self.judging.out,
            identity={
                "model": self.model.about(model),
                "data": self.data.about(images, image_ids),
            },
            world=world,
            save_adversarial=self.save_adversarial,
            keep_iterates=self.keep_iterates,
        )
        first = evaluation.entries[0].attack
        if self.self_checks and first.norm == "linf" and world.is_main:
            self._check(model, images, image_ids, first.epsilon, world)
        world.barrier()
        return self.judging.report(world)

    def _check(
        self,
        model: nn.Module,
        images: ImageSet,
        image_ids: tuple[int, ...],
        epsilon: float,
        world: World,
    ) -> None:
        """Write down the self-checks beside the results."""
        surrogate = None
        if self.surrogate is not None:
            surrogate = ModelChoice(model=self.surrogate).load(world)
        settings = SelfChecks(epsilon=epsilon, seed=self.seed)
        checks = check_evaluation(model, images, image_ids, settings, surrogate=surrogate)
        content = {
            "schema": 1,
            "suspect": not all(check.passed for check in checks),
            "checks": [asdict(check) for check in checks],
        }
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.judging.out / SELF_CHECKS_FILE, text.encode())
