"""`featdenoise whitebox`: how accurate a model stays under attacks that know all about it."""

import json
import logging
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn

from featdenoise.attacks.core import Norm
from featdenoise.base.checkpoint import write_atomically
from featdenoise.base.distributed import Device, World
from featdenoise.base.results import describe
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
from featdenoise.report.read import SELFCHECKS_FILE, SELFCHECKS_SCHEMA

logger = logging.getLogger(__name__)

_NOT_WITH_A_PROTOCOL = ("attacks", "step_size", "budgets", "norm")
_ONLY_WITH_RESTARTS = ("targeted", "restarts", "redraw_targets")


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
        """The attacks that these settings name.

        Raises:
            ValueError: a value outside its range, or a setting that the protocol has fixed.
        """
        if self.protocol is not None:
            self._refuse_what_is_fixed(self.protocol)
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

    def _refuse_what_is_fixed(self, protocol: Protocol) -> None:
        fixed = [*_NOT_WITH_A_PROTOCOL, *(_ONLY_WITH_RESTARTS if protocol != "restarts" else ())]
        own = {f.name: f.default for f in fields(self)}
        given = [name for name in fixed if getattr(self, name) != own[name]]
        if given:
            raise ValueError(
                f"protocol {protocol} fixes {', '.join(given)}; leave out one or the other"
            )

    def run(self, world: World) -> str:
        """Evaluate; the text is the tables and the self-checks."""
        if self.surrogate is not None and not self.self_checks:
            raise ValueError("surrogate is for the self-checks, which are off; leave it out")
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
        if self.self_checks and (first.norm != "linf" or first.epsilon == 0):
            logger.warning("no self-checks: they need an l-infinity ball of epsilon above 0")
        elif self.self_checks:
            world.on_main(partial(self._check, model, images, image_ids, first.epsilon, world))
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
        path = self.judging.out / SELFCHECKS_FILE
        made_with = {**describe(settings), "surrogate": self.surrogate}
        earlier = json.loads(path.read_text())["checks"] if path.exists() else []
        if any(check["made_with"] == made_with for check in earlier):
            return  # the folder belongs to one model and its images: they would come out the same
        checks = check_evaluation(model, images, image_ids, settings, surrogate=surrogate)
        # Checks at another radius stay: a later run does not wash an earlier one clean.
        listed = [*earlier, *({**asdict(check), "made_with": made_with} for check in checks)]
        content = {
            "schema": SELFCHECKS_SCHEMA,
            "suspect": not all(check["passed"] for check in listed),
            "checks": listed,
        }
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
