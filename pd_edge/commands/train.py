"""``pd-edge train``: a run from a configuration file."""

from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import BankCache, Resume, RunFolder, StopAfter


def train(
    config: Annotated[Path, typer.Argument(help="Training configuration, YAML.")],
    out: RunFolder,
    resume: Resume = False,
    stop_after: StopAfter = None,
    cache: BankCache = None,
) -> None:
    """Train a detector.

    The run folder gets the resolved configuration, a log, TensorBoard curves, checkpoints and the weights. A run that
    was stopped, even by force, goes on with --resume and ends with the same weights. `pd-edge bundle` makes a model
    folder of the run. Needs the extra train.

    \b
    Examples:
      pd-edge train training/configs/pointpillars-4x-nokd.yaml --out runs/4x
      pd-edge train training/configs/pointpillars-4x-nokd.yaml --out runs/4x --resume
      torchrun --nproc_per_node=2 -m pd_edge train training/configs/pointpillars-4x-nokd.yaml --out runs/4x
    """
    from pd_edge.errors import ConfigError
    from pd_edge.terminal import say
    from pd_edge.training.distillation import DistillConfig, parse_run
    from pd_edge.training.loop import train as run

    settings = parse_run(config)
    if isinstance(settings, DistillConfig):
        raise ConfigError(f"{config}: names a teacher; train it with `pd-edge distill`, or leave `teacher` out")
    check_run_folder(out, resume=resume)
    say(f"weights: {run(settings, out, cache=cache, stop_after=stop_after)}")


def check_run_folder(out: Path, *, resume: bool) -> None:
    """Refuses to mix up a new run with one that is there.

    Raises:
        ConfigError: There is a run and it is not to go on, or there is none to go on with.
    """
    from pd_edge.errors import ConfigError
    from pd_edge.training.checkpoint import list_checkpoints

    if list_checkpoints(out) and not resume:
        raise ConfigError(f"{out}: holds a run already; add --resume to go on with it, or give another folder")
    if resume and not list_checkpoints(out):
        raise ConfigError(f"{out}: no checkpoint to resume from; leave --resume out to start a run")
