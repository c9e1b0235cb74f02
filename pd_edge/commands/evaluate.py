"""``pd-edge eval``: KITTI's average precision."""

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
    Sensor,
    Split,
    Threads,
    WithinGrid,
)

if TYPE_CHECKING:
    from pd_edge.detector import Detector
    from pd_edge.evaluate import Evaluation
    from pd_edge.kitti import Dataset


def evaluate(
    dataset: Annotated[
        Path | None, typer.Argument(help="Own data, KITTI object folder or raw drive, with labels, to detect in.")
    ] = None,
    *,
    predictions: Annotated[
        Path | None, typer.Option(help="Instead of DATASET: folder of KITTI label files with scores.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Ground truth of the predictions: folder of KITTI labels.")
    ] = None,
    bag: Annotated[
        Path | None, typer.Option(help="Instead of DATASET: bag with recorded detections, as `pd-edge replay` writes.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Topic of the bag's detections; its only one if left out.")] = None,
    kitti: Annotated[
        Path | None, typer.Option(help="Raw drive with the bag's ground truth, where the bag has none.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Of BAG's scans, bird's-eye pictures to draw into OUT.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures.")] = None,
    split: Split = None,
    sensor: Sensor = "",
    coverage: Coverage = "front",
    within_grid: WithinGrid = False,
    model: Model = DEFAULT_MODEL,
    runtime: Runtime = None,
    precision: Precision = None,
    threads: Threads = None,
    min_overlap: Annotated[
        list[str], typer.Option(help="CLASS=IOU to exceed, again for each class; KITTI's (Car 0.7), else 0.5.")
    ] = [],  # noqa: B006 - typer's way of an option that comes several times
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Evaluations of frames drawn with replacement, for a 95 % interval.")
    ] = 0,
    json_file: JsonFile = None,
) -> None:
    """Compute average precision of a model, of files or of a recorded topic by KITTI's rules.

    Either detects in the frames of DATASET, cut to the camera's field of view as KITTI's labels are, or takes the
    detections that a bag has recorded (of all around; what the camera does not see does not count), or compares
    folders of label files; there, --split lists the frames (val, or a file of names), and without it every label file
    needs a prediction file (an empty one where nothing was found). Every frame counts: one that cannot be read is an
    error. For a model that looks less far than the labels reach, --within-grid leaves the rest out.

    Of own data every point is taken, and an object counts by the points in its box (easy 50, moderate 10, hard 1)
    where the detector's grid reaches it; there is no image, so no 2D figure.

    --pictures needs the clouds in the bag (`pd-edge replay --clouds`) or, with --kitti, in the drive.

    JSON: {frames, results: [{class_name, metric, difficulty, recall, ap, objects, ceiling, interval}]}, in percent;
    metric is 2d, bev, 3d, or aos, aos_bev, aos_3d for the orientation of the same matches.

    \b
    Examples:
      pd-edge eval kitti/object --split val --model pointpillars-4x --bootstrap 1000
      pd-edge eval my-data --split val --model models/mine --min-overlap Truck=0.7 --coverage full
      pd-edge eval --predictions found/labels --labels kitti/object/training/label_2 --split val
      pd-edge eval --bag detections.mcap
      pd-edge eval --bag live.mcap --kitti 2011_09_26/2011_09_26_drive_0005_sync --pictures 4 --out pictures
    """
    if [dataset, predictions, bag].count(None) != 2 or (predictions is None) != (labels is None):
        raise typer.BadParameter("give DATASET, or --bag, or both --predictions and --labels")
    if bag is None and (topic or kitti or pictures):
        raise typer.BadParameter("--topic, --kitti and --pictures belong to --bag; `pd-edge detect` draws a data set")
    if (pictures > 0) != (out is not None):
        raise typer.BadParameter("--pictures N and --out DIR go together")
    if dataset is None and (sensor or coverage != "front" or within_grid):
        raise typer.BadParameter(
            "belong to DATASET; what is recorded was detected with a sensor, a coverage and a model",
            param_hint="--sensor, --coverage and --within-grid",
        )
    if within_grid and coverage != "front":
        raise typer.BadParameter("is for the model's own grid, --coverage front", param_hint="--within-grid")
    from pd_edge.commands.shared import STANDARD_OUTPUT, judged, load_detector, present
    from pd_edge.evaluate import MIN_OVERLAP
    from pd_edge.evaluate import bootstrap as draw
    from pd_edge.kitti import open_dataset
    from pd_edge.report import ap_json, ap_table
    from pd_edge.sectors import coverage_named
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import busy, say

    drawn: list[Path] = []
    overlaps = _overlaps(min_overlap)
    if dataset is not None:
        profile = load_profile(sensor)
        frames = open_dataset(dataset, split, profile)
        detector = load_detector(model, runtime, precision, threads, None, profile, coverage_named(coverage))
        frames = judged(frames, detector.config.model.grid if within_grid else None, profile)
        evaluation, notes = _evaluate_model(detector, frames, overlaps)
    elif bag is not None:
        evaluation, notes, drawn = _evaluate_bag(bag, topic, kitti, pictures, out, {**MIN_OVERLAP, **overlaps})
    elif predictions is not None and labels is not None:
        evaluation, notes = _evaluate_files(predictions, labels, split, {**MIN_OVERLAP, **overlaps}), []
    with busy("bootstrap"):
        intervals = draw(evaluation, bootstrap) if bootstrap else None
    tables = [ap_table(evaluation, "r40", intervals), ap_table(evaluation, "r11", intervals)]
    tables[-1] = tables[-1]._replace(notes=[*tables[-1].notes, *notes])
    present(tables, ap_json(evaluation, intervals), json_file)
    for path in drawn:
        say(f"picture: {path}", stderr=json_file == STANDARD_OUTPUT)


