"""Writes KITTI object folders and raw drives, for simulated scans and converted recordings."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import write_cloud
from pd_edge.errors import DataError
from pd_edge.files import write_bytes
from pd_edge.kitti_calibration import Calibration, Matrix, write_object_calibration, write_raw_calibration
from pd_edge.kitti_labels import Label, write_labels
from pd_edge.kitti_oxts import packets_from_poses, write_oxts, write_timestamps
from pd_edge.kitti_tracklets import Tracklet, write_tracklets


def write_object_frame(
    root: Path,
    frame_id: str,
    points: npt.NDArray[np.float32],
    calibration: Calibration,
    labels: Iterable[Label],
    *,
    cloud: Literal["full", "reduced"] = "full",
) -> None:
    """Writes one frame of a KITTI object folder: cloud, calibration, labels.

    Every file is written whole or not at all and the labels last, so a frame with a label file is complete.

    Args:
        root: The folder that holds ``training``.
        frame_id: Name of the frame, such as ``000123``.
        points: (N, 4) float32 x y z [m], LiDAR frame, intensity 0..1.
        calibration: The frame's calibration.
        labels: Its ground truth.
        cloud: ``full`` writes to ``velodyne``, ``reduced`` (points the camera sees) to ``velodyne_reduced``.

    Raises:
        DataError: The cloud is malformed or a file cannot be written.
    """
    folder = root / "training"
    kind = "velodyne" if cloud == "full" else "velodyne_reduced"
    write_cloud(folder / kind / f"{frame_id}.bin", points)
    write_object_calibration(folder / "calib" / f"{frame_id}.txt", calibration)
    write_labels(folder / "label_2" / f"{frame_id}.txt", labels)


def write_split(root: Path, split: str, frame_ids: Iterable[str]) -> None:
    """Writes ``ImageSets/<split>.txt`` of a KITTI object folder."""
    write_bytes(root / "ImageSets" / f"{split}.txt", "".join(f"{name}\n" for name in frame_ids).encode())


def write_raw_drive(
    path: Path,
    clouds: Iterable[npt.NDArray[np.float32]],
    times_ns: Sequence[int],
    calibration: Calibration,
    *,
    poses: Matrix | None = None,
    tracklets: Iterable[Tracklet] | None = None,
    labels: Iterable[list[Label]] | None = None,
) -> None:
    """Writes a KITTI raw drive; clouds and labels are taken one at a time and not kept.

    Args:
        path: The drive, such as ``OUT/2026_01_01/2026_01_01_drive_0001_sync``; the calibration is written to the
            folder that holds it.
        clouds: One (N, 4) float32 cloud a scan, x y z [m], LiDAR frame, intensity 0..1.
        times_ns: When each scan was taken, nanoseconds since 1970.
        calibration: Of every scan of the day; with poses, its ``Tr_imu_to_velo`` is needed by readers.
        poses: (N, 4, 4) poses of the inertial unit, x east, y north, z up [m]; written as OXTS packets.
        tracklets: Objects through the drive.
        labels: The ground truth of each scan, written to ``label_2``.

    Raises:
        DataError: The numbers of clouds, times, poses and labels differ, or a file cannot be written.
    """
    times = np.asarray(times_ns, np.int64)
    write_raw_calibration(path.parent, calibration)
    write_timestamps(path / "velodyne_points" / "timestamps.txt", times)
    if poses is not None:
        _check_count(path, "poses", len(poses), len(times))
        _write_oxts(path / "oxts", poses, times)
    if tracklets is not None:
        write_tracklets(path / "tracklet_labels.xml", tracklets)
    count = 0
    for cloud, scan_labels in zip(clouds, labels if labels is not None else repeat(None)):  # noqa: B905 - repeat is endless
        write_cloud(path / "velodyne_points" / "data" / f"{count:010d}.bin", cloud)
        if scan_labels is not None:
            write_labels(path / "label_2" / f"{count:010d}.txt", scan_labels)
        count += 1
    _check_count(path, "clouds" if labels is None else "clouds with labels", count, len(times))


def _write_oxts(folder: Path, poses: Matrix, times: npt.NDArray[np.int64]) -> None:
    write_timestamps(folder / "timestamps.txt", times)
    for number, packet in enumerate(packets_from_poses(poses, times)):
        write_oxts(folder / "data" / f"{number:010d}.txt", packet)


def _check_count(path: Path, what: str, count: int, times: int) -> None:
    if count != times:
        raise DataError(f"{path}: {count} {what} for {times} time stamps; give one a scan")
