"""``pd-edge models``: what is shipped."""

from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import JsonFile


def models(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Model folders to list instead of the shipped ones.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """List models with their sizes and average precision.

    Sizes are of the dense part for one frame (multiply-adds) and of the files that a vehicle needs.

    \b
    Examples:
      pd-edge models
      pd-edge models runs/4x-bundle --json -
    """
    from pd_edge.bundle import list_models, summarize
    from pd_edge.commands.shared import present
    from pd_edge.report import models_table

    found = [summarize(folder) for folder in folders] if folders else list_models()
    present([models_table(found)], [each._asdict() for each in found], json_file)
