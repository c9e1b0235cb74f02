"""A KITTI raw drive, written here, as a bag."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("mcap", reason="needs the bags extra")

from pd_edge.bags import BagReader
from pd_edge.cli import main
from pd_edge.errors import DataError
from pd_edge.kitti import Calibration, Label, RawDrive, boxes_to_lidar, write_raw_drive
from pd_edge.kitti_bag import CAMERA, CLOUDS, LABELS, TF, TF_STATIC, TRUTH, write_drive
from pd_edge.pointcloud2 import points_of
from pd_edge.ros_messages import matrix_of, objects_of, time_of

TIMES = [1_767_225_600_000_000_000 + n * 100_000_000 for n in range(3)]


@pytest.fixture
def drive(tmp_path: Path, calibration: Calibration, car: Label, dont_care: Label) -> Path:
    """Three scans of a car that drives forward, one object and one DontCare region in each."""
    path = tmp_path / "2026_01_01" / "2026_01_01_drive_0001_sync"
    rng = np.random.default_rng(0)
    clouds = [rng.uniform(1, 40, (50, 4)).astype(np.float32) / [1, 1, 1, 40] for _ in TIMES]
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0, 1.5, 3.1]
    write_raw_drive(
        path,
        [each.astype(np.float32) for each in clouds],
        TIMES,
        calibration,
        poses=poses,
        labels=[[car, dont_care]] * 3,
    )
    return path


def test_a_bag_holds_all_that_the_drive_has(drive: Path, tmp_path: Path, car: Label) -> None:
    source, seen = RawDrive(drive), []
    written = write_drive(source, tmp_path / "drive.mcap", advance=lambda done, count: seen.append((done, count)))
    assert (written.scans, written.objects, written.left_out, written.notes) == (3, 3, [], [])
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with BagReader(tmp_path / "drive.mcap") as bag:
        records = list(bag.records())
        assert [each.topic for each in records] == [TF_STATIC, *[TF, CAMERA, TRUTH, LABELS, CLOUDS] * 3]
        found = {topic: [bag.message(each) for each in records if each.topic == topic] for topic in bag.topics}
    assert [each.time_ns for each in records if each.topic == LABELS] == TIMES
    for topic in (CAMERA, TRUTH, CLOUDS):
        assert [time_of(each) for each in found[topic]] == TIMES
    for index, cloud in enumerate(found[CLOUDS]):
        assert cloud.header.frame_id == "velodyne"
        np.testing.assert_array_equal(points_of(cloud).points, source.frame(index).points)
    calibration = source.frame(0).calibration
    assert calibration is not None
    boxes = objects_of(found[TRUTH][0])
    assert list(boxes.names) == ["Car"]
    np.testing.assert_allclose(boxes.boxes, boxes_to_lidar([car], calibration), atol=1e-9)
    assert found[LABELS][0].data == (drive / "label_2" / "0000000000.txt").read_text()


def test_intensities_stay_as_they_are_written(drive: Path, tmp_path: Path) -> None:
    for file in (drive / "velodyne_points" / "data").iterdir():
        cloud = np.fromfile(file, np.float32).reshape(-1, 4)
        cloud[:, 3] = (255 * cloud[:, 3]).round()
        cloud[7, 0] = np.nan
        cloud.tofile(file)
    write_drive(RawDrive(drive), tmp_path / "drive.mcap")
    with BagReader(tmp_path / "drive.mcap") as bag:
        (first, *_) = (bag.message(each) for each in bag.records({CLOUDS}))
    wanted = np.fromfile(drive / "velodyne_points" / "data" / "0000000000.bin", np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(points_of(first).points, np.delete(wanted, 7, axis=0))


def test_transforms_and_camera_project_as_the_calibration_does(drive: Path, tmp_path: Path) -> None:
    source = RawDrive(drive)
    write_drive(source, tmp_path / "drive.mcap")
    with BagReader(tmp_path / "drive.mcap") as bag:
        found = {each.topic: bag.message(each) for each in bag.records()}
        ahead = [bag.message(each).transforms[0] for each in bag.records([TF])]
    frames = {(each.header.frame_id, each.child_frame_id): each.transform for each in found[TF_STATIC].transforms}
    assert set(frames) == {("velodyne", "camera"), ("imu_link", "velodyne")}
    camera, calibration = found[CAMERA], source.calibration
    assert calibration is not None
    points = np.array([[12.0, 2, -1, 1], [30, -5, 0.5, 1]])
    to_camera = np.eye(4)
    to_camera[:3, :3] = camera.r.reshape(3, 3)
    seen = points @ (camera.p.reshape(3, 4) @ to_camera @ np.linalg.inv(matrix_of(frames["velodyne", "camera"]))).T
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], calibration.lidar_to_image(points[:, :3])[0], atol=1e-6)
    assert (camera.width, camera.height) == calibration.image_size
    imu = calibration.Tr_imu_to_velo
    assert imu is not None
    np.testing.assert_allclose(np.linalg.inv(matrix_of(frames["imu_link", "velodyne"]))[:3], imu, atol=1e-12)
    assert [(each.header.frame_id, each.child_frame_id) for each in ahead] == [("odom", "imu_link")] * 3
    moved = [matrix_of(each.transform)[0, 3] for each in ahead]
    np.testing.assert_allclose(moved, [0, 1.5, 3.1], atol=1e-3)


def test_what_a_drive_lacks_is_said_and_the_rest_is_written(drive: Path, tmp_path: Path) -> None:
    (drive / "oxts" / "data" / "0000000001.txt").unlink()
    (drive / "velodyne_points" / "data" / "0000000001.bin").write_bytes(b"123")
    written = write_drive(RawDrive(drive), tmp_path / "drive.mcap")
    assert written.scans == 2
    assert [name for name, _ in written.left_out] == ["0000000001"]
    assert len(written.notes) == 1
    assert "no ego motion: " in written.notes[0]
    for file in drive.parent.glob("calib*"):
        file.unlink()
    bare = write_drive(RawDrive(drive), tmp_path / "bare.mcap")
    assert "no calibration: no camera, no transforms and no ground truth" in bare.notes
    with BagReader(tmp_path / "bare.mcap") as bag:
        assert set(bag.topics) == {CLOUDS}


def test_a_drive_without_a_readable_scan_leaves_no_bag(drive: Path, tmp_path: Path) -> None:
    for file in (drive / "velodyne_points" / "data").iterdir():
        file.write_bytes(b"123")
    with pytest.raises(DataError, match=r"no scan could be read; the first: .*0000000000\.bin"):
        write_drive(RawDrive(drive), tmp_path / "out" / "drive.mcap")
    assert not list((tmp_path / "out").iterdir())


def test_command(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "drive.mcap"
    with pytest.raises(SystemExit) as ended:
        main(["bag", "from-kitti", str(drive), str(out), "--compress"])
    assert ended.value.code == 0
    assert f"{out}: 3 scans, 3 objects" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["bag", "from-kitti", str(drive), str(out)])
    assert ended.value.code == 1
    assert "exists already; remove it or name another" in capsys.readouterr().err
