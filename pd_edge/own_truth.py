"""Which objects of own data a detector is judged by: those that it can reach."""

import numpy as np
import numpy.typing as npt

from pd_edge.detector import Detector
from pd_edge.kitti_boxes import boxes_to_lidar
from pd_edge.kitti_frames import Frame
from pd_edge.kitti_labels import Label
from pd_edge.own_labels import AXES, IGNORED, Boxes
from pd_edge.sectors import Sectors

AROUND_NOTE = (
    "Own data: every point counts, and objects whose centre the detector reaches. Easy: 50 points in the box or more, "
    "moderate 10, hard 1."
)


def within_reach(frame: Frame, detector: Detector) -> list[Label] | None:
    """The labels of a frame of own data, those out of a detector's reach ignored; None where it has none."""
    if frame.labels is None:
        return None
    boxes = boxes_to_lidar(frame.labels, AXES)
    placed = boxes[:, :3] @ detector.mount.to_model[:3, :3].T + detector.mount.to_model[:3, 3]
    reached = reaches(placed, detector.sectors)
    return [
        label if seen else label._replace(truncation=IGNORED) for label, seen in zip(frame.labels, reached, strict=True)
    ]


def reaches(centres: Boxes, sectors: Sectors) -> npt.NDArray[np.bool_]:
    """(K,) whether centres (K, >= 2) [m] lie in the grid seen from above; of several sectors, as near as all look."""
    x, y, grid = centres[:, 0], centres[:, 1], sectors.grid
    if sectors.count > 1:
        return np.asarray(np.hypot(x, y) < sectors.reach().far)
    return np.asarray((x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max))
