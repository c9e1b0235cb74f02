"""``pd-edge sensitivity``: which layers bear INT8."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import (
    DEFAULT_CALIBRATION_FRAMES,
    DEFAULT_PERCENTILE,
    CalibrationData,
    CalibrationFrames,
    JsonFile,
    Percentile,
    Sensor,
    Split,
)


class Target(str, Enum):
    """Whose INT8."""

    trt = "trt"
    cpu = "cpu"


def sensitivity(
    model: Annotated[str, typer.Argument(help="Shipped model, model folder, run or checkpoint.")],
    data: Annotated[Path, typer.Option(help="Labelled frames to evaluate on: KITTI object folder or raw drive.")],
    *,
    split: Split = None,
    frames: Annotated[int, typer.Option(min=1, help="How many of them, from the first on.")] = 100,
    target: Annotated[
        Target, typer.Option(help="trt: symmetric INT8 maps as in int8-trt files; cpu: UINT8 maps as in int8-cpu.")
    ] = Target.trt,
    calibration: CalibrationData = None,
    calibration_frames: CalibrationFrames = DEFAULT_CALIBRATION_FRAMES,
    percentile: Percentile = DEFAULT_PERCENTILE,
    sensor: Sensor = "",
    json_file: JsonFile = None,
) -> None:
    """Rank layers by the AP that is lost when only they are INT8.

    Each layer is quantised alone and all frames are evaluated in OpenVINO, which takes some minutes. The first line is
    all that `pd-edge export --precision int8` quantises by itself. Needs the extra train.

    A sensor profile is that of the frames to evaluate on, and of those to calibrate on where some are given.

    JSON: {baseline_3d, baseline_bev, frames, layers: [{layer, loss_3d, loss_bev}]}, AP in percent.

    \b
    Example:
      pd-edge sensitivity pointpillars-4x --data data/sim-val --split val --target cpu
    """
    from pd_edge.commands.shared import present
    from pd_edge.engines.sensitivity import FramesInMemory, measure_sensitivity, sensitivity_table
    from pd_edge.engines.source import open_source
    from pd_edge.kitti import open_dataset
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import busy, counting

    source, profile = open_source(model), load_profile(sensor)
    with busy("reading frames"):
        dataset = FramesInMemory(open_dataset(data, split, profile), frames)
    with counting("calibration frames") as advance:
        ranges = source.calibrate(calibration, calibration_frames, percentile, advance, profile)
    with counting("evaluations") as advance:
        report = measure_sensitivity(
            source.model,
            source.config,
            ranges,
            dataset,
            unsigned=target == Target.cpu,
            sensor=profile.only_mount(),
            advance=advance,
        )
    found = report._asdict() | {"layers": [loss._asdict() for loss in report.layers]}
    present([sensitivity_table(report)], found, json_file)
