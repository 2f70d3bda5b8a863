"""`featdenoise models`: what `create_model` knows, and which of it has published weights."""

import dataclasses
from dataclasses import dataclass
from urllib.parse import urlsplit

import tyro

from featdenoise.base.distributed import Device, World
from featdenoise.base.download import cache_folder
from featdenoise.models.build import takes_padding
from featdenoise.models.config import ModelConfig
from featdenoise.models.counting import count_parameters, measure_size
from featdenoise.models.published import PUBLISHED, PublishedModel
from featdenoise.models.registry import list_models
from featdenoise.report.card import NOT_VERIFIED
from featdenoise.report.tables import Cell, Table
from featdenoise.training.recipes import RECIPES

_IMAGENET = {"num_classes": 1000, "image_size": 224}
_SMALL = {"num_classes": 10, "image_size": 32}
_BUDGETS = (10, 100, 1000)


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models with their sizes, the published weights, and the training recipes."""

    device: tyro.conf.Suppress[Device] = "cpu"

    def run(self, world: World) -> str:
        """The tables as text."""
        if not world.is_main:
            return ""
        tables = (published_models(), architectures(), recipes())
        return "\n\n".join(f"{table.text()}\n\n{table.caption}" for table in tables)


def published_models() -> Table:
    """The nets whose weights can be had, with the authors' figures."""
    sources = dict.fromkeys(published.source for published in PUBLISHED.values())
    return Table(
        title="Models with weights",
        caption=(
            f"clean, 10, 100, 1000: top-1 accuracy on ImageNet, clean and after so many steps of "
            f"targeted PGD, epsilon 16/255; {NOT_VERIFIED}. Source: {'; '.join(sources)}. "
            "GMACs: convolutions and matrix products of one image, in 10^9 multiply-accumulates."
        ),
        columns=(
            "name",
            "parameters",
            "GMACs",
            "input",
            "denoising",
            "clean",
            *map(str, _BUDGETS),
            "figures",
            "licence",
            "weights",
        ),
        rows=tuple(_published_row(name, published) for name, published in PUBLISHED.items()),
    )


def architectures() -> Table:
    """The backbones, to be trained."""
    rows = []
    for name in list_models():
        # Both paddings: the nets for ImageNet, whose published weights need the other one.
        kind = _IMAGENET if takes_padding(name) else _SMALL
        plain = ModelConfig(name=name, num_classes=kind["num_classes"])
        denoising = count_parameters(dataclasses.replace(plain, denoise="gaussian"))
        rows.append(
            (
                Cell(name),
                Cell(str(kind["num_classes"])),
                Cell(str(kind["image_size"])),
                *_sizes(plain, kind["image_size"]),
                Cell(_millions(denoising)),
            )
        )
    return Table(
        title="Architectures",
        caption=(
            "Without weights: to be trained. With denoising: Gaussian, after each stage. timm/NAME "
            "is any convolutional network of timm."
        ),
        columns=("name", "classes", "input", "parameters", "GMACs", "with denoising"),
        rows=tuple(rows),
    )


def recipes() -> Table:
    """What `featdenoise train` can be given."""
    return Table(
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


def _published_row(name: str, published: PublishedModel) -> tuple[Cell, ...]:
    config = published.config
    place = config.denoise_at if isinstance(config.denoise_at, str) else "modules"
    denoising = "none" if config.denoise == "none" else f"{config.denoise}, every {place}"
    file = cache_folder() / urlsplit(published.url).path.rpartition("/")[2]
    errors = (published.clean_error, *(published.robust_error[budget] for budget in _BUDGETS))
    return (
        Cell(name),
        *_sizes(config, published.image_size),
        Cell(str(published.image_size)),
        Cell(denoising),
        *(Cell(f"{100 * (1 - error):.1f}%") for error in errors),
        Cell(NOT_VERIFIED),
        Cell(published.licence),
        Cell("in the cache" if file.is_file() else "to download"),
    )


def _sizes(config: ModelConfig, image_size: int) -> tuple[Cell, Cell]:
    size = measure_size(config, image_size)
    return Cell(_millions(size.parameters)), Cell(f"{size.macs / 1e9:.2f}")


def _millions(count: int) -> str:
    return f"{count / 1e6:.3f} M"
