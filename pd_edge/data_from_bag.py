"""A bag's clouds, and boxes where it has some, as own data."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pd_edge.bag_truth import chain, nearest
from pd_edge.bags import BagReader, Record
from pd_edge.errors import DataError
from pd_edge.kitti_bag import TF_STATIC
from pd_edge.own_labels import Objects
from pd_edge.own_labels import objects_of as own_objects
from pd_edge.own_writer import OwnWriter
from pd_edge.pointcloud2 import points_of
from pd_edge.replay import CLOUD_KIND, cloud_topic
from pd_edge.ros_messages import DETECTIONS, matrix_of, objects_of, placed_detections, time_of
from pd_edge.sensors import KITTI, SensorProfile


class Wanted(NamedTuple):
    """What of a bag.

    Attributes:
        topic: PointCloud2; the bag's only one where None.
        boxes: Detection3DArray; the bag's only one, if any, where None.
        every: Of so many clouds one is taken.
        score: Boxes that score less are left out.
    """

    topic: str | None = None
    boxes: str | None = None
    every: int = 1
    score: float = 0.0


class Written(NamedTuple):
    """What was written: frames, those with labels, objects in them, and what is to be known about it."""

    frames: int
    labelled: int
    objects: int
    notes: tuple[str, ...]


def from_bag(bag: Path, out: Path, wanted: Wanted | None = None, profile: SensorProfile = KITTI) -> Written:
    """Writes clouds of a bag, with their time stamps, and the boxes of the same time as own data.

    Args:
        bag: The bag.
        out: The folder to write.
        wanted: What of it.
        profile: How the sensor writes and stands; noted beside the frames and applied when they are read.

    Raises:
        DataError: The bag cannot be read, has no such topic, or its boxes are in a frame that no transform leads to.
        MissingExtraError: ``rosbags`` is not installed.
    """
    wanted = wanted or Wanted()
    writer, removed, bright = OwnWriter(out, profile), 0, True
    notes: list[str] = []
    boxes = _Boxes(bag, wanted)
    with BagReader(bag) as source:
        for number, message in enumerate(_clouds(source, wanted.topic, notes)):
            if number % wanted.every:
                continue
            cloud = points_of(message, profile.intensity_field, profile.coordinate_fields)
            removed, bright = removed + cloud.removed, bright and cloud.intensity is not None
            if len(cloud.points):
                time = time_of(message)
                writer.add(f"{number:06d}", cloud.points, boxes.at(time, message.header.frame_id, profile), time)
    if not writer.frames:
        raise DataError("; ".join([f"{bag}: no cloud with points; look at it with `pd-edge doctor {bag}`", *notes]))
    writer.finish()
    notes += [f"{removed} points that are NaN, infinite or at the origin were left out"] if removed else []
    notes += [] if bright else ["the clouds have no intensity; zeros stand for it (sensor profile: intensity_field)"]
    return Written(writer.frames, writer.labelled, writer.objects, (*notes, *boxes.notes(writer.labelled)))


class _Boxes:
    """The boxes of a bag by time stamp, which may come before or after their clouds."""

    def __init__(self, bag: Path, wanted: Wanted) -> None:
        self._score = wanted.score
        self._messages: dict[int, Any] = {}
        self._poses: dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float64]]] = {}
        self.topic: str | None = None
        with BagReader(bag) as source:
            if not source.topics:  # without an index they show as the bag is read
                _ = sum(1 for _ in _readable(source.records(), []))
            self.topic = _box_topic(bag, source.topics, wanted.boxes)
            for record in _readable(source.records({self.topic, TF_STATIC}), []) if self.topic else ():
                message = source.message(record)
                if record.topic == self.topic:
                    self._messages[time_of(message)] = message
                else:
                    moved = {(each.header.frame_id, each.child_frame_id): each for each in message.transforms}
                    self._poses.update({names: matrix_of(each.transform) for names, each in moved.items()})

    def at(self, time: int, frame_id: str, profile: SensorProfile) -> Objects | None:
        """The boxes of a cloud in its frame; None where there are none of its time.

        Raises:
            DataError: No transform leads there, or the profile changes the cloud's unit or axes.
        """
        found = nearest(time, self._messages) if self._messages else None
        if found is None:
            return None
        if profile.unit != 1 or profile.axes != KITTI.axes:
            raise DataError(
                f"boxes on {self.topic}, but a profile with unit {profile.unit:g} and axes {list(profile.axes)}: boxes "
                "are not in the frame that the profile makes; leave unit and axes out, or take a bag without boxes"
            )
        message = self._messages.pop(found)
        read = objects_of(self._placed(message, frame_id))
        kept = np.asarray(read.scores) >= self._score
        return own_objects(
            np.asarray(read.boxes)[kept], [name for name, each in zip(read.names, kept, strict=True) if each]
        )

    def notes(self, labelled: int) -> list[str]:
        """Where labels come from."""
        return [f"labels are the boxes on {self.topic}; check them before training"] if labelled else []

    def _placed(self, message: Any, frame_id: str) -> Any:
        given = message.header.frame_id
        if given == frame_id:
            return message
        pose = chain(self._poses, given, frame_id)
        if pose is None:
            raise DataError(
                f"boxes on {self.topic} are in {given!r}, clouds in {frame_id!r}, and {TF_STATIC} does not lead from "
                "one to the other; record the boxes in the clouds' frame"
            )
        return placed_detections(message, pose)


def _readable(records: Iterator[Record], notes: list[str]) -> Iterator[Record]:
    """Records up to where a damaged bag breaks off, which is noted."""
    try:
        yield from records
    except DataError as error:
        notes.append(str(error))


def _clouds(source: BagReader, topic: str | None, notes: list[str]) -> Iterator[Any]:
    chosen = cloud_topic(source, topic)
    for record in _readable(source.records(None if chosen is None else [chosen]), notes):
        if record.kind == CLOUD_KIND and topic in (None, record.topic):
            yield source.message(record)


def _box_topic(bag: Path, kinds: Mapping[str, str], topic: str | None) -> str | None:
    found = sorted(name for name, kind in kinds.items() if kind == DETECTIONS)
    if topic is None and len(found) < 2:
        return found[0] if found else None
    if topic not in found:
        listed = f"Detection3DArray on {', '.join(found)}; name one with --boxes" if found else "no Detection3DArray"
        raise DataError(f"{bag}: {listed}")
    return topic
