"""A detector over a bag: detections and markers out, ground truth, transforms and camera handed through."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pd_edge.bags import BagReader, BagWriter, Compression, Record
from pd_edge.boxes import SHOWN_SCORE, Detections
from pd_edge.detector import Detector, Timing
from pd_edge.errors import DataError, EngineError
from pd_edge.pointcloud2 import points_of
from pd_edge.ros_messages import (
    NANOSECONDS,
    Objects,
    bag_types,
    detection_array,
    header,
    marker_array,
    placed_detections,
    placed_markers,
    time_of,
)

CLOUD_KIND = "sensor_msgs/msg/PointCloud2"
DETECTIONS, MARKERS = "/detections", "/detections/markers"
MARKER_SECONDS = 0.5
"""How long viewers show the boxes of a scan where no other follows."""


class Replayed(NamedTuple):
    """What a replay gave.

    Attributes:
        topic: The topic of the clouds.
        timings: Time of the detector's stages for each scan [ms].
        boxes: Detections in all.
        points_removed: Points left out of all scans as no measurements.
        without_intensity: Whether the clouds have no intensity, so that zeros stood for it.
        failures: (time stamp [ns], why) of each cloud that could not be used.
        cut: Why the bag could not be read to its end; None where it could.
        seconds: Wall time of the whole.
    """

    topic: str
    timings: list[Timing]
    boxes: int
    points_removed: int
    without_intensity: bool
    failures: list[tuple[int, str]]
    cut: str | None
    seconds: float


def replay(
    bag: Path,
    detector: Detector,
    out: Path,
    *,
    topic: str | None = None,
    rate: float | None = None,
    clouds: bool = False,
    shown: float = SHOWN_SCORE,
    compression: Compression = "none",
    advance: Callable[[int, int], None] | None = None,
) -> Replayed:
    """Detects in every cloud of a bag and writes another bag.

    ``/detections`` (Detection3DArray) and ``/detections/markers`` (MarkerArray) carry the header of their cloud and
    stand at its time; they replace what the bag has there. All other messages are copied as they are. A cloud that
    cannot be used is noted and passed over; where the bag breaks off, what was read of it is written.

    Args:
        bag: The bag.
        detector: The detector.
        out: The bag to write; see :class:`pd_edge.bags.BagWriter`.
        topic: The topic of the clouds; the bag's only one when left out.
        rate: Scans come at this multiple of the time in the bag, as far as the machine keeps up; as fast as it goes
            when left out.
        clouds: Copy the clouds too.
        shown: Score from which a detection has markers.
        compression: Of the bag written.
        advance: Called with the clouds done and the clouds there are, after each; where the bag's index is missing,
            with those done twice.

    Raises:
        DataError: The bag cannot be read at all, it has no such topic, or nothing to detect in.
    """
    start = time.perf_counter()
    detector.warm_up()
    with BagReader(bag) as source, BagWriter(out, bag_types(), compression) as written:
        run = _Run(source, detector, written, cloud_topic(source, topic), clouds=clouds, shown=shown)
        try:
            for record in _paced(source.records(), rate):
                run.take(record)
                if advance is not None and record.topic == run.topic:
                    done = len(run.timings) + len(run.failures)
                    advance(done, max(done, source.count(record.topic)))
        except DataError as error:
            if not run.timings:
                raise
            run.cut = str(error)
        if not run.timings:
            why = f"; the first of {len(run.failures)}: {run.failures[0][1]}" if run.failures else ""
            raise DataError(f"{bag}: no cloud {f'of {run.topic} ' if run.topic else ''}could be used{why}")
    return run.result(time.perf_counter() - start)


class _Run:
    """What is going on in a replay."""

    def __init__(
        self,
        source: BagReader,
        detector: Detector,
        out: BagWriter,
        topic: str | None,
        *,
        clouds: bool,
        shown: float,
    ) -> None:
        self.topic = topic
        self.cut: str | None = None
        self.timings: list[Timing] = []
        self.failures: list[tuple[int, str]] = []
        self._source, self._detector, self._out, self._clouds, self._shown = source, detector, out, clouds, shown
        self._boxes = self._removed = 0
        self._without_intensity = False

    def take(self, record: Record) -> None:
        """Detects in a cloud; copies anything else."""
        earlier = record.topic in {DETECTIONS, MARKERS}  # of another replay: this one's take their place
        if not earlier and (record.kind != CLOUD_KIND or self._clouds):
            self._out.copy(record, self._source.types)
        if self.topic is None and record.kind == CLOUD_KIND:
            self.topic = record.topic
        if record.topic != self.topic:
            return
        try:
            message = self._source.message(record)
            detections = self._detect(message)
        except (DataError, EngineError) as error:
            self.failures.append((record.time_ns, str(error)))
        else:
            self._emit(message, detections, record.time_ns)

    def _detect(self, message: Any) -> Detections:
        sensor = self._detector.sensor
        cloud = points_of(message, sensor.intensity_field, sensor.coordinate_fields)
        detections, timing = self._detector.detect_mounted(cloud.points, f"cloud at {time_of(message)} ns")
        self.timings.append(timing)
        self._removed += cloud.removed
        self._without_intensity |= cloud.intensity is None
        return detections

    def _emit(self, message: Any, detections: Detections, time_ns: int) -> None:
        kinds, classes = self._out.types.types.__getitem__, self._detector.classes
        head = header(kinds, time_of(message), message.header.frame_id)
        objects = Objects(detections.boxes, [classes[label] for label in detections.labels], detections.scores)
        pose = self._detector.mount.pose_of_boxes
        markers = placed_markers(marker_array(kinds, head, objects, classes, MARKER_SECONDS, shown=self._shown), pose)
        self._out.write(DETECTIONS, placed_detections(detection_array(kinds, head, objects), pose), time_ns)
        self._out.write(MARKERS, markers, time_ns)
        self._boxes += len(objects.names)

    def result(self, seconds: float) -> Replayed:
        """All of it."""
        return Replayed(
            self.topic or "",
            self.timings,
            self._boxes,
            self._removed,
            self._without_intensity,
            self.failures,
            self.cut,
            seconds,
        )


def cloud_topic(source: BagReader, topic: str | None) -> str | None:
    """The topic of the clouds; None where it shows only as the bag is read, since its index is missing.

    Raises:
        DataError: There is none, or more than one to choose from.
    """
    found = sorted(name for name, kind in source.topics.items() if kind == CLOUD_KIND)
    if not source.topics or found == [topic] or (topic is None and len(found) == 1):
        return topic or next(iter(found), None)
    if topic is None and found:
        raise DataError(f"{source.path}: PointCloud2 on {', '.join(found)}; name one topic")
    if topic not in found:
        wanted = f"on {topic}" if topic else "in it"
        raise DataError(f"{source.path}: no PointCloud2 {wanted}; it has {_listed(source.topics)}")
    return topic


def _listed(topics: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in sorted(topics.items()))


def _paced(records: Iterator[Record], rate: float | None) -> Iterator[Record]:
    """Records when their time has come, or at once."""
    begun = first = None
    for record in records:
        if rate is not None:
            begun, first = begun or time.perf_counter(), first or record.time_ns
            ahead = (record.time_ns - first) / NANOSECONDS / rate - (time.perf_counter() - begun)
            if ahead > 0:
                time.sleep(ahead)
        yield record
