"""KITTI labels, calibration, boxes, tracklets, poses, and both layouts, on made-up and on real data."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_edge.boxes import Detections, points_in_boxes
from pd_edge.clouds import read_cloud, write_cloud
from pd_edge.errors import DataError
from pd_edge.kitti import (
    Calibration,
    CloudFolder,
    Label,
    ObjectDataset,
    RawDrive,
    Tracklet,
    boxes_to_labels,
    boxes_to_lidar,
    crop_to_image,
    detections_to_labels,
    iterate,
    open_dataset,
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
from pd_edge.kitti_labels import format_label, parse_label
from pd_edge.kitti_oxts import OXTS_FIELDS, imu_poses, packets_from_poses, read_oxts, read_timestamps, write_timestamps
from pd_edge.kitti_tracklets import tracklet_labels

DRIVE = "raw/2011_09_26/2011_09_26_drive_0005_sync"
SECOND = 10**9
Floats = npt.NDArray[np.float64]

# A camera 0.3 m ahead of the LiDAR and 0.1 m below it, looking along x; a pinhole in the image's middle.
PLAIN = Calibration(
    P2=np.array([[700.0, 0, 500, 0], [0, 700, 200, 0], [0, 0, 1, 0]]),
    R0_rect=np.eye(3),
    Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.3]]),
    Tr_imu_to_velo=np.array([[1.0, 0, 0, -0.8], [0, 1, 0, 0.3], [0, 0, 1, -0.8]]),
    image_size=(1000, 400),
)
CAR = Label("Car", 0.0, 0, -1.5, (10.0, 20.0, 110.0, 80.5), 1.5, 1.6, 4.0, (1.0, 1.7, 20.0), -1.55)
DONT_CARE = Label("DontCare", -1.0, -1, -10.0, (5.0, 6.0, 7.0, 8.0), -1, -1, -1, (-1000.0, -1000.0, -1000.0), -10.0)


def cloud(count: int = 50, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(-40, 40, (count, 3)), rng.uniform(0, 1, count)]).astype(np.float32)


def tilted(roll: float, pitch: float, yaw: float) -> Calibration:
    """PLAIN with the camera turned by small angles."""
    a, b, c = roll, pitch, yaw
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]])
    u, _, vt = np.linalg.svd(turn)
    return PLAIN._replace(R0_rect=u @ vt)


def turns_between(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    difference: Floats = np.abs((np.asarray(a) - np.asarray(b) + np.pi) % (2 * np.pi) - np.pi)
    return difference


# --- labels ---------------------------------------------------------------------------------------------------------


def test_label_line() -> None:
    line = "Cyclist 0.25 2 -1.57 1.5 2.00 300.25 90.00 1.70 0.60 1.80 -2.50 1.60 15.00 3.90 0.875"
    label = parse_label(line, "here")
    assert label == Label(
        "Cyclist", 0.25, 2, -1.57, (1.5, 2, 300.25, 90), 1.7, 0.6, 1.8, (-2.5, 1.6, 15), 3.9, score=0.875
    )
    assert format_label(label) == line.replace(" 1.5 ", " 1.50 ")


def test_dont_care_is_written_as_kitti_does() -> None:
    assert format_label(DONT_CARE) == "DontCare -1 -1 -10 5.00 6.00 7.00 8.00 -1 -1 -1 -1000 -1000 -1000 -10"


numbers = st.floats(-1000, 1000).map(lambda value: round(value, 6) + 0.0)
sizes = st.floats(0, 30).map(lambda value: round(value, 6))
labels_anywhere = st.builds(
    Label,
    name=st.sampled_from(["Car", "Van", "Person_sitting"]),
    truncation=st.floats(0, 1).map(lambda value: round(value, 6)),
    occlusion=st.integers(-1, 3),
    alpha=numbers,
    bbox=st.tuples(numbers, numbers, numbers, numbers),
    height=sizes,
    width=sizes,
    length=sizes,
    location=st.tuples(numbers, numbers, numbers),
    rotation_y=numbers,
    score=st.none() | numbers,
)


@given(labels_anywhere)
def test_labels_come_back_as_written(label: Label) -> None:
    assert parse_label(format_label(label), "here") == label


def test_label_file_and_an_empty_one(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.txt", [CAR, DONT_CARE])
    assert read_labels(tmp_path / "a.txt") == [CAR, DONT_CARE]
    write_labels(tmp_path / "b.txt", [])
    assert read_labels(tmp_path / "b.txt") == []


def test_real_labels_come_back_byte_for_byte(kitti_root: Path, tmp_path: Path) -> None:
    files = sorted((kitti_root / "object/training/label_2").glob("*.txt"))
    assert len(files) == 132
    for file in files:
        write_labels(tmp_path / file.name, read_labels(file))
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Car 0 0 0 1 2 3 4 1 1 1 0 0 10", "14 fields; expected 15 or 16"),
        ("Car 0 0 0 1 2 3 4 1 1 1 0 0 10 0 1 2", "17 fields"),
        ("Car 0 0 0 1 2 three 4 1 1 1 0 0 10 0", "'three' is not a number"),
        ("Car 0 0 0 1 2 nan 4 1 1 1 0 0 10 0", "'nan' is not a finite number"),
        ("Car 0 7 0 1 2 3 4 1 1 1 0 0 10 0", "occlusion 7"),
        ("Car 0 0.5 0 1 2 3 4 1 1 1 0 0 10 0", "occlusion 0.5"),
        ("Car 0 0 0 1 2 3 4 1 -1.6 1 0 0 10 0", "1 -1.6 1 m"),
    ],
)
def test_bad_label_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "000001.txt"
    file.write_text(f"{format_label(CAR)}\n{line}\n")
    with pytest.raises(DataError, match=f"000001.txt, line 2: .*{said}"):
        read_labels(file)


# --- calibration ----------------------------------------------------------------------------------------------------


def assert_same(a: Calibration, b: Calibration) -> None:
    for one, other in zip(a[:4], b[:4], strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-12)
    assert a.image_size == b.image_size


@pytest.mark.parametrize("calibration", [PLAIN, tilted(0.01, -0.02, 0.005), PLAIN._replace(image_size=None)])
def test_calibration_comes_back_in_both_layouts(tmp_path: Path, calibration: Calibration) -> None:
    write_object_calibration(tmp_path / "000000.txt", calibration)
    assert_same(read_object_calibration(tmp_path / "000000.txt"), calibration)
    write_raw_calibration(tmp_path / "day", calibration)
    assert_same(read_raw_calibration(tmp_path / "day"), calibration)


def test_calibration_without_an_inertial_unit(tmp_path: Path) -> None:
    plain = PLAIN._replace(Tr_imu_to_velo=None)
    write_object_calibration(tmp_path / "000000.txt", plain)
    write_raw_calibration(tmp_path / "day", plain)
    assert read_object_calibration(tmp_path / "000000.txt").Tr_imu_to_velo is None
    assert read_raw_calibration(tmp_path / "day").Tr_imu_to_velo is None


def test_real_calibration_is_the_same_in_both_formats(kitti_root: Path) -> None:
    day = kitti_root / "raw/2011_09_26"
    raw, as_object = read_raw_calibration(day), read_object_calibration(day / "calib_object_format.txt")
    assert_same(raw, as_object)
    assert raw.image_size == (1242, 375)


def test_image_size_of_every_real_frame_follows_from_its_calibration(kitti_root: Path) -> None:
    rows = [line.split("\t") for line in (kitti_root / "object/frames.tsv").read_text().splitlines()]
    frame, height, width = (rows[0].index(name) for name in ("frame", "image_height", "image_width"))
    for row in rows[1:]:
        calibration = read_object_calibration(kitti_root / f"object/training/calib/{row[frame]}.txt")
        assert calibration.image_size == (int(row[width]), int(row[height]))


def test_points_go_through_the_calibration() -> None:
    # 10.3 m ahead, 1 m left, 1.1 m below the LiDAR: 10 m ahead of the camera, 1 m left, 1 m below.
    xyz = np.array([[10.3, 1.0, -1.1]])
    np.testing.assert_allclose(PLAIN.lidar_to_camera(xyz), [[-1, 1, 10]])
    np.testing.assert_allclose(PLAIN.camera_to_lidar(PLAIN.lidar_to_camera(xyz)), xyz)
    pixels, depth = PLAIN.lidar_to_image(xyz)
    np.testing.assert_allclose(pixels, [[430, 270]])
    np.testing.assert_allclose(depth, [10])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("P2: 1 2 3\n", "line 1: 3 numbers; expected 12 numbers after 'P2:'"),
        ("P2: 1 0 0 0 0 1 0 0 0 0 1 x\n", "line 1: 'x' is not a number"),
        ("P0: 1\n\nnonsense\n", "line 3: 'nonsense'; expected 'KEY: numbers'"),
        ("P2: 1 0 0 0 0 1 0 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 0\n", "line 2: R0_rect holds no rotation"),
        ("P2: 1 0 0 0 0 1 0 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\n", "no line 'Tr_velo_to_cam:'"),
        ("", "no line 'P2:'; it has no entries"),
    ],
)
def test_bad_calibration_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "000007.txt").write_text(text)
    with pytest.raises(DataError, match=f"000007.txt.*{said}"):
        read_object_calibration(tmp_path / "000007.txt")


def test_image_size_must_be_whole_pixels(tmp_path: Path) -> None:
    write_object_calibration(tmp_path / "0.txt", PLAIN)
    text = (tmp_path / "0.txt").read_text()
    (tmp_path / "0.txt").write_text(text[: text.index("S_rect_02")] + "S_rect_02: 10.5 4\n")
    with pytest.raises(DataError, match=r"S_rect_02 10\.5 4; expected whole"):
        read_object_calibration(tmp_path / "0.txt")


def test_png_header(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1242).to_bytes(4, "big") + (375).to_bytes(4, "big"))
    assert png_size(file) == (1242, 375)
    file.write_bytes(b"\xff\xd8\xff" + bytes(30))
    with pytest.raises(DataError, match="not a PNG"):
        png_size(file)


# --- the camera's field of view -------------------------------------------------------------------------------------


def test_crop_is_bit_exact_with_velodyne_reduced(kitti_root: Path) -> None:
    training = kitti_root / "object/training"
    files = sorted((training / "velodyne").glob("*.bin"))
    assert len(files) == 6
    for file in files:
        points = read_cloud(file)
        seen = points[crop_to_image(points, read_object_calibration(training / "calib" / f"{file.stem}.txt"))]
        assert seen.tobytes() == (training / "velodyne_reduced" / file.name).read_bytes()


def test_crop_edges_belong_to_the_image_as_documented() -> None:
    def seen(u: float, v: float, depth: float = 7.0) -> bool:
        camera = np.array([[(u - 500) / 700 * depth, (v - 200) / 700 * depth, depth]])
        return bool(crop_to_image(PLAIN.camera_to_lidar(camera), PLAIN)[0])

    assert seen(500, 200)
    assert seen(1e-6, 1e-6)
    assert seen(999.999, 399.999)
    assert not seen(-0.001, 200)
    assert not seen(1000.001, 200)
    assert not seen(500, 400.001)
    assert not seen(500, 200, depth=-7.0)


def test_crop_without_an_image_size_says_how_to_give_one() -> None:
    unknown = PLAIN._replace(image_size=None)
    with pytest.raises(DataError, match=r"focal length 700\.0000 px.*S_rect_02.*image_size="):
        crop_to_image(cloud(), unknown)
    np.testing.assert_array_equal(crop_to_image(cloud(), unknown, (1000, 400)), crop_to_image(cloud(), PLAIN))


# --- boxes ----------------------------------------------------------------------------------------------------------


def test_a_car_ahead_by_hand() -> None:
    # It stands 20 m ahead of the camera and looks away from it (rotation_y -pi/2), so its yaw is 0.
    label = CAR._replace(rotation_y=-np.pi / 2)
    np.testing.assert_allclose(boxes_to_lidar([label], PLAIN), [[20.3, -1.0, -1.05, 4.0, 1.6, 1.5, 0]], atol=1e-12)
    # Looking to the camera's right is the LiDAR's -y.
    np.testing.assert_allclose(boxes_to_lidar([CAR._replace(rotation_y=0)], PLAIN)[0, 6], -np.pi / 2)


box_rows = st.tuples(
    st.floats(-80, 80), st.floats(-80, 80), st.floats(-3, 3), *[st.floats(0.1, 20)] * 3, st.floats(-3.14, 3.14)
)
angles = st.floats(-0.03, 0.03)


@given(st.lists(box_rows, max_size=8), st.builds(tilted, angles, angles, angles))
def test_boxes_go_to_the_camera_and_back(rows: list[tuple[float, ...]], calibration: Calibration) -> None:
    boxes = np.array(rows).reshape(-1, 7)
    labels = boxes_to_labels(boxes, ["Car"] * len(rows), calibration)
    back = boxes_to_lidar(labels, calibration)
    np.testing.assert_allclose(back[:, :6], boxes[:, :6], atol=1e-6)
    assert (turns_between(back[:, 6], boxes[:, 6]) < 1e-6).all()
    again = boxes_to_labels(back, ["Car"] * len(rows), calibration)
    np.testing.assert_allclose([label.location for label in again], [label.location for label in labels], atol=1e-6)


def test_dont_care_has_no_box_in_the_lidar_frame() -> None:
    with pytest.raises(DataError, match="DontCare label has no 3D box"):
        boxes_to_lidar([CAR, DONT_CARE], PLAIN)


def test_no_boxes() -> None:
    assert boxes_to_lidar([], PLAIN).shape == (0, 7)
    assert boxes_to_labels(np.empty((0, 7)), [], PLAIN) == []


def test_image_box_of_a_cube_by_hand() -> None:
    # A 2 m cube 11 m ahead of the camera: its near face, 10 m away, bounds it: 700 * 1 / 10 px to each side.
    label = boxes_to_labels(np.array([[11.3, 0, -0.1, 2, 2, 2, 0]]), ["Misc"], PLAIN)[0]
    np.testing.assert_allclose(label.bbox, [430, 130, 570, 270])
    assert label.truncation == pytest.approx(0, abs=1e-12)
    assert label.alpha == pytest.approx(-np.pi / 2)


def test_image_box_is_cut_at_the_image_and_truncation_says_how_much() -> None:
    # The same cube, so far right that only its left half is in the image, which ends at pixel 999.
    right = (999 - 500) / 700 * 10
    label = boxes_to_labels(np.array([[11.3, -right, -0.1, 2, 2, 2, 0]]), ["Misc"], PLAIN)[0]
    assert label.bbox[2] == 999
    whole = 929 + 140 - label.bbox[0]
    assert label.truncation == pytest.approx(1 - (999 - label.bbox[0]) / whole)


def test_a_box_that_reaches_behind_the_camera_fills_the_image_to_its_edge() -> None:
    label = boxes_to_labels(np.array([[2.0, -2.0, -1.0, 8, 2, 1.5, 0]]), ["Car"], PLAIN)[0]
    assert label.bbox[2:] == (999, 399)
    assert 500 < label.bbox[0] < 700
    assert 0.9 < label.truncation < 1


@pytest.mark.parametrize("x", [-20.0, 0.0])
def test_a_box_out_of_sight_keeps_its_label(x: float) -> None:
    label = boxes_to_labels(np.array([[x, 15, -1, 4, 2, 1.5, 0]]), ["Car"], PLAIN)[0]
    assert (label.bbox, label.truncation) == ((0, 0, 0, 0), 1)


def test_detections_become_labels_with_scores() -> None:
    boxes = np.array([[20, 3, -1, 4, 1.7, 1.5, 0.3], [-9, 0, -1, 0.8, 0.6, 1.7, 1]], np.float32)
    found = Detections(boxes, np.array([0, 1]), np.array([0.9, 0.25], np.float32))
    labels = detections_to_labels(found, ("Car", "Pedestrian"), PLAIN)
    assert [label.name for label in labels] == ["Car", "Pedestrian"]
    assert [label.score for label in labels] == pytest.approx([0.9, 0.25])
    assert {(label.truncation, label.occlusion) for label in labels} == {(-1, -1)}
    np.testing.assert_allclose(boxes_to_lidar(labels, PLAIN), boxes, atol=1e-6)


def test_real_boxes_project_onto_their_annotated_image_boxes(kitti_root: Path) -> None:
    off, turned = [], []
    for frame in ObjectDataset(kitti_root / "object", "val"):
        assert frame.calibration is not None
        assert frame.labels is not None
        labels = [label for label in frame.labels if label.name != "DontCare"]
        boxes = boxes_to_lidar(labels, frame.calibration)
        again = boxes_to_labels(boxes, [label.name for label in labels], frame.calibration)
        off += [np.abs(np.subtract(a.bbox, b.bbox)).max() for a, b in zip(labels, again, strict=True)]
        turned += [turns_between(a.alpha, b.alpha) for a, b in zip(labels, again, strict=True)]
        np.testing.assert_allclose(boxes_to_lidar(again, frame.calibration), boxes, atol=1e-6)
    assert np.median(off) < 1.5
    assert np.median(turned) < 0.01


def test_real_boxes_hold_the_points_of_their_objects(kitti_root: Path) -> None:
    frame = ObjectDataset(kitti_root / "object", "val").frame(0)
    assert frame.calibration is not None
    cars = [label for label in frame.labels or [] if label.name == "Car"]
    boxes = boxes_to_lidar(cars, frame.calibration)
    inside = points_in_boxes(frame.points, boxes)
    assert cars
    assert all((inside == index).sum() > 20 for index in range(len(cars)))


# --- time, pose, tracklets ------------------------------------------------------------------------------------------


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


TRACKLETS = [
    Tracklet("Car", (4.2, 1.7, 1.5), 1, np.array([[10, 2, -1.7, 0.1], [11, 2, -1.7, 0.2]]), np.array([0, 3])),
    Tracklet("Person_sitting", (0.8, 0.6, 1.2), 0, np.array([[-5, 2, -1.7, 0.0]]), np.array([2])),
]


def test_tracklets_come_back(tmp_path: Path) -> None:
    file = tmp_path / "tracklet_labels.xml"
    write_tracklets(file, TRACKLETS)
    assert "Person (sitting)" in file.read_text()
    for read, written in zip(read_tracklets(file), TRACKLETS, strict=True):
        assert (read.name, read.size, read.first_scan) == (written.name, written.size, written.first_scan)
        np.testing.assert_allclose(read.poses, written.poses)
        np.testing.assert_array_equal(read.occlusion, written.occlusion)


def test_tracklet_labels_are_those_in_the_image_at_that_scan() -> None:
    assert [tracklet_labels(TRACKLETS, scan, PLAIN) != [] for scan in range(4)] == [False, True, True, False]
    label = tracklet_labels(TRACKLETS, 2, PLAIN)[0]
    assert label.occlusion == 3
    np.testing.assert_allclose(boxes_to_lidar([label], PLAIN), [[11, 2, -0.95, 4.2, 1.7, 1.5, 0.2]], atol=1e-9)


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
        assert (turns_between(boxes[:, 6], tracks[nearest, 6]) < 2e-3).all()
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


# --- data sets ------------------------------------------------------------------------------------------------------


@pytest.fixture
def object_root(tmp_path: Path) -> Path:
    for index in range(3):
        write_object_frame(tmp_path, f"{index:06d}", cloud(seed=index), PLAIN, [CAR, DONT_CARE][: index + 1])
    write_split(tmp_path, "val", ["000002", "000000"])
    return tmp_path


def test_object_folder_comes_back(object_root: Path) -> None:
    data = ObjectDataset(object_root)
    assert data.ids == ["000000", "000001", "000002"]
    frames = list(data)
    np.testing.assert_array_equal(frames[2].points, cloud(seed=2))
    assert [frame.labels for frame in frames] == [[CAR], [CAR, DONT_CARE], [CAR, DONT_CARE]]
    assert frames[0].image_size == (1000, 400)
    assert frames[0].calibration is not None
    assert_same(frames[0].calibration, PLAIN)


def test_object_split_by_name_and_by_path(object_root: Path) -> None:
    assert ObjectDataset(object_root, "val").ids == ["000002", "000000"]
    assert ObjectDataset(object_root / "training", object_root / "ImageSets/val.txt").ids == ["000002", "000000"]
    with pytest.raises(DataError, match=r"no split 'test'.* has val"):
        ObjectDataset(object_root, "test")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("000001\n../../x\n", "line 2: '../../x' is no frame"),
        ("1\n1\n", "frame 1 is listed twice"),
        ("\n", "no frames"),
    ],
)
def test_bad_split_is_named(object_root: Path, lines: str, said: str) -> None:
    (object_root / "ImageSets/val.txt").write_text(lines)
    with pytest.raises(DataError, match=f"val.txt.*{said}"):
        ObjectDataset(object_root, "val")


def test_object_reduced_clouds_are_read_else_cropped(object_root: Path) -> None:
    expected = cloud(seed=1)[crop_to_image(cloud(seed=1), PLAIN)]
    assert 0 < len(expected) < 50
    np.testing.assert_array_equal(ObjectDataset(object_root, cloud="reduced").frame(1).points, expected)
    write_object_frame(object_root, "000001", cloud(seed=9), PLAIN, [CAR], cloud="reduced")
    automatic = ObjectDataset(object_root)
    assert automatic.ids == ["000000", "000001", "000002"]
    np.testing.assert_array_equal(automatic.frame(1).points, cloud(seed=9))
    np.testing.assert_array_equal(ObjectDataset(object_root, cloud="full").frame(1).points, cloud(seed=1))


def test_the_image_beside_the_cloud_tells_its_size(object_root: Path) -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big")
    (object_root / "training/image_2").mkdir()
    (object_root / "training/image_2/000001.png").write_bytes(header)
    assert [frame.image_size for frame in ObjectDataset(object_root)] == [(1000, 400), (640, 480), (1000, 400)]


def test_a_folder_without_labels_or_calibration(tmp_path: Path) -> None:
    write_cloud(tmp_path / "testing/velodyne/000000.bin", cloud())
    frame = ObjectDataset(tmp_path / "testing").frame(0)
    assert (frame.labels, frame.calibration, frame.image_size) == (None, None, None)
    with pytest.raises(DataError, match="no calibration to crop it with"):
        ObjectDataset(tmp_path / "testing", cloud="reduced").frame(0)


@pytest.mark.parametrize("missing", ["velodyne/000001.bin", "label_2/000001.txt", "calib/000001.txt"])
def test_a_listed_frame_without_a_file_is_named_and_passed_over(object_root: Path, missing: str) -> None:
    write_split(object_root, "all", ["000000", "000001", "000002"])
    (object_root / "training" / missing).unlink()
    errors: list[tuple[str, str]] = []
    frames = list(iterate(ObjectDataset(object_root, "all"), lambda name, error: errors.append((name, str(error)))))
    assert [frame.id for frame in frames] == ["000000", "000002"]
    assert len(errors) == 1
    assert errors[0][0] == "000001"
    assert missing in errors[0][1]
    with pytest.raises(DataError, match=f"frame 000001 of .*{missing}"):
        ObjectDataset(object_root, "all").frame(1)


def test_changes_to_a_cloud_are_noted(object_root: Path) -> None:
    points = cloud()
    points[4, 1] = np.nan
    write_cloud(object_root / "training/velodyne/000001.bin", points)
    frames = list(ObjectDataset(object_root))
    assert [frame.notes for frame in frames] == [(), ("1 points with NaN or infinity left out",), ()]
    assert len(frames[1].points) == 49


@pytest.fixture
def raw_drive(tmp_path: Path) -> Path:
    path = tmp_path / "2026_01_01" / "2026_01_01_drive_0001_sync"
    poses, times = circling(4)
    write_raw_drive(
        path, (cloud(seed=seed) for seed in range(4)), times.tolist(), PLAIN, poses=poses, tracklets=TRACKLETS
    )
    return path


def test_raw_drive_comes_back(raw_drive: Path) -> None:
    drive = RawDrive(raw_drive)
    poses, times = circling(4)
    assert drive.ids == ["0000000000", "0000000001", "0000000002", "0000000003"]
    np.testing.assert_array_equal(drive.times_ns, times)
    np.testing.assert_array_equal(drive.frame(3).points, cloud(seed=3))
    assert [len(frame.labels or []) for frame in drive] == [0, 1, 1, 0]
    assert PLAIN.Tr_imu_to_velo is not None
    lidar: Floats = np.matmul(poses, np.linalg.inv(homogeneous(PLAIN.Tr_imu_to_velo)))
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


def test_raw_drive_prefers_label_files(raw_drive: Path) -> None:
    for number in range(3):
        write_labels(raw_drive / "label_2" / f"{number:010d}.txt", [CAR] * number)
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


def test_raw_drive_writer_wants_one_of_each_a_scan(tmp_path: Path) -> None:
    path = tmp_path / "day" / "drive"
    with pytest.raises(DataError, match="2 clouds for 3 time stamps"):
        write_raw_drive(path, [cloud()] * 2, [0, 1, 2], PLAIN)
    with pytest.raises(DataError, match="1 clouds with labels for 2 time stamps"):
        write_raw_drive(path, [cloud()] * 2, [0, 1], PLAIN, labels=[[CAR]])
    with pytest.raises(DataError, match="4 poses for 2 time stamps"):
        write_raw_drive(path, [cloud()] * 2, [0, 1], PLAIN, poses=circling(4)[0])


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


def test_real_object_folder(kitti_root: Path) -> None:
    assert len(ObjectDataset(kitti_root / "object")) == 132
    assert len(ObjectDataset(kitti_root / "object", "train")) == 104
    val = open_dataset(kitti_root / "object", "val")
    assert len(val) == 28
    cars = sum(label.name == "Car" for frame in val for label in frame.labels or [])
    assert cars == 124


def test_open_dataset_tells_the_kinds_apart(object_root: Path, raw_drive: Path, tmp_path: Path) -> None:
    assert isinstance(open_dataset(object_root), ObjectDataset)
    assert isinstance(open_dataset(str(object_root / "training")), ObjectDataset)
    assert isinstance(open_dataset(raw_drive), RawDrive)
    single = open_dataset(object_root / "training/velodyne/000001.bin")
    assert isinstance(single, CloudFolder)
    assert single.ids == ["000001"]
    assert open_dataset(object_root / "training/velodyne").ids == ["000000", "000001", "000002"]
    with pytest.raises(DataError, match="give one drive: 2026_01_01_drive_0001_sync"):
        open_dataset(raw_drive.parent)
    with pytest.raises(DataError, match="split 'val' asked for"):
        open_dataset(raw_drive, "val")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"looked for training/velodyne .*velodyne_points/data .*\.bin, \.npy"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(DataError, match="no KITTI raw drive"):
        RawDrive(tmp_path / "empty")
    with pytest.raises(DataError, match="no KITTI object folder"):
        ObjectDataset(tmp_path / "empty")


def test_cloud_folder_names_clouds_apart(tmp_path: Path) -> None:
    for name in ("b.pcd", "a.npy", "a.bin"):
        write_cloud(tmp_path / name, cloud())
    (tmp_path / "notes.txt").write_text("not a cloud")
    folder = CloudFolder(tmp_path)
    assert folder.ids == ["a.bin", "a.npy", "b.pcd"]
    assert [len(frame.points) for frame in folder] == [50, 50, 50]


def test_raw_drive_wants_scan_numbers(raw_drive: Path) -> None:
    (raw_drive / "velodyne_points/data/first.bin").write_bytes(bytes(16))
    with pytest.raises(DataError, match=r"first\.bin: not named by its scan number"):
        RawDrive(raw_drive)
