"""`featdenoise whitebox`: accuracy of a model against PGD of many iteration budgets."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from featdenoise.attacks.core import Norm
from featdenoise.attacks.pgd import PGD
from featdenoise.base.distributed import Device, World
from featdenoise.base.units import Pixels
from featdenoise.cli.judging import Judging
from featdenoise.cli.subject import DataChoice, ModelChoice
from featdenoise.evaluation.whitebox import WhiteboxSweep, evaluate_whitebox


@dataclass(frozen=True, kw_only=True)
class Whitebox:
    """Attack a model with PGD and report its accuracy at every iteration budget."""

    model: Annotated[ModelChoice, tyro.conf.arg(name="")]
    data: Annotated[DataChoice, tyro.conf.arg(name="")] = field(default_factory=DataChoice)
    judging: Annotated[Judging, tyro.conf.arg(name="")]
    epsilon: Pixels = 16 / 255
    """Radius of the ball."""
    step_size: Pixels = 1 / 255
    """Step of each iteration."""
    budgets: tuple[int, ...] = (10, 20, 50, 100, 200)
    """Numbers of iterations to report; the sweep costs only the largest."""
    targeted: bool = False
    """Attack towards a uniformly drawn wrong class (Xie et al., Sec. 6.1)."""
    norm: Norm = "linf"
    """Norm of the ball."""
    random_start: bool = True
    """Start at a random point of the ball instead of the clean image."""
    reach_edge: bool = False
    """The paper's rule: a step of at least epsilon / budget."""
    chunk_size: int = 64
    """Images attacked together."""
    seed: int = 0
    """Seed of starts, targets and sampled subsets."""
    save_adversarial: Path | None = None
    """Folder for the last budget's adversarial images, as PNG."""

    @property
    def device(self) -> Device:
        """Where to compute."""
        return self.judging.device

    def run(self, world: World) -> str:
        """Evaluate; the text is the table."""
        self.judging.prepare()
        attack = PGD(
            epsilon=self.epsilon,
            step_size=self.step_size,
            num_steps=max(self.budgets, default=1),
            targeted=self.targeted,
            norm=self.norm,
            random_start=self.random_start,
        )
        sweep = WhiteboxSweep(
            attack=attack,
            budgets=self.budgets,
            reach_edge=self.reach_edge,
            chunk_size=self.chunk_size,
            seed=self.seed,
        )
        model = self.model.load(world)
        images, image_ids = self.data.load(self.seed)
        evaluate_whitebox(
            model,
            images,
            image_ids,
            sweep,
            self.judging.out,
            identity={
                "model": self.model.about(model),
                "data": self.data.about(images, image_ids),
            },
            world=world,
            save_adversarial=self.save_adversarial,
        )
        return self.judging.report(world)
