"""KITTI calibration: from the LiDAR to the rectified camera to the left colour image."""

from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Floats
from pd_edge.errors import DataError
from pd_edge.files import parse_floats, read_text, write_bytes

Matrix: TypeAlias = npt.NDArray[np.float64]
ImageSize: TypeAlias = tuple[int, int]

# Focal length and principal point x of P2 [px], unique to each recording day, and that day's rectified image size
# (width, height). Source: calib_cam_to_cam.txt of KITTI's raw days.
DAY_IMAGE_SIZES: dict[tuple[float, float], ImageSize] = {
    (721.5377, 609.5593): (1242, 375),  # 2011_09_26
    (707.0493, 604.0814): (1224, 370),  # 2011_09_28
    (718.3351, 600.3891): (1238, 374),  # 2011_09_29
    (707.0912, 601.8873): (1226, 370),  # 2011_09_30
    (718.8560, 607.1928): (1241, 376),  # 2011_10_03
}


class Calibration(NamedTuple):
    """Calibration of one frame: LiDAR, rectified camera and left colour image.

    Frames: LiDAR x forward, y left, z up; camera x right, y down, z forward; image u right, v down, 0-based.
    """

    P2: Matrix
    """(3, 4) float64, rectified camera [m] to the left colour image [px]."""
    R0_rect: Matrix
    """(3, 3) float64, reference camera to rectified camera."""
    Tr_velo_to_cam: Matrix
    """(3, 4) float64, LiDAR [m] to reference camera [m]."""
    Tr_imu_to_velo: Matrix | None = None
    """(3, 4) float64, inertial unit [m] to LiDAR [m], where known."""
    image_size: ImageSize | None = None
    """Width and height of the rectified image [px], where known."""

    @property
    def lidar_to_camera_matrix(self) -> Matrix:
        """(4, 4) float64, LiDAR to rectified camera, homogeneous."""
        return homogeneous(self.R0_rect @ self.Tr_velo_to_cam)

    @property
    def camera_to_lidar_matrix(self) -> Matrix:
        """(4, 4) float64, rectified camera to LiDAR, homogeneous."""
        return np.linalg.inv(self.lidar_to_camera_matrix).astype(np.float64)

    @property
    def camera_yaw(self) -> float:
        """Direction in which the camera looks, as a yaw in the LiDAR frame [rad]."""
        forward = self.camera_to_lidar_matrix[:3, 2]
        return float(np.arctan2(forward[1], forward[0]))

    def lidar_to_camera(self, xyz: Floats) -> Matrix:
        """LiDAR coordinates (N, 3) [m] in the rectified camera frame, (N, 3) float64 [m]."""
        return _transform(self.lidar_to_camera_matrix, xyz)

    def camera_to_lidar(self, xyz: Floats) -> Matrix:
        """Rectified camera coordinates (N, 3) [m] in the LiDAR frame, (N, 3) float64 [m]."""
        return _transform(self.camera_to_lidar_matrix, xyz)

    def camera_to_image(self, xyz: Floats) -> tuple[Matrix, Matrix]:
        """Projects rectified camera coordinates (N, 3) [m] in front of the camera.

        Returns:
            (N, 2) float64 pixel coordinates u, v and (N,) float64 depth [m].
        """
        return _divide(np.asarray(xyz, np.float64) @ self.P2[:, :3].T + self.P2[:, 3])

    def lidar_to_image(self, xyz: Floats) -> tuple[Matrix, Matrix]:
        """Projects LiDAR coordinates (N, 3) [m].

        A point behind the camera has a negative depth and meaningless pixels.

        Returns:
            (N, 2) float64 pixel coordinates u, v and (N,) float64 depth [m].
        """
        projection = self.P2 @ self.lidar_to_camera_matrix
        return _divide(np.asarray(xyz, np.float64)[:, :3] @ projection[:, :3].T + projection[:, 3])


def crop_to_image(
    points: Floats, calibration: Calibration, image_size: ImageSize | None = None
) -> npt.NDArray[np.bool_]:
    """Which points the left colour camera sees; the crop that gives KITTI's ``velodyne_reduced``, bit for bit.

    Args:
        points: (N, 3 or more), x y z first [m], LiDAR frame.
        calibration: The frame's calibration.
        image_size: Width, height [px]; the calibration's own when left out.

    Returns:
        (N,) bool, true where 0 <= u < width, 0 <= v < height and depth >= 0.

    Raises:
        DataError: The image size is neither given nor known.
    """
    width, height = image_size or known_image_size(calibration)
    pixels, depth = calibration.lidar_to_image(points[:, :3])
    u, v = pixels[:, 0], pixels[:, 1]
    seen: npt.NDArray[np.bool_] = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth >= 0)
    return seen


