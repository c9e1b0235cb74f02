"""Point clouds from and to files, and the check every cloud passes before it is used."""

import io
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.cloud_formats import USUAL, Wanted, format_pcd, format_ply, parse_pcd, parse_ply
from pd_edge.errors import DataError
from pd_edge.files import read_bytes, write_bytes

Cloud = npt.NDArray[np.float32]

SUFFIXES = (".bin", ".npy", ".pcd", ".ply")
"""Cloud files this package reads and writes."""
INTENSITY_SCALES = (255.0, 65535.0)
"""Greatest intensities of sensors that report bytes or 16-bit words."""
_COLUMNS = 4
# What np.save writes before the numbers: magic, version, length of the header, the header (a dict as text).
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[a-zA-Z]\d+)', 'fortran_order': (True|False), 'shape': \(([\d, ]{0,60})\),? *\}"
)


class CheckedCloud(NamedTuple):
    """A cloud fit for use, and what had to be changed."""

    points: Cloud
    """(N, 4) float32: x y z [m], intensity 0..1; N > 0, all finite."""
    removed: int
    """Points left out because they held NaN or infinity."""
    intensity_scale: float
    """What the intensities were divided by; 1 where they were in 0..1 already."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The changes in words, for a log or a report; empty where there were none."""
        removed = f"{self.removed} points with NaN or infinity left out" if self.removed else ""
        scaled = f"intensity 0..{self.intensity_scale:g} scaled to 0..1" if self.intensity_scale != 1 else ""
        return tuple(filter(None, (removed, scaled)))


def check_points(points: npt.NDArray[np.floating], source: str, intensity_max: float | None = None) -> CheckedCloud:
    """Checks a cloud, leaves out points that are not finite, and brings the intensity to 0..1.

    Args:
        points: (N, 4) float32 or float64: x y z [m], intensity. Not written to; given back as it is where it needs
            no change.
        source: Where it comes from, for errors.
        intensity_max: The sensor's greatest intensity. When left out it is recognised from the cloud: at most 1, 255
            or 65535.

    Raises:
        DataError: Wrong type, shape or dtype, no finite point, or intensities that fit no known range.
    """
    cloud = _as_cloud(points, source)
    finite = np.isfinite(cloud)
    kept = cloud if finite.all() else cloud[finite.all(axis=1)]
    if not len(kept):
        raise DataError(f"{source}: none of {len(cloud)} points is finite; expected x y z in metres and an intensity")
    scale = _intensity_scale(kept[:, 3], source, intensity_max)
    if scale != 1:
        kept = np.hstack([kept[:, :3], kept[:, 3:] / np.float32(scale)])
    return CheckedCloud(kept, len(cloud) - len(kept), scale)


