"""PointCloud2 of any layout to points and back."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_edge.errors import DataError
from pd_edge.pointcloud2 import DATATYPES, INTENSITY_NAMES, deserialize, layout_of, points_of

NUMBERS = {kind: number for number, kind in DATATYPES.items()}
Layout = tuple[int, list[tuple[str, int, str]]]
"""Bytes of a point, and (name, offset, kind) of its fields."""

XYZ = [("x", 0, "f4"), ("y", 4, "f4"), ("z", 8, "f4")]
DRIVERS: dict[str, Layout] = {
    "kitti": (16, [*XYZ, ("intensity", 12, "f4")]),
    "kitti2bag": (16, [*XYZ, ("i", 12, "f4")]),
    "velodyne": (22, [*XYZ, ("intensity", 12, "f4"), ("ring", 16, "u2"), ("time", 18, "f4")]),
    "velodyne-padded": (32, [*XYZ, ("intensity", 16, "f4"), ("ring", 20, "u2"), ("time", 24, "f4")]),
    "ouster": (
        48,
        [
            *XYZ,
            ("intensity", 16, "f4"),
            ("t", 20, "u4"),
            ("reflectivity", 24, "u2"),
            ("ring", 26, "u2"),
            ("ambient", 28, "u2"),
            ("range", 32, "u4"),
        ],
    ),
    "hesai": (48, [*XYZ, ("intensity", 16, "f4"), ("timestamp", 24, "f8"), ("ring", 32, "u2")]),
    "livox": (26, [*XYZ, ("intensity", 12, "f4"), ("tag", 16, "u1"), ("line", 17, "u1"), ("timestamp", 18, "f8")]),
    "livox-reflectivity": (18, [*XYZ, ("reflectivity", 12, "u1"), ("tag", 13, "u1"), ("time", 14, "u4")]),
    "robosense": (23, [*XYZ, ("intensity", 12, "u1"), ("ring", 13, "u2"), ("timestamp", 15, "f8")]),
    "doubles-in-another-order": (32, [("Intensity", 0, "f8"), ("z", 8, "f8"), ("y", 16, "f8"), ("x", 24, "f8")]),
    "whole-metres": (8, [("x", 0, "i2"), ("y", 2, "i2"), ("z", 4, "i1"), ("intensity", 5, "u1")]),
}


def some_points(count: int = 60) -> npt.NDArray[np.float32]:
    """Points of whole metres and intensities, which every kind of field holds."""
    rng = np.random.default_rng(0)
    points = rng.integers(1, 100, (count, 4)).astype(np.float32)
    points[:, :3] *= rng.choice([-1, 1], (count, 3))
    return points


def message(
    layout: Layout, points: npt.NDArray[np.float32], *, big: bool = False, height: int = 1, row_padding: int = 0
) -> Any:
    """A message in a driver's layout; bytes that belong to no field, or to another, are 0xff (NaN as a float)."""
    step, fields = layout
    order = ">" if big else "<"
    width = len(points) // height
    data = np.full(height * (width * step + row_padding), 0xFF, np.uint8)
    record = np.dtype(
        {
            "names": [name for name, _, _ in fields],
            "formats": [order + kind for _, _, kind in fields],
            "offsets": [offset for _, offset, _ in fields],
            "itemsize": step,
        }
    )
    rows = np.ndarray((height, width), record, data.data, strides=(width * step + row_padding, step))
    lowered = {name.lower(): name for name, _, _ in fields}
    intensity = next((lowered[name] for name in INTENSITY_NAMES if name in lowered), None)
    for name, column in zip(("x", "y", "z", intensity), points.T, strict=True):
        if name is not None:
            rows[name] = column.reshape(height, width)
    return SimpleNamespace(
        height=height,
        width=width,
        fields=[SimpleNamespace(name=name, offset=at, datatype=NUMBERS[kind], count=1) for name, at, kind in fields],
        is_bigendian=big,
        point_step=step,
        row_step=width * step + row_padding,
        data=data,
        is_dense=True,
    )


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("height", "row_padding"), [(1, 0), (4, 0), (4, 5)])
def test_every_layout_gives_the_same_points(driver: str, big: bool, height: int, row_padding: int) -> None:
    points = some_points()
    found = points_of(message(DRIVERS[driver], points, big=big, height=height, row_padding=row_padding))
    assert found.points.dtype == np.float32
    np.testing.assert_array_equal(found.points, points)
    assert found.removed == 0
    assert (found.intensity or "").lower() in INTENSITY_NAMES


def test_points_are_a_view_where_the_layout_allows() -> None:
    packed = message(DRIVERS["kitti"], some_points())
    assert np.shares_memory(points_of(packed).points, packed.data)
    padded = message(DRIVERS["velodyne-padded"], some_points())
    assert not np.shares_memory(points_of(padded).points, padded.data)


