"""``pd-edge export``: one ONNX file of a model, in the form and precision that a runtime wants."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_edge.commands.options import (
    DEFAULT_CALIBRATION_FRAMES,
    DEFAULT_PERCENTILE,
    CalibrationData,
    CalibrationFrames,
    Percentile,
)

if TYPE_CHECKING:
    from pd_edge.engine_manifest import Precision as FilePrecision


class Form(str, Enum):
    """What the graph takes, and in which operators."""

    plugin = "plugin"
    plain = "plain"
    dense = "dense"


class Precision(str, Enum):
    """Precision of the dense part."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def export(
    model: Annotated[str, typer.Argument(help="Shipped model, model folder, run or checkpoint.", metavar="CKPT")],
    out: Annotated[Path, typer.Argument(help="The .onnx file; with int8, NAME.onnx becomes NAME-int8-trt and -cpu.")],
    form: Annotated[
        Form,
        typer.Option(
            help="plugin: points to heads with our TensorRT operators; plain: the same in standard operators; "
            "dense: canvas to heads, the only form of SECOND."
        ),
    ] = Form.plain,
    precision: Annotated[Precision, typer.Option(help="Precision that is written into the file.")] = Precision.fp32,
    data: CalibrationData = None,
    sensor: Annotated[str, typer.Option(help="Sensor profile of DATA: a shipped one's name, or a YAML file.")] = "",
    frames: CalibrationFrames = DEFAULT_CALIBRATION_FRAMES,
    percentile: Percentile = DEFAULT_PERCENTILE,
    float_layer: Annotated[
        list[str] | None,
        typer.Option(
            "--float",
            help="Layer that int8 leaves in float, as `sensitivity` names it; may be repeated. "
            "[backbone.stages.0.1, backbone.stages.0.2 and head]",
        ),
    ] = None,
) -> None:
    """Write a model as one ONNX file for a runtime.

    fp16 has its convolutions in float16 by explicit casts; inputs, outputs and all that meets coordinates stay float32.
    int8 calibrates on frames of DATA, or some of the model's training frames, and writes two files, as the parsers
    differ: OUT-int8-trt.onnx (symmetric INT8, the rest float16) for TensorRT and OUT-int8-cpu.onnx (UINT8 maps, the
    rest float32) for OpenVINO and ONNX Runtime. Needs the extra train.

    Of SECOND the BEV part is written, in form dense alone. The file carries the weights of its sparse layers, which are
    computed in C++ on the CPU.

    \b
    Examples:
      pd-edge export pointpillars-4x pointpillars-4x.onnx --form plugin --precision fp16
      pd-edge export runs/4x dense.onnx --form dense --precision int8 --data data/kitti/object
      pd-edge export pointpillars-4x all.onnx --precision int8 --float head
      pd-edge export second-4x second-4x.onnx --form dense
    """
    from pd_edge.engines.onnx_file import export_onnx
    from pd_edge.engines.quantize import FLOAT_LAYERS
    from pd_edge.engines.source import open_source
    from pd_edge.errors import ConfigError
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import busy, counting, say

    if out.suffix != ".onnx":
        raise ConfigError(f"{out}: give a file that ends in .onnx")
    if precision != Precision.int8:
        _refuse_idle(
            precision,
            {
                "--data": data is not None,
                "--sensor": bool(sensor),
                "--frames": frames != DEFAULT_CALIBRATION_FRAMES,
                "--percentile": percentile != DEFAULT_PERCENTILE,
                "--float": bool(float_layer),
            },
        )
    if sensor and data is None:
        raise ConfigError(
            f"--sensor {sensor}: of the frames of --data, which is missing; training frames have their own"
        )
    source = open_source(model)
    files: dict[FilePrecision, Path]
    if precision == Precision.int8:
        with counting("calibration frames") as advance:
            calibration = source.calibrate(data, frames, percentile, advance, load_profile(sensor))
        trt, cpu = (out.with_name(f"{out.stem}-int8-{kind}.onnx") for kind in ("trt", "cpu"))
        files = {"int8-trt": trt, "int8-cpu": cpu}
    else:
        calibration = None
        files = {precision.value: out}
    for each, path in files.items():
        with busy("exporting"):
            export_onnx(
                source.model,
                source.config,
                path,
                form.value,
                each,
                calibration=calibration,
                float_layers=float_layer or FLOAT_LAYERS,
                name=source.name,
                weights_sha256=source.weights_sha256,
            )
        say(f"{form.value} {each}: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _refuse_idle(precision: Precision, given: dict[str, bool]) -> None:
    """Refuses options of INT8 that were given for another precision."""
    from pd_edge.errors import ConfigError

    idle = [name for name, there in given.items() if there]
    if idle:
        raise ConfigError(f"{', '.join(idle)}: for --precision int8, {precision.value} has no use for it; leave it out")
