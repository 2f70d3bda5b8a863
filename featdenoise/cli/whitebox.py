"""`featdenoise whitebox`: how accurate a model stays under attacks that know all about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from featdenoise.attacks.core import Norm
from featdenoise.base.distributed import Device, World
from featdenoise.base.units import Pixels
from featdenoise.cli.functions import call_function, digest_code
from featdenoise.cli.judging import Judging
from featdenoise.cli.subject import DataChoice, ModelChoice
from featdenoise.evaluation.checked_run import check_run
from featdenoise.evaluation.entries import Entry, WhiteboxEvaluation
from featdenoise.evaluation.protocols import (
    CustomAttacks,
    Protocol,
    is_worst_case,
    protocol_entries,
)
from featdenoise.evaluation.whitebox import evaluate_whitebox

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
    step_size: Pixels | None = None
    """Step of PGD, without a protocol: 1/255, or a tenth of the radius of an l2 ball."""
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
        surrogate = None
        if self.surrogate is not None:
            surrogate = (self.surrogate, ModelChoice(model=self.surrogate).load(world))
        images, image_ids = self.data.load(self.seed)
        identity = {
            "model": self.model.about(model),
            "data": self.data.about(images, image_ids),
        }
        evaluate_whitebox(
            model,
            images,
            image_ids,
            evaluation,
            self.judging.out,
            identity=identity,
            world=world,
            save_adversarial=self.save_adversarial,
            keep_iterates=self.keep_iterates,
        )
        if self.self_checks:
            check_run(
                model,
                images,
                image_ids,
                evaluation,
                self.judging.out,
                identity=identity,
                world=world,
                surrogate=surrogate,
            )
        return self.judging.report(world)


def _call_for_entries(source: str) -> Sequence[Entry]:
    entries = call_function("attacks", source)
    code = digest_code(source)
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
    return [replace(entry, code=code) for entry in entries]