def _overlaps(given: list[str]) -> dict[str, float]:
    """``--min-overlap`` by class."""
    overlaps = {}
    for each in given:
        name, _, overlap = each.rpartition("=")
        try:
            overlaps[name] = float(overlap)
        except ValueError:
            name = ""
        if not name:
            raise typer.BadParameter(f"{each!r}; expected CLASS=IOU, as Truck=0.7", param_hint="--min-overlap")
    return overlaps


def _evaluate_model(
    detector: "Detector", frames: "Dataset", overlaps: dict[str, float]
) -> "tuple[Evaluation, list[str]]":
    from pd_edge.batch import detect_batch
    from pd_edge.drive_report import ap_note, notes_on
    from pd_edge.terminal import counting

    with counting("frames") as advance:
        result = detect_batch(detector, frames, advance=advance)
    return result.complete_evaluation(overlaps), [ap_note(result), *notes_on(result)]


def _evaluate_bag(
    bag: Path, topic: str | None, kitti: Path | None, pictures: int, out: Path | None, overlaps: dict[str, float]
) -> "tuple[Evaluation, list[str], list[Path]]":
    from pd_edge.bag_pictures import draw_pairs
    from pd_edge.bag_truth import pairs_of
    from pd_edge.evaluate import evaluate as compare
    from pd_edge.kitti import RawDrive
    from pd_edge.terminal import busy, counting

    drive = RawDrive(kitti) if kitti else None
    with busy("reading the bag"):
        pairs = pairs_of(bag, topic, drive)
        evaluation = compare(pairs.truth, pairs.found, overlaps)
    drawn: list[Path] = []
    if out is not None:
        with counting("pictures") as advance:
            drawn = draw_pairs(out, bag, pairs, pictures, drive=drive, advance=advance)
    notes = ["Detections that the left colour camera does not see do not count; KITTI labels nothing else."]
    if pairs.without_detections:
        notes.append(f"{pairs.without_detections} scans with ground truth have no detections and are left out.")
    if pairs.without_truth:
        notes.append(f"{pairs.without_truth} scans with detections have no ground truth and are left out.")
    return evaluation, notes, drawn


def _evaluate_files(predictions: Path, labels: Path, split: str | None, overlaps: dict[str, float]) -> "Evaluation":
    from pd_edge.batch import label_frames
    from pd_edge.evaluate import evaluate as compare
    from pd_edge.kitti import read_labels
    from pd_edge.terminal import busy, counting

    names = label_frames(predictions, labels, split)
    truth, found = [], []
    with counting("label files") as advance:
        for done, name in enumerate(names, 1):
            truth.append(read_labels(labels / f"{name}.txt"))
            found.append(read_labels(predictions / f"{name}.txt"))
            advance(done, len(names))
    with busy("comparing"):
        return compare(truth, found, overlaps)
