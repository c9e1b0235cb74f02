"""``sensor_msgs/PointCloud2`` to points and back, for any layout of any driver, without ROS.

A message is anything with PointCloud2's attributes: rclpy's class, the one of ``rosbags``, or serialized bytes. Nothing
is assumed about the order of the fields, their offsets and types, the byte order, or padding of points and rows.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import Cloud
from pd_edge.errors import DataError, MissingExtraError

DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""Numpy's name for each of PointField's datatypes."""
FLOAT32 = 7
COORDINATES = ("x", "y", "z")
INTENSITY_NAMES = ("intensity", "i", "intensities", "reflectivity", "reflectance", "remission")
"""Names that drivers and converters give the intensity, the first that is there counts; capitals do not matter."""
COLUMNS = 4

Bytes = npt.NDArray[np.uint8]


class Field(Protocol):
    """One entry of ``fields``, as ``sensor_msgs/PointField``."""

    name: str
    offset: int
    datatype: int
    count: int


class Message(Protocol):
    """What is read of a message."""

    height: int
    width: int
    fields: Sequence[Field]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: Any


class Converted(NamedTuple):
    """The points of a message.

    Attributes:
        points: (N, 4) float32: x y z [m] and the intensity as the sensor scales it; a view of the message's own memory,
            which is not to be written to, where the layout allows.
        removed: Points left out: NaN or infinite, or at the origin, which is how drivers write a missing return.
        intensity: Name of the field that the intensity came from; None where there is none and zeros stand for it.
    """

    points: Cloud
    removed: int
    intensity: str | None


