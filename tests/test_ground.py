"""Where the ground is in a cloud."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.clouds import read_cloud
from pd_edge.ground import find_ground

Floats = npt.NDArray[np.float64]


def turn(points: npt.NDArray[Any], degrees: float, axis: int) -> npt.NDArray[Any]:
    """Points turned about an axis, right-handed."""
    first, second = ((1, 2), (2, 0), (0, 1))[axis]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = points.copy()
    turned[:, first] = cosine * points[:, first] - sine * points[:, second]
    turned[:, second] = sine * points[:, first] + cosine * points[:, second]
    return turned


def street(height: float, seed: int = 0) -> Floats:
    """Rough ground, two walls along the street and some boxes on it, seen from a height [m]."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-30, 30, (9000, 2)), rng.normal(0, 0.02, 9000)])
    walls = np.column_stack([rng.uniform(-30, 30, 6000), rng.choice([-9.0, 8.0], 6000), rng.uniform(0, 7, 6000)])
    cars = rng.choice([[6.0, 3.0, 0.0], [15.0, -3.0, 0.0], [-10.0, 3.0, 0.0]], 1500) + rng.uniform(0, 1.6, (1500, 3))
    return np.concatenate([ground, walls, cars]) - [0, 0, height]


@pytest.mark.parametrize(
    ("height", "roll", "pitch"),
    [(1.73, 0, 0), (3.73, 0, 0), (-0.27, 0, 0), (1.0, 4, -10), (2.5, -12, 6), (1.8, 180, 0)],
)
def test_height_roll_and_pitch(height: float, roll: float, pitch: float) -> None:
    """A cloud that a profile's roll and pitch would level: they are undone in the opposite order."""
    found = find_ground(turn(turn(street(height), -pitch, 1), -roll, 0))
    assert found is not None
    assert found.height == pytest.approx(height, abs=0.03)
    assert math.degrees(found.pitch) == pytest.approx(pitch, abs=0.3)
    assert math.degrees(found.roll - math.radians(roll) + math.pi) % 360 == pytest.approx(180, abs=0.3)
    assert found.inliers > 0.3
    assert found.below < 0.01


def test_another_axis_is_up() -> None:
    """As in frames of cameras: x right, y down, z ahead."""
    points = street(1.5)[:, [1, 2, 0]] * [-1, -1, 1]
    found = find_ground(points, axis=1)
    assert found is not None
    assert found.height == pytest.approx(1.5, abs=0.03)
    np.testing.assert_allclose(found.normal, [0, -1, 0], atol=0.01)


def test_the_same_cloud_gives_the_same_ground() -> None:
    first, second = find_ground(street(2.0)), find_ground(street(2.0))
    assert first is not None
    assert second is not None
    assert first.height == second.height


def test_no_ground() -> None:
    assert find_ground(street(1.7)[:20]) is None
    assert find_ground(street(1.7) * 1000) is None
    assert find_ground(np.random.default_rng(0).uniform(-20, 20, (20_000, 3))) is None


def test_real_scans(kitti_root: Path) -> None:
    files = sorted((kitti_root / "object" / "training" / "velodyne_reduced").glob("*.bin"))[::12]
    found = [find_ground(read_cloud(file)) for file in files]
    heights = np.array([each.height for each in found if each is not None])
    assert len(heights) == len(files) > 5
    assert np.median(heights) == pytest.approx(1.73, abs=0.06)
    assert np.abs(heights - 1.73).max() < 0.3
    assert max(abs(math.degrees(each.pitch)) for each in found if each is not None) < 2.5
