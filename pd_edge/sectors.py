"""All around with a model that looks ahead: sectors, turned clouds, and how what is found in each becomes one answer.

A model whose grid lies ahead of the sensor is run once for each sector, on the cloud turned so that the sector's axis
is the x axis that it knows. The axes divide the circle evenly. A sector is shown every point in its grid, and answers
for the wedge between the seams halfway to its neighbours and for :data:`OVERLAP` beyond them. What stands at a seam is
whole in both sectors there (:meth:`Sectors.reach` says how near and far), so that at least one of them finds it
wherever either puts its centre. Of boxes of one class that overlap, the best stays; scores are the network's own.

Four sectors: recall hardly depends on the angle from the axis up to 45 degrees, though the models were trained on the
40 degrees to either side that KITTI's camera sees, and turns of those. Six found 0.5 points more of the objects and
cost half as much again. And the turns of four exchange x, y and their signs alone: a cloud turned by a quarter gives
the network the same input to the bit, and so the same boxes but for a rounding of the yaw.
``benchmarks/full_circle.py`` measures all of it.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Detections, nms_bev, wrap_angle
from pd_edge.config import GridConfig
from pd_edge.errors import ConfigError

Coverage = Literal["front", "full"]
"""``front``: the model's grid. ``full``: the whole circle around the sensor."""
SECTORS: dict[Coverage, int] = {"front": 1, "full": 4}
"""How many sectors a coverage has."""
OVERLAP = 1.0
"""Beyond a seam, to which a sector keeps boxes [m]: two sectors place the centre of one object by less apart."""

Floats = npt.NDArray[np.float32]


class Reach(NamedTuple):
    """Distances from the sensor between which an object is whole in a sector's grid, wherever around it stands [m]."""

    near: float
    far: float


class Sectors:
    """The views of a model all around.

    Args:
        grid: The model's detection volume.
        count: Number of sectors; 1 is the model as it is.

    Raises:
        ConfigError: More than one sector, of a grid that does not lie ahead of the sensor to both sides, or in which no
            car at a seam would be whole.
    """

    def __init__(self, grid: GridConfig, count: int = 1) -> None:
        self.grid = grid
        self.count = count
        if count > 1:
            self._check_grid()

    @property
    def axes(self) -> list[float]:
        """Azimuths of the sectors' axes [rad], counter-clockwise from straight ahead."""
        return [2 * math.pi * index / self.count for index in range(self.count)]

    def reach(self, radius: float = 2.1) -> Reach:
        """How near and how far an object at a seam is whole in both sectors beside it.

        Args:
            radius: Of the object's footprint [m]; the default is that of a car of 3.9 x 1.6 m.
        """
        half = math.pi / self.count
        near = max((self.grid.x_min + radius) / math.cos(half), 0.0)
        far = (min(-self.grid.y_min, self.grid.y_max) - radius) / math.sin(half)
        return Reach(near, min(far, self.grid.x_max - radius))

    def describe(self) -> str:
        """What the sectors cover, in words."""
        near, far = self.reach()
        return (
            f"{self.count} sectors; a car is whole in one of them from {near:.1f} to {far:.1f} m all around, and up to "
            f"{self.grid.x_max:g} m along their axes"
        )

    def views(self, points: Floats) -> list[Floats]:
        """The cloud as each sector sees it: (N, 4) each, the array itself for the first."""
        return [turned(points, -axis) for axis in self.axes]

    def merge(self, found: Sequence[Detections], iou_threshold: float) -> Detections:
        """What the sectors found as one answer, in the frame of the cloud.

        Args:
            found: Detections of each view, in its own frame.
            iou_threshold: Rotated BEV IoU above which the weaker of two boxes of a class is left out.

        Returns:
            The boxes, best first; equal scores by sector, then as they were.
        """
        if self.count == 1:
            return found[0]
        kept = [_select(each, self._answers_for(each.boxes)) for each in found]
        boxes = np.concatenate([turned_boxes(each.boxes, axis) for each, axis in zip(kept, self.axes, strict=True)])
        together = Detections(
            boxes, np.concatenate([each.labels for each in kept]), np.concatenate([each.scores for each in kept])
        )
        return _select(together, _unrepeated(together, iou_threshold))

    def _check_grid(self) -> None:
        grid = self.grid
        extent = (
            f"coverage full: the model's grid, x {grid.x_min:g}..{grid.x_max:g}, y {grid.y_min:g}..{grid.y_max:g} m,"
        )
        if grid.x_min <= -grid.x_max:
            raise ConfigError(f"{extent} lies all around as it is; leave the coverage out")
        if not (grid.x_min <= 0 < grid.x_max and grid.y_min < 0 < grid.y_max):
            raise ConfigError(
                f"{extent} does not begin at the sensor and reach to both sides; use a model whose grid does"
            )
        near, far = self.reach()
        if far <= near:
            raise ConfigError(
                f"{extent} is too narrow for {self.count} sectors: no car at a seam would be whole; use a wider one"
            )

    def _answers_for(self, boxes: Floats) -> npt.NDArray[np.bool_]:
        """(K,) whether a box's centre is in the sector's wedge, or less than the overlap beyond its seams."""
        half = math.pi / self.count
        beyond = np.abs(boxes[:, 1]) * math.cos(half) - boxes[:, 0] * math.sin(half)
        inside: npt.NDArray[np.bool_] = beyond <= OVERLAP
        return inside


def coverage_named(name: str) -> Coverage:
    """The coverage of this name.

    Raises:
        ConfigError: There is none.
    """
    if name not in SECTORS:
        raise ConfigError(f"coverage '{name}': choose one of {', '.join(SECTORS)}")
    return name


def turned(points: Floats, angle: float) -> Floats:
    """A cloud turned about the z axis.

    Args:
        points: (N, 4) float32: x y z [m], intensity.
        angle: Counter-clockwise [rad]; a multiple of a quarter turn is exact.

    Returns:
        (N, 4) float32; ``points`` itself for an angle of 0.
    """
    if angle == 0:
        return points
    result = points.copy()
    result[:, :2] = _turned_xy(points, angle)
    return result


def turned_boxes(boxes: Floats, angle: float) -> Floats:
    """Boxes (K, 7) float32 turned about the z axis, counter-clockwise [rad]; centres exactly as :func:`turned`."""
    if angle == 0:
        return boxes
    result = boxes.copy()
    result[:, :2] = _turned_xy(boxes, angle)
    result[:, 6] = wrap_angle((boxes[:, 6].astype(np.float64) + angle).astype(np.float32))
    return result


def _turned_xy(rows: Floats, angle: float) -> Floats:
    # Rounded, as the cosine of a quarter turn is 6e-17 otherwise.
    cos, sin = (np.float32(round(each, 15)) for each in (math.cos(angle), math.sin(angle)))
    x, y = rows[:, 0], rows[:, 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)


def _unrepeated(found: Detections, iou_threshold: float) -> npt.NDArray[np.int64]:
    """Rows that remain when of overlapping boxes of a class the best alone stays; best first."""
    kept = [np.empty(0, np.int64)]
    for label in np.unique(found.labels):
        rows = np.flatnonzero(found.labels == label)
        kept.append(rows[nms_bev(found.boxes[rows], found.scores[rows], iou_threshold)])
    rows = np.sort(np.concatenate(kept))
    return rows[np.argsort(-found.scores[rows], kind="stable")]


def _select(found: Detections, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Detections:
    return Detections(found.boxes[rows], found.labels[rows], found.scores[rows])
