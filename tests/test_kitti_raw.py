"""Raw drives: time stamps, poses, tracklets, and the folder that holds them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.boxes import wrap_angle
from pd_edge.errors import DataError
from pd_edge.kitti import (
    Calibration,
    Label,
    RawDrive,
    Tracklet,
    boxes_to_lidar,
    open_dataset,
    read_tracklets,
    write_labels,
    write_raw_drive,
    write_tracklets,
)
from pd_edge.kitti_calibration import homogeneous
from pd_edge.kitti_oxts import OXTS_FIELDS, imu_poses, packets_from_poses, read_oxts, read_timestamps, write_timestamps
from pd_edge.kitti_tracklets import tracklet_labels

DRIVE = "raw/2011_09_26/2011_09_26_drive_0005_sync"
SECOND = 10**9
Cloud = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
TRACKLETS = [
    Tracklet("Car", (4.2, 1.7, 1.5), 1, np.array([[10, 2, -1.7, 0.1], [11, 2, -1.7, 0.2]]), np.array([0, 3])),
    Tracklet("Person_sitting", (0.8, 0.6, 1.2), 0, np.array([[-5, 2, -1.7, 0.0]]), np.array([2])),
]


def test_timestamps_come_back(tmp_path: Path) -> None:
    times = [0, 1317042272335337762, 1317042272438625628]
    write_timestamps(tmp_path / "t.txt", [time + 10 * SECOND for time in times])
    assert (tmp_path / "t.txt").read_text().splitlines()[1] == "2011-09-26 13:04:42.335337762"
    np.testing.assert_array_equal(read_timestamps(tmp_path / "t.txt"), [time + 10 * SECOND for time in times])


@pytest.mark.parametrize("line", ["", "now", "2011-13-26 13:04:32.3", "2011-09-26 13:04:32.3333333333", "1e9"])
def test_bad_timestamps_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "t.txt").write_text(f"2011-09-26 13:04:32\n{line}\n2011-09-26 13:04:33\n")
    with pytest.raises(DataError, match=r"t.txt, line 2: .*expected YYYY-MM-DD"):
        read_timestamps(tmp_path / "t.txt")


def circling(count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Poses on a climbing circle, with roll and pitch, and their times."""
    t = np.arange(count) * 0.1
    poses = np.tile(np.eye(4), (count, 1, 1))
    yaw = 0.2 * t
    zero, one = np.zeros(count), np.ones(count)
    heading = np.array([[np.cos(yaw), -np.sin(yaw), zero], [np.sin(yaw), np.cos(yaw), zero], [zero, zero, one]])
    lean = np.array([[np.cos(0.03), 0, np.sin(0.03)], [0, 1, 0], [-np.sin(0.03), 0, np.cos(0.03)]])
    poses[:, :3, :3] = np.moveaxis(heading, -1, 0) @ lean
    poses[:, :3, 3] = np.column_stack([50 * np.sin(yaw), 50 * (1 - np.cos(yaw)), 0.1 * t])
    return poses, (t * SECOND).astype(np.int64)


def test_oxts_packets_give_the_poses_back() -> None:
    poses, times = circling(60)
    packets = packets_from_poses(poses, times)
    np.testing.assert_allclose(imu_poses(packets), np.linalg.inv(poses[0]) @ poses, atol=1e-6)
    speed = packets[5:-5, OXTS_FIELDS.index("vf")]
    np.testing.assert_allclose(speed, 10, rtol=0.01)
    np.testing.assert_allclose(packets[5:-5, OXTS_FIELDS.index("wz")], 0.2, rtol=1e-6)


def test_real_poses_agree_with_the_measured_speed(kitti_root: Path) -> None:
    drive = RawDrive(kitti_root / DRIVE)
    packets = np.array([read_oxts(drive.path / "oxts/data" / f"{name}.txt") for name in drive.ids])
    steps = np.linalg.norm(np.diff(drive.poses[:, :3, 3], axis=0), axis=1).sum()
    seconds = np.diff(drive.times_ns) / SECOND
    travelled = (packets[:-1, OXTS_FIELDS.index("vf")] * seconds).sum()
    assert steps == pytest.approx(travelled, rel=0.03)


