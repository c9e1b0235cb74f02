"""Samples of clouds as a sensor writes them, out of files, folders and bags."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pd_edge.cloud_formats import Wanted
from pd_edge.clouds import SUFFIXES, Cloud, read_cloud
from pd_edge.doctor_evidence import Sample
from pd_edge.errors import DataError
from pd_edge.pointcloud2 import Converted, points_of
from pd_edge.sensors import SensorProfile

KITTI_FOLDERS = (
    *("training/velodyne_reduced", "training/velodyne", "testing/velodyne", "velodyne_reduced", "velodyne"),
    "velodyne_points/data",
)
"""Where KITTI's layouts keep clouds."""
FOLDERS = (*KITTI_FOLDERS, "points")
"""Where those and own data do."""


def sample_of(source: Path, profile: SensorProfile, most: int, topic: str | None = None) -> Sample:
    """A sample of what is at a path.

    Args:
        source: A cloud, a folder of clouds in any layout, or a bag.
        profile: The sensor profile, for the names of its fields.
        most: Clouds to take, spread over all.
        topic: Of the clouds in a bag; the bag's only one when left out.

    Raises:
        DataError: There is nothing to be read, or no cloud has a point.
        MissingExtraError: It is a bag, and ``rosbags`` is not installed.
    """
    files = cloud_files(source)
    if not files:
        return _bag_sample(source, profile, most, topic)
    if topic is not None:
        raise DataError(f"{source}: clouds in files have no topic; leave --topic out")
    wanted = Wanted(profile.intensity_field, profile.coordinate_fields)
    return _sample([_measurements(read_cloud(file, wanted)) for file in _spread(files, most)], source)


def cloud_files(source: Path) -> list[Path]:
    """The clouds at a path; none where it is a bag.

    Raises:
        DataError: There is nothing at the path.
    """
    if not source.exists():
        raise DataError(f"{source}: does not exist; give a cloud, a folder of clouds, or a bag")
    if source.is_file():
        return [source] if source.suffix.lower() in SUFFIXES else []
    folders = [source / name for name in (*FOLDERS, ".") if (source / name).is_dir()]
    found = ([file for file in sorted(each.iterdir()) if file.suffix.lower() in SUFFIXES] for each in folders)
    return next(filter(None, found), [])


def message_sample(messages: Sequence[Any], profile: SensorProfile, source: str, reliability: str = "") -> Sample:
    """A sample out of PointCloud2 messages, of rclpy or rosbags.

    Raises:
        DataError: A message is malformed, or none has a point.
    """
    clouds = [points_of(each, profile.intensity_field, profile.coordinate_fields) for each in messages]
    sample = _sample(clouds, source)
    first = messages[0]
    return sample._replace(
        intensity=clouds[0].intensity is not None,
        fields=tuple(field.name for field in first.fields),
        frame_id=first.header.frame_id,
        message_bytes=len(first.data),
        reliability=reliability,
    )


def _bag_sample(source: Path, profile: SensorProfile, most: int, topic: str | None) -> Sample:
    from pd_edge.bags import BagReader  # noqa: PLC0415 - needs the extra bags
    from pd_edge.replay import CLOUD_KIND, cloud_topic  # noqa: PLC0415

    with BagReader(source) as bag:
        chosen = cloud_topic(bag, topic)
        records = bag.records(None if chosen is None else [chosen])
        clouds = (record for record in records if record.kind == CLOUD_KIND and topic in (None, record.topic))
        step = max(1, bag.count(chosen) // most) if chosen is not None else 1
        messages = [bag.message(record) for record in _every(clouds, step, most)]
        if not messages:
            raise DataError(f"{source}: no cloud on {chosen or topic or 'any topic'}; name another with --topic")
        return message_sample(messages, profile, str(source), bag.reliability(chosen) if chosen is not None else "")


def _every(records: Iterator[Any], step: int, most: int) -> Iterator[Any]:
    """Every so-many-th, up to so many; the others are not read on."""
    taken = 0
    for place, record in enumerate(records):
        if place % step == 0:
            yield record
            taken += 1
        if taken == most:
            return


def _measurements(points: Cloud) -> Converted:
    """A file's points without those that are no measurements."""
    with np.errstate(invalid="ignore"):
        kept = np.isfinite(points).all(axis=1) & (points[:, :3] != 0).any(axis=1)
    return Converted(points[kept], len(points) - int(kept.sum()), "intensity")


def _sample(clouds: Sequence[Converted], source: Path | str) -> Sample:
    removed = sum(each.removed for each in clouds)
    points = sum(len(each.points) for each in clouds)
    if not points:
        raise DataError(
            f"{source}: none of {removed} points in {len(clouds)} clouds is a measurement: NaN, infinite or at the "
            "origin; look at the sensor's driver"
        )
    kept = [each.points for each in clouds if len(each.points)]
    return Sample(kept, removed / (removed + points))


def _spread(files: Sequence[Path], most: int) -> list[Path]:
    """Up to ``most``, evenly spread."""
    places = np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int)
    return [files[place] for place in places]
