"""`featdenoise train RECIPE`: adversarial or clean training, alone or under torchrun."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from featdenoise.base.distributed import Device, World
from featdenoise.base.exact_sum import Reduction
from featdenoise.training.loop import RunOptions, train
from featdenoise.training.recipes import Recipe, find_recipe


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model by a named recipe; run again with the same settings to go on after a stop."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Name of the recipe."""
    out: Path | None = None
    """Folder of the run; runs/RECIPE by default."""
    epochs: float | None = None
    """Instead of the recipe's."""
    seed: int | None = None
    """Instead of the recipe's."""
    num_classes: int | None = None
    """Instead of the recipe's, for data of your own."""
    data: str | None = None
    """Data set, instead of the recipe's."""
    data_root: str | None = None
    """Folder that holds the files of cifar10, cifar100, imagenet or imagefolder."""
    image_size: int | None = None
    """Height and width of the images, instead of the recipe's."""
    download: bool = False
    """Download cifar10 or cifar100 into the root if they are not there."""
    reduction: Reduction | None = None
    """exact: the same bits on any number of processes; fast: one float sum."""
    threads_per_process: int | None = None
    """CPU threads, instead of the recipe's; changes the last bits."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    device: Device = "auto"
    """auto takes the GPU if there is one."""

    def run(self, world: World) -> str:
        """Train; the text says where the weights are and what to do next."""
        folder = self.out or Path("runs") / self.recipe
        outcome = train(self.chosen_recipe(), folder, self.options, world)
        if not outcome.finished:
            return f"stopped at step {outcome.step}; run the same command again to go on"
        return f"finished {outcome.step} steps; weights in {outcome.weights}"

    def chosen_recipe(self) -> Recipe:
        """The named recipe with the fields given on the command line.

        Raises:
            ValueError: unknown recipe, or a value outside its range.
        """
        recipe = find_recipe(self.recipe)
        data = _given(name=self.data, root=self.data_root, image_size=self.image_size)
        recipe = replace(
            recipe,
            data=replace(recipe.data, download=self.download, **data),
            **_given(
                epochs=self.epochs,
                seed=self.seed,
                reduction=self.reduction,
                threads_per_process=self.threads_per_process,
            ),
        )
        if self.num_classes is not None:
            recipe = replace(recipe, model=replace(recipe.model, num_classes=self.num_classes))
        return recipe


def _given(**fields: Any) -> dict[str, Any]:
    """Those of the fields that are set."""
    return {name: value for name, value in fields.items() if value is not None}
