"""White-box attacks: they see a callable images -> logits, in pixels of [0, 1]."""

from featdenoise.attacks.core import Norm as Norm
from featdenoise.attacks.core import assert_in_ball as assert_in_ball
from featdenoise.attacks.core import attack_mode as attack_mode
from featdenoise.attacks.losses import LOSSES as LOSSES
from featdenoise.attacks.losses import Loss as Loss
from featdenoise.attacks.oracle import GradientOracle as GradientOracle
from featdenoise.attacks.pgd import PGD as PGD
from featdenoise.attacks.pgd import fgsm as fgsm
from featdenoise.attacks.pgd import iterative_fgsm as iterative_fgsm
from featdenoise.attacks.pgd import paper_step_size as paper_step_size
from featdenoise.attacks.targets import uniform_targets as uniform_targets

Attack = PGD
"""Every attack of the package; a union once there is a second one."""
