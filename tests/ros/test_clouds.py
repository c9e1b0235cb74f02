"""From a message to the points that the model is given."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pd_edge_ros.clouds import count_in, crop, prepare
from pd_edge_ros.config import NodeConfig
from pd_edge_ros.refusals import RefusedError

from pd_edge.config import GridConfig
from pd_edge.pointcloud2 import layout_of
from pd_edge.sectors import Sectors
from pd_edge.sensors import KITTI, SensorProfile, mount_of

POINTS = np.array([[10, 0, -1, 0.5], [0.5, 0.2, 0.1, 0.25], [50, 5, 1, 1], [0, 3, 0, 0]], np.float32)


def message(points: Any = POINTS, **names: str) -> Any:
    """A PointCloud2, with other names for its fields."""
    layout = layout_of(points)
    fields = [SimpleNamespace(name=names.get(n, n), offset=o, datatype=d, count=c) for n, o, d, c in layout.fields]
    return SimpleNamespace(**{**layout._asdict(), "fields": fields})


def test_the_own_vehicle_is_left_out() -> None:
    config = NodeConfig(ego_box=(-1, 1, -1, 1, -1, 1))
    np.testing.assert_array_equal(crop(POINTS, config), POINTS[[0, 2, 3]])


def test_ranges() -> None:
    np.testing.assert_array_equal(crop(POINTS, NodeConfig(min_range=1)), POINTS[[0, 2, 3]])
    np.testing.assert_array_equal(crop(POINTS, NodeConfig(min_range=1, max_range=20)), POINTS[[0, 3]])
    np.testing.assert_array_equal(crop(POINTS, NodeConfig(max_range=2)), POINTS[[1]])
    assert crop(POINTS, NodeConfig()) is POINTS


def test_points_in_the_grid() -> None:
    grid = GridConfig(x_min=0, x_max=20.48, y_min=-5.12, y_max=5.12)
    assert count_in(POINTS, Sectors(grid)) == 3
    behind = POINTS * np.array([-1, -1, 1, 1], np.float32)
    assert count_in(behind, Sectors(grid)) < 3
    assert count_in(behind, Sectors(grid, 4)) == count_in(POINTS, Sectors(grid, 4)) >= 3
    assert count_in(POINTS + np.array([0, 0, 9, 0], np.float32), Sectors(grid, 4)) == 0


def test_crops_are_in_the_cloud_s_frame_and_points_in_the_model_s() -> None:
    profile = SensorProfile(name="turned", height=2.73, yaw=90)
    cloud = prepare(message(), NodeConfig(ego_box=(-1, 1, -1, 1, -1, 1), max_range=20), profile, mount_of(profile))
    np.testing.assert_allclose(cloud.points, np.array([[0, 10, 0, 0.5], [-3, 0, 1, 0]]), atol=1e-6)
    assert (cloud.removed, cloud.intensity) == (0, "intensity")


def test_a_profile_says_unit_axes_and_names_of_the_coordinates() -> None:
    profile = KITTI.model_copy(
        update={"unit": 0.001, "axes": ("y", "x", "z"), "coordinate_fields": ("east", "north", "up")}
    )
    written = POINTS[:, [1, 0, 2, 3]] * np.array([1000, 1000, 1000, 1], np.float32)
    renamed = message(written, x="east", y="north", z="Up")
    cloud = prepare(renamed, NodeConfig(max_range=20), profile, mount_of(profile))
    np.testing.assert_allclose(cloud.points, POINTS[[0, 1, 3]], atol=1e-6)


@pytest.mark.parametrize("name", ["reflectivity", "Signal"])
def test_a_profile_names_the_intensity(name: str) -> None:
    both = message(intensity=name)
    both.fields.append(SimpleNamespace(name="intensity", offset=0, datatype=7, count=1))
    profile = KITTI.model_copy(update={"intensity_field": name})
    cloud = prepare(both, NodeConfig(), profile, mount_of(profile))
    np.testing.assert_array_equal(cloud.points[:, 3], POINTS[:, 3])
    with pytest.raises(RefusedError, match=f"no field {name} for the intensity"):
        prepare(message(), NodeConfig(), profile, mount_of(profile))


def test_what_is_refused() -> None:
    mount = mount_of(KITTI)
    with pytest.raises(RefusedError, match="no field z") as refused:
        prepare(message(z="height"), NodeConfig(), KITTI, mount)
    assert refused.value.reason == "malformed"
    with pytest.raises(RefusedError, match="4 points without a measurement and 0 with one") as refused:
        prepare(message(np.full((4, 4), np.nan, np.float32)), NodeConfig(), KITTI, mount)
    assert refused.value.reason == "empty"
    with pytest.raises(RefusedError, match="0 points without a measurement and 4 with one, of which the crops left 0"):
        prepare(message(), NodeConfig(min_range=100), KITTI, mount)
