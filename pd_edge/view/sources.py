"""Scans to look at, out of clouds, folders, KITTI object folders and raw drives; of bags in :mod:`.bag_source`."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from pd_edge.batch import JoinedDataset, points_to_use
from pd_edge.doctor_sources import FOLDERS
from pd_edge.errors import DataError, EngineError
from pd_edge.kitti import Dataset, Frame, RawDrive, boxes_to_lidar, open_dataset
from pd_edge.own_data import OwnDataset
from pd_edge.own_labels import to_be_found
from pd_edge.ros_messages import Objects
from pd_edge.sensors import Mount, SensorProfile
from pd_edge.view.find import Find
from pd_edge.view.moments import Moment, leveled, posed

BAG_SUFFIXES = (".mcap", ".db3", ".bag")
"""As in :mod:`pd_edge.bags`, which cannot be asked where its extra is not installed."""
Thing = TypeVar("Thing")


class Choice(NamedTuple):
    """Which scans to show.

    Attributes:
        every: Every so-many-th, from the first on.
        frames: At most so many; None for all.
    """

    every: int = 1
    frames: int | None = None

    def of(self, things: Iterator[Thing]) -> Iterator[Thing]:
        """The chosen ones; nothing is read on after the last of them."""
        stop = None if self.frames is None else (self.frames - 1) * self.every + 1
        return islice(things, 0, stop, self.every)

    def count(self, things: int) -> int:
        """How many of so many things are chosen."""
        count = -(-things // self.every)
        return count if self.frames is None else min(count, self.frames)


def is_bag(path: Path) -> bool:
    """Whether a path is a bag file, or a folder with bag files and no data set that :func:`open_set` takes."""
    if path.is_dir():
        clouds = any((path / name).is_dir() for name in FOLDERS)
        return not clouds and any(each.suffix in BAG_SUFFIXES for each in path.iterdir())
    return path.suffix in BAG_SUFFIXES


def open_set(inputs: Sequence[Path], split: str | None, sensor: SensorProfile) -> Dataset:
    """One data set, or several as one; raises DataError as :class:`pd_edge.batch.JoinedDataset` does."""
    return open_dataset(inputs[0], split, sensor) if len(inputs) == 1 else JoinedDataset(inputs, split, sensor)


def moments_of(
    dataset: Dataset,
    find: Find,
    mount: Mount,
    choice: Choice,
    *,
    crop: bool = False,
    on_error: Callable[[str], None],
) -> Iterator[Moment]:
    """The scans of a data set.

    Args:
        dataset: Frames in the sensor's own frame [m].
        find: Where boxes come from.
        mount: To the level frame.
        choice: Which scans.
        crop: Keep only points that the left colour camera sees, for the detector and the eye.
        on_error: Told why a frame is passed over.
    """
    times = _times(dataset)
    for place in choice.of(iter(range(len(dataset)))):
        try:
            frame = dataset.frame(place)
            points, _ = points_to_use(frame, crop=crop)
            found = find(points, frame.id)
            time = None if times is None else times[place]
            yield Moment(frame.id, time, mount.points(points), found, _truth(frame, mount), frame.notes)
        except (DataError, EngineError) as error:  # noqa: PERF203 - each frame fails by itself
            on_error(str(error))


def _times(dataset: Dataset) -> list[int] | None:
    """When the scans of a raw drive or of own data were taken [ns]; None where that is not known."""
    try:
        if isinstance(dataset, OwnDataset):
            return dataset.times_ns()
        return [int(each) for each in dataset.times_ns] if isinstance(dataset, RawDrive) else None
    except DataError:
        return None


def _truth(frame: Frame, mount: Mount) -> Objects | None:
    if frame.labels is None or frame.calibration is None:
        return None
    solid = to_be_found(frame.labels, around=frame.around)
    boxes = boxes_to_lidar(solid, frame.calibration)
    return leveled(posed(boxes, [label.name for label in solid]), mount.to_model)