def read_cloud(path: Path, wanted: Wanted = USUAL) -> Cloud:
    """Reads a cloud: KITTI ``.bin`` (float32 x y z intensity), ``.npy``, ``.pcd`` or ``.ply``.

    Args:
        path: The file.
        wanted: The fields to take of a ``.pcd`` or ``.ply``; the others have no names.

    Returns:
        (N, 4) float32 x y z [m] and the intensity as the file has it; pass it through :func:`check_points`.

    Raises:
        DataError: The file is missing, empty, truncated, malformed, or of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of cloud {path.suffix!r}; expected {', '.join(SUFFIXES)}")
    data = read_bytes(path, "a point cloud")
    if not data:
        raise DataError(f"{path}: the file is empty; expected a point cloud")
    if suffix in (".pcd", ".ply"):
        named = (parse_pcd if suffix == ".pcd" else parse_ply)(data, str(path), wanted)
        return np.require(_as_cloud(named, str(path)), requirements="W")
    parse = _parse_bin if suffix == ".bin" else _parse_npy
    return np.require(_as_cloud(parse(data, str(path)), str(path)), requirements="W")


def write_cloud(path: Path, points: npt.NDArray[np.floating]) -> None:
    """Writes a cloud in the format its name asks for: ``.bin``, ``.npy``, ``.pcd`` (binary) or ``.ply`` (binary).

    Args:
        path: The file; its folder is made where needed.
        points: (N, 4) x y z [m], intensity; written as float32.

    Raises:
        DataError: Wrong shape or dtype, an unknown kind of file, or it cannot be written.
    """
    cloud = _as_cloud(points, str(path))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of cloud {path.suffix!r}; expected {', '.join(SUFFIXES)}")
    form = {".bin": _format_bin, ".npy": _format_npy, ".pcd": format_pcd, ".ply": format_ply}[suffix]
    write_bytes(path, form(cloud))


def _as_cloud(points: npt.NDArray[np.floating], source: str) -> Cloud:
    """(N, 4) C-contiguous float32, N > 0."""
    if not isinstance(points, np.ndarray):
        raise DataError(f"{source}: a {type(points).__name__}; expected a numpy array (N, 4) of float32")
    if points.dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise DataError(f"{source}: dtype {points.dtype}; expected float32 (or float64)")
    if points.ndim != 2 or points.shape[1] != _COLUMNS:
        raise DataError(f"{source}: shape {points.shape}; expected (N, 4): x y z intensity (zeros if there is none)")
    if not len(points):
        raise DataError(f"{source}: no points; expected at least one")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(points, np.float32)


def _intensity_scale(intensity: Cloud, source: str, intensity_max: float | None) -> float:
    low, high = float(intensity.min()), float(intensity.max())
    if intensity_max is not None:
        scale = float(intensity_max)
        if not (math.isfinite(scale) and scale > 0):
            raise DataError(f"intensity_max {intensity_max}; expected the sensor's greatest intensity, above 0")
    else:
        scale = next((limit for limit in (1.0, *INTENSITY_SCALES) if high <= limit), math.inf)
    # A little above 1 and not whole: no byte, but no share of 1 either. Dividing it by 255 would hide the mistake.
    doubtful = intensity_max is None and 1 < high < 2
    if low < 0 or high > scale or math.isinf(scale) or doubtful:
        known = f"0..{scale:g}" if intensity_max is not None else "0..1, 0..255 or 0..65535"
        raise DataError(f"{source}: intensities from {low:g} to {high:g}; expected {known}")
    return scale


def _parse_bin(data: bytes, source: str) -> Cloud:
    point = 4 * _COLUMNS
    if len(data) % point:
        raise DataError(
            f"{source}: {len(data)} bytes are not a whole number of points of {point} bytes (float32 x y z intensity); "
            "the file is truncated or of another kind"
        )
    return np.frombuffer(data, "<f4").reshape(-1, _COLUMNS)


def _parse_npy(data: bytes, source: str) -> npt.NDArray[np.floating]:
    wide = data[6:7] != b"\x01"
    start = 12 if wide else 10
    end = start + int.from_bytes(data[8:start], "little")
    header = _NPY_HEADER.fullmatch(data[start:end].strip())
    if data[:6] != b"\x93NUMPY" or header is None or end > len(data):
        raise DataError(
            f"{source}: not a .npy file of plain numbers; write it with np.save from a float32 array (N, 4)"
        )
    kind, fortran, shape_text = (group.decode() for group in header.groups())
    if kind[-2:] not in ("f4", "f8"):
        raise DataError(f"{source}: dtype {kind}; expected float32 (or float64)")
    shape = tuple(int(size) for size in shape_text.replace(" ", "").split(",") if size)
    if len(shape) != 2 or shape[1] != _COLUMNS:
        raise DataError(f"{source}: shape {shape}; expected (N, 4): x y z intensity (zeros if there is none)")
    size, present = shape[0] * shape[1] * int(kind[-1]), len(data) - end
    if size != present:
        raise DataError(f"{source}: {present} bytes of numbers for shape {shape}, expected {size}; truncated?")
    numbers: npt.NDArray[np.floating] = np.frombuffer(data[end:], kind) if size else np.empty(0, np.float32)
    return numbers.reshape(shape, order="F" if fortran == "True" else "C")


def _format_bin(cloud: Cloud) -> bytes:
    return cloud.astype("<f4").tobytes()


def _format_npy(cloud: Cloud) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, cloud, allow_pickle=False)
    return buffer.getvalue()
