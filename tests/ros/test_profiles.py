"""Sensor profiles."""

from pathlib import Path

import numpy as np
import pytest
from pd_edge_ros.profiles import KITTI, MODEL_HEIGHT, SensorProfile, load_profile, mount_of, shipped_profiles

from pd_edge.errors import ConfigError

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
