"""``pd-edge distill``: a student trained beside its teacher."""

from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import BankCache, Resume, RunFolder, StopAfter


def distill(
    config: Annotated[Path, typer.Argument(help="Training configuration of the student, YAML.")],
    out: RunFolder,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Model folder, run, checkpoint or .safetensors file; CONFIG's own if left out."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Method, with its default settings; CONFIG's own if left out.")
    ] = None,
    resume: Resume = False,
    stop_after: StopAfter = None,
    cache: BankCache = None,
) -> None:
    """Train a student beside its teacher.

    CONFIG is a training configuration, as for `pd-edge train`, that may also hold `teacher` and a section
    `distillation` with a method and its settings. Methods: none, pointdistiller, fitnets, attention-transfer, se-ssd,
    similarity, crd, overhaul, attention-nonlocal, pp-logit, label-kd, guided-init, rdd. The log and the curves show
    the detector's loss and the method's. The student's weights hold nothing of the teacher: `pd-edge bundle` makes a
    model folder of the run as of any other. Needs the extra train.

    \b
    Examples:
      pd-edge distill training/configs/pointpillars-4x.yaml --teacher pointpillars-teacher --out runs/4x-distilled
      pd-edge distill my-student.yaml --teacher runs/my-teacher --method fitnets --out runs/my-student
      torchrun --nproc_per_node=2 -m pd_edge distill my-student.yaml --teacher runs/my-teacher --out runs/my-student
    """
    from pd_edge.commands.train import check_run_folder
    from pd_edge.terminal import say
    from pd_edge.training.distillation import distil, read_config

    settings = read_config(config, teacher, method)
    check_run_folder(out, resume=resume)
    say(f"weights: {distil(settings, out, cache=cache, stop_after=stop_after)}")