class Layout(NamedTuple):
    """The attributes of an unorganised little-endian PointCloud2 of x, y, z and intensity, all float32.

    Attributes:
        height: 1.
        width: Number of points.
        fields: (name, offset [bytes], datatype, count) of each.
        is_bigendian: False.
        point_step: 16 bytes.
        row_step: Bytes of all points.
        data: The points' bytes, a view of the array they came from.
        is_dense: Whether all values are finite.
    """

    height: int
    width: int
    fields: tuple[tuple[str, int, int, int], ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: Bytes
    is_dense: bool


def points_of(
    message: Message | bytes | memoryview,
    intensity: str | None = None,
    coordinates: tuple[str, str, str] = COORDINATES,
) -> Converted:
    """Takes the points out of a message.

    Args:
        message: A PointCloud2; see the module.
        intensity: The field to take the intensity from; the first of :data:`INTENSITY_NAMES` that is there if left out.
        coordinates: The fields to take x, y and z from.

    Returns:
        Its points, possibly none.

    Raises:
        DataError: A coordinate or the named field is missing, a field has an unknown type or lies outside its point, or
            the data are shorter than the message claims.
        MissingExtraError: The message is serialized, and ``rosbags`` is not installed.
    """
    read: Message = deserialize(message) if isinstance(message, bytes | memoryview) else message
    fields = {field.name.lower(): field for field in read.fields}
    axes = [name.lower() for name in coordinates]
    missing = [name for name in axes if name not in fields]
    if missing:
        raise DataError(
            f"PointCloud2: no field {', '.join(missing)} among {sorted(fields) or 'none'}; a cloud needs "
            f"{coordinates[0]}, {coordinates[1]} and {coordinates[2]}"
        )
    if intensity is not None and intensity.lower() not in fields:
        raise DataError(f"PointCloud2: no field {intensity} for the intensity among {sorted(fields)}")
    usual = next((name for name in INTENSITY_NAMES if name in fields), None)
    chosen = usual if intensity is None else intensity.lower()
    wanted = [fields[name] for name in (*axes, chosen) if name is not None]
    points = _columns(_records(read, wanted), [field.name for field in wanted])
    kept, removed = _without_invalid(points)
    return Converted(kept, removed, None if chosen is None else fields[chosen].name)


def layout_of(points: Cloud) -> Layout:
    """The attributes of the message that carries some points.

    Args:
        points: (N, 4) float32: x y z [m], intensity.

    Raises:
        DataError: Wrong dtype or shape.
    """
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != COLUMNS:
        raise DataError(f"points are {points.dtype} of shape {points.shape}; expected float32 (N, 4)")
    little = np.ascontiguousarray(points, "<f4")
    step = COLUMNS * little.itemsize
    names = (*COORDINATES, INTENSITY_NAMES[0])
    fields = tuple((name, place * little.itemsize, FLOAT32, 1) for place, name in enumerate(names))
    data = little.reshape(-1).view(np.uint8)
    return Layout(
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=step,
        row_step=len(data),
        data=data,
        is_dense=bool(np.isfinite(little).all()),
    )


def deserialize(data: bytes | memoryview) -> Any:
    """A PointCloud2 from its serialized (CDR) bytes, with ``header``, as rosbags has it.

    Raises:
        DataError: The bytes are no PointCloud2.
        MissingExtraError: ``rosbags`` is not installed.
    """
    store = _typestore()
    try:
        return store.deserialize_cdr(data, "sensor_msgs/msg/PointCloud2")
    except Exception as error:  # the library raises whatever the misread bytes lead to
        raise DataError(f"{len(data)} bytes are no serialized PointCloud2 ({error or type(error).__name__})") from error


@functools.cache
def _typestore() -> Any:
    """The message definitions; a tenth of a second to load."""
    try:
        from rosbags.typesys import Stores, get_typestore  # noqa: PLC0415 - not needed where ROS deserializes
    except ModuleNotFoundError as error:
        raise MissingExtraError("rosbags", "bags") from error
    return get_typestore(Stores.LATEST)


def _records(message: Message, fields: Sequence[Field]) -> npt.NDArray[Any]:
    """A view of the message's points as (height, width) records of the fields wanted."""
    step, order = message.point_step, ">" if message.is_bigendian else "<"
    for field in fields:
        if field.datatype not in DATATYPES:
            raise DataError(f"PointCloud2: field {field.name} has the datatype {field.datatype}, expected 1..8")
        if field.count > 1:
            raise DataError(f"PointCloud2: field {field.name} has {field.count} values a point, expected one")
        if field.offset + int(DATATYPES[field.datatype][1]) > step:
            raise DataError(f"PointCloud2: field {field.name} at byte {field.offset} ends beyond point_step {step}")
    height, width = message.height, message.width
    data = np.frombuffer(message.data, np.uint8) if len(message.data) else np.empty(0, np.uint8)
    row = message.row_step if height > 1 else width * step  # drivers of unorganised clouds leave all kinds of row_step
    if row < width * step:
        raise DataError(f"PointCloud2: row_step {row} is less than {width} points of {step} bytes")
    needed = (height - 1) * row + width * step if height and width else 0
    if len(data) < needed:
        raise DataError(
            f"PointCloud2: {height} x {width} points of {step} bytes need {needed} bytes, data have {len(data)}; "
            "the message was cut or its sizes are wrong"
        )
    record = np.dtype(
        {
            "names": [field.name for field in fields],
            "formats": [order + DATATYPES[field.datatype] for field in fields],
            "offsets": [field.offset for field in fields],
            "itemsize": step,
        }
    )
    if not needed:
        return np.empty((0, 0), record)
    return np.ndarray((height, width), record, data.data, strides=(row, step))


def _columns(records: npt.NDArray[Any], names: Sequence[str]) -> Cloud:
    """The records' fields as (N, 4) float32, zeros for a missing intensity; a view where they lie side by side."""
    record = records.dtype
    together = [record.fields[name][:2] == (np.dtype("<f4"), 4 * place) for place, name in enumerate(names)]  # type: ignore[index]
    if len(names) == COLUMNS and all(together) and record.itemsize == 4 * COLUMNS and records.flags.c_contiguous:
        return records.reshape(-1).view("<f4").reshape(-1, COLUMNS)
    points = np.zeros((*records.shape, COLUMNS), np.float32)
    with np.errstate(over="ignore"):
        for place, name in enumerate(names):
            points[..., place] = records[name]
    return points.reshape(-1, COLUMNS)


def _without_invalid(points: Cloud) -> tuple[Cloud, int]:
    """Leaves out points that are not finite or lie at the origin; the array itself where there are none."""
    # A sum of finite float32 values in float64 is finite; one NaN or infinity shows in it.
    with np.errstate(invalid="ignore"):
        all_finite = np.isfinite(points.sum(dtype=np.float64))
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    valid = (x != 0) | (y != 0) | (z != 0)
    if not all_finite:
        valid &= np.isfinite(points).all(axis=1)
    kept = points if valid.all() else points[valid]
    return kept, len(points) - len(kept)
