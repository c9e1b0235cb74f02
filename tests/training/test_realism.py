"""The realism report measures what it says."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("open3d", reason="needs the train extra")

from pd_edge.errors import DataError
from pd_edge.kitti import Frame, ObjectDataset, boxes_to_labels
from pd_edge.training.realism import distances, markdown, measure, point_counts, report
from pd_edge.training.sim.beams import nearest_beam
from pd_edge.training.sim.camera import camera_calibration
from pd_edge.training.sim.sensor import SensorConfig, draw_sensor, turn_rays
from pd_edge.training.simulate import simulate_object


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sim")
    simulate_object(out, 3, 1, workers=1)
    return out


def test_every_pulse_is_given_back_to_its_beam() -> None:
    rng = np.random.default_rng(0)
    config = SensorConfig(elevation_jitter=0)
    rays = turn_rays(rng, config, draw_sensor(rng, config), full=True)
    distance = rng.uniform(15, 60, (len(rays.beam), 1))
    found = nearest_beam((rays.origins + rays.directions * distance).astype(np.float64))
    assert (found == rays.beam).mean() > 0.995


def flat_frame() -> Frame:
    """A plane at -1.7 m of intensity 0.25, and a car of 50 points of intensity 0 with its feet in the air."""
    rng = np.random.default_rng(0)
    ground = np.column_stack(
        [rng.uniform(5, 40, 4000), rng.uniform(-10, 10, 4000), np.full(4000, -1.7), np.full(4000, 0.25)]
    )
    body = np.column_stack(
        [rng.uniform(18.1, 21.9, 50), rng.uniform(-0.7, 0.7, 50), rng.uniform(-1.3, -0.4, 50), np.zeros(50)]
    )
    labels = boxes_to_labels(np.array([[20.0, 0, -0.95, 4, 1.6, 1.5, 0]]), ["Car"], camera_calibration(), occlusion=[0])
    return Frame("0", np.concatenate([ground, body]).astype(np.float32), camera_calibration(), labels, (1242, 375))


def test_measures_of_a_known_frame() -> None:
    measured = measure([flat_frame()])
    assert measured.points.tolist() == [4050]
    assert measured.ground_share[0] == pytest.approx(4000 / 4050)
    assert measured.ground_height[0] == pytest.approx(-1.7, abs=0.01)
    assert point_counts(measured, "Car", 15, 25).tolist() == [50]
    assert (measured.intensity["Car"] == 0).all()
    assert measured.per_range.sum() == 4050


def test_a_data_set_is_at_no_distance_from_itself() -> None:
    measured = measure([flat_frame()])
    assert set(distances(measured, measured).values()) == {0.0}
    dark = flat_frame()
    other = measure([dark._replace(points=dark.points * np.array([1, 1, 1, 0], np.float32))])
    assert distances(measured, other)["intensity: ground"] == pytest.approx(1.0)


def test_the_report_is_written(simulated: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the viz extra")
    path = report(simulated, simulated, tmp_path / "report", limit=2)
    text = path.read_text()
    assert "| points in view |" in text
    assert "| points per range | 0.000 |" in text
    assert {"realism.png", "simulated_views.png"} <= {file.name for file in path.parent.iterdir()}


def test_what_cannot_be_measured(simulated: Path) -> None:
    with pytest.raises(DataError, match="no frames to measure"):
        measure([])
    with pytest.raises(DataError, match=r"frame 000000: no labels"):
        measure([ObjectDataset(simulated).frame(0)._replace(labels=None)])


def test_simulated_frames_are_like_real_ones(kitti_root: Path, simulated: Path) -> None:
    real = ObjectDataset(kitti_root / "object", "train", cloud="reduced")
    measured = {"simulated": measure(ObjectDataset(simulated)), "real": measure(map(real.frame, range(0, 100, 20)))}
    apart = distances(*measured.values())
    assert apart["points per beam"] < 0.1
    assert apart["points per range"] < 0.25
    assert apart["intensity: all"] < 0.3
    assert "| points in view |" in markdown(measured)
