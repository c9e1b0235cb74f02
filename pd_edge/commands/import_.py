"""``pd-edge import``: a model folder from another project's checkpoint."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.bundle import Stored


class Project(str, Enum):
    """Projects whose PointPillars can be imported."""

    openpcdet = "openpcdet"
    mmdet3d = "mmdet3d"


def import_(
    project: Annotated[Project, typer.Argument(help="Where the checkpoint is from: openpcdet or mmdet3d.")],
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint file (.pth) of a PointPillars with an anchor head.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write; its name becomes the model's.")],
    config: Annotated[
        Path | None,
        typer.Option(
            help="The project's own configuration of this detector, YAML or Python; left out, the one that the "
            "checkpoint holds, else the project's for KITTI."
        ),
    ] = None,
    weights: Annotated[
        Stored, typer.Option(help="How convolution weights are stored; fp32 keeps the heads as they were.")
    ] = Stored.fp32,
    intensity_max: Annotated[
        float,
        typer.Option(
            help="Greatest intensity of the points that it was trained with, such as 255; here they are 0..1."
        ),
    ] = 1.0,
) -> None:
    """Make a model folder of a PointPillars that OpenPCDet or mmdetection3d trained.

    The model is used like one of ours: as a teacher (student-4x.yaml in the folder is a student's configuration), for
    export, build and detect. No pickled code of the checkpoint is run and no Python of the configuration. What the
    network here cannot express is refused by name. mmdetection3d's boxes from before 1.0 are recognised and converted.
    Needs the extra train.

    \b
    Examples:
      pd-edge import openpcdet pointpillar_7728.pth models/pcdet-teacher --config pointpillar.yaml
      pd-edge import mmdet3d hv_pointpillars_secfpn_kitti.pth models/mmdet-teacher
      pd-edge distill models/mmdet-teacher/student-4x.yaml --out runs/mmdet-4x
    """
    from pd_edge.bundle import summarize
    from pd_edge.report import models_table
    from pd_edge.terminal import busy, say, show
    from pd_edge.training.importers.importing import import_model

    with busy("importing"):
        imported = import_model(project.value, checkpoint, out, config, weights.value, intensity_max=intensity_max)
    show(models_table([summarize(out)]))
    for note in imported.notes:
        say(f"note: {note}")
    say(f"model:   {out}")
    say(f"student: {imported.student}")
