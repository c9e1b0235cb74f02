"""Scans to look at out of a bag, with the boxes and the ground truth that were recorded beside them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pd_edge.bag_truth import chain, nearest
from pd_edge.bags import BagReader, Record
from pd_edge.errors import DataError, EngineError
from pd_edge.kitti_bag import TF_STATIC, TRUTH
from pd_edge.pointcloud2 import points_of
from pd_edge.replay import CLOUD_KIND, cloud_topic
from pd_edge.replay import DETECTIONS as USUAL_TOPIC
from pd_edge.ros_messages import DETECTIONS as BOX_KIND
from pd_edge.ros_messages import Objects, matrix_of, time_of
from pd_edge.sensors import SensorProfile, corrected, mount_of
from pd_edge.view.find import Find
from pd_edge.view.moments import Matrix, Moment, Posed, leveled, no_objects, posed_of
from pd_edge.view.sources import Choice

Transforms = Mapping[tuple[str, str], Matrix]
Stamped = dict[int, tuple[str, Posed]]
"""Frame and boxes by time stamp [ns]."""


class Recorded(NamedTuple):
    """What a bag holds beside its clouds.

    Attributes:
        topic: The topic of the detections; None where there is none.
        found: Detections by time stamp.
        truth: Ground truth by time stamp.
        transforms: Poses of frames in others that stay as they are, by (parent, child).
    """

    topic: str | None
    found: Stamped
    truth: Stamped
    transforms: Transforms


def read_recorded(bag: Path, boxes_topic: str | None = None) -> Recorded:
    """Reads detections, ground truth and transforms.

    Args:
        bag: The bag.
        boxes_topic: Topic of the detections; ``/detections``, or the only Detection3DArray besides the ground truth,
            when left out.

    Raises:
        DataError: The bag cannot be read at all, or there is no such topic, or several to choose from. Of a bag that
            breaks off, what could be read counts.
    """
    found: Stamped = {}
    truth: Stamped = {}
    moved: dict[tuple[str, str], Matrix] = {}
    with BagReader(bag) as source:
        if not source.topics:
            _meet_topics(source)
        topic = _chosen_topic(source, boxes_topic)
        for record in _up_to_the_cut(source, {TRUTH, TF_STATIC, *filter(None, [topic])}):
            message = source.message(record)
            if record.topic == TF_STATIC:
                moved.update(
                    {(each.header.frame_id, each.child_frame_id): _matrix(each) for each in message.transforms}
                )
            else:
                kept = truth if record.topic == TRUTH else found
                kept[time_of(message)] = message.header.frame_id, posed_of(message)
    return Recorded(topic, found, truth, moved)


def bag_moments(
    bag: Path,
    recorded: Recorded,
    find: Find | None,
    profile: SensorProfile,
    choice: Choice,
    *,
    topic: str | None = None,
    on_error: Callable[[str], None],
) -> Iterator[Moment]:
    """The scans of a bag.

    Args:
        bag: The bag.
        recorded: What it holds beside the clouds.
        find: Where boxes come from; the recorded ones when left out.
        profile: The sensor.
        choice: Which scans.
        topic: The topic of the clouds; the bag's only one when left out.
        on_error: Told why a cloud is passed over, or where the bag breaks off.

    Raises:
        DataError: The bag cannot be read at all, or has no such topic.
    """
    with BagReader(bag) as source:
        chosen = cloud_topic(source, topic)
        try:
            records = source.records(None if chosen is None else [chosen])
            for record in choice.of(each for each in records if _is_cloud(each, topic)):
                try:
                    yield _moment(source.message(record), recorded, find, profile)
                except (DataError, EngineError) as error:  # noqa: PERF203 - each cloud fails by itself
                    on_error(f"the cloud at {record.time_ns} ns: {error}")
        except DataError as error:
            on_error(str(error))


def cloud_count(bag: Path, topic: str | None = None) -> int:
    """How many clouds a bag has on a topic; 0 where its index, which tells, is missing.

    Raises:
        DataError: As :func:`bag_moments`.
    """
    with BagReader(bag) as source:
        chosen = cloud_topic(source, topic)
        return 0 if chosen is None else source.count(chosen)


def _moment(message: Any, recorded: Recorded, find: Find | None, profile: SensorProfile) -> Moment:
    time, frame_id, mount = time_of(message), message.header.frame_id, mount_of(profile)
    points = points_of(message, profile.intensity_field, profile.coordinate_fields).points
    notes: tuple[str, ...] = ()
    if len(points):
        cloud = corrected(points, f"cloud at {time} ns", profile)
        points, notes = cloud.points, cloud.notes
    to_level: Matrix = np.linalg.inv(mount.to_written).astype(np.float64)
    truth = _recorded_at(recorded.truth, time, frame_id, recorded.transforms, to_level)
    if find is not None:
        found: Objects | None = find(points, str(time))
    else:
        found = _recorded_at(recorded.found, time, frame_id, recorded.transforms, to_level)
        notes += () if found is not None else ("nothing was recorded for this scan",)
    return Moment(str(time), time, mount.points(points), no_objects() if found is None else found, truth, notes)


def _recorded_at(
    stamped: Stamped, time: int, frame_id: str, transforms: Transforms, to_level: Matrix
) -> Objects | None:
    """The boxes recorded for a scan, in the level frame; None where there are none.

    Raises:
        DataError: They are in a frame that no transform leads from.
    """
    at = nearest(time, stamped) if stamped else None
    if at is None:
        return None
    theirs, boxes = stamped[at]
    pose = np.eye(4) if theirs == frame_id else chain(transforms, theirs, frame_id)
    if pose is None:
        raise DataError(f"boxes are in frame {theirs!r}, the cloud in {frame_id!r}, and no {TF_STATIC} leads between")
    return leveled(boxes, to_level @ pose)


def _chosen_topic(source: BagReader, wanted: str | None) -> str | None:
    known = sorted(name for name, kind in source.topics.items() if kind == BOX_KIND and name != TRUTH)
    if wanted is not None and wanted not in known:
        raise DataError(f"{source.path}: no Detection3DArray on {wanted}; there is {', '.join(known) or 'none'}")
    if wanted is None and len(known) > 1 and USUAL_TOPIC not in known:
        raise DataError(f"{source.path}: Detection3DArray on {', '.join(known)}; name one with --boxes-topic")
    return wanted or (USUAL_TOPIC if USUAL_TOPIC in known else next(iter(known), None))


def _meet_topics(source: BagReader) -> None:
    """Reads through a bag without an index, whose topics show only as they come."""
    for _ in _up_to_the_cut(source, None):
        pass


def _up_to_the_cut(source: BagReader, topics: set[str] | None) -> Iterator[Record]:
    records = source.records(topics)
    while True:
        try:
            record = next(records, None)
        except DataError:  # told when the clouds are read
            return
        if record is None:
            return
        yield record


def _is_cloud(record: Record, topic: str | None) -> bool:
    return record.kind == CLOUD_KIND and topic in (None, record.topic)


def _matrix(transform: Any) -> Matrix:
    return matrix_of(transform.transform)
