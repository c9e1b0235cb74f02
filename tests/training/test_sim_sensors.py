"""Simulated sensors: their beams, their mount, what they write, and that the data is of use with their profile."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("open3d", reason="needs the train extra")

from pd_edge.boxes import points_per_box
from pd_edge.cli import main
from pd_edge.config import PointPillarsConfig
from pd_edge.errors import ConfigError
from pd_edge.ground import find_ground
from pd_edge.kitti import ObjectDataset, RawDrive, boxes_to_lidar
from pd_edge.kitti_frames import PROFILE
from pd_edge.kitti_tracklets import read_tracklets
from pd_edge.sensors import KITTI, MODEL_HEIGHT, load_profile, shipped_profiles
from pd_edge.training.data import FolderScenes
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.sim.beams import BEAMS, HDL64E
from pd_edge.training.sim.scene import SimulateConfig, simulate_frame
from pd_edge.training.sim.sensor import SensorConfig, draw_sensor, turn_rays
from pd_edge.training.simulate import configured, simulate_drive, simulate_object

MODEL = PointPillarsConfig(pillar_channels=8, backbone_channels=(8, 8, 8), neck_channels=8)
COUNTS = {"hdl-64e": 64, "vlp-16": 16, "vlp-32c": 32, "xt32": 32, "pandar64": 64, "os1-64": 64, "os1-128": 128}


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of a VLP-32C on a roof."""
    out = tmp_path_factory.mktemp("raised")
    simulate_object(out, 3, 11, configured(None, "vlp-32c", 2.4), workers=1)
    return out


def test_sensors_are_named_as_their_profiles() -> None:
    assert set(BEAMS) <= set(shipped_profiles())
    assert {name: len(beams.elevation) for name, beams in BEAMS.items() if beams.weave is None} == COUNTS


@pytest.mark.parametrize("model", COUNTS)
def test_rays_leave_at_the_elevations_of_the_beams(model: str) -> None:
    config = SensorConfig.model_validate({"model": model, "elevation_jitter": 0, "azimuth_step": 5.0})
    rng = np.random.default_rng(0)
    rays = turn_rays(rng, config, draw_sensor(rng, config), full=True)
    elevation = np.degrees(np.arcsin(rays.directions[:, 2].astype(np.float64)))
    np.testing.assert_allclose(elevation, np.array(BEAMS[model].elevation)[rays.beam], atol=1e-3)
    assert (np.diff(BEAMS[model].elevation) < 0).all()
    assert len(rays.beam) == 71 * COUNTS[model]


def test_no_turn_of_a_weave_is_like_another() -> None:
    config, rng = SensorConfig.model_validate({"model": "mid-360", "elevation_jitter": 0}), np.random.default_rng(0)
    sensor = draw_sensor(rng, config)
    first, second = (turn_rays(rng, config, sensor, full=True).directions for _ in range(2))
    assert len(first) == 20_000
    elevation = np.degrees(np.arcsin(first[:, 2]))
    assert (elevation.min(), elevation.max()) == (pytest.approx(-7, abs=0.5), pytest.approx(52, abs=0.5))
    assert np.histogram(np.arctan2(first[:, 1], first[:, 0]), 12)[0].min() > 1500
    assert not (np.abs(first[:200, None] - second[None, :]).max(axis=2) < 1e-4).any(axis=1).all()
    ahead = turn_rays(rng, config, sensor, full=False).directions
    assert (np.abs(np.arctan2(ahead[:, 1], ahead[:, 0])) <= np.radians(42.5)).all()


@pytest.mark.parametrize(("model", "height"), [("vlp-16", None), ("os1-128", 2.6), (HDL64E, 3.0), ("mid-360", 1.2)])
def test_the_ground_is_as_far_below_as_the_sensor_is_mounted(model: str, height: float | None) -> None:
    config = configured(None, model, height)
    frames = [
        simulate_frame(np.random.default_rng(seed), config.model_copy(update={"full_cloud": True}))
        for seed in (1, 2, 3)
    ]
    found = [find_ground(frame.points) for frame in frames]
    wanted = load_profile(model).height if height is None else height
    assert np.median([each.height for each in found if each is not None]) == pytest.approx(wanted, abs=0.15)


def test_objects_and_boxes_agree_in_the_sensors_frame(raised: Path) -> None:
    profile = load_profile(str(raised / PROFILE))
    assert profile == load_profile("vlp-32c").model_copy(update={"height": 2.4})
    for frame in ObjectDataset(raised, sensor=profile):
        assert frame.labels is not None
        assert frame.calibration is not None
        assert not any("in use" in note for note in frame.notes)
        boxes = boxes_to_lidar([label for label in frame.labels if label.name != "DontCare"], frame.calibration)
        bottoms = boxes[:, 2] - boxes[:, 5] / 2
        near = np.hypot(boxes[:, 0], boxes[:, 1]) < 25
        assert np.abs(bottoms[near] + 2.4).max(initial=0) < 0.8
        boxes[:, 3:6] += 0.3
        assert (points_per_box(frame.points, boxes.astype(np.float32)) >= 1).all()


