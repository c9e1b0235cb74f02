"""The files a detection run leaves: KITTI labels, JSON, bird's-eye pictures and a report of AP and latency."""

import os
import platform
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

import pd_edge
from pd_edge.batch import BatchResult, FrameResult, points_to_use
from pd_edge.boxes import SHOWN_SCORE, Detections
from pd_edge.config import DetectorConfig, GridConfig, dump_config
from pd_edge.errors import DataError
from pd_edge.evaluate import Evaluation
from pd_edge.files import write_bytes
from pd_edge.kitti import Dataset, Frame, boxes_to_lidar, write_labels
from pd_edge.own_labels import to_be_found
from pd_edge.own_truth import AROUND_NOTE
from pd_edge.pictures import Extent, Overlay, draw_bird_eye, extent_of
from pd_edge.report import IN_VIEW_NOTE, ap_table, batch_json, latency_table, write_json
from pd_edge.sensors import KITTI, Mount, mount_of
from pd_edge.tables import Table, markdown_table

DETECTOR, SENSOR = "detector.yaml", "sensor.yaml"


class Outputs(NamedTuple):
    """Where a run's files are; a folder or list is empty-handed (None, ()) where there was nothing to write."""

    folder: Path
    report: Path
    labels: Path | None
    pictures: tuple[Path, ...]


