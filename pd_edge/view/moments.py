"""What is looked at: a scan with the boxes found in it and its ground truth, in one level frame.

That frame is the models' (KITTI's: x ahead and level, 1.73 m above the ground). A cloud of a sensor that is mounted
otherwise is brought to it as its profile says, so that its ground lies level and boxes stand upright.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Floats
from pd_edge.clouds import Cloud
from pd_edge.ros_messages import Objects

Matrix = npt.NDArray[np.float64]


class Moment(NamedTuple):
    """One scan.

    Attributes:
        name: Of the frame.
        time_ns: When it was taken, nanoseconds since any time; None where that is not known.
        points: (N, 4) float32, x y z [m] in the level frame, intensity 0..1.
        found: Detections.
        truth: Ground truth; None where there is none for this scan.
        notes: What there is to say about it.
    """

    name: str
    time_ns: int | None
    points: Cloud
    found: Objects
    truth: Objects | None
    notes: tuple[str, ...] = ()


class Posed(NamedTuple):
    """Boxes that may be tilted, before they are brought to the level frame.

    Attributes:
        centres: (K, 3) [m].
        headings: (K, 3) unit vectors along the boxes' lengths.
        sizes: (K, 3) length, width, height [m].
        names: K classes.
        scores: (K,) 0..1; ones for ground truth.
    """

    centres: Matrix
    headings: Matrix
    sizes: Matrix
    names: Sequence[str]
    scores: npt.NDArray[np.floating]


def no_objects() -> Objects:
    """No boxes at all."""
    return Objects(np.empty((0, 7)), [], np.empty(0))


def posed(boxes: Floats, names: Sequence[str], scores: npt.NDArray[np.floating] | None = None) -> Posed:
    """Upright boxes (K, 7) [m, rad]; scores of 1 where there are none."""
    rows = np.asarray(boxes, np.float64).reshape(-1, 7)
    headings = np.column_stack([np.cos(rows[:, 6]), np.sin(rows[:, 6]), np.zeros(len(rows))])
    return Posed(rows[:, :3], headings, rows[:, 3:6], names, np.ones(len(rows)) if scores is None else scores)


def posed_of(message: Any) -> Posed:
    """The boxes of a Detection3DArray as they lie, each with its likeliest class; boxes of no class are left out."""
    kept = [(each.bbox, max(each.results, key=_score).hypothesis) for each in message.detections if each.results]
    return Posed(
        np.array([_three(box.center.position) for box, _ in kept], np.float64).reshape(-1, 3),
        np.array([_heading(box.center.orientation) for box, _ in kept], np.float64).reshape(-1, 3),
        np.array([_three(box.size) for box, _ in kept], np.float64).reshape(-1, 3),
        [str(guess.class_id) for _, guess in kept],
        np.array([float(guess.score) for _, guess in kept]),
    )


def leveled(found: Posed, matrix: Matrix) -> Objects:
    """Boxes in the level frame, upright there, with the yaw of their heading seen from above.

    Args:
        found: The boxes.
        matrix: (4, 4) from their frame to the level one [m].
    """
    centres = found.centres @ matrix[:3, :3].T + matrix[:3, 3]
    headings = found.headings @ matrix[:3, :3].T
    yaws = np.arctan2(headings[:, 1], headings[:, 0])
    return Objects(np.column_stack([centres, found.sizes, yaws]), found.names, found.scores)


def at_least(objects: Objects, score: float) -> Objects:
    """Those that score as much or more."""
    keep = np.flatnonzero(np.asarray(objects.scores) >= score).tolist()
    return Objects(objects.boxes[keep], [objects.names[place] for place in keep], objects.scores[keep])


def _score(result: Any) -> float:
    return float(result.hypothesis.score)


def _three(vector: Any) -> tuple[float, float, float]:
    return vector.x, vector.y, vector.z


def _heading(q: Any) -> tuple[float, float, float]:
    """The x axis turned by a quaternion: the first column of its rotation matrix."""
    return (
        1 - 2 * (q.y * q.y + q.z * q.z),
        2 * (q.x * q.y + q.z * q.w),
        2 * (q.x * q.z - q.y * q.w),
    )
