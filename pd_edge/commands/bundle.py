"""``pd-edge bundle``: a model folder from trained weights."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Stored(str, Enum):
    """Precision in which the weights of convolutions are stored."""

    fp32 = "fp32"
    fp16 = "fp16"


def bundle(
    run: Annotated[Path, typer.Argument(help="Run folder, checkpoint or model folder with the weights.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write; its name becomes the model's.")],
    weights: Annotated[
        Stored, typer.Option(help="How convolution weights are stored; arithmetic is fp32 either way.")
    ] = Stored.fp16,
) -> None:
    """Make a model folder of a training run.

    Every runtime reads it. The exported network is compared with torch's before anything is written. The run's
    configuration and record go with it (train.yaml, run.json). Needs the extra train.

    \b
    Example:
      pd-edge bundle runs/4x models/pointpillars-4x
    """
    from pd_edge.bundle import summarize
    from pd_edge.engines.onnx_export import export_bundle
    from pd_edge.report import models_table
    from pd_edge.terminal import busy, say, show
    from pd_edge.training.checkpoint import load_model
    from pd_edge.training.provenance import provenance, write_provenance

    with busy("exporting"):
        model, config = load_model(run)
        origin = provenance(run)
        export_bundle(model, config, out, weights.value)
        write_provenance(origin, out)
    show(models_table([summarize(out)]))
    say(f"model: {out}")