def test_oxts_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("49.0 8.4\n")
    with pytest.raises(DataError, match=r"a.txt: 2 fields; expected 30 numbers: lat lon"):
        read_oxts(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("91 " + "0 " * 29)
    with pytest.raises(DataError, match="latitude 91"):
        read_oxts(tmp_path / "a.txt")


def test_tracklets_come_back(tmp_path: Path) -> None:
    file = tmp_path / "tracklet_labels.xml"
    write_tracklets(file, TRACKLETS)
    assert "Person (sitting)" in file.read_text()
    for read, written in zip(read_tracklets(file), TRACKLETS, strict=True):
        assert (read.name, read.size, read.first_scan) == (written.name, written.size, written.first_scan)
        np.testing.assert_allclose(read.poses, written.poses)
        np.testing.assert_array_equal(read.occlusion, written.occlusion)


def test_tracklet_labels_are_those_in_the_image_at_that_scan(calibration: Calibration) -> None:
    assert [tracklet_labels(TRACKLETS, scan, calibration) != [] for scan in range(4)] == [False, True, True, False]
    label = tracklet_labels(TRACKLETS, 2, calibration)[0]
    assert label.occlusion == 3
    np.testing.assert_allclose(boxes_to_lidar([label], calibration), [[11, 2, -0.95, 4.2, 1.7, 1.5, 0.2]], atol=1e-9)


def test_real_tracklets_agree_with_the_tracking_labels(kitti_root: Path) -> None:
    drive = RawDrive(kitti_root / DRIVE)
    compared = 0
    for index in range(0, len(drive), 9):
        frame = drive.frame(index)
        assert frame.calibration is not None
        assert frame.labels is not None
        labels = [label for label in frame.labels if label.name != "DontCare"]
        others = tracklet_labels(drive.tracklets or [], drive.scan_numbers[index], frame.calibration)
        boxes, tracks = (boxes_to_lidar(some, frame.calibration) for some in (labels, others))
        nearest = np.linalg.norm(boxes[:, None, :3] - tracks[None, :, :3], axis=2).argmin(axis=1)
        np.testing.assert_allclose(boxes[:, :6], tracks[nearest, :6], atol=0.03)
        assert (np.abs(wrap_angle(boxes[:, 6] - tracks[nearest, 6])) < 2e-3).all()
        assert [label.name for label in labels] == [others[i].name for i in nearest]
        compared += len(labels)
    assert compared > 30


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<a>", "not valid XML"),
        ("<a/>", "no <tracklets> inside <a>"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "XML entities"),
        ("<a><tracklets><item><objectType>Car</objectType></item></tracklets></a>", "tracklet 1: no <h>"),
    ],
)
def test_bad_tracklets_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.xml").write_text(text)
    with pytest.raises(DataError, match=f"t.xml.*{said}"):
        read_tracklets(tmp_path / "t.xml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<rx>0</rx>", "<rx>0.5</rx>", "rolled or pitched"),
        ("<h>1.5</h>", "<h>-1.5</h>", "size -1.5 x 1.7 x 4.2"),
        ("<occlusion>0<", "<occlusion>5<", "occlusion 5"),
        ("<first_frame>1<", "<first_frame>1.5<", "first_frame 1.5; expected a whole number"),
        ("<tx>10<", "<tx>ten<", "'ten' is not a number"),
    ],
)
def test_bad_tracklet_values_are_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "t.xml"
    write_tracklets(file, TRACKLETS)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=f"t.xml, tracklet 1: .*{said}"):
        read_tracklets(file)


@pytest.fixture
def raw_drive(tmp_path: Path, calibration: Calibration, clouds: list[Cloud]) -> Path:
    path = tmp_path / "2026_01_01" / "2026_01_01_drive_0001_sync"
    poses, times = circling(4)
    write_raw_drive(path, iter(clouds[:4]), times.tolist(), calibration, poses=poses, tracklets=TRACKLETS)
    return path


