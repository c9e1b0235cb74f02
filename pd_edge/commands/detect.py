"""``pd-edge detect``: clouds in, boxes out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_edge.commands.options import (
    DEFAULT_MODEL,
    Coverage,
    JsonFile,
    Model,
    Precision,
    Runtime,
    Score,
    Sensor,
    Split,
    Threads,
)

if TYPE_CHECKING:
    from pd_edge.batch import BatchResult
    from pd_edge.tables import Table

FEW = 3
"""Up to so many frames, the detections themselves are printed."""


def detect(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Clouds (.bin .npy .pcd .ply), folders of them, KITTI object folders or raw drives."),
    ],
    *,
    model: Model = DEFAULT_MODEL,
    runtime: Runtime = None,
    precision: Precision = None,
    threads: Threads = None,
    score: Score = None,
    split: Split = None,
    sensor: Sensor = "",
    coverage: Coverage = "front",
    crop: Annotated[
        bool | None,
        typer.Option(
            "--crop/--no-crop",
            help="Use only points that the left colour camera sees; by default where there are labels, and not with "
            "--coverage full.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for KITTI label files, detections.json, pictures and the report.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Bird's-eye pictures to draw into OUT.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Detect objects in point clouds.

    Prints latency by stage and, where the input has labels, KITTI's average precision in the camera's field of view.
    Without calibration there are no KITTI labels to write: detections.json has the boxes in the LiDAR frame.

    Of up to 3 frames the detections are printed, those scoring 0.3 or more unless --score says otherwise; the files
    hold all from the model's own threshold on, 0.1, at most 50 in a frame.

    With --coverage full, objects are found all around the sensor. KITTI labels nothing but what its camera sees, so
    that there is no AP of its frames then; of own data there is.

    A frame that cannot be used is passed over and counted; the exit code is 1 only where no frame could be used.

    \b
    Examples:
      pd-edge detect scan.pcd --sensor vlp-16
      pd-edge detect scan.pcd --coverage full --out found --pictures 1
      pd-edge detect kitti/object --split val --out found --pictures 4
      pd-edge detect 2011_09_26/2011_09_26_drive_0005_sync --json - | jq .latency_ms
    """
    from pd_edge.batch import JoinedDataset
    from pd_edge.boxes import SHOWN_SCORE
    from pd_edge.commands.shared import detect_and_write, load_detector, tell_run
    from pd_edge.pictures import check_drawable
    from pd_edge.sectors import coverage_named
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import say

    if pictures and out is None:
        raise typer.BadParameter("pictures need a folder: add --out DIR", param_hint="--pictures")
    around = coverage_named(coverage)
    if around == "full" and crop:
        raise typer.BadParameter("the camera sees the front alone: leave --crop or --coverage out", param_hint="--crop")
    if pictures:
        check_drawable()
    profile = load_profile(sensor)
    dataset = JoinedDataset(inputs, split, profile)
    detector = load_detector(model, runtime, precision, threads, score, profile, around)
    if around == "full":
        say(f"note: {detector.sectors.describe()}", stderr=True)
        crop = False
    title = f"Detections in {', '.join(path.resolve().name for path in inputs)}"
    run = detect_and_write(detector, dataset, out, title, pictures=pictures, crop=crop, sensor=profile)
    tell_run(run, _detections(run.result, SHOWN_SCORE if score is None else 0.0), json_file)


def _detections(result: "BatchResult", least: float) -> "list[Table]":
    """A table of each frame's detections that score at least ``least``, where frames are few."""
    from pd_edge.report import detections_table

    few = result.frames if len(result.frames) <= FEW else ()
    return [detections_table(each.detections, result.classes, f"Detections in {each.id}", least) for each in few]
