"""White-box attacks: they see a callable images -> logits, in pixels of [0, 1]."""

from featdenoise.attacks.apgd import APGD as APGD
from featdenoise.attacks.apgd import TargetedAPGD as TargetedAPGD
from featdenoise.attacks.autoattack import AutoAttack as AutoAttack
from featdenoise.attacks.core import Norm as Norm
from featdenoise.attacks.core import assert_in_ball as assert_in_ball
from featdenoise.attacks.core import attack_mode as attack_mode
from featdenoise.attacks.foreign import ForeignAttack as ForeignAttack
from featdenoise.attacks.foreign import from_advertorch as from_advertorch
from featdenoise.attacks.foreign import from_foolbox as from_foolbox
from featdenoise.attacks.foreign import from_torchattacks as from_torchattacks
from featdenoise.attacks.losses import LOSSES as LOSSES
from featdenoise.attacks.losses import Loss as Loss
from featdenoise.attacks.momentum import MIFGSM as MIFGSM
from featdenoise.attacks.names import name_of as name_of
from featdenoise.attacks.oracle import GradientOracle as GradientOracle
from featdenoise.attacks.pgd import PGD as PGD
from featdenoise.attacks.pgd import fgsm as fgsm
from featdenoise.attacks.pgd import iterative_fgsm as iterative_fgsm
from featdenoise.attacks.pgd import paper_step_size as paper_step_size
from featdenoise.attacks.square import Square as Square
from featdenoise.attacks.targets import TargetChoice as TargetChoice
from featdenoise.attacks.targets import uniform_targets as uniform_targets

Attack = PGD | MIFGSM | APGD | TargetedAPGD | Square | AutoAttack
"""Every attack that a command line can name; a `ForeignAttack` carries a function, so it cannot."""
