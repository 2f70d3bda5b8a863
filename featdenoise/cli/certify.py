"""`featdenoise certify`: certified accuracy of a model under randomized smoothing."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from featdenoise.base.distributed import Device, World
from featdenoise.cli.judging import Judging
from featdenoise.cli.subject import DataChoice, ModelChoice
from featdenoise.evaluation.certification import Certification, certify_images


@dataclass(frozen=True, kw_only=True)
class Certify:
    """Certify a model's predictions under Gaussian noise (Cohen et al. 2019)."""

    model: Annotated[ModelChoice, tyro.conf.arg(name="")]
    data: Annotated[DataChoice, tyro.conf.arg(name="")] = field(default_factory=DataChoice)
    judging: Annotated[Judging, tyro.conf.arg(name="")]
    config: Annotated[Certification, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes] = field(
        default_factory=Certification
    )

    @property
    def device(self) -> Device:
        """Where to compute."""
        return self.judging.device

    def run(self, world: World) -> str:
        """Certify; the text is the table."""
        self.judging.prepare()
        model = self.model.load(world)
        images, image_ids = self.data.load(self.config.seed)
        certify_images(
            model,
            images,
            image_ids,
            self.config,
            folder=self.judging.out,
            identity={
                "model": self.model.about(model),
                "data": self.data.about(images, image_ids),
            },
            world=world,
        )
        return self.judging.report(world)