def write_drive_report(
    out: Path,
    dataset: Dataset,
    result: BatchResult,
    evaluation: Evaluation | None,
    config: DetectorConfig,
    *,
    title: str,
    pictures: int = 0,
    crop: bool | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Writes everything about a detection run into a folder.

    ``report.md`` and ``report.json`` (:func:`pd_edge.report.batch_json` without its frames), ``detections.json``
    (classes and frames), ``labels/`` (a KITTI label file for each frame of KITTI with calibration), ``pictures/``,
    ``detector.yaml``, the detector's configuration, and ``sensor.yaml``, the sensor profile where there was one.

    Args:
        out: The folder; made if need be.
        dataset: The frames that were detected in.
        result: What was found.
        evaluation: Its average precision, where there are labels.
        config: The detector's configuration.
        title: The report's first line.
        pictures: How many frames to draw: the run is cut into as many parts, and of each the frame with the most
            confident detections is drawn.
        crop: As it was given to :func:`pd_edge.batch.detect_batch`.
        advance: Called with the pictures drawn and the pictures wanted, after each.

    Raises:
        DataError: A file cannot be written.
        MissingExtraError: Pictures are wanted, but matplotlib is not installed.
    """
    labelled = [frame for frame in result.frames if frame.labels is not None and not frame.around]
    _clear_earlier_run(out)
    dump_config(config, out / DETECTOR)  # first, so that what a killed run leaves is known as a run's
    if result.sensor != KITTI:
        dump_config(result.sensor, out / SENSOR)
    for frame in labelled:
        write_labels(out / "labels" / f"{frame.id}.txt", frame.labels or [])
    drawn = draw_pictures(out / "pictures", dataset, result, config, pictures, crop=crop, advance=advance)
    data = batch_json(result, evaluation)
    write_json(out / "detections.json", {"classes": data["classes"], "frames": data.pop("frames")})
    write_json(out / "report.json", data)
    text = report_markdown(title, result, evaluation, [path.relative_to(out) for path in drawn])
    write_bytes(out / "report.md", text.encode())
    return Outputs(out, out / "report.md", out / "labels" if labelled else None, drawn)


def _clear_earlier_run(out: Path) -> None:
    """Removes what an earlier run left and this one may not write: labels, pictures, a sensor profile.

    Raises:
        DataError: There are such files, but no detector's configuration beside them: somebody else's.
    """
    left = [*(out / "labels").glob("*.txt"), *(out / "pictures").glob("*.png"), *out.glob(SENSOR)]
    if left and not (out / DETECTOR).is_file():
        raise DataError(f"{left[0]}: is of no run of this detector, which leave {DETECTOR}; give another folder")
    for path in left:
        path.unlink()


def report_markdown(
    title: str, result: BatchResult, evaluation: Evaluation | None, pictures: Sequence[Path] = ()
) -> str:
    """The report: what was run, AP, latency, pictures (their paths as they are to stand in it), failures."""
    parts = [f"# {title}", "", *(f"- {fact}" for fact in _facts(result)), ""]
    parts += [markdown_table(each) for each in result_tables(result, evaluation)]
    for picture in pictures:
        parts += [f"![Frame {picture.stem} from above]({picture.as_posix()})", ""]
    if result.failures:
        parts += ["### Frames that failed", "", *(f"- {each.frame}: {each.error}" for each in result.failures), ""]
    return "\n".join(parts)


def result_tables(result: BatchResult, evaluation: Evaluation | None) -> list[Table]:
    """Average precision, where there are labels, and latency, where there are frames."""
    tables = []
    if evaluation is not None:
        table = ap_table(evaluation)
        tables.append(table._replace(notes=(*table.notes, ap_note(result))))
    if result.frames:
        title = f"Latency of {result.model}, {result.runtime} {result.precision}, {machine()}"
        tables.append(latency_table(result.timings, title))
    return tables


def ap_note(result: BatchResult) -> str:
    """Which points and objects a run's average precision is of."""
    return AROUND_NOTE if any(frame.around for frame in result.frames) else IN_VIEW_NOTE


def notes_on(result: BatchResult) -> list[str]:
    """What a user has to know beside the figures: frames changed on reading, labels that gave no AP."""
    notes = []
    changed = [frame for frame in result.frames if frame.notes]
    if changed:
        notes.append(f"{len(changed)} frames changed on reading; {changed[0].id}: {', '.join(changed[0].notes)}")
    unused = [frame for frame in result.frames if frame.ground_truth is not None and not frame.judged]
    if unused:
        reason = "no calibration or image size" if unused[0].labels is None else "not cut to the camera's view"
        notes.append(f"{len(unused)} labelled frames without AP; {unused[0].id}: {reason}")
    return notes


def _facts(result: BatchResult) -> list[str]:
    found = sum(len(frame.detections.boxes) for frame in result.frames)
    points = np.mean([frame.points for frame in result.frames]) if result.frames else 0
    return [
        f"model {result.model}, {result.runtime} {result.precision}, pd-edge {pd_edge.__version__}",
        *(["coverage full, all around the sensor"] if result.coverage == "full" else []),
        *([f"sensor {result.sensor.name}, as {SENSOR} says"] if result.sensor != KITTI else []),
        f"{len(result.frames)} frames, {points:,.0f} points each on average, {found} detections",
        f"{len(result.failures)} frames failed",
        *notes_on(result),
    ]


def machine() -> str:
    """The processor and the number of cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()}, {cores} cores"


def draw_pictures(
    folder: Path,
    dataset: Dataset,
    result: BatchResult,
    config: DetectorConfig,
    count: int,
    *,
    crop: bool | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Draws frames of a run; see :func:`write_drive_report`."""
    chosen = [result.frames[place] for place in choose_frames([each.detections for each in result.frames], count)]
    places = {name: index for index, name in enumerate(dataset.ids)}
    drawn = []
    for frame in chosen:
        read = dataset.frame(places[frame.id])
        drawn.append(draw_frame(folder / f"{frame.id}.png", read, frame, result, config, crop=crop))
        if advance is not None:
            advance(len(drawn), len(chosen))
    return tuple(drawn)


def choose_frames(detections: Sequence[Detections], count: int) -> list[int]:
    """Cuts the frames into ``count`` runs of equal length and takes of each the one whose drawn scores sum highest.

    Args:
        detections: Of each frame.
        count: How many are wanted.

    Returns:
        Their places, in order; no more than there are frames.
    """
    sums = [float(each.at_least(SHOWN_SCORE).scores.sum()) for each in detections]
    edges = np.linspace(0, len(sums), min(count, len(sums)) + 1).round().astype(int)
    return [max(range(low, high), key=sums.__getitem__) for low, high in pairwise(edges)]


def draw_frame(
    path: Path,
    frame: Frame,
    found: FrameResult,
    result: BatchResult,
    config: DetectorConfig,
    *,
    crop: bool | None = None,
) -> Path:
    """Draws one frame of a run."""
    points, _ = points_to_use(frame, crop=crop)
    title, around, grid = f"Frame {frame.id}   {result.model}", result.coverage == "full", config.model.grid
    seen, mount = frame._replace(points=points), mount_of(result.sensor)
    return draw_scan(path, seen, found.detections, result.classes, grid, title=title, around=around, mount=mount)


def draw_scan(
    path: Path,
    frame: Frame,
    detections: Detections,
    classes: Sequence[str],
    grid: GridConfig,
    *,
    title: str,
    around: bool = False,
    mount: Mount | None = None,
) -> Path:
    """Draws a scan with what was found in it and, where there are labels, what is there.

    Args:
        path: The picture to write.
        frame: The scan; all of its points are drawn.
        detections: Boxes in its frame.
        classes: What their labels stand for.
        grid: The picture reaches as far.
        title: Its first line.
        around: Whether it reaches as far behind and beside the sensor as ahead.
        mount: Of the sensor, so that the picture shows what lies in the turned grid; as KITTI's when left out.

    Raises:
        MissingExtraError, DataError: As :func:`pd_edge.pictures.draw_bird_eye`.
    """
    found, truth = found_overlay(detections, classes), truth_overlay(frame, classes)
    to_cloud = None if mount is None or mount.needless else mount.to_cloud
    extent: Extent = extent_of(grid, [found] if truth is None else [found, truth], around=around, to_cloud=to_cloud)
    counts = f"{len(frame.points):,} points   {len(found.boxes)} detections scoring {SHOWN_SCORE:g} or more"
    if truth is not None:
        counts += f"   {len(truth.boxes)} labelled objects"
    return draw_bird_eye(path, frame.points, found, truth, extent=extent, title=title, subtitle=counts)


def found_overlay(detections: Detections, classes: Sequence[str]) -> Overlay:
    """The detections worth drawing, with class and score."""
    boxes, labels, scores = detections.at_least(SHOWN_SCORE)
    return Overlay(boxes, [f"{classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)])


def truth_overlay(frame: Frame, classes: Sequence[str]) -> Overlay | None:
    """The labelled objects; only those of classes that the detector does not know are named."""
    if frame.labels is None or frame.calibration is None:
        return None
    objects = to_be_found(frame.labels, around=frame.around)
    names = ["" if label.name in classes else label.name for label in objects]
    return Overlay(boxes_to_lidar(objects, frame.calibration), names)
