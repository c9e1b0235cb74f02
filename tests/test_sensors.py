"""Sensor profiles."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_edge.boxes import Detections
from pd_edge.bundle import Bundle
from pd_edge.clouds import read_cloud, write_cloud
from pd_edge.config import parse_config
from pd_edge.detector import load
from pd_edge.errors import ConfigError, DataError
from pd_edge.kitti import open_dataset
from pd_edge.sensors import KITTI, MODEL_HEIGHT, SensorProfile, corrected, load_profile, mount_of, shipped_profiles

POINTS = np.array([[10, 0, -1.73, 0.5], [0, 5, 1, 0.25]], np.float32)


def test_shipped_profiles() -> None:
    expected = ["hdl-64e", "mid-360", "os1-128", "os1-64", "pandar64", "rs-lidar", "vlp-16", "vlp-32c", "xt32"]
    assert sorted(shipped_profiles()) == expected
    profiles = [load_profile(name) for name in expected]
    assert len({profile.name for profile in profiles}) == len(expected)
    assert all(profile.intensity_max == 255 for profile in profiles)
    assert load_profile("os1-64").intensity_field == "reflectivity"
    assert load_profile("") == KITTI


def test_the_kitti_sensor_needs_no_change() -> None:
    assert mount_of(KITTI).needless
    assert mount_of(KITTI).points(POINTS) is POINTS
    assert not mount_of(KITTI, 1.8).needless


def test_a_higher_sensor_sees_the_ground_lower() -> None:
    mount = mount_of(SensorProfile(name="roof", height=2.5))
    moved = mount.points(POINTS - np.array([0, 0, 2.5 - MODEL_HEIGHT, 0], np.float32))
    np.testing.assert_allclose(moved, POINTS, atol=1e-6)
    np.testing.assert_allclose(mount_of(KITTI, 2.5).to_model, mount.to_model)


def test_a_sensor_that_looks_down_sees_the_road_ahead_on_its_axis() -> None:
    profile = SensorProfile(name="nose down", height=MODEL_HEIGHT, pitch=10)
    ahead = np.array([[10, 0, 0, 0.5]], np.float32)
    angle = np.deg2rad(10)
    expected = [[10 * np.cos(angle), 0, -10 * np.sin(angle), 0.5]]
    np.testing.assert_allclose(mount_of(profile).points(ahead), expected, atol=1e-6)


def test_a_sensor_turned_to_the_left_sees_on_its_axis_what_is_left() -> None:
    profile = SensorProfile(name="left", height=MODEL_HEIGHT, yaw=90)
    ahead = np.array([[10, 0, 0, 0.5]], np.float32)
    np.testing.assert_allclose(mount_of(profile).points(ahead), [[0, 10, 0, 0.5]], atol=1e-6)


def test_there_and_back() -> None:
    mount = mount_of(SensorProfile(name="odd", height=2.2, pitch=-7, yaw=33))
    np.testing.assert_allclose(mount.to_cloud @ mount.to_model, np.eye(4), atol=1e-12)


def test_profiles_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: Mine\nheight: 2.0\npitch: 5\n", encoding="utf-8")
    assert load_profile(str(path)) == SensorProfile(name="Mine", height=2.0, pitch=5.0)
    path.write_text("name: Mine\nhight: 2.0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="did you mean height"):
        load_profile(str(path))
    with pytest.raises(ConfigError, match="no profile 'vlp-61'; shipped are hdl-64e"):
        load_profile("vlp-61")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"axes": ["x", "-x", "z"]}, "name one twice"),
        ({"intensity_curve": [[0, 0], [9, 1]], "intensity_max": 9}, "give one"),
        ({"intensity_curve": [[1, 0], [9, 1]]}, "ascending from 0"),
        ({"intensity_curve": [[0, 0], [9, 9]]}, "models know 0..1"),
    ],
)
def test_profiles_that_contradict_themselves(data: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_config({"name": "odd", "height": 1.8, **data}, SensorProfile, "odd.yaml")


def test_a_sensor_that_leans_to_its_right_sees_the_ground_beside_it_on_its_axis() -> None:
    profile = SensorProfile(name="leaning", height=MODEL_HEIGHT, roll=90)
    up_and_down = mount_of(profile).points(np.array([[0, 3, 0, 0.5], [0, 0, 2, 0.5]], np.float32))
    np.testing.assert_allclose(up_and_down[:, :3], [[0, 0, 3], [0, -2, 0]], atol=1e-6)
    down = mount_of(SensorProfile(name="on its head", height=MODEL_HEIGHT, roll=180))
    np.testing.assert_allclose(down.points(POINTS)[:, :3], POINTS[:, :3] * [1, -1, -1], atol=1e-6)


def test_boxes_come_back_to_the_cloud_s_frame() -> None:
    profile = SensorProfile(name="odd", height=2.2, roll=180, yaw=90)
    mount = mount_of(profile)
    boxes = np.array([[10, 2, -1, 4, 1.6, 1.5, 0.5]], np.float32)
    back = mount.boxes(Detections(boxes, np.zeros(1, np.int64), np.ones(1, np.float32))).boxes
    ahead = np.array([[*boxes[0, :3], 0], [10 + math.cos(0.5), 2 + math.sin(0.5), -1, 0]], np.float32)
    nose = back[0, :3] + [math.cos(back[0, 6]), math.sin(back[0, 6]), 0]
    seen = mount.points(np.array([[*back[0, :3], 0], [*nose, 0]], np.float32))
    np.testing.assert_allclose(seen[:, :3], ahead[:, :3], atol=1e-5)
    np.testing.assert_array_equal(back[:, 3:6], boxes[:, 3:6])


def test_unit_axes_and_intensity_are_mended() -> None:
    profile = SensorProfile(
        name="odd", height=1.8, unit=0.001, axes=("z", "-x", "-y"), intensity_curve=((0, 0), (100, 0.5), (200, 1))
    )
    written = np.array([[-2000, 1000, 10000, 50], [3000, 0, 5000, 150]], np.float32)
    mended = corrected(written, "scan", profile)
    np.testing.assert_allclose(mended.points, [[10, 2, -1, 0.25], [5, -3, 0, 0.75]])
    written[0, 3] = 201
    with pytest.raises(DataError, match=r"scan: intensities from 150 to 201; expected 0\.\.200"):
        corrected(written, "scan", profile)
    assert corrected(POINTS, "scan", KITTI).points is POINTS


@pytest.mark.parametrize("suffix", ["pcd", "ply"])
def test_fields_of_files_are_taken_by_their_names(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan.{suffix}"
    write_cloud(path, POINTS)
    path.write_bytes(path.read_bytes().replace(b"x y z intensity", b"u x y z").replace(b"float x", b"float u"))
    if suffix == "ply":
        names = zip((b"y", b"z", b"intensity"), (b"x", b"y", b"z"), strict=True)
        for old, new in names:
            path.write_bytes(path.read_bytes().replace(b"float " + old, b"float " + new, 1))
    profile = SensorProfile(name="odd", height=1.8, coordinate_fields=("U", "x", "y"), intensity_field="z")
    frame = open_dataset(path, sensor=profile.model_copy(update={"intensity_max": 1.0})).frame(0)
    np.testing.assert_array_equal(frame.points, POINTS)
    with pytest.raises(DataError, match="no field signal, which the sensor profile names"):
        open_dataset(path, sensor=KITTI.model_copy(update={"intensity_field": "signal"})).frame(0)
    assert path.stat().st_size > 0


def test_a_detector_finds_the_same_from_any_mount(
    tiny_bundle: Bundle, tiny_cloud: np.ndarray[Any, np.dtype[np.float32]], tmp_path: Path
) -> None:
    """A cloud as another sensor would write it, with its profile, through a file and through the API."""
    profile = SensorProfile(
        name="odd", height=2.5, pitch=5, yaw=90, unit=0.01, axes=("y", "x", "z"), intensity_max=255.0
    )
    mount = mount_of(profile)
    own = mount._replace(to_model=mount.to_cloud).points(tiny_cloud)
    written = own[:, [1, 0, 2, 3]] * np.array([100, 100, 100, 255], np.float32)
    plain = load(tiny_bundle.folder, "onnxruntime").detect(tiny_cloud)
    detector = load(tiny_bundle.folder, "onnxruntime", sensor=profile)
    found = detector.detect(written)
    unmoved = detector.detect_mounted(written)[0]
    write_cloud(tmp_path / "scan.bin", written)
    frame = open_dataset(tmp_path / "scan.bin", sensor=profile).frame(0)
    from_file = load(tiny_bundle.folder, "onnxruntime", sensor=profile.only_mount()).detect(frame.points)
    node = load(tiny_bundle.folder, "onnxruntime", sensor=profile.only_intensity())
    in_model = mount.points(frame.points) * np.array([1, 1, 1, 255], np.float32)
    for boxes in (unmoved.boxes, node.detect(in_model).boxes):
        assert abs(len(boxes) - len(plain.boxes)) <= 2  # points on the border of a cell may go to the next
        off = np.linalg.norm(boxes[:, None, :3] - plain.boxes[:, :3], axis=2).min(axis=1)
        assert np.median(off) < 0.02
    np.testing.assert_allclose(from_file.boxes, found.boxes, atol=1e-3)
    np.testing.assert_allclose(found.boxes, mount.boxes(unmoved).boxes)
    assert read_cloud(tmp_path / "scan.bin").shape == written.shape