def known_image_size(calibration: Calibration) -> ImageSize:
    """The calibration's image size.

    Raises:
        DataError: It has none.
    """
    if calibration.image_size is None:
        fx, cx = calibration.P2[0, 0], calibration.P2[0, 2]
        raise DataError(
            f"image size unknown: P2 (focal length {fx:.4f} px, centre {cx:.4f} px) is of no known KITTI day; "
            "put the image beside the cloud, add a line 'S_rect_02: WIDTH HEIGHT' to the calibration, "
            "or pass image_size=(width, height)"
        )
    return calibration.image_size


def read_object_calibration(path: Path) -> Calibration:
    """Reads ``calib/NNNNNN.txt`` of KITTI's object layout.

    The image size is taken from a line ``S_rect_02`` where there is one (this package writes it), else from the
    recording day, which P2 tells.

    Raises:
        DataError: The file is missing, or a matrix is missing or malformed (file, line and value are named).
    """
    entries = _Entries(path)
    P2 = entries.matrix("P2", 3, 4)
    return Calibration(
        P2=P2,
        R0_rect=_rotation(entries, "R0_rect"),
        Tr_velo_to_cam=_rigid(entries, "Tr_velo_to_cam"),
        Tr_imu_to_velo=_rigid(entries, "Tr_imu_to_velo") if "Tr_imu_to_velo" in entries else None,
        image_size=entries.image_size() or day_image_size(P2),
    )


def read_raw_calibration(day: Path) -> Calibration:
    """Reads the calibration of a day of KITTI's raw layout.

    Args:
        day: The folder with ``calib_cam_to_cam.txt``, ``calib_velo_to_cam.txt`` and, where the inertial unit is
            wanted, ``calib_imu_to_velo.txt``.

    Raises:
        DataError: A file is missing, or a matrix is missing or malformed (file, line and value are named).
    """
    cameras = _Entries(day / "calib_cam_to_cam.txt")
    imu = day / "calib_imu_to_velo.txt"
    P2 = cameras.matrix("P_rect_02", 3, 4)
    return Calibration(
        P2=P2,
        R0_rect=_rotation(cameras, "R_rect_00"),
        Tr_velo_to_cam=_read_rigid(day / "calib_velo_to_cam.txt"),
        Tr_imu_to_velo=_read_rigid(imu) if imu.exists() else None,
        image_size=cameras.image_size() or day_image_size(P2),
    )


def write_object_calibration(path: Path, calibration: Calibration) -> None:
    """Writes a calibration in KITTI's object format.

    Only the left colour camera is known here: P0, P1 and P3 repeat P2, for readers that go by line number. A line
    ``S_rect_02`` keeps the image size.
    """
    c = calibration
    lines = [(f"P{camera}", c.P2) for camera in range(4)]
    lines += [("R0_rect", c.R0_rect), ("Tr_velo_to_cam", c.Tr_velo_to_cam)]
    if c.Tr_imu_to_velo is not None:
        lines.append(("Tr_imu_to_velo", c.Tr_imu_to_velo))
    if c.image_size is not None:
        lines.append(("S_rect_02", np.array(c.image_size, np.float64)))
    _write_entries(path, lines)


def write_raw_calibration(day: Path, calibration: Calibration) -> None:
    """Writes a calibration as the files of a day of KITTI's raw layout (left colour camera only)."""
    c = calibration
    camera = [("R_rect_00", c.R0_rect), ("P_rect_02", c.P2)]
    if c.image_size is not None:
        camera.insert(0, ("S_rect_02", np.array(c.image_size, np.float64)))
    _write_entries(day / "calib_cam_to_cam.txt", camera)
    for name, matrix in (("velo_to_cam", c.Tr_velo_to_cam), ("imu_to_velo", c.Tr_imu_to_velo)):
        if matrix is not None:
            _write_entries(day / f"calib_{name}.txt", [("R", matrix[:, :3]), ("T", matrix[:, 3])])


