"""KITTI's object layout, and which kind of data set a folder is: own data, too."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pd_edge.clouds import CheckedCloud
from pd_edge.errors import DataError
from pd_edge.files import read_text
from pd_edge.kitti_calibration import Calibration, crop_to_image, read_object_calibration
from pd_edge.kitti_frames import (
    CloudFolder,
    Dataset,
    Frame,
    make_frame,
    named,
    read_checked,
    unused_profile,
    with_image_size,
)
from pd_edge.kitti_labels import read_labels
from pd_edge.kitti_raw import RawDrive
from pd_edge.own_data import OwnDataset, is_own_layout
from pd_edge.sensors import KITTI, SensorProfile

_FRAME_ID = re.compile(r"[\w-]+", re.ASCII)


def open_dataset(path: Path | str, split: str | Path | None = None, sensor: SensorProfile = KITTI) -> Dataset:
    """Opens own data, a KITTI object folder, a KITTI raw drive, a folder of clouds or a single cloud.

    Args:
        path: The folder or file.
        split: Which frames of an object folder or of own data; see :class:`ObjectDataset`, :class:`OwnDataset`.
        sensor: How the sensor writes points; frames have them in metres, with intensities of 0..1, in its own frame.

    Raises:
        DataError: The path is none of these (what was looked for is named), or a split is given for something else
            than these two.
        ConfigError: The settings of own data are wrong.
    """
    path = Path(path)
    if is_object_folder(path):
        return ObjectDataset(path, split, sensor=sensor)
    if is_own_layout(path):
        return OwnDataset(path, split, sensor)
    if split is not None:
        raise DataError(
            f"{path}: split {str(split)!r} asked for, but it is neither a KITTI object folder nor own "
            "data (a folder with points); leave the split out"
        )
    if (path / "velodyne_points").is_dir():
        return RawDrive(path, sensor)
    drives = sorted(drive.parent.name for drive in path.glob("*/velodyne_points")) if path.is_dir() else []
    if drives:
        raise DataError(f"{path}: a day of KITTI raw drives; give one drive: {', '.join(drives)}")
    return CloudFolder(path, sensor)


class ObjectDataset:
    """Frames of a KITTI object folder.

    Args:
        root: The folder that holds ``training``, or ``training`` or ``testing`` itself.
        split: ``train``, ``val`` or another list in ``ImageSets``, or the path of a list file; all frames when left
            out.
        cloud: ``reduced`` takes the points that the left colour camera sees, from ``velodyne_reduced`` where the
            frame is there, else by cropping the full cloud (the same points, bit for bit); ``full`` takes
            ``velodyne``; ``auto`` is ``reduced`` where there is a folder ``velodyne_reduced``, else ``full``.
        sensor: How the sensor writes points.

    Raises:
        DataError: The folder is no KITTI object folder, the split is unknown, or there are no frames. A listed frame
            whose files are missing raises when it is read.
    """

    def __init__(
        self,
        root: Path | str,
        split: str | Path | None = None,
        cloud: Literal["auto", "full", "reduced"] = "auto",
        sensor: SensorProfile = KITTI,
    ) -> None:
        self._sensor = sensor
        folder = _object_folder(Path(root))
        if folder is None:
            raise DataError(
                f"{root}: no KITTI object folder; looked for velodyne and velodyne_reduced in it and in its training"
            )
        self.folder = folder
        self._unused = unused_profile(sensor, folder, folder.parent)
        reduced = folder / "velodyne_reduced"
        self.cloud = ("reduced" if reduced.is_dir() else "full") if cloud == "auto" else cloud
        self.ids = self._all_ids() if split is None else _read_split(folder, split)
        if not self.ids:
            raise DataError(f"{folder}: no frames ({self.cloud} clouds) in its velodyne folders")

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self, index: int) -> Frame:
        """Reads a frame.

        Raises:
            DataError: A file of the frame is missing or malformed; frame and file are named.
        """
        name = self.ids[index]
        return named(self.folder, name, lambda: self._read(name))

    def __iter__(self) -> Iterator[Frame]:
        return map(self.frame, range(len(self)))

    def label_file(self, name: str) -> Path:
        """The labels of a frame, which may be missing."""
        return self.folder / "label_2" / f"{name}.txt"

    def _all_ids(self) -> list[str]:
        folders = ("velodyne", "velodyne_reduced") if self.cloud == "reduced" else ("velodyne",)
        return sorted({file.stem for folder in folders for file in (self.folder / folder).glob("*.bin")})

    def _read(self, name: str) -> Frame:
        calibration = None
        if (self.folder / "calib").is_dir():
            calibration = read_object_calibration(self.folder / "calib" / f"{name}.txt")
        calibration = with_image_size(calibration, self.folder / "image_2" / f"{name}.png")
        cloud = self._read_cloud(name, calibration)
        labels = None
        if (self.folder / "label_2").is_dir():
            labels = read_labels(self.label_file(name))
        return make_frame(name, cloud, calibration, labels, self._unused)

    def _read_cloud(self, name: str, calibration: Calibration | None) -> CheckedCloud:
        full, reduced = (self.folder / kind / f"{name}.bin" for kind in ("velodyne", "velodyne_reduced"))
        if self.cloud == "full":
            return read_checked(full, self._sensor)
        if reduced.exists() or not full.exists():
            return read_checked(reduced, self._sensor)
        cloud = read_checked(full, self._sensor)
        if calibration is None:
            raise DataError(f"{full}: no calibration to crop it with; add calib/{name}.txt or take the full clouds")
        return cloud._replace(points=cloud.points[crop_to_image(cloud.points, calibration)])


def is_object_folder(root: Path) -> bool:
    """Whether a folder holds KITTI objects."""
    return _object_folder(root) is not None


def _object_folder(root: Path) -> Path | None:
    """The folder with the clouds of a KITTI object data set; None where there is none."""
    for folder in (root / "training", root):
        if (folder / "velodyne").is_dir() or (folder / "velodyne_reduced").is_dir():
            return folder
    return None


def _read_split(folder: Path, split: str | Path) -> list[str]:
    file = Path(split)
    if file.suffix != ".txt":
        lists = folder.parent / "ImageSets"
        file = lists / f"{split}.txt"
        if not file.exists():
            known = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "no list"
            raise DataError(f"{file}: no split {str(split)!r}; {lists} has {known}. A path ending in .txt works too")
    lines = read_text(file, "a list of frames, one a line").split("\n")
    names = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, name in names:
        if not _FRAME_ID.fullmatch(name):
            raise DataError(f"{file}, line {number}: {name[:40]!r} is no frame; expected a name such as 000123")
    repeated = [name for name, count in Counter(name for _, name in names).items() if count > 1]
    if repeated or not names:
        problem = f"frame {repeated[0]} is listed twice" if repeated else "lists no frames"
        raise DataError(f"{file}: {problem}; expected each frame once, one a line")
    return [name for _, name in names]
