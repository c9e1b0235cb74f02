"""Ground truth, calibration and detections out of a bag, for KITTI's average precision of a recorded topic."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pd_edge.bags import BagReader
from pd_edge.boxes import Detections
from pd_edge.errors import DataError
from pd_edge.kitti import Calibration, Label, RawDrive, detections_to_labels
from pd_edge.kitti_bag import LABELS, TF_STATIC, TRUTH
from pd_edge.kitti_calibration import Matrix
from pd_edge.kitti_labels import parse_label
from pd_edge.ros_messages import DETECTIONS as DETECTION_KIND
from pd_edge.ros_messages import Objects, matrix_of, objects_of, time_of

CAMERA_KIND = "sensor_msgs/msg/CameraInfo"
SAME_TIME_NS = 1_000_000
"""Time stamps of a scan and its detections may differ by the rounding of whoever wrote them."""


class Pairs(NamedTuple):
    """Ground truth and detections of the same scans.

    Attributes:
        times: Time stamp of each scan's detections [ns].
        truth: KITTI labels of each scan, DontCare included.
        found: Detections of each scan as KITTI labels.
        detections: The same as they were recorded, in the frame of ``frame_id``.
        classes: Of all detections; their labels are places in it.
        frame_id: Of the detections.
        calibration: Between that frame and the camera.
        without_detections: Scans with ground truth that no detections came for; they are not among the others.
        without_truth: Messages of detections that no ground truth stands beside.
    """

    times: list[int]
    truth: list[list[Label]]
    found: list[list[Label]]
    detections: list[Detections]
    classes: tuple[str, ...]
    frame_id: str
    calibration: Calibration
    without_detections: int
    without_truth: int


class Content(NamedTuple):
    """What of a bag matters here, by time stamp [ns].

    Attributes:
        detections: Boxes in the frame of ``frame_id``.
        labels: KITTI labels.
        frame_id: Of the detections.
        calibration: Of the camera that the labels are of; None where the bag has no camera or does not say where it is.
    """

    detections: dict[int, Objects]
    labels: dict[int, list[Label]]
    frame_id: str
    calibration: Calibration | None


def pairs_of(bag: Path, topic: str | None = None, drive: RawDrive | None = None) -> Pairs:
    """Brings a bag's detections and the ground truth of their scans together.

    Args:
        bag: The bag.
        topic: The topic of the detections; the only Detection3DArray besides the ground truth when left out.
        drive: Where ground truth and calibration come from, by time stamp; the bag itself when left out.

    Raises:
        DataError: The bag cannot be read, has no such topic, or there is no ground truth or no calibration.
    """
    content = read_content(bag, topic)
    labels, calibration = (content.labels, content.calibration) if drive is None else _of_drive(drive)
    if not labels:
        raise DataError(f"{bag}: no ground truth on {LABELS}; add --kitti DRIVE, the drive it was recorded from")
    if calibration is None:
        raise DataError(
            f"{bag}: no camera (CameraInfo) or no transform from it to {content.frame_id!r} on {TF_STATIC}; KITTI's AP "
            "is of what the camera sees: add --kitti DRIVE, the drive it was recorded from"
        )
    times = {time: nearest(time, content.detections) for time in labels}
    kept = [(time, found) for time, found in times.items() if found is not None]
    classes = tuple(sorted({name for each in content.detections.values() for name in each.names}))
    detections = [_as_detections(content.detections[found], classes) for _, found in kept]
    return Pairs(
        [found for _, found in kept],
        [labels[time] for time, _ in kept],
        [detections_to_labels(each, classes, calibration) for each in detections],
        detections,
        classes,
        content.frame_id,
        calibration,
        len(labels) - len(kept),
        len(content.detections) - len(kept),
    )


def read_content(bag: Path, topic: str | None = None) -> Content:
    """Reads a bag; see :func:`pairs_of`."""
    detections: dict[int, Objects] = {}
    labels: dict[int, list[Label]] = {}
    frame_id, camera = "", None
    moved: list[Any] = []
    with BagReader(bag) as source:
        topic = _detection_topic(source, topic)
        kinds = source.topics
        wanted = {topic, LABELS, TF_STATIC} | {name for name, kind in kinds.items() if kind == CAMERA_KIND}
        for record in source.records(wanted):
            message = source.message(record)
            if record.topic == topic:
                detections[time_of(message)] = objects_of(message)
                frame_id = message.header.frame_id
            elif record.topic == LABELS:
                where = f"{bag}, {LABELS} at {record.time_ns} ns"
                labels[record.time_ns] = [parse_label(line, where) for line in message.data.splitlines()]
            elif record.topic == TF_STATIC:
                moved += message.transforms
            else:
                camera = camera or message
    if not detections:
        raise DataError(f"{bag}: no detections on {topic}")
    return Content(detections, labels, frame_id, _calibration(camera, moved, frame_id))


def chain(moved: Mapping[tuple[str, str], Matrix], child: str, parent: str) -> Matrix | None:
    """The pose (4, 4) of a frame in another, along known transforms in either direction; None where none lead there.

    Args:
        moved: The pose of a frame in another, by (parent, child).
        child: The frame.
        parent: The other.
    """
    steps: dict[str, list[tuple[str, Matrix]]] = {}
    for (upper, lower), matrix in moved.items():
        steps.setdefault(lower, []).append((upper, matrix))
        steps.setdefault(upper, []).append((lower, np.linalg.inv(matrix).astype(np.float64)))
    reached, open_ends = {child: np.eye(4)}, [child]
    while open_ends:
        here = open_ends.pop()
        for there, matrix in steps.get(here, []):
            if there not in reached:
                reached[there] = matrix @ reached[here]
                open_ends.append(there)
    return reached.get(parent)


def _detection_topic(source: BagReader, topic: str | None) -> str:
    found = sorted(name for name, kind in source.topics.items() if kind == DETECTION_KIND and name != TRUTH)
    if topic is None and len(found) == 1:
        return found[0]
    if topic not in found:
        listed = f"Detection3DArray on {', '.join(found)}; name one" if found else "no Detection3DArray"
        raise DataError(f"{source.path}: {listed}")
    return topic


def _calibration(camera: Any, moved: list[Any], frame_id: str) -> Calibration | None:
    """The calibration that CameraInfo and transforms tell, seen from the frame of the detections."""
    if camera is None:
        return None
    known = {(each.header.frame_id, each.child_frame_id): matrix_of(each.transform) for each in moved}
    lidar_to_camera = chain(known, frame_id, camera.header.frame_id)
    if lidar_to_camera is None:
        return None
    return Calibration(
        P2=np.array(camera.p).reshape(3, 4),
        R0_rect=np.array(camera.r).reshape(3, 3),
        Tr_velo_to_cam=lidar_to_camera[:3],
        image_size=(int(camera.width), int(camera.height)),
    )


def _of_drive(drive: RawDrive) -> tuple[dict[int, list[Label]], Calibration | None]:
    labels = {int(time): frame.labels for time, frame in _timed(drive) if frame.labels is not None}
    return labels, drive.calibration


def _timed(drive: RawDrive) -> Iterator[tuple[int, Any]]:
    return zip(drive.times_ns, drive, strict=True)


def nearest(time: int, times: Collection[int]) -> int | None:
    """The one of some time stamps that means the same time [ns]; None where none does."""
    if time in times:
        return time
    found = min(times, key=lambda each: abs(each - time))
    return found if abs(found - time) <= SAME_TIME_NS else None


def _as_detections(objects: Objects, classes: Sequence[str]) -> Detections:
    """The boxes, best first."""
    order = np.argsort(-np.asarray(objects.scores), kind="stable")
    return Detections(
        np.asarray(objects.boxes, np.float32)[order],
        np.array([classes.index(objects.names[place]) for place in order], np.int64),
        np.asarray(objects.scores, np.float32)[order],
    )
