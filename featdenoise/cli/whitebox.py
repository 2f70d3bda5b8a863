"""`featdenoise whitebox`: how accurate a model stays under attacks that know all about it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn

from featdenoise.attacks import Attack, ForeignAttack
from featdenoise.attacks.core import Norm
from featdenoise.base.distributed import Device, World
from featdenoise.base.results import Row, describe
from featdenoise.base.selfcheck_results import has_checks, record_checks
from featdenoise.base.units import Pixels
from featdenoise.cli.functions import call_function
from featdenoise.cli.judging import Judging
from featdenoise.cli.subject import DataChoice, ModelChoice
from featdenoise.data.imageset import ImageSet
from featdenoise.evaluation.curve_check import check_curve
from featdenoise.evaluation.entries import Entry
from featdenoise.evaluation.protocols import (
    CustomAttacks,
    Protocol,
    is_worst_case,
    protocol_entries,
)
from featdenoise.evaluation.selfchecks import SelfChecks, check_evaluation
from featdenoise.evaluation.whitebox import WhiteboxEvaluation, evaluate_whitebox

logger = logging.getLogger(__name__)

_NOT_WITH_A_PROTOCOL = ("attacks", "step_size", "budgets", "norm")
_ONLY_WITH_RESTARTS = ("targeted", "restarts", "redraw_targets")
_ONLY_OF_NAMED = ("epsilon", "step_size", "budgets", "norm", *_ONLY_WITH_RESTARTS)


@dataclass(frozen=True, kw_only=True)
class Whitebox:
    """Attack a model by a protocol or a list of attacks, and check that the verdict holds."""

    model: Annotated[ModelChoice, tyro.conf.arg(name="")]
    data: Annotated[DataChoice, tyro.conf.arg(name="")] = field(default_factory=DataChoice)
    judging: Annotated[Judging, tyro.conf.arg(name="")]
    protocol: Protocol | None = None
    """paper, robustbench, restarts or quick; otherwise the attacks listed with --attacks."""
    attacks: tuple[str, ...] = ("pgd",)
    """Attacks to run, without a protocol: pgd, mi-fgsm, apgd, apgd-dlr, apgd-t, square, fab-t;
    after them those of package.module:function, which returns a list of featdenoise.Entry."""
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
            of_restarts = _ONLY_WITH_RESTARTS if self.protocol != "restarts" else ()
            self._refuse_given(f"protocol {self.protocol}", (*_NOT_WITH_A_PROTOCOL, *of_restarts))
            return protocol_entries(
                self.protocol,
                epsilon=self.epsilon,
                data=self.data.data,
                restarts=10 if self.restarts is None else self.restarts,
                targeted=self.targeted,
                redraw_targets=self.redraw_targets,
            )
        sources = [name for name in self.attacks if ":" in name]
        names = tuple(name for name in self.attacks if name not in sources)
        own = [entry for source in sources for entry in _call_for_entries(source)]
        if sources and not names:
            self._refuse_given(f"attacks {', '.join(sources)}", _ONLY_OF_NAMED)
            return tuple(own)
        return (*self._named_entries(names), *own)

    def _named_entries(self, names: tuple[str, ...]) -> tuple[Entry, ...]:
        return CustomAttacks(
            attacks=names,
            epsilon=16 / 255 if self.epsilon is None else self.epsilon,
            step_size=self.step_size,
            budgets=self.budgets,
            targeted=self.targeted,
            norm=self.norm,
            restarts=1 if self.restarts is None else self.restarts,
            redraw_targets=self.redraw_targets,
        ).entries()

    def _refuse_given(self, fixed_by: str, names: tuple[str, ...]) -> None:
        own = {f.name: f.default for f in fields(self)}
        given = [name for name in names if getattr(self, name) != own[name]]
        if given:
            raise ValueError(f"{fixed_by} fixes {', '.join(given)}; leave out one or the other")

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
        rows_of = evaluate_whitebox(
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
        if self.self_checks:
            world.on_main(partial(self._check_curves, evaluation, rows_of))
            attack = evaluation.entries[0].attack
            world.on_main(partial(self._check_model, model, images, image_ids, attack, world))
        return self.judging.report(world)

    def _check_curves(
        self, evaluation: WhiteboxEvaluation, rows_of: Mapping[str, Sequence[Row]]
    ) -> None:
        """Write down whether accuracy rises along a curve of this run."""
        for entry in evaluation.entries:
            check = check_curve(entry, rows_of[entry.name])
            if check is not None:
                record_checks(self.judging.out, [check], {"entry": entry.name})

    def _check_model(
        self,
        model: nn.Module,
        images: ImageSet,
        image_ids: tuple[int, ...],
        attack: Attack | ForeignAttack,
        world: World,
    ) -> None:
        """Look for masked gradients in the ball of this attack and write down what was found."""
        if attack.epsilon == 0:
            logger.warning("no self-checks of the model: they need an epsilon above 0")
            return
        settings = SelfChecks(epsilon=attack.epsilon, norm=attack.norm, seed=self.seed)
        made_with = {**describe(settings), "surrogate": self.surrogate}
        if has_checks(self.judging.out, made_with):
            return  # the folder belongs to one model and its images: they would come out the same
        surrogate = None
        if self.surrogate is not None:
            surrogate = ModelChoice(model=self.surrogate).load(world)
        checks = check_evaluation(model, images, image_ids, settings, surrogate=surrogate)
        record_checks(self.judging.out, checks, made_with)


def _call_for_entries(source: str) -> Sequence[Entry]:
    entries = call_function("attacks", source)
    if not isinstance(entries, list | tuple) or not entries:
        raise ValueError(
            f"attacks {source} must return a list of featdenoise.Entry, got {entries!r}"
        )
    strangers = [entry for entry in entries if not isinstance(entry, Entry)]
    if strangers:
        raise ValueError(
            f"attacks {source} returned a {type(strangers[0]).__name__} among its entries; "
            "wrap attacks as featdenoise.Entry(name=..., attack=...)"
        )
    return entries
