"""Simulated data sets: determinism, resuming, labels that belong to the points, drives that hold together."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("open3d", reason="needs the train extra")

from pd_edge.boxes import bev_iou, points_per_box
from pd_edge.config import load_config
from pd_edge.errors import ConfigError, MissingExtraError
from pd_edge.kitti import ObjectDataset, RawDrive, boxes_to_lidar, crop_to_image
from pd_edge.training import simulate
from pd_edge.training.sim.annotate import annotate, occlusion_states, visibility
from pd_edge.training.sim.drive import PERIOD, draw_street, ego_pose
from pd_edge.training.sim.layouts import layout_stats
from pd_edge.training.sim.materials import Material
from pd_edge.training.sim.mesh import Mesh, box, move
from pd_edge.training.sim.placement import PlacementConfig, place
from pd_edge.training.sim.scan import Scan, draw_reflectivity, scan
from pd_edge.training.sim.scene import SimulateConfig, simulate_frame
from pd_edge.training.sim.sensor import Rays, SensorConfig, draw_sensor, turn_rays
from pd_edge.training.sim.vehicles import car
from pd_edge.training.simulate import Recipe, simulate_drive, simulate_object


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of seed 11."""
    out = tmp_path_factory.mktemp("sim")
    simulate_object(out, 5, 11, SimulateConfig(val_share=0.4), workers=1)
    return out


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of a drive of seed 4."""
    return simulate_drive(tmp_path_factory.mktemp("drive"), 3, 4, workers=1)


def test_a_frame_depends_on_seed_and_index_alone(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "WORTH_PROCESSES", 2)
    simulate_object(tmp_path / "fewer", 3, 11, SimulateConfig(val_share=0.4), workers=2)
    simulate_object(tmp_path / "other", 1, 12, workers=1)
    first, fewer, other = (contents(path / "training") for path in (simulated, tmp_path / "fewer", tmp_path / "other"))
    assert len(fewer) == 9
    assert all(first[name] == data for name, data in fewer.items())
    assert other["velodyne_reduced/000000.bin"] != first["velodyne_reduced/000000.bin"]


def test_an_interrupted_run_goes_on(simulated: Path, tmp_path: Path) -> None:
    config = SimulateConfig(val_share=0.4)
    simulate_object(tmp_path, 2, 11, config, workers=1)
    label, kept = tmp_path / "training" / "label_2" / "000001.txt", tmp_path / "training" / "label_2" / "000000.txt"
    label.unlink()
    before, calls = kept.stat().st_mtime_ns, []
    simulate_object(tmp_path, 3, 11, config, workers=1, advance=lambda done, wanted: calls.append((done, wanted)))
    assert calls == [(2, 3), (3, 3)]
    assert kept.stat().st_mtime_ns == before
    assert label.read_bytes() == (simulated / "training" / "label_2" / "000001.txt").read_bytes()


def test_the_recipe_is_written_resolved_and_guards_the_folder(simulated: Path) -> None:
    recipe = load_config(simulated / "recipe.yaml", Recipe)
    assert (recipe.kind, recipe.seed, recipe.frames) == ("object", 11, 5)
    assert "weak_power" in (simulated / "recipe.yaml").read_text()
    with pytest.raises(ConfigError, match=r"another recipe \(seed 11.*choose another folder"):
        simulate_object(simulated, 5, 12, SimulateConfig(val_share=0.4))


@pytest.mark.parametrize(
    ("frames", "seed", "workers", "said"), [(0, 1, 1, "frames"), (1, -1, 1, "seed"), (1, 1, 0, "0 workers")]
)
def test_arguments_out_of_range(tmp_path: Path, frames: int, seed: int, workers: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        simulate_object(tmp_path / "out", frames, seed, workers=workers)
    assert not (tmp_path / "out").exists()


def test_splits(simulated: Path) -> None:
    assert ObjectDataset(simulated, "train").ids == ["000000", "000001", "000002"]
    assert ObjectDataset(simulated, "val").ids == ["000003", "000004"]


def test_points_are_in_view_and_plausible(simulated: Path) -> None:
    for frame in ObjectDataset(simulated):
        assert frame.calibration is not None
        assert frame.image_size == (1242, 375)
        assert crop_to_image(frame.points, frame.calibration).all()
        assert 14_000 < len(frame.points) < 24_000
        assert ((frame.points[:, 3] >= 0) & (frame.points[:, 3] <= 1)).all()
        assert np.linalg.norm(frame.points[:, :3], axis=1).max() < 82
        assert -2.2 < np.percentile(frame.points[:, 2], 25) < -1.2


def test_labelled_objects_hold_points(simulated: Path) -> None:
    checked = 0
    for frame in ObjectDataset(simulated):
        assert frame.labels is not None
        assert frame.calibration is not None
        labels = [label for label in frame.labels if label.name != "DontCare"]
        boxes = boxes_to_lidar(labels, frame.calibration)
        boxes[:, 3:6] += 0.3
        assert (points_per_box(frame.points, boxes) >= 1).all()
        assert all(0 <= label.occlusion <= 3 and 0 <= label.truncation <= 0.98 for label in labels)
        assert all(0 <= label.bbox[0] < label.bbox[2] <= 1242 for label in labels)
        checked += len(labels)
    assert checked >= 10


def test_full_clouds_hold_the_view() -> None:
    frame = simulate_frame(np.random.default_rng(3), SimulateConfig(full_cloud=True))
    assert (frame.points[:, 0] < -5).sum() > 10_000
    assert 14_000 < frame.in_image.sum() < 24_000


def look(pieces: list[Mesh]) -> tuple[Scan, Rays]:
    """A noiseless look ahead."""
    rng = np.random.default_rng(0)
    config = SensorConfig(range_noise=0, beam_bias=0, dropout=0, weak_dropout=0, elevation_jitter=0)
    sensor = draw_sensor(rng, config)
    rays = turn_rays(rng, config, sensor, full=False)
    return scan(rng, config, sensor, rays, pieces, reflectivity=draw_reflectivity(rng, len(pieces))), rays


def test_what_stands_before_an_object_hides_it() -> None:
    shape = car(np.random.default_rng(1), (4.0, 1.7, 1.5))
    standing = move(shape.mesh, (20.0, 1.0, -1.7))
    boxes = np.array([[20.0, 1.0, -0.95, 4.0, 1.7, 1.5, 0.0]])
    half_wall, wall = (box((10.0, y, 0.0), (0.2, 6.0, 6.0), Material.WALL) for y in (3.5, 0.0))
    share, points = {}, {}
    for name, others in (("free", []), ("half", [half_wall]), ("hidden", [wall])):
        result, rays = look([standing, *others])
        share[name] = visibility(boxes, rays, result.hits)
        points[name] = result.points_on(1)
    assert share["free"][0] == 1.0
    assert 0.2 < share["half"][0] < 0.8
    assert share["hidden"][0] == 0.0
    assert points["hidden"][0] == 0 < points["half"][0] < points["free"][0]
    (label,) = annotate(["Car"], boxes, share["hidden"], points["hidden"], 1)
    assert label.name == "DontCare"
    (label,) = annotate(["Car"], boxes, share["half"], points["half"], 1)
    assert (label.name, label.occlusion) in {("Car", 1), ("Car", 2)}


def test_occlusion_states() -> None:
    assert occlusion_states(np.array([1.0, 0.7, 0.3, 0.01])).tolist() == [0, 1, 2, 3]


def test_pulses_pass_through_glass() -> None:
    pane = box((8.0, 0.0, 0.0), (0.01, 8.0, 8.0), Material.GLASS)
    behind = box((12.0, 0.0, 0.0), (0.2, 20.0, 20.0), Material.WALL)
    result, _ = look([pane, behind])
    share = (result.owner == 1).mean()
    assert 0.2 < share < 0.8


def test_far_and_grazing_returns_are_darker() -> None:
    near, far = (look([box((x, 0.0, 0.0), (0.2, 60.0, 40.0), Material.WALL)])[0] for x in (10.0, 60.0))
    assert np.median(near.points[:, 3]) > 0.2
    assert np.median(far.points[:, 3]) < 0.1


def test_placement_keeps_objects_apart_and_follows_the_table() -> None:
    stats, config = layout_stats(), PlacementConfig(car_factor=1.0)
    cars = []
    for seed in range(60):
        actors = place(np.random.default_rng(seed), config, stats, full=False)
        boxes = np.array([(a.x, a.y, 0.0, *a.shape.size, a.yaw) for a in actors]).reshape(-1, 7)
        assert (bev_iou(boxes, boxes) - np.eye(len(boxes)) < 0.01).all()
        cars.append(sum(actor.name == "Car" for actor in actors))
    wanted = np.average(np.arange(len(stats.classes["Car"].counts)), weights=stats.classes["Car"].counts)
    assert 0.65 * wanted < np.mean(cars) < 1.35 * wanted


def test_the_table_holds_shares() -> None:
    for layout in layout_stats().classes.values():
        assert sum(layout.counts) == pytest.approx(1, abs=0.01)
        assert sum(map(sum, layout.cells)) == pytest.approx(1, abs=0.05)


def test_a_drive_is_a_raw_drive(drive: Path) -> None:
    scans = RawDrive(drive)
    assert len(scans) == 3
    frame = scans.frame(1)
    assert len(frame.points) > 90_000
    assert frame.labels
    assert frame.calibration is not None
    assert np.diff(scans.times_ns).tolist() == [100_000_000] * 2
    boxes = boxes_to_lidar([label for label in frame.labels if label.name != "DontCare"], frame.calibration)
    boxes[:, 3:6] += 0.3
    assert (points_per_box(frame.points, boxes) > 0).all()


def test_tracks_are_continuous_and_never_collide(drive: Path) -> None:
    street = draw_street(4, 3, SimulateConfig())
    tracks = RawDrive(drive).tracklets
    assert tracks is not None
    assert {"Car", "Pedestrian", "Cyclist"} <= {track.name for track in tracks}
    speeds = []
    for track in tracks:
        scans = np.arange(track.first_scan, track.first_scan + len(track.poses))
        poses = [ego_pose(street, int(index)) for index in scans]
        places = np.array([p[:3, :3] @ row[:3] + p[:3, 3] for p, row in zip(poses, track.poses, strict=True)])
        speeds += (np.linalg.norm(np.diff(places[:, :2], axis=0), axis=1) / PERIOD).tolist()
    assert max(speeds) < 15
    assert (np.array(speeds) < 1e-3).any()
    boxes = np.array([found for track in tracks if (found := track.box(2)) is not None])
    assert (bev_iou(boxes, boxes) - np.eye(len(boxes)) < 1e-6).all()


def test_a_complete_drive_is_kept(drive: Path) -> None:
    before = (drive / "tracklet_labels.xml").stat().st_mtime_ns
    assert simulate_drive(drive.parent.parent, 3, 4, workers=1) == drive
    assert (drive / "tracklet_labels.xml").stat().st_mtime_ns == before


def test_without_open3d_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pd-edge\[train\]'"):
        look([box((8.0, 0.0, 0.0), (1.0, 1.0, 1.0), Material.WALL)])
