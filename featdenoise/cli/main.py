"""`featdenoise COMMAND`: parse, join the processes, run, print; one-line errors, exit code 2."""

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from featdenoise.base.distributed import join_world
from featdenoise.cli.blackbox import Blackbox
from featdenoise.cli.certify import Certify
from featdenoise.cli.compare import Compare
from featdenoise.cli.demo import Demo
from featdenoise.cli.doctor import Doctor
from featdenoise.cli.export import Export
from featdenoise.cli.import_tensorpack import ImportTensorpack
from featdenoise.cli.models import Models
from featdenoise.cli.predict import Predict
from featdenoise.cli.report import Report
from featdenoise.cli.train import Train
from featdenoise.cli.whitebox import Whitebox

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Whitebox, tyro.conf.subcommand("whitebox")]
    | Annotated[Blackbox, tyro.conf.subcommand("blackbox")]
    | Annotated[Certify, tyro.conf.subcommand("certify")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[ImportTensorpack, tyro.conf.subcommand("import-tensorpack")]
    | Annotated[Models, tyro.conf.subcommand("models")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 after an error that the user can mend."""
    try:
        command = tyro.cli(
            Command,
            args=arguments,
            prog="featdenoise",
            description="Feature-denoising models, adversarial training and trusted evaluation.",
            config=(tyro.conf.CascadeSubcommandArgs,),
        )
        with join_world(command.device) as world:
            _configure_logging(world.is_main)
            text = command.run(world)
            if world.is_main and text:
                print(text)  # noqa: T201
    except (ValueError, OSError, RuntimeError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _configure_logging(is_main: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if is_main else logging.WARNING,
        format="%(message)s",
        stream=sys.stderr,
    )
