"""``pd-edge distill``: a student trained beside its teacher."""

from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import BankCache, Resume, RunFolder, Sensor, StopAfter


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
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(
            help="Bag, folder of clouds or drive without labels, repeatable; CONFIG's own if left out.",
        ),
    ] = None,
    sensor: Sensor = "",
    topic: Annotated[str | None, typer.Option(help="Topic of the clouds in bags without labels.")] = None,
    high: Annotated[
        float | None, typer.Option(min=0, max=1, help="Teacher's boxes that score this are labels; CONFIG's, or 0.5.")
    ] = None,
    low: Annotated[
        float | None, typer.Option(min=0, max=1, help="Those that score less are background; CONFIG's, or 0.15.")
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

    With --unlabelled, or a section `unlabelled`, the teacher's boxes in clouds without labels stand for labels, in
    place of or beside CONFIG's data: boxes of high scores as labels, of low ones as background, those between count
    neither way. They are computed once and kept beside the bank of objects. --sensor says how these clouds' sensor is
    mounted, for both networks; the student is one for the same profile.

    \b
    Examples:
      pd-edge distill training/configs/pointpillars-4x.yaml --out runs/4x
      pd-edge distill my-student.yaml --teacher runs/my-teacher --method fitnets --out runs/my-student
      pd-edge distill my-student.yaml --teacher runs/my-teacher --unlabelled drive.mcap --sensor my.yaml --out runs/own
      torchrun --nproc_per_node=2 -m pd_edge distill my-student.yaml --teacher runs/my-teacher --out runs/my-student
    """
    from pd_edge.commands.train import check_run_folder
    from pd_edge.terminal import counting, say
    from pd_edge.training.distillation import distil, read_config

    if not unlabelled and (sensor or topic):
        raise typer.BadParameter("--sensor and --topic belong to --unlabelled; data in CONFIG have their own there")
    fields: dict[str, object] = {name: value for name, value in (("high", high), ("low", low)) if value is not None}
    if unlabelled:
        fields["sources"] = [{"path": str(path), "sensor": sensor, "topic": topic} for path in unlabelled]
    settings = read_config(config, teacher, method, fields)
    check_run_folder(out, resume=resume)
    with counting("clouds without labels") as advance:
        weights = distil(settings, out, cache=cache, stop_after=stop_after, advance=advance, tell=say)
    say(f"weights: {weights}")
