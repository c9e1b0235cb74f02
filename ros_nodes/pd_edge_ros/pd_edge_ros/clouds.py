"""From a message to the points that the model is given."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import Cloud
from pd_edge.errors import DataError
from pd_edge.pointcloud2 import points_of
from pd_edge.sectors import Sectors
from pd_edge.sensors import Mount, SensorProfile, in_metres
from pd_edge_ros.config import NodeConfig
from pd_edge_ros.refusals import RefusedError

Kept = npt.NDArray[np.bool_]


class Prepared(NamedTuple):
    """A cloud as the model is to have it.

    Attributes:
        points: (N, 4) float32 in the model's frame [m], intensity as the sensor scales it; N > 0.
        removed: Points of the message that were no measurements.
        intensity: The field that the intensity came from; None where zeros stand for it.
    """

    points: Cloud
    removed: int
    intensity: str | None


def prepare(message: Any, config: NodeConfig, profile: SensorProfile, mount: Mount) -> Prepared:
    """Takes the points out of a PointCloud2, crops them and brings them to the model's frame.

    Raises:
        RefusedError: The message is malformed, or no point is left.
    """
    try:
        cloud = points_of(message, profile.intensity_field, profile.coordinate_fields)
    except DataError as error:
        raise RefusedError("malformed", str(error)) from error
    points = crop(in_metres(cloud.points, profile), config)
    if not len(points):
        raise RefusedError(
            "empty",
            f"{cloud.removed} points without a measurement and {len(cloud.points)} with one, of which the crops left 0",
        )
    return Prepared(mount.points(points), cloud.removed, cloud.intensity)


def crop(points: Cloud, config: NodeConfig) -> Cloud:
    """The points (N, 4) outside the own vehicle and within the range; the array itself where nothing is cropped."""
    kept: list[Kept] = []
    if any(config.ego_box):
        low, high = np.array(config.ego_box, np.float32).reshape(3, 2).T
        outside = (points[:, :3] < low) | (points[:, :3] > high)
        kept.append(np.asarray(outside.any(axis=1)))
    if config.min_range or config.max_range:
        squared = np.einsum("ij,ij->i", points[:, :3], points[:, :3])
        kept.append(np.asarray(squared >= config.min_range**2))
        if config.max_range:
            kept.append(np.asarray(squared <= config.max_range**2))
    return points[np.logical_and.reduce(kept)] if kept else points


def count_in(points: Cloud, sectors: Sectors) -> int:
    """How many points (N, 4), in the model's frame [m], lie in the model's grid, in full coverage in any sector's."""
    grid, inside = sectors.grid, np.zeros(len(points), np.bool_)
    for view in sectors.views(points):
        x, y = view[:, 0], view[:, 1]
        inside |= (x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max)
    z = points[:, 2]
    return int(np.count_nonzero(inside & (z >= grid.z_min) & (z < grid.z_max)))
