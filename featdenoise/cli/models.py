"""`featdenoise models`: what `create_model` knows."""

from dataclasses import dataclass

import tyro

from featdenoise.base.distributed import Device, World
from featdenoise.models.registry import create_model, list_models
from featdenoise.report.tables import Cell, Table
from featdenoise.training.recipes import RECIPES


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models with their parameter counts, and the training recipes."""

    device: tyro.conf.Suppress[Device] = "cpu"

    def run(self, world: World) -> str:
        """The tables as text."""
        del world
        models = Table(
            title="Models",
            caption="Parameters in millions for 10 classes, plain and with Gaussian denoising.",
            columns=("name", "parameters", "with denoising after each stage"),
            rows=tuple(
                (
                    Cell(name),
                    Cell(_millions(create_model(name))),
                    Cell(_millions(create_model(name, denoise="gaussian"))),
                )
                for name in list_models()
            ),
        )
        recipes = Table(
            title="Recipes",
            caption="For featdenoise train.",
            columns=("name", "model", "denoise", "attack"),
            rows=tuple(
                (
                    Cell(name),
                    Cell(recipe.model.name),
                    Cell(recipe.model.denoise),
                    Cell("none" if recipe.attack is None else f"PGD-{recipe.attack.num_steps}"),
                )
                for name, recipe in RECIPES.items()
            ),
        )
        return f"{models.text()}\n{recipes.text()}"


def _millions(model: object) -> str:
    count = sum(p.numel() for p in model.parameters())  # type: ignore[attr-defined]
    return f"{count / 1e6:.3f} M"