def day_image_size(P2: Matrix) -> ImageSize | None:
    """Width and height [px] of the KITTI day whose P2 this is; None for any other camera."""
    for (fx, cx), size in DAY_IMAGE_SIZES.items():
        if abs(P2[0, 0] - fx) < 1e-3 and abs(P2[0, 2] - cx) < 1e-3:
            return size
    return None


def png_size(path: Path) -> ImageSize:
    """Width and height [px] from the header of a PNG file.

    Raises:
        DataError: The file cannot be read or is no PNG file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a PNG image") from error
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR" or not width or not height:
        raise DataError(f"{path}: not a PNG image (starts with {head[:8]!r}); KITTI's images are PNG files")
    return width, height


def homogeneous(matrix: Matrix) -> Matrix:
    """A (3, 3) or (3, 4) matrix as (4, 4) float64."""
    result = np.eye(4)
    result[:3, : matrix.shape[1]] = matrix
    return result


class _Entries:
    """The ``KEY: numbers`` lines of a calibration file, parsed when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._words: dict[str, tuple[int, list[str]]] = {}
        for number, line in enumerate(read_text(path, "a KITTI calibration file").split("\n"), 1):
            key, colon, rest = line.partition(":")
            if colon:
                self._words[key.strip()] = (number, rest.split())
            elif line.strip():
                raise DataError(f"{path}, line {number}: {line.strip()[:40]!r}; expected 'KEY: numbers'")

    def __contains__(self, key: str) -> bool:
        return key in self._words

    def matrix(self, key: str, rows: int, columns: int) -> Matrix:
        if key not in self._words:
            raise DataError(f"{self.path}: no line '{key}:'; it has {', '.join(self._words) or 'no entries'}")
        number, words = self._words[key]
        where, expected = f"{self.path}, line {number}", f"{rows * columns} numbers after '{key}:'"
        if len(words) != rows * columns:
            raise DataError(f"{where}: {len(words)} numbers; expected {expected}")
        return np.array(parse_floats(words, where, expected)).reshape(rows, columns)

    def image_size(self) -> ImageSize | None:
        if "S_rect_02" not in self._words:
            return None
        width, height = map(float, self.matrix("S_rect_02", 1, 2)[0])
        if not (width >= 1 and height >= 1 and width.is_integer() and height.is_integer()):
            raise DataError(f"{self.path}: S_rect_02 {width:g} {height:g}; expected whole, positive pixels")
        return int(width), int(height)

    def line(self, key: str) -> int:
        return self._words[key][0]


def _rotation(entries: _Entries, key: str) -> Matrix:
    matrix = entries.matrix(key, 3, 3)
    _check_rotation(matrix, entries, key)
    return matrix


def _rigid(entries: _Entries, key: str) -> Matrix:
    matrix = entries.matrix(key, 3, 4)
    _check_rotation(matrix[:, :3], entries, key)
    return matrix


def _read_rigid(path: Path) -> Matrix:
    """R (3, 3) and T (3,) of one file as (3, 4)."""
    entries = _Entries(path)
    return np.hstack([_rotation(entries, "R"), entries.matrix("T", 3, 1)])


def _check_rotation(matrix: Matrix, entries: _Entries, key: str) -> None:
    """A calibration that was read can always be inverted."""
    off = float(np.abs(matrix @ matrix.T - np.eye(3)).max()) if np.abs(matrix).max() < 2 else np.inf
    if off > 1e-3:
        raise DataError(
            f"{entries.path}, line {entries.line(key)}: {key} holds no rotation (its rows are off orthonormal by "
            f"{off:.2g}); expected three orthogonal rows of length 1"
        )


def _write_entries(path: Path, entries: list[tuple[str, Matrix]]) -> None:
    lines = [f"{key}: {' '.join(f'{value:.12e}' for value in matrix.ravel())}\n" for key, matrix in entries]
    write_bytes(path, "".join(lines).encode())


def _transform(matrix: Matrix, xyz: Floats) -> Matrix:
    result: Matrix = np.asarray(xyz, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return result


def _divide(projected: Matrix) -> tuple[Matrix, Matrix]:
    """Pixels and depth from homogeneous pixels (N, 3)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return projected[:, :2] / projected[:, 2:], projected[:, 2]
