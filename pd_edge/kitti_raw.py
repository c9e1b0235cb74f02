"""KITTI's raw layout: the scans of one drive, with time, pose and objects."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import read_cloud
from pd_edge.errors import DataError
from pd_edge.kitti_calibration import Calibration, Matrix, read_raw_calibration
from pd_edge.kitti_frames import Frame, make_frame, named, read_checked, unused_profile, with_image_size
from pd_edge.kitti_labels import Label, read_labels
from pd_edge.kitti_oxts import imu_poses, lidar_poses, read_oxts, read_timestamps
from pd_edge.kitti_tracklets import Tracklet, read_tracklets, tracklet_labels
from pd_edge.sensors import KITTI, SensorProfile

LABEL_FOLDERS = ("label_2", "label_2_from_tracking")
"""Folders of a raw drive that may hold its labels in KITTI's object format."""


class RawDrive:
    """Scans of a KITTI raw drive, full 360 degrees.

    Labels come from a folder ``label_2`` or ``label_2_from_tracking`` in the drive, else from its
    ``tracklet_labels.xml`` (objects that the left colour camera sees). Without the day's calibration there are none.

    Args:
        path: The drive, such as ``2011_09_26/2011_09_26_drive_0005_sync``, with the day's calibration beside it.
        sensor: How the sensor writes points.

    Raises:
        DataError: The folder holds no scans.
    """

    def __init__(self, path: Path | str, sensor: SensorProfile = KITTI) -> None:
        self._sensor = sensor
        self.path = Path(path)
        self._scans = self.path / "velodyne_points"
        self._unused = unused_profile(sensor, *self.path.resolve().parents[:2])
        files = sorted((self._scans / "data").glob("*.bin"))
        if not files:
            raise DataError(f"{self.path}: no KITTI raw drive with scans; looked for velodyne_points/data/*.bin")
        self.ids = [file.stem for file in files]
        bad = next((name for name in self.ids if not (name.isascii() and name.isdigit())), None)
        if bad is not None:
            raise DataError(f"{self._scans / 'data'}/{bad}.bin: not named by its scan number, such as 0000000000.bin")
        self.scan_numbers = [int(name) for name in self.ids]
        self._label_folder = next((self.path / name for name in LABEL_FOLDERS if (self.path / name).is_dir()), None)

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self, index: int) -> Frame:
        """Reads a scan.

        Raises:
            DataError: A file of the scan or the day's calibration is missing or malformed; the file is named.
        """
        name = self.ids[index]
        return named(self.path, name, lambda: self._read(index))

    def __iter__(self) -> Iterator[Frame]:
        return map(self.frame, range(len(self)))

    def written(self, index: int) -> npt.NDArray[np.float32]:
        """The finite points (N, 4) of a scan, coordinates and intensities as they are written.

        Raises:
            DataError: The scan is missing or malformed.
        """
        points = read_cloud(self._scan_file(index))
        return points[np.isfinite(points).all(axis=1)]

    def _scan_file(self, index: int) -> Path:
        return self._scans / "data" / f"{self.ids[index]}.bin"

    @cached_property
    def calibration(self) -> Calibration | None:
        """The day's calibration; None where the day's folder has no calibration file at all."""
        if not any(self.path.resolve().parent.glob("calib_*_to_*.txt")):
            return None
        return read_raw_calibration(self.path.resolve().parent)

    @cached_property
    def tracklets(self) -> list[Tracklet] | None:
        """The drive's tracklets; None where there is no ``tracklet_labels.xml``."""
        file = self.path / "tracklet_labels.xml"
        return read_tracklets(file) if file.exists() else None

    @cached_property
    def times_ns(self) -> npt.NDArray[np.int64]:
        """(N,) int64 nanoseconds since 1970 at which each scan was taken.

        Raises:
            DataError: ``timestamps.txt`` is missing, malformed or ends before the last scan.
        """
        file = self._scans / "timestamps.txt"
        stamps = read_timestamps(file)
        if self.scan_numbers[-1] >= len(stamps):
            raise DataError(
                f"{file}: {len(stamps)} lines, but there is a scan {self.ids[-1]}; expected a line for every scan "
                "number from 0, missing scans included"
            )
        return stamps[self.scan_numbers]

    @cached_property
    def poses(self) -> Matrix:
        """(N, 4, 4) float64 poses of the LiDAR in its own frame at the first scan [m], from the OXTS packets.

        Raises:
            DataError: A packet or the calibration ``calib_imu_to_velo.txt`` is missing or malformed.
        """
        if self.calibration is None or self.calibration.Tr_imu_to_velo is None:
            raise DataError(f"{self.path.resolve().parent}: no calib_imu_to_velo.txt; poses of the LiDAR need it")
        return lidar_poses(self._packets, self.calibration.Tr_imu_to_velo)

    @cached_property
    def imu_poses(self) -> Matrix:
        """(N, 4, 4) float64 poses of the inertial unit in its own frame at the first scan [m], from the OXTS packets.

        Raises:
            DataError: A packet is missing or malformed.
        """
        return imu_poses(self._packets)

    @cached_property
    def _packets(self) -> Matrix:
        return np.array([read_oxts(self.path / "oxts" / "data" / f"{name}.txt") for name in self.ids])

    def _read(self, index: int) -> Frame:
        name = self.ids[index]
        calibration = with_image_size(self.calibration, self.path / "image_02" / "data" / f"{name}.png")
        cloud = read_checked(self._scan_file(index), self._sensor)
        return make_frame(name, cloud, calibration, self._labels(index, calibration), self._unused)

    def _labels(self, index: int, calibration: Calibration | None) -> list[Label] | None:
        if self._label_folder is not None:
            return read_labels(self._label_folder / f"{self.ids[index]}.txt")
        if calibration is None or self.tracklets is None:
            return None
        return tracklet_labels(self.tracklets, self.scan_numbers[index], calibration)
