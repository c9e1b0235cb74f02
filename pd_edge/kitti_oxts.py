"""KITTI raw's time stamps and OXTS packets (GPS and inertial unit): when each scan was taken, and from where."""

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pd_edge.errors import DataError
from pd_edge.files import parse_floats, read_text, write_bytes
from pd_edge.kitti_calibration import Matrix, homogeneous

# Source: dataformat.txt of KITTI's raw drives.
OXTS_FIELDS = (
    *("lat", "lon", "alt", "roll", "pitch", "yaw", "vn", "ve", "vf", "vl", "vu", "ax", "ay", "az", "af", "al", "au"),
    *("wx", "wy", "wz", "wf", "wl", "wu", "pos_accuracy", "vel_accuracy"),
    *("navstat", "numsats", "posmode", "velmode", "orimode"),
)
_WHOLE_FIELDS = 5
EARTH_RADIUS = 6378137.0
"""Semi-major axis of WGS 84 [m]."""
# Latitude, longitude [deg] and altitude [m] where simulated drives start.
_ORIGIN = (49.0, 8.4, 110.0)
_STAMP = re.compile(r"((?:19|20|21)\d\d)-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?", re.ASCII)


def read_timestamps(path: Path) -> npt.NDArray[np.int64]:
    """Reads ``timestamps.txt``, a line for every scan number, scans that are missing included.

    Returns:
        (N,) int64 nanoseconds since 1970, taking the recording's clock for UTC.

    Raises:
        DataError: The file is missing or a line is no time stamp.
    """
    lines = read_text(path, "KITTI time stamps").rstrip().split("\n")
    stamps = [_parse_stamp(line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    return np.array(stamps, np.int64)


def write_timestamps(path: Path, times_ns: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Writes ``timestamps.txt`` from nanoseconds since 1970, a line for every scan number from 0."""
    lines = []
    for time in map(int, times_ns):
        second = datetime.fromtimestamp(time // 10**9, timezone.utc)
        lines.append(f"{second:%Y-%m-%d %H:%M:%S}.{time % 10**9:09d}\n")
    write_bytes(path, "".join(lines).encode())


def read_oxts(path: Path) -> npt.NDArray[np.float64]:
    """Reads one OXTS packet, (30,) float64 in the order and units of ``OXTS_FIELDS``.

    Raises:
        DataError: The file is missing or does not hold 30 numbers.
    """
    words = read_text(path, "an OXTS packet").split()
    expected = f"{len(OXTS_FIELDS)} numbers: {' '.join(OXTS_FIELDS)}"
    if len(words) != len(OXTS_FIELDS):
        raise DataError(f"{path}: {len(words)} fields; expected {expected}")
    packet = np.array(parse_floats(words, str(path), expected))
    if abs(packet[0]) >= 90:
        raise DataError(f"{path}: latitude {packet[0]:g} deg; expected a value between -90 and 90")
    return packet


def write_oxts(path: Path, packet: npt.NDArray[np.float64]) -> None:
    """Writes one OXTS packet, (30,) in the order and units of ``OXTS_FIELDS``."""
    measured = [f"{value:.14g}" for value in packet[:-_WHOLE_FIELDS]]
    states = [str(int(value)) for value in packet[-_WHOLE_FIELDS:]]
    write_bytes(path, (" ".join(measured + states) + "\n").encode())


def imu_poses(packets: npt.NDArray[np.float64]) -> Matrix:
    """Poses of the inertial unit in the frame it has at the first packet.

    Positions are a Mercator projection at the first latitude.

    Args:
        packets: (N, 30) as :func:`read_oxts` gives them.

    Returns:
        (N, 4, 4) float64, inertial unit (x forward, y left, z up) to the first packet's [m].

    Source: convertOxtsToPose in the development kit of KITTI's raw data.
    """
    latitude, longitude = np.radians(packets[:, 0]), np.radians(packets[:, 1])
    reach = EARTH_RADIUS * np.cos(latitude[0])
    poses = np.tile(np.eye(4), (len(packets), 1, 1))
    poses[:, :3, :3] = _rotations(*packets[:, 3:6].T)
    poses[:, 0, 3] = reach * longitude
    poses[:, 1, 3] = reach * np.log(np.tan(np.pi / 4 + latitude / 2))
    poses[:, 2, 3] = packets[:, 2]
    result: Matrix = np.linalg.inv(poses[0]) @ poses
    return result


def lidar_poses(packets: npt.NDArray[np.float64], Tr_imu_to_velo: Matrix) -> Matrix:
    """Poses of the LiDAR in the frame it has at the first packet, (N, 4, 4) float64 [m].

    Args:
        packets: (N, 30) as :func:`read_oxts` gives them.
        Tr_imu_to_velo: (3, 4), inertial unit to LiDAR.
    """
    imu_to_lidar = homogeneous(Tr_imu_to_velo)
    result: Matrix = imu_to_lidar @ imu_poses(packets) @ np.linalg.inv(imu_to_lidar)
    return result


def packets_from_poses(poses: Matrix, times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """OXTS packets of a simulated drive: position, attitude, velocity and turn rate; every other field is 0.

    Args:
        poses: (N, 4, 4) poses of the inertial unit, x east, y north, z up [m].
        times_ns: (N,) nanoseconds, ascending.

    Returns:
        (N, 30) float64; :func:`imu_poses` gives the poses back, relative to the first.
    """
    reach = EARTH_RADIUS * np.cos(np.radians(_ORIGIN[0]))
    north = np.log(np.tan(np.pi / 4 + np.radians(_ORIGIN[0]) / 2)) + poses[:, 1, 3] / reach
    # The reader scales by the first packet's latitude, so the drive starts at the origin.
    packets = np.zeros((len(poses), len(OXTS_FIELDS)))
    packets[:, 0] = np.degrees(2 * np.arctan(np.exp(north - poses[0, 1, 3] / reach)) - np.pi / 2)
    packets[:, 1] = _ORIGIN[1] + np.degrees((poses[:, 0, 3] - poses[0, 0, 3]) / reach)
    packets[:, 2] = _ORIGIN[2] + poses[:, 2, 3]
    packets[:, 3:6] = _angles(poses[:, :3, :3])
    if len(poses) > 1:
        seconds = (times_ns - times_ns[0]) * 1e-9
        east_north_up = np.gradient(poses[:, :3, 3], seconds, axis=0)
        forward_left_up = np.einsum("nji,nj->ni", poses[:, :3, :3], east_north_up)
        packets[:, 6:8] = east_north_up[:, 1::-1]
        packets[:, 8:11] = forward_left_up
        turn_rate = np.gradient(np.unwrap(packets[:, 5]), seconds)
        packets[:, OXTS_FIELDS.index("wz")] = packets[:, OXTS_FIELDS.index("wu")] = turn_rate
    return packets


def _parse_stamp(text: str, where: str) -> int:
    wrong = f"{where}: {text[:40]!r} is no time stamp; expected YYYY-MM-DD HH:MM:SS.nnnnnnnnn, a line a scan number"
    match = _STAMP.fullmatch(text)
    if match is None:
        raise DataError(wrong)
    *parts, fraction = match.groups()
    year, month, day, hour, minute, second = map(int, parts)
    try:
        whole = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError as error:
        raise DataError(f"{wrong} ({error})") from error
    return int(whole.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))


def _rotations(roll: Matrix, pitch: Matrix, yaw: Matrix) -> Matrix:
    """Rz(yaw) Ry(pitch) Rx(roll), (N, 3, 3)."""
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _angles(rotations: Matrix) -> Matrix:
    """Roll, pitch, yaw (N, 3) of rotations (N, 3, 3)."""
    r = rotations
    roll, yaw = np.arctan2(r[:, 2, 1], r[:, 2, 2]), np.arctan2(r[:, 1, 0], r[:, 0, 0])
    return np.column_stack([roll, -np.arcsin(np.clip(r[:, 2, 0], -1, 1)), yaw])