def test_what_is_no_measurement_is_left_out_and_counted() -> None:
    points = some_points(8)
    points[1, 0], points[3, 3], points[4, 2], points[6, :3] = np.nan, np.nan, np.inf, 0
    for driver in ("kitti", "velodyne"):
        found = points_of(message(DRIVERS[driver], points))
        np.testing.assert_array_equal(found.points, points[[0, 2, 5, 7]])
        assert found.removed == 4


def test_without_intensity_there_are_zeros() -> None:
    found = points_of(message((12, XYZ), some_points()))
    assert found.intensity is None
    np.testing.assert_array_equal(found.points, some_points() * [1, 1, 1, 0])


@pytest.mark.parametrize(("height", "width"), [(1, 0), (0, 5), (0, 0)])
def test_no_points_are_no_error(height: int, width: int) -> None:
    empty = message(DRIVERS["velodyne"], some_points(0))
    empty.height, empty.width, empty.data = height, width, b""
    assert points_of(empty).points.shape == (0, 4)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.asarray], ids=lambda kind: kind.__name__)
def test_data_may_be_any_buffer(kind: Any) -> None:
    found = message(DRIVERS["ouster"], some_points())
    found.data = kind(found.data)
    np.testing.assert_array_equal(points_of(found).points, some_points())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"fields": []}, "no field x, y, z among none; a cloud needs x, y and z"),
        ({"point_step": 10}, "field z at byte 8 ends beyond point_step 10"),
        ({"width": 134_217_728}, r"1 x 134217728 points of 16 bytes need 2147483648 bytes, data have 960"),
        ({"height": 2}, r"2 x 60 points of 16 bytes need 1920 bytes, data have 960; the message was cut"),
        ({"height": 2, "row_step": 900}, "row_step 900 is less than 60 points of 16 bytes"),
        ({"data": b""}, "data have 0"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change: dict[str, Any], error: str) -> None:
    wrong = message(DRIVERS["kitti"], some_points())
    vars(wrong).update(change)
    with pytest.raises(DataError, match=error):
        points_of(wrong)


@pytest.mark.parametrize(
    ("name", "attribute", "value", "error"),
    [
        ("y", "datatype", 9, "field y has the datatype 9, expected 1..8"),
        ("intensity", "count", 3, "field intensity has 3 values a point, expected one"),
        ("z", "name", "height", r"no field z among \['height', 'intensity', 'x', 'y'\]"),
    ],
)
def test_a_field_of_no_use_is_refused(name: str, attribute: str, value: Any, error: str) -> None:
    wrong = message(DRIVERS["kitti"], some_points())
    setattr(next(field for field in wrong.fields if field.name == name), attribute, value)
    with pytest.raises(DataError, match=error):
        points_of(wrong)


finite = st.floats(-1000, 1000, width=32)


@given(st.lists(st.tuples(finite, finite, finite, finite), max_size=30))
def test_there_and_back(rows: list[tuple[float, ...]]) -> None:
    points = np.array(rows, np.float32).reshape(-1, 4)
    layout = layout_of(points)
    fields = [
        SimpleNamespace(name=name, offset=at, datatype=kind, count=count) for name, at, kind, count in layout.fields
    ]
    back = points_of(SimpleNamespace(**{**layout._asdict(), "fields": fields}))
    kept = (points[:, :3] != 0).any(axis=1)
    np.testing.assert_array_equal(back.points, points[kept])
    assert back.removed == (~kept).sum()
    assert layout.is_dense


def test_other_arrays_make_no_message() -> None:
    for wrong in (np.zeros((3, 4)), np.zeros((3, 3), np.float32), np.zeros(4, np.float32)):
        with pytest.raises(DataError, match=r"expected float32 \(N, 4\)"):
            layout_of(wrong)  # type: ignore[arg-type]


def test_serialized_bytes() -> None:
    typesys = pytest.importorskip("rosbags.typesys", reason="needs the bags extra")
    store = typesys.get_typestore(typesys.Stores.LATEST)
    kinds = store.types
    source = message(DRIVERS["velodyne"], some_points())
    field = kinds["sensor_msgs/msg/PointField"]
    stamp = kinds["builtin_interfaces/msg/Time"](sec=3, nanosec=5)
    cloud = kinds["sensor_msgs/msg/PointCloud2"](
        **{
            **vars(source),
            "header": kinds["std_msgs/msg/Header"](stamp=stamp, frame_id="velodyne"),
            "fields": [field(**vars(each)) for each in source.fields],
        }
    )
    data = bytes(store.serialize_cdr(cloud, "sensor_msgs/msg/PointCloud2"))
    found = deserialize(data)
    np.testing.assert_array_equal(points_of(found).points, some_points())
    assert (found.header.stamp.nanosec, found.header.frame_id) == (5, "velodyne")
    for serialized in (data, memoryview(data)):
        np.testing.assert_array_equal(points_of(serialized).points, some_points())
    for wrong in (data[:40], b"", b"nonsense"):
        with pytest.raises(DataError, match=f"{len(wrong)} bytes are no serialized PointCloud2"):
            deserialize(wrong)
