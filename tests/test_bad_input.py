"""Whatever a file holds, a reader gives data or a PdEdgeError, never another exception."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pd_edge.clouds import check_points, read_cloud, write_cloud
from pd_edge.errors import DataError, PdEdgeError
from pd_edge.kitti import (
    DONT_CARE,
    Label,
    ObjectDataset,
    RawDrive,
    Tracklet,
    boxes_to_lidar,
    crop_to_image,
    read_labels,
    read_object_calibration,
    read_raw_calibration,
    read_tracklets,
    write_labels,
    write_object_calibration,
    write_object_frame,
    write_raw_calibration,
    write_raw_drive,
    write_split,
    write_tracklets,
)
from pd_edge.kitti_calibration import homogeneous, png_size
from pd_edge.kitti_oxts import OXTS_FIELDS, imu_poses, read_oxts, read_timestamps, write_oxts, write_timestamps
from pd_edge.kitti_tracklets import tracklet_labels
from pd_edge.training.sim.camera import camera_calibration

CALIBRATION = camera_calibration()
POINTS = np.array([[10, 1, -1, 0.5], [20, -3, 0.25, 1], [5, 0, 0, 0]], np.float32)
LABELS = [
    Label("Car", 0.0, 0, -1.5, (10.0, 20.0, 110.0, 80.5), 1.5, 1.6, 4.0, (1.0, 1.7, 20.0), -1.55),
    Label("DontCare", -1, -1, -10, (5, 6, 7, 8), -1, -1, -1, (-1000, -1000, -1000), -10),
]
TRACKLETS = [Tracklet("Car", (4.2, 1.7, 1.5), 0, np.array([[10, 2, -1.7, 0.1], [11, 2, -1.7, 0.2]]), np.array([0, 3]))]


def read_and_use_cloud(path: Path) -> None:
    points = read_cloud(path)
    assert points.dtype == np.float32
    assert points.shape[1:] == (4,)
    checked = check_points(points, str(path))
    assert np.isfinite(checked.points).all()
    assert len(checked.points) + checked.removed == len(points)
    assert 0 <= checked.points[:, 3].min() <= checked.points[:, 3].max() <= 1


def read_and_use_labels(path: Path) -> None:
    boxed = [label for label in read_labels(path) if label.name != DONT_CARE and label.height >= 0]
    assert np.isfinite(boxes_to_lidar(boxed, CALIBRATION)).all()


def read_and_use_calibration(path: Path) -> None:
    calibration = read_object_calibration(path)
    assert crop_to_image(POINTS, calibration, (100, 100)).shape == (3,)
    assert boxes_to_lidar(LABELS[:1], calibration).shape == (1, 7)
    assert np.linalg.det(homogeneous(np.eye(3) if calibration.Tr_imu_to_velo is None else calibration.Tr_imu_to_velo))


def read_and_use_tracklets(path: Path) -> None:
    tracklet_labels(read_tracklets(path), 1, CALIBRATION)


def read_and_use_oxts(path: Path) -> None:
    imu_poses(np.array([read_oxts(path)] * 2))


def read_day(path: Path) -> None:
    read_raw_calibration(path.parent)


def write_day(path: Path) -> None:
    write_raw_calibration(path.parent, CALIBRATION)


def write_object_split(path: Path) -> None:
    write_cloud(path.parent / "velodyne" / "000001.bin", POINTS)
    path.write_text("000001\n000002\n")


def write_png_header(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(1, 9)))


class Kind(NamedTuple):
    """A kind of file: its name, how a good one is written, and how it is read and used."""

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]


def write_pcd_text(path: Path) -> None:
    header = "VERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 1\nHEIGHT 1\n"
    path.write_text(f"{header}POINTS 1\nDATA ascii\n1 2 3 0.5\n")


def write_pcd_compressed(path: Path) -> None:
    header = "FIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nPOINTS 4\nDATA binary_compressed\n"
    # One byte, then 63 more like it: a repeat one byte back.
    path.write_bytes(header.encode() + bytes([5, 0, 0, 0, 64, 0, 0, 0]) + bytes([0, 62, 7 << 5, 54, 0]))


def write_ply_text(path: Path) -> None:
    properties = "".join(f"property float {name}\n" for name in ("x", "y", "z", "i"))
    path.write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{properties}end_header\n1 2 3 0.5\n")


KINDS = [
    Kind("cloud.bin", lambda path: write_cloud(path, POINTS), read_and_use_cloud),
    Kind("cloud.npy", lambda path: write_cloud(path, POINTS), read_and_use_cloud),
    Kind("cloud.pcd", lambda path: write_cloud(path, POINTS), read_and_use_cloud),
    Kind("text.pcd", write_pcd_text, read_and_use_cloud),
    Kind("compressed.pcd", write_pcd_compressed, read_and_use_cloud),
    Kind("cloud.ply", lambda path: write_cloud(path, POINTS), read_and_use_cloud),
    Kind("text.ply", write_ply_text, read_and_use_cloud),
    Kind("label.txt", lambda path: write_labels(path, LABELS), read_and_use_labels),
    Kind("calib.txt", lambda path: write_object_calibration(path, CALIBRATION), read_and_use_calibration),
    Kind("calib_cam_to_cam.txt", write_day, read_day),
    Kind("calib_velo_to_cam.txt", write_day, read_day),
    Kind("calib_imu_to_velo.txt", write_day, read_day),
    Kind("tracklet_labels.xml", lambda path: write_tracklets(path, TRACKLETS), read_and_use_tracklets),
    Kind("timestamps.txt", lambda path: write_timestamps(path, [10**18, 10**18 + 7]), read_timestamps),
    Kind("oxts.txt", lambda path: write_oxts(path, np.ones(len(OXTS_FIELDS))), read_and_use_oxts),
    Kind("val.txt", write_object_split, lambda path: ObjectDataset(path.parent, path)),
    Kind("image.png", write_png_header, png_size),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    assert isinstance(request.param, Kind)
    return request.param


@pytest.fixture(scope="module")
def good(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A good file and what it holds."""
    file = tmp_path_factory.mktemp("bad_input") / kind.name
    kind.write(file)
    return file, file.read_bytes()


