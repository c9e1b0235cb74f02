"""What a viewer is told beside the points: frames, boxes with what is known of them, colours, ranges."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import SHOWN_SCORE, iou_3d, points_per_box
from pd_edge.config import GridConfig
from pd_edge.ros_messages import NANOSECONDS, Objects
from pd_edge.sensors import MODEL_HEIGHT
from pd_edge.view.moments import Moment

TRUTH_COLOUR = "#2fe0a7"
COLOURS = {"Car": "#ff9d2e", "Pedestrian": "#ff5fa2", "Cyclist": "#52c7ff"}
MORE_COLOURS = ("#b48cff", "#f5e663", "#ff6b5e", "#a5e06f", "#6f8cff", "#e8b48c")
"""Of other classes, in turn."""


class Volume(NamedTuple):
    """Where the model looks, in the level frame.

    Attributes:
        grid: Its grid; None where no model was asked.
        around: Whether it is turned all around the sensor.
    """

    grid: GridConfig | None = None
    around: bool = False

    def as_json(self) -> dict[str, Any]:
        """``volume``: x_min x_max y_min y_max [m] or null; ``around``: radius [m] or null."""
        if self.grid is None:
            return {"volume": None, "around": None}
        edges = [self.grid.x_min, self.grid.x_max, self.grid.y_min, self.grid.y_max]
        return {"volume": None, "around": self.grid.x_max} if self.around else {"volume": edges, "around": None}


class Known(NamedTuple):
    """What is known of the boxes of a scan beyond themselves.

    Attributes:
        found_points: (K,) points in each detection.
        truth_points: (M,) points in each object of the ground truth.
        overlaps: (K,) greatest 3D IoU of each detection with ground truth of its class; None without ground truth.
    """

    found_points: npt.NDArray[np.int64]
    truth_points: npt.NDArray[np.int64]
    overlaps: npt.NDArray[np.float64] | None


def known_of(moment: Moment) -> Known:
    """Counts points, compares with the ground truth."""
    found, truth = moment.found, moment.truth
    in_truth = points_per_box(moment.points, truth.boxes) if truth is not None else np.empty(0, np.int64)
    return Known(points_per_box(moment.points, found.boxes), in_truth, _overlaps(found, truth))


def _overlaps(found: Objects, truth: Objects | None) -> npt.NDArray[np.float64] | None:
    if truth is None:
        return None
    same = np.array([[a == b for b in truth.names] for a in found.names], bool).reshape(
        len(found.names), len(truth.names)
    )
    overlaps = np.where(same, iou_3d(found.boxes, truth.boxes), 0.0)
    return np.asarray(overlaps.max(axis=1, initial=0.0), np.float64)


class Scene:
    """Gathers what scans have in common, as they come.

    Args:
        title: What is shown.
        subtitle: What found the boxes.
        classes: Class names in their order; others are put after them as they come.
        volume: Where the model looks.
        score: Score to begin with; the house's usual one when left out.
    """

    def __init__(
        self,
        title: str,
        subtitle: str = "",
        classes: Sequence[str] = (),
        volume: Volume | None = None,
        score: float | None = None,
    ) -> None:
        self.title, self.subtitle = title, subtitle
        self.score = SHOWN_SCORE if score is None else score
        self.classes = list(classes)
        self.truth_names: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self.boxes = 0
        self._volume = volume or Volume()
        self._first_ns: int | None = None
        self._grounds: list[float] = []
        self._brightest: list[float] = []
        self._reach: list[float] = []

    def add(self, moment: Moment, known: Known, shown: int, step: float) -> None:
        """Adds a scan.

        Args:
            moment: The scan.
            known: Of its boxes.
            shown: How many of its points are shown.
            step: What one step of its packed points is [m].
        """
        if self._first_ns is None:
            self._first_ns = moment.time_ns
        self._measure(moment)
        self.boxes += len(moment.found.names)
        self.frames.append(
            {
                "name": moment.name,
                "time": self._seconds(moment.time_ns),
                "points": len(moment.points),
                "shown": shown,
                "step": step,
                "found": _rows(moment.found, self.classes, known.found_points, known.overlaps),
                "truth": None if moment.truth is None else _rows(moment.truth, self.truth_names, known.truth_points),
                "notes": list(moment.notes),
            }
        )

    def colour(self, name: str) -> str:
        """A class's colour, #rrggbb."""
        if name in COLOURS:
            return COLOURS[name]
        others = [each for each in self.classes if each not in COLOURS]
        return MORE_COLOURS[others.index(name) % len(MORE_COLOURS)]

    @property
    def colours(self) -> list[str]:
        """Of each class."""
        return [self.colour(name) for name in self.classes]

    def as_json(self) -> dict[str, Any]:
        """All of it, plain."""
        usual = [-MODEL_HEIGHT]
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "classes": [
                {"name": name, "colour": colour} for name, colour in zip(self.classes, self.colours, strict=True)
            ],
            "truth_names": self.truth_names,
            "truth_colour": TRUTH_COLOUR,
            "score": self.score,
            "ground": round(float(np.median(self._grounds or usual)), 2),
            "brightest": round(float(np.median(self._brightest or [1.0])), 3),
            "reach": round(max(self._reach, default=50.0), 1),
            **self._volume.as_json(),
            "frames": self.frames,
        }

    def _seconds(self, time_ns: int | None) -> float | None:
        if time_ns is None or self._first_ns is None:
            return None
        return (time_ns - self._first_ns) / NANOSECONDS

    def _measure(self, moment: Moment) -> None:
        """What colours and circles are fitted to: the ground's height, the brightest points, how far points reach."""
        if not len(moment.points):
            return
        few = moment.points[:: max(1, len(moment.points) // 20_000)]
        distance = np.hypot(few[:, 0], few[:, 1])
        near = few[(distance > 3) & (distance < 30)]
        self._grounds.append(float(np.percentile((near if len(near) else few)[:, 2], 5)))
        self._brightest.append(max(float(np.percentile(few[:, 3], 98)), 0.01))
        self._reach.append(float(np.percentile(distance, 99.5)))


def _rows(
    objects: Objects,
    classes: list[str],
    points: npt.NDArray[np.int64],
    overlaps: npt.NDArray[np.float64] | None = None,
) -> list[list[float | int | None]]:
    """Class, score, x y z length width height yaw, points, overlap of each; ``classes`` grows by those it lacks."""
    rows: list[list[float | int | None]] = []
    for place, name in enumerate(objects.names):
        if name not in classes:
            classes.append(name)
        box = [round(float(value), 3) for value in objects.boxes[place]]
        overlap = None if overlaps is None else round(float(overlaps[place]), 3)
        rows.append(
            [classes.index(name), round(float(objects.scores[place]), 4), *box, int(points[place]), overlap],
        )
    return rows
