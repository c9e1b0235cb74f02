"""What the checks of own data look at: some labelled frames, with the ground and with what earlier checks mended."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import points_per_box
from pd_edge.clouds import Cloud
from pd_edge.config import ClassConfig, GridConfig
from pd_edge.ground import Ground, find_ground
from pd_edge.own_labels import Boxes
from pd_edge.sensors import Mount

TALL = 3.0
"""Boxes are made so much higher where only their place from above is asked for: heights may be what is wrong."""
Counts = npt.NDArray[np.int64]


class Labelled(NamedTuple):
    """One labelled frame in the cloud's own frame.

    Attributes:
        name: Of the frame.
        points: (N, 4) float32 [m], intensity 0..1.
        boxes: (K, 7) float64 x y z length width height yaw as the labels have them, the yaw of any size.
        names: K classes.
        ground: Where it is; None where none was found.
    """

    name: str
    points: Cloud
    boxes: Boxes
    names: list[str]
    ground: Ground | None


class Wanted(NamedTuple):
    """The model that is to be trained: its grid, and its classes where a configuration is given."""

    grid: GridConfig
    classes: tuple[ClassConfig, ...] | None = None


class LabelEvidence:
    """Labelled frames as one table.

    Args:
        frames: The frames.
        mount: From the clouds' frame to the model's.
        wanted: The model.

    Attributes:
        boxes: (K, 7) float64 boxes of all frames, in their clouds' frame.
        names: (K,) classes.
        frame: (K,) place of each box's frame.
    """

    def __init__(self, frames: Sequence[Labelled], mount: Mount, wanted: Wanted) -> None:
        self.frames, self.mount, self.wanted = frames, mount, wanted
        self.boxes: Boxes = np.concatenate([np.empty((0, 7)), *(each.boxes for each in frames)])
        self.names = np.array([name for each in frames for name in each.names], dtype=np.str_)
        self.frame: Counts = np.repeat(np.arange(len(frames)), [len(each.boxes) for each in frames])

    def mended(self, mend: Callable[[Boxes], Boxes]) -> "LabelEvidence":
        """The same with other boxes."""
        changed = [each._replace(boxes=mend(each.boxes.copy())) for each in self.frames]
        return LabelEvidence(changed, self.mount, self.wanted)

    def count(self, boxes: Boxes, clouds: Sequence[Cloud] | None = None) -> Counts:
        """(K,) points in boxes that stand for the table's; ``clouds`` instead of all points of the frames."""
        counts = np.zeros(len(boxes), np.int64)
        for place, frame in enumerate(self.frames):
            rows = self.frame == place
            counts[rows] = points_per_box(frame.points if clouds is None else clouds[place], boxes[rows])
        return counts

    @cached_property
    def points_inside(self) -> Counts:
        """(K,) points in each box."""
        return self.count(self.boxes)

    @cached_property
    def upright(self) -> list[Cloud]:
        """Of each frame, the points that stand out from the ground by 0.3 m; all where none was found."""
        return [each.points[above(each.ground, each.points) > 0.3] for each in self.frames]

    @cached_property
    def centres(self) -> Boxes:
        """(K, 3) centres in the model's frame [m]."""
        return self.boxes[:, :3] @ self.mount.to_model[:3, :3].T + self.mount.to_model[:3, 3]

    @cached_property
    def bottoms(self) -> npt.NDArray[np.float64]:
        """(K,) height of each box's bottom above the ground [m]; NaN beyond 30 m, or where no ground was found."""
        low = self.boxes[:, :3] - [0, 0, 0.5] * self.boxes[:, 5:6]
        gaps = np.full(len(low), np.nan)
        for place, frame in enumerate(self.frames):
            rows = (self.frame == place) & (np.hypot(low[:, 0], low[:, 1]) < 30)
            if frame.ground is not None:
                gaps[rows] = above(frame.ground, low[rows])
        return gaps

    def some(self, chosen: npt.NDArray[np.bool_], most: int = 3) -> str:
        """Some of the chosen boxes in words, of as many frames as possible."""
        rows = np.nonzero(chosen)[0]
        _, first = np.unique(self.frame[rows], return_index=True)
        order = [*rows[first], *np.delete(rows, first)][:most]
        return ", ".join(f"{self.names[row]} in frame {self.frames[self.frame[row]].name}" for row in order)

    @property
    def class_counts(self) -> Counter[str]:
        """Objects by class, most first."""
        return Counter(dict(Counter(self.names.tolist()).most_common()))


def labelled(name: str, points: Cloud, boxes: Boxes, names: list[str], up: int = 2) -> Labelled:
    """A frame with its ground, which is looked for along the axis ``up``."""
    return Labelled(name, points, boxes, names, find_ground(points, up))


def above(ground: Ground | None, points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(N,) height of points (N, >= 3) above the ground [m]; infinite where there is none."""
    if ground is None:
        return np.full(len(points), np.inf)
    return np.asarray(points[:, :3] @ ground.normal + ground.height, np.float64)
