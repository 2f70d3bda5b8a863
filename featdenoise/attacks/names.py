"""Short names of attacks, for folders, columns and messages."""

import dataclasses
from typing import Protocol

from featdenoise.attacks.core import Norm
from featdenoise.attacks.foreign import ForeignAttack


class Named(Protocol):
    """What every attack says of itself."""

    @property
    def norm(self) -> Norm:
        """Norm of the ball."""

    @property
    def targeted(self) -> bool:
        """Towards targets, or away from labels."""


def name_of(attack: Named) -> str:
    """Kind, norm and what changes the question: `pgd-linf-targeted`, `apgd-l2-dlr`.

    Stable, made of lower-case letters, digits and hyphens but for a foreign attack's own name; two
    settings of one attack may share it.
    """
    kind = attack.name if isinstance(attack, ForeignAttack) else type(attack).__name__.lower()
    parts = [kind, attack.norm]
    if dataclasses.is_dataclass(attack):
        defaults = {field.name: field.default for field in dataclasses.fields(attack)}
        for field in ("loss", "target_choice"):
            if field in defaults and getattr(attack, field) != defaults[field]:
                parts.append(getattr(attack, field).replace("_", "-"))
    if attack.targeted:
        parts.append("targeted")
    return "-".join(parts)
