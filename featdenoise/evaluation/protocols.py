"""Evaluation protocols by name: lists of entries that papers and leaderboards have fixed.

`paper`: Xie et al. 2019, Sec. 6.1. `robustbench`: AutoAttack at the leaderboard's radius, each
image judged by its worst attack. `restarts`: the stronger attack that users of the released models
ran. `quick`: a first look in minutes.
"""

import logging
from dataclasses import dataclass
from typing import Literal, get_args

from featdenoise.attacks import Attack
from featdenoise.attacks.apgd import APGD, TargetedAPGD
from featdenoise.attacks.autoattack import AutoAttack
from featdenoise.attacks.core import Norm
from featdenoise.attacks.momentum import MIFGSM
from featdenoise.attacks.pgd import PGD
from featdenoise.attacks.square import Square
from featdenoise.base.units import format_pixels
from featdenoise.evaluation.entries import Entry

logger = logging.getLogger(__name__)

Protocol = Literal["paper", "robustbench", "restarts", "quick"]

PAPER_BUDGETS = (*range(10, 101, 10), *range(200, 2001, 200))

ROBUSTBENCH_EPSILON = {"cifar10": 8 / 255, "cifar100": 8 / 255, "imagenet": 4 / 255}
"""The leaderboard's l-infinity radius by data set."""


def protocol_entries(
    name: Protocol,
    *,
    epsilon: float | None = None,
    data: str | None = None,
    restarts: int = 10,
    targeted: bool = False,
    redraw_targets: bool = False,
) -> tuple[Entry, ...]:
    """The entries of a protocol.

    Args:
        name: which.
        epsilon: radius instead of the protocol's own, in pixel units; a run with another radius is
            no longer comparable with published numbers.
        data: name of the data set, on which the radius of `robustbench` depends.
        restarts: number of restarts, of `restarts`.
        targeted: whether `restarts` attacks towards a wrong class.
        redraw_targets: whether each restart then draws targets of its own.

    Raises:
        ValueError: unknown name; lists the known ones. No radius is known for the data.
    """
    if name not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {name!r}")
    if name == "paper":
        attack = PGD(epsilon=_or(epsilon, 16 / 255), step_size=1 / 255, targeted=True)
        return (Entry(name="paper", attack=attack, budgets=PAPER_BUDGETS, reach_edge=True),)
    if name == "robustbench":
        return _autoattack(_robustbench_epsilon(data) if epsilon is None else epsilon)
    if name == "restarts":
        attack = PGD(
            epsilon=_or(epsilon, 16 / 255), step_size=2 / 255, num_steps=100, targeted=targeted
        )
        return _restarts(attack, restarts, redraw_targets=redraw_targets)
    radius = _or(epsilon, 8 / 255)
    steps = PGD(epsilon=radius, step_size=radius / 4)
    return (
        Entry(name="pgd", attack=steps, budgets=(10, 20)),
        Entry(name="apgd-dlr", attack=APGD(epsilon=radius, num_steps=20, loss="dlr")),
    )


def _or(epsilon: float | None, own: float) -> float:
    """The given radius, which may be zero, or the protocol's own."""
    return own if epsilon is None else epsilon


def _robustbench_epsilon(data: str | None) -> float:
    if data not in ROBUSTBENCH_EPSILON:
        known = ", ".join(f"{format_pixels(e)} for {d}" for d, e in ROBUSTBENCH_EPSILON.items())
        raise ValueError(
            f"protocol robustbench has no radius for {data or 'unnamed data'}, only {known}; "
            "give epsilon"
        )
    return ROBUSTBENCH_EPSILON[data]


def is_worst_case(name: Protocol) -> bool:
    """Whether the protocol asks only if an image is ever broken."""
    return name == "robustbench"


def _autoattack(epsilon: float) -> tuple[Entry, ...]:
    """AutoAttack standard (Croce & Hein 2020); APGD and Square are ours, FAB-T its own."""
    return (
        Entry(name="apgd-ce", attack=APGD(epsilon=epsilon, num_steps=100)),
        Entry(name="apgd-t", attack=TargetedAPGD(epsilon=epsilon, num_steps=100, num_targets=9)),
        Entry(name="fab-t", attack=AutoAttack(epsilon=epsilon, attacks=("fab-t",))),
        Entry(name="square", attack=Square(epsilon=epsilon, num_queries=5000)),
    )


def _restarts(attack: PGD, count: int, *, redraw_targets: bool) -> tuple[Entry, ...]:
    if count < 1:
        raise ValueError(f"restarts must be >= 1, got {count}")
    return tuple(
        Entry(
            name=f"restart-{k:03d}",
            attack=attack,
            restart=k,
            redraw_targets=redraw_targets,
        )
        for k in range(count)
    )


AttackName = Literal["pgd", "mi-fgsm", "apgd", "apgd-dlr", "apgd-t", "square", "fab-t"]
"""Attacks that a command line can list."""


