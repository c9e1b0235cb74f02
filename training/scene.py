"""The training scene: a point cloud with its labelled boxes, and which of these a network can learn from."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import points_per_box
from pd_edge.config import GridConfig

OTHER = -1
"""Label of a box of a class that is not trained on (a van, a tram): solid while augmenting, never a target."""

_IGNORED = -2
"""Label of an ignored box of class 0; those of the next classes are below."""


def ignored_label(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Labels of boxes of classes ``labels`` that are neither targets nor background; the same function undoes it."""
    return _IGNORED - labels


class Scene(NamedTuple):
    """One frame to learn from, in the LiDAR frame.

    Attributes:
        points: (N, 4) float32: x y z [m], intensity 0..1.
        boxes: (K, 7) float32: x y z length width height [m], yaw [rad]; geometric centre.
        labels: (K,) int64: index into the model's classes, :func:`ignored_label` of one, or :data:`OTHER` until
            :func:`keep_targets`.
    """

    points: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def select(self, kept: npt.NDArray[Any]) -> "Scene":
        """The same points with some of the boxes; ``kept`` is a (K,) mask or an index array."""
        return self._replace(boxes=self.boxes[kept], labels=self.labels[kept])


def keep_targets(scene: Scene, grid: GridConfig, min_points: int) -> Scene:
    """Leaves only boxes a network can learn: trained classes, centre above the grid, at least ``min_points`` points.

    Those that are to be ignored stay, too.
    """
    x, y = scene.boxes[:, 0], scene.boxes[:, 1]
    inside = (x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max)
    scene = scene.select((scene.labels != OTHER) & inside)
    if min_points == 0 or not len(scene.boxes):
        return scene
    return scene.select(points_per_box(scene.points, scene.boxes) >= min_points)