def test_the_good_file_is_read(kind: Kind, good: tuple[Path, bytes]) -> None:
    file, data = good
    file.write_bytes(data)
    kind.read(file)


def refusal(read: Callable[[], object]) -> str:
    """What the error says when reading is refused, else nothing; any other exception fails the test."""
    try:
        read()
    except PdEdgeError as error:
        return str(error)
    return ""


def only_our_errors(kind: Kind, file: Path, data: bytes) -> None:
    file.write_bytes(data)
    said = refusal(lambda: kind.read(file))
    assert not said or str(file.parent) in said
    assert "\n" not in said


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
@example(b"")
@example(b"\xff\xfe")
def test_arbitrary_bytes(kind: Kind, good: tuple[Path, bytes], data: bytes) -> None:
    only_our_errors(kind, good[0], data)


words = st.sampled_from(
    [b"", b"-1", b"0", b"nan", b"inf", b"1e999", b"99999999999999999999", b"1_0", b"\n", b" ", b"x", b"<", b":", b"\0"]
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_good_files_with_a_piece_replaced(kind: Kind, good: tuple[Path, bytes], data: st.DataObject) -> None:
    file, content = good
    start = data.draw(st.integers(0, len(content)), "start")
    end = data.draw(st.integers(start, min(len(content), start + 40)), "end")
    piece = data.draw(words | st.binary(max_size=12), "piece")
    only_our_errors(kind, file, content[:start] + piece + content[end:])


def test_every_truncation_of_a_good_file(kind: Kind, good: tuple[Path, bytes]) -> None:
    file, content = good
    for length in range(0, len(content), max(1, len(content) // 300)):
        only_our_errors(kind, file, content[:length])


def test_a_missing_file_is_named(kind: Kind, tmp_path: Path) -> None:
    kind.write(tmp_path / kind.name)
    (tmp_path / kind.name).unlink()
    if kind.name == "calib_imu_to_velo.txt":
        assert read_raw_calibration(tmp_path).Tr_imu_to_velo is None
        return
    with pytest.raises(DataError, match=f"{kind.name}: .*cannot be read"):
        kind.read(tmp_path / kind.name)


def test_a_folder_in_place_of_a_file_is_named(kind: Kind, tmp_path: Path) -> None:
    kind.write(tmp_path / kind.name)
    (tmp_path / kind.name).unlink()
    (tmp_path / kind.name).mkdir()
    with pytest.raises(DataError, match=f"{kind.name}: cannot be read"):
        kind.read(tmp_path / kind.name)


def test_huge_counts_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    count = 10**17
    headers = {
        "a.pcd": f"FIELDS x y z i\nSIZE 4 4 4 4\nTYPE F F F F\nPOINTS {count}\nDATA binary\n",
        "b.pcd": f"FIELDS x y z i\nSIZE 4 4 4 4\nTYPE F F F F\nPOINTS {count}\nDATA ascii\n1 2 3 4\n",
        "c.pcd": f"FIELDS x y z i p\nSIZE 4 4 4 4 8\nTYPE F F F F F\nCOUNT 1 1 1 1 {count}\nPOINTS 1\nDATA binary\n",
        "d.ply": f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\nproperty float x\nproperty float y\n"
        "property float z\nproperty float i\nend_header\n",
    }
    for name, header in headers.items():
        (tmp_path / name).write_text(header)
        with pytest.raises(DataError, match=f"{count}|truncated"):
            read_cloud(tmp_path / name)
    npy = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 4), }}\n".encode()
    (tmp_path / "e.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(npy).to_bytes(2, "little") + npy)
    with pytest.raises(DataError, match=f"0 bytes of numbers for shape .{count}, 4., expected {16 * count}"):
        read_cloud(tmp_path / "e.npy")


def test_npy_never_unpickles(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"np\.save"):
        read_cloud(tmp_path / "a.npy")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["velodyne/000000.bin", "calib/000000.txt", "label_2/000000.txt"]), st.binary(max_size=100))
def test_object_frames_of_arbitrary_files(tmp_path: Path, name: str, data: bytes) -> None:
    write_object_frame(tmp_path, "000000", POINTS, CALIBRATION, LABELS)
    write_split(tmp_path, "val", ["000000"])
    (tmp_path / "training" / name).write_bytes(data)
    said = refusal(lambda: ObjectDataset(tmp_path, "val").frame(0))
    assert not said or "frame 000000" in said


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["velodyne_points/data/0000000000.bin", "tracklet_labels.xml"]), st.binary(max_size=100))
def test_raw_frames_of_arbitrary_files(tmp_path: Path, name: str, data: bytes) -> None:
    drive = tmp_path / "day" / "drive"
    write_raw_drive(drive, [POINTS, POINTS], [0, 10**8], CALIBRATION, tracklets=TRACKLETS)
    (drive / name).write_bytes(data)
    said = refusal(lambda: RawDrive(drive).frame(0))
    assert not said or "frame 0000000000" in said