@dataclass(frozen=True, kw_only=True)
class CustomAttacks:
    """A list of attacks that share radius, goal and effort."""

    attacks: tuple[str, ...] = ("pgd",)
    """The attacks, in order; names of `AttackName`."""
    epsilon: float = 16 / 255
    """Radius of the ball, in pixel units."""
    step_size: float | None = None
    """Step of PGD and MI-FGSM, in pixel units; 1/255, or a tenth of the radius of an l2 ball. The
    others choose their own."""
    budgets: tuple[int, ...] = (10, 20, 50, 100, 200)
    """Iterations that PGD and MI-FGSM report; the largest is APGD's number of iterations.
    Square and FAB-T have efforts of their own."""
    targeted: bool = False
    """Attack towards a uniformly drawn wrong class; APGD-T and FAB-T take the nearest classes."""
    norm: Norm = "linf"
    """Norm of the ball."""
    restarts: int = 1
    """Independent runs of each attack."""
    redraw_targets: bool = False
    """Whether each restart draws targets of its own."""

    def entries(self) -> tuple[Entry, ...]:
        """One entry an attack and restart.

        Raises:
            ValueError: a value outside its range, an unknown attack, or restarts of an attack that
                draws nothing.
        """
        unknown = [name for name in self.attacks if name not in get_args(AttackName)]
        if unknown or not self.attacks:
            known = ", ".join(get_args(AttackName))
            raise ValueError(f"attacks must be some of {known}, got {list(self.attacks)}")
        if self.restarts < 1:
            raise ValueError(f"restarts must be >= 1, got {self.restarts}")
        self._refuse_what_nothing_reads()
        if "mi-fgsm" in self.attacks and self.restarts > 1 and not self._draws_targets:
            raise ValueError(
                f"mi-fgsm starts at the clean image: {self.restarts} restarts would be the same "
                "run; leave restarts out, or redraw_targets of a targeted attack"
            )
        if not self.budgets:
            raise ValueError("budgets must name a number of iterations, got none")
        budgets = tuple(sorted(set(self.budgets)))
        if budgets != self.budgets:
            logger.warning("budgets %s were sorted: %s", list(self.budgets), list(budgets))
        self._warn_of_short_paths(budgets)
        return tuple(
            Entry(
                # The first keeps its name, so that restarts added later compute only themselves.
                name=name if restart == 0 else f"{name}-{restart:03d}",
                attack=self._attack(name),
                budgets=budgets if name in ("pgd", "mi-fgsm") else (),
                restart=restart,
                redraw_targets=self.redraw_targets,
            )
            for name in self.attacks
            for restart in range(self.restarts)
        )

    def _refuse_what_nothing_reads(self) -> None:
        if self.step_size is not None and not {"pgd", "mi-fgsm"} & set(self.attacks):
            raise ValueError("step_size is read by pgd and mi-fgsm alone; leave it out")
        if self.budgets != CustomAttacks.budgets and set(self.attacks) <= {"square", "fab-t"}:
            raise ValueError("budgets are not read by square and fab-t; leave them out")
        if self.redraw_targets and not self.targeted:
            raise ValueError("redraw_targets is about targets; add targeted, or leave it out")

    @property
    def _step_size(self) -> float:
        if self.step_size is not None:
            return self.step_size
        return 1 / 255 if self.norm == "linf" else self.epsilon / 10

    def _warn_of_short_paths(self, budgets: tuple[int, ...]) -> None:
        walkers = [name for name in self.attacks if name in ("pgd", "mi-fgsm")]
        if walkers and budgets[-1] * self._step_size < self.epsilon:
            logger.warning(
                "%d steps of %s cannot cross a ball of radius %s: the model looks more robust than "
                "it is under %s; enlarge step_size or budgets",
                budgets[-1],
                format_pixels(self._step_size),
                format_pixels(self.epsilon),
                ", ".join(walkers),
            )

    @property
    def _draws_targets(self) -> bool:
        """Whether restarts differ in their targets."""
        return self.targeted and self.redraw_targets

    def _attack(self, name: str) -> Attack:
        num_steps = max(self.budgets)
        if name in ("pgd", "mi-fgsm"):
            kind = PGD if name == "pgd" else MIFGSM
            return kind(
                epsilon=self.epsilon,
                step_size=self._step_size,
                num_steps=num_steps,
                targeted=self.targeted,
                norm=self.norm,
            )
        if name in ("apgd", "apgd-dlr"):
            return APGD(
                epsilon=self.epsilon,
                num_steps=num_steps,
                targeted=self.targeted,
                norm=self.norm,
                loss="cross_entropy" if name == "apgd" else "dlr",
            )
        if name == "apgd-t":
            return TargetedAPGD(epsilon=self.epsilon, num_steps=num_steps, norm=self.norm)
        if name == "fab-t":
            return AutoAttack(epsilon=self.epsilon, norm=self.norm, attacks=("fab-t",))
        return Square(epsilon=self.epsilon, targeted=self.targeted, norm=self.norm)
