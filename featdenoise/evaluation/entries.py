"""What a white-box evaluation runs: entries, each one attack with a results file of its own.

Adding entries to a finished evaluation computes only the new ones.
"""

import re
from dataclasses import dataclass, replace

from featdenoise.attacks import Attack
from featdenoise.attacks.foreign import ForeignAttack
from featdenoise.attacks.pgd import PGD, paper_step_size

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One attack of an evaluation."""

    name: str
    """Names its folder and its lines in tables: lower-case letters, digits, . _ -"""
    attack: Attack | ForeignAttack
    budgets: tuple[int, ...] = ()
    """Iteration counts to record on the attack's path; none records the attack's result alone."""
    reach_edge: bool = False
    """The paper's rule: a step of at least epsilon / budget, so that short attacks cross the ball.
    Budgets with a larger step get a path of their own."""
    restart: int = 0
    """Which of several independent runs this is; 0 is the first."""
    redraw_targets: bool = False
    """Whether a restart draws targets of its own; otherwise all restarts share the first's."""
    code: str | None = None
    """Digest of the code behind an attack of somebody's own; other code is another run."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"entry name must be lower-case letters, digits and . _ -, got {self.name!r}"
            )
        if self.restart < 0:
            raise ValueError(f"restart must be >= 0, got {self.restart}")
        if not self.budgets:
            return
        if not isinstance(self.attack, PGD):
            raise ValueError(
                f"budgets need an attack with a fixed step, got {type(self.attack).__name__}; "
                "leave budgets out"
            )
        if self.attack.step_size == 0 and self.attack.epsilon > 0:
            raise ValueError("step_size must be > 0, got 0; such an attack stands still")
        if min(self.budgets) < 1:
            raise ValueError(f"budgets must be iteration counts >= 1, got {list(self.budgets)}")
        if list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(
                f"budgets must rise and not repeat, got {list(self.budgets)}; "
                f"write {sorted(set(self.budgets))}"
            )

    def paths(self) -> list[tuple[PGD, tuple[int, ...]]]:
        """The paths to walk, each with the budgets recorded on it; none without budgets."""
        attack = self.attack
        if not isinstance(attack, PGD):
            return []
        budgets_of: dict[float, list[int]] = {}
        for budget in self.budgets:
            budgets_of.setdefault(self.step_size(attack, budget), []).append(budget)
        return [
            (replace(attack, step_size=step, num_steps=max(budgets)), tuple(budgets))
            for step, budgets in budgets_of.items()
        ]

    def step_size(self, attack: PGD, budget: int) -> float:
        """The step of the path on which a budget lies, in pixel units."""
        if not self.reach_edge:
            return attack.step_size
        return paper_step_size(attack.epsilon, budget, step_size=attack.step_size)


@dataclass(frozen=True, kw_only=True)
class WhiteboxEvaluation:
    """Which attacks, and how their images are cut and drawn."""

    entries: tuple[Entry, ...]
    """The attacks, in order."""
    protocol: str | None = None
    """The name under which these entries are known, if they are a named protocol."""
    worst_case: bool = False
    """Ask only whether an image is ever broken: one that is drops out of everything after."""
    chunk_size: int = 64
    """Images attacked together; part of the run's identity, because kernels round by batch."""
    seed: int = 0
    """Seed of starts, targets and all other draws."""

    def __post_init__(self) -> None:
        """Refuse an evaluation without entries, or with two of one name."""
        names = [entry.name for entry in self.entries]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"entries need different names, got {names}")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be >= 1, got {self.chunk_size}")
