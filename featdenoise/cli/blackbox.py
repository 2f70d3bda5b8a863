"""`featdenoise blackbox`: all-or-nothing score on images that several attackers wrote to disk."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from featdenoise.base.distributed import Device, World
from featdenoise.blackbox.score import BlackboxScoring, score_blackbox
from featdenoise.cli.judging import Judging
from featdenoise.cli.subject import ModelChoice


@dataclass(frozen=True, kw_only=True)
class Blackbox:
    """Score a model on the adversarial PNGs of several attackers, all-or-nothing (CAAD 2018)."""

    model: Annotated[ModelChoice, tyro.conf.arg(name="")]
    judging: Annotated[Judging, tyro.conf.arg(name="")]
    clean: Path
    """Folder of the clean PNGs."""
    labels: Path
    """CSV of name,label or of ImageId,TrueLabel."""
    attackers: tuple[Path, ...]
    """One folder of adversarial PNGs an attacker, named as the clean ones."""
    scoring: Annotated[BlackboxScoring, tyro.conf.arg(name="")] = field(
        default_factory=BlackboxScoring
    )

    @property
    def device(self) -> Device:
        """Where to compute."""
        return self.judging.device

    def run(self, world: World) -> str:
        """Score; the text is the table."""
        self.judging.prepare()
        names = [folder.name for folder in self.attackers]
        if len(set(names)) != len(names):
            raise ValueError(f"attackers need folders of different names, got {', '.join(names)}")
        model = self.model.load(world)
        score_blackbox(
            model,
            self.scoring,
            clean=self.clean,
            labels=self.labels,
            attackers=dict(zip(names, self.attackers, strict=True)),
            folder=self.judging.out,
            identity={"model": self.model.about(model)},
            world=world,
        )
        return self.judging.report(world)