def test_raw_drive_comes_back(raw_drive: Path, calibration: Calibration, clouds: list[Cloud]) -> None:
    drive = RawDrive(raw_drive)
    poses, times = circling(4)
    assert drive.ids == ["0000000000", "0000000001", "0000000002", "0000000003"]
    np.testing.assert_array_equal(drive.times_ns, times)
    np.testing.assert_array_equal(drive.frame(3).points, clouds[3])
    assert [len(frame.labels or []) for frame in drive] == [0, 1, 1, 0]
    assert calibration.Tr_imu_to_velo is not None
    lidar: Floats = np.matmul(poses, np.linalg.inv(homogeneous(calibration.Tr_imu_to_velo)))
    np.testing.assert_allclose(drive.poses, np.linalg.inv(lidar[0]) @ lidar, atol=1e-6)


def test_raw_drive_with_missing_scans_keeps_their_times(raw_drive: Path) -> None:
    (raw_drive / "velodyne_points/data/0000000001.bin").unlink()
    drive = RawDrive(raw_drive)
    np.testing.assert_array_equal(drive.times_ns, circling(4)[1][[0, 2, 3]])
    assert [len(frame.labels or []) for frame in drive] == [0, 1, 0]
    stamps = raw_drive / "velodyne_points/timestamps.txt"
    stamps.write_text("\n".join(stamps.read_text().splitlines()[:3]) + "\n")
    with pytest.raises(DataError, match=r"timestamps.txt: 3 lines, but there is a scan 0000000003"):
        _ = RawDrive(raw_drive).times_ns


def test_raw_drive_prefers_label_files(raw_drive: Path, car: Label) -> None:
    for number in range(3):
        write_labels(raw_drive / "label_2" / f"{number:010d}.txt", [car] * number)
    drive = RawDrive(raw_drive)
    assert [len(drive.frame(index).labels or []) for index in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"frame 0000000003 .*label_2/0000000003.txt"):
        drive.frame(3)


def test_raw_drive_without_calibration_has_clouds_only(raw_drive: Path) -> None:
    for file in raw_drive.parent.glob("calib_*"):
        file.unlink()
    frame = RawDrive(raw_drive).frame(1)
    assert (frame.labels, frame.calibration) == (None, None)
    with pytest.raises(DataError, match="calib_imu_to_velo"):
        _ = RawDrive(raw_drive).poses


def test_raw_drive_with_half_a_calibration_is_refused(raw_drive: Path) -> None:
    (raw_drive.parent / "calib_velo_to_cam.txt").unlink()
    with pytest.raises(DataError, match=r"frame 0000000000 .*calib_velo_to_cam.txt: cannot be read"):
        RawDrive(raw_drive).frame(0)


def test_raw_drive_writer_wants_one_of_each_a_scan(
    tmp_path: Path, calibration: Calibration, car: Label, clouds: list[Cloud]
) -> None:
    path = tmp_path / "day" / "drive"
    with pytest.raises(DataError, match="2 clouds for 3 time stamps"):
        write_raw_drive(path, [clouds[0]] * 2, [0, 1, 2], calibration)
    with pytest.raises(DataError, match="1 clouds with labels for 2 time stamps"):
        write_raw_drive(path, [clouds[0]] * 2, [0, 1], calibration, labels=[[car]])
    with pytest.raises(DataError, match="4 poses for 2 time stamps"):
        write_raw_drive(path, [clouds[0]] * 2, [0, 1], calibration, poses=circling(4)[0])


def test_real_raw_drive(kitti_root: Path) -> None:
    drive = open_dataset(kitti_root / DRIVE)
    assert isinstance(drive, RawDrive)
    assert drive.ids == [f"{number:010d}" for number in range(100, 154)]
    assert (drive.tracklets or [])[0].name == "Van"
    assert drive.times_ns.shape == (54,)
    assert (np.diff(drive.times_ns) > 0.1 * SECOND).all()
    frame = drive.frame(0)
    assert len(frame.points) > 100_000
    assert frame.image_size == (1242, 375)


def test_raw_drive_wants_scan_numbers(raw_drive: Path) -> None:
    (raw_drive / "velodyne_points/data/first.bin").write_bytes(bytes(16))
    with pytest.raises(DataError, match=r"first\.bin: not named by its scan number"):
        RawDrive(raw_drive)
