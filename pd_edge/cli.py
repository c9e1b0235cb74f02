"""The command line, ``pd-edge``: every command is a thin function over the library.

Exit codes: 0 done, 1 an error that a message of one line explains, 2 wrong usage.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

import pd_edge
from pd_edge.commands.bag import bag
from pd_edge.commands.bench import bench
from pd_edge.commands.build import build
from pd_edge.commands.bundle import bundle
from pd_edge.commands.card import card
from pd_edge.commands.compare import compare
from pd_edge.commands.data import data
from pd_edge.commands.demo import demo
from pd_edge.commands.detect import detect
from pd_edge.commands.distill import distill
from pd_edge.commands.doctor import doctor
from pd_edge.commands.evaluate import evaluate
from pd_edge.commands.export import export
from pd_edge.commands.import_ import import_
from pd_edge.commands.models import models
from pd_edge.commands.realism import realism
from pd_edge.commands.replay import replay
from pd_edge.commands.sensitivity import sensitivity
from pd_edge.commands.simulate import simulate
from pd_edge.commands.study import study
from pd_edge.commands.train import train
from pd_edge.commands.view import view
from pd_edge.errors import MissingExtraError, PdEdgeError

EXTRAS = {
    "matplotlib": "viz",
    "mcap": "bags",
    "nuscenes": "nuscenes",
    "onnx": "train",
    "onnxruntime": "onnxruntime",
    "open3d": "train",
    "openvino": "openvino",
    "rosbags": "bags",
    "safetensors": "train",
    "scipy": "train",
    "tensorboard": "train",
    "torch": "train",
}
"""Which extra brings a package that a command may find missing."""

app = typer.Typer(
    name="pd-edge",
    help="LiDAR 3D detection small enough for the vehicle.",
    epilog="pd-edge COMMAND --help shows options and examples. Start with: pd-edge demo",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pd-edge {pd_edge.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """LiDAR 3D detection small enough for the vehicle."""


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "detect": detect,
    "eval": evaluate,
    "models": models,
    "bench": bench,
    "build": build,
    "compare": compare,
    "train": train,
    "distill": distill,
    "study": study,
    "bundle": bundle,
    "import": import_,
    "card": card,
    "export": export,
    "sensitivity": sensitivity,
    "simulate": simulate,
    "replay": replay,
    "realism": realism,
    "doctor": doctor,
    "view": view,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(bag)
app.add_typer(data)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; ``arguments`` are those of the process when left out.

    Raises:
        SystemExit: Always, with the exit code.
    """
    try:
        app(arguments, prog_name="pd-edge")
    except PdEdgeError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        _fail(MissingExtraError(package, EXTRAS[package]))


def _fail(error: PdEdgeError) -> None:
    """One line on standard error, exit code 1."""
    sys.stderr.write(f"pd-edge: error: {' '.join(str(error).splitlines())}\n")
    raise SystemExit(1)