def test_the_cloud_is_written_as_the_profile_says(raised: Path) -> None:
    raw = np.fromfile(raised / "training" / "velodyne_reduced" / "000000.bin", np.float32).reshape(-1, 4)
    assert raw[:, 3].max() > 1
    assert (raw[:, 3] == raw[:, 3].round()).all()
    assert 0.03 < np.median(raw[:, 3]) / 255 < 0.3


def test_training_scenes_stand_where_the_model_knows_them(raised: Path) -> None:
    source = SourceConfig(root=raised, sensor=str(raised / PROFILE))
    scenes, as_in_kitti = FolderScenes(source, MODEL), FolderScenes(SourceConfig(root=raised), MODEL)
    for scene, plain in ((scenes[index], as_in_kitti[index]) for index in range(len(scenes))):
        np.testing.assert_allclose(scene.points[:, 2], plain.points[:, 2] + 2.4 - MODEL_HEIGHT, atol=1e-5)
        np.testing.assert_allclose(scene.boxes[:, 2], plain.boxes[:, 2] + 2.4 - MODEL_HEIGHT, atol=1e-5)
        np.testing.assert_array_equal(scene.boxes[:, [0, 1, 3, 4, 5, 6]], plain.boxes[:, [0, 1, 3, 4, 5, 6]])
        assert scene.points[:, 3].max() <= 1


def test_a_drive_is_in_the_sensors_frame_too(tmp_path: Path) -> None:
    path = simulate_drive(tmp_path, 2, 4, configured(None, "vlp-32c", 2.4), workers=1)
    profile = load_profile(str(tmp_path / PROFILE))
    drive = RawDrive(path, profile)
    ground = find_ground(drive.frame(0).points)
    assert ground is not None
    assert ground.height == pytest.approx(2.4, abs=0.15)
    for track in read_tracklets(path / "tracklet_labels.xml"):
        assert -3.6 < track.poses[0, 2] < -1.2
    assert drive.frame(0).labels
    assert not any("in use" in note for note in drive.frame(0).notes)


def test_a_profile_that_is_left_out_is_told(raised: Path, tmp_path: Path) -> None:
    path = simulate_drive(tmp_path, 1, 4, configured(None, "vlp-32c", 2.4), workers=1)
    for root, frames in ((raised, ObjectDataset(raised)), (tmp_path.resolve(), RawDrive(path))):
        assert (
            f"{root / PROFILE}, the profile of these clouds, is not in use: name it as the sensor"
            in frames.frame(0).notes
        )
        assert len(frames.frame(0).notes) == 2  # and the scale of the intensity
    with pytest.warns(UserWarning, match="sensor.yaml, .* is not in use"):
        FolderScenes(SourceConfig(root=raised), MODEL)[0]


def test_the_default_needs_no_profile(tmp_path: Path) -> None:
    simulate_object(tmp_path, 1, 1, SimulateConfig.model_validate({"sensor": {"azimuth_step": 3.0}}), workers=1)
    assert not (tmp_path / PROFILE).exists()
    assert SimulateConfig().sensor.profile == KITTI


def test_a_height_alone_keeps_the_configurations_sensor() -> None:
    base = SimulateConfig.model_validate({"sensor": {"model": "xt32", "dropout": 0.2}})
    assert configured(base, None, 3.0).sensor == base.sensor.model_copy(update={"height": 3.0})
    assert configured(base, "vlp-16", None).sensor == SensorConfig.model_validate({"model": "vlp-16"})


@pytest.mark.parametrize(
    ("sensor", "height", "said"),
    [("vlp-64", None, "cannot be simulated; use one of hdl-64e, vlp-16"), ("vlp-16", 0.0, "height")],
)
def test_what_cannot_be_simulated(sensor: str, height: float | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(None, sensor, height)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", str(tmp_path / "a"), "--frames", "1", "--sensor", "vlp-16", "--mount-height", "2"])
    assert not ended.value.code
    assert f"sensor profile: {tmp_path / 'a' / PROFILE}" in capsys.readouterr().out
    assert load_profile(str(tmp_path / "a" / PROFILE)) == load_profile("vlp-16").model_copy(update={"height": 2.0})


def test_a_weave_has_no_columns() -> None:
    config = SensorConfig.model_validate({"model": "mid-360"})
    assert SensorConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValueError, match="the mid-360 has no columns"):
        SensorConfig.model_validate({"model": "mid-360", "azimuth_step": 0.3})
