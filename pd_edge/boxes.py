"""The one box convention, and what is computed from boxes alone: corners, overlaps, suppression, points inside.

A box is a row ``x y z length width height yaw``: geometric centre and sizes in metres, yaw in radians,
counter-clockwise about +z with 0 along +x, in the LiDAR frame (x forward, y left, z up). Arrays of boxes may be float32
or float64; overlaps are computed in float64. The C++ is in ``native/boxes.cpp``; its readable twins are in
:mod:`pd_edge.boxes_reference`.
"""

from typing import NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from pd_edge.errors import DataError
from pd_edge.native import _boxes

Floats: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
FloatT = TypeVar("FloatT", np.float32, np.float64)

BOX_COLUMNS = 7
# Corner signs along length and width, counter-clockwise: front left, rear left, rear right, front right.
_SIGNS = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
_LARGEST = float(np.finfo(np.float32).max)

SHOWN_SCORE = 0.3
"""Detections scoring less are not shown (files and topics keep them), or they would hide the others."""


class Detections(NamedTuple):
    """What a detector found in one frame, best first.

    Attributes:
        boxes: (K, 7) float32, LiDAR frame, metres and radians.
        labels: (K,) int64, index into the detector's classes.
        scores: (K,) float32 in 0..1, descending.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def at_least(self, score: float) -> "Detections":
        """Those that score as much or more."""
        keep = self.scores >= score
        return Detections(self.boxes[keep], self.labels[keep], self.scores[keep])


def check_boxes(boxes: Floats, name: str = "boxes") -> npt.NDArray[np.float64]:
    """Checks an array of boxes and gives it as contiguous float64 (N, 7).

    Raises:
        DataError: The shape is not (N, 7), a value is not finite (or beyond float32), or a size is negative.
    """
    rows = _numbers(boxes, name)
    if rows.ndim != 2 or rows.shape[1] != BOX_COLUMNS:
        raise DataError(
            f"{name} has shape {rows.shape}; expected (N, 7): x y z length width height yaw "
            "(np.empty((0, 7)) where there are none)"
        )
    _check_finite(rows, name)
    negative = np.nonzero((rows[:, 3:6] < 0).any(axis=1))[0]
    if len(negative):
        row = int(negative[0])
        raise DataError(f"{name} row {row} has a negative size {rows[row, 3:6].tolist()} m; sizes must be 0 or more")
    return rows


def _numbers(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    try:
        return np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not an array of numbers ({error}); give a float32 or float64 array") from error


def _check_finite(rows: Floats, name: str) -> None:
    good = np.abs(rows) <= _LARGEST
    if not good.all():
        bad = np.argwhere(~good)[0]
        where = ", ".join(map(str, bad.tolist()))
        raise DataError(f"{name}[{where}] is {rows[tuple(bad)]}; expected a finite number, remove such rows first")


@overload
def wrap_angle(angle: float) -> float: ...
@overload
def wrap_angle(angle: npt.NDArray[FloatT]) -> npt.NDArray[FloatT]: ...
def wrap_angle(angle: npt.NDArray[FloatT] | float) -> npt.NDArray[FloatT] | float:
    """Angles [rad] moved by whole turns into [-pi, pi), with pi as the array's own dtype rounds it.

    Args:
        angle: float32 or float64 array of any shape, or a float; the result is of the same kind.
    """
    if not isinstance(angle, np.ndarray):
        return float(wrap_angle(np.array([angle], dtype=np.float64))[0])
    wide = np.mod(angle.astype(np.float64) + np.pi, 2 * np.pi) - np.pi
    # Rounding, here and to float32, can reach the excluded end.
    pi = angle.dtype.type(np.pi)
    wrapped = wide.astype(angle.dtype)
    return np.where(wrapped >= pi, -pi, wrapped)


def bev_corners(boxes: Floats) -> npt.NDArray[np.float64]:
    """Footprint corners, counter-clockwise from the front left one.

    Args:
        boxes: (N, 7) boxes.

    Returns:
        (N, 4, 2) float64, x y [m] in the frame of the boxes.

    Raises:
        DataError: See :func:`check_boxes`.
    """
    rows = check_boxes(boxes)
    along, across = np.moveaxis(_SIGNS * rows[:, None, 3:5], 2, 0)
    cos, sin = np.cos(rows[:, 6:7]), np.sin(rows[:, 6:7])
    return np.stack(
        [rows[:, 0:1] + along * cos - across * sin, rows[:, 1:2] + along * sin + across * cos],
        axis=2,
    )


def box_corners(boxes: Floats) -> npt.NDArray[np.float64]:
    """All eight corners: the four of :func:`bev_corners` at the bottom, then the same four at the top.

    Args:
        boxes: (N, 7) boxes.

    Returns:
        (N, 8, 3) float64, x y z [m] in the frame of the boxes.

    Raises:
        DataError: See :func:`check_boxes`.
    """
    rows = check_boxes(boxes)
    ground = bev_corners(rows)
    corners = np.empty((len(rows), 8, 3))
    corners[:, :4, :2] = corners[:, 4:, :2] = ground
    corners[:, :4, 2] = (rows[:, 2] - rows[:, 5] / 2)[:, None]
    corners[:, 4:, 2] = (rows[:, 2] + rows[:, 5] / 2)[:, None]
    return corners


def bev_iou(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """Intersection over union of the rotated footprints, every box of ``a`` with every box of ``b``.

    Boxes that only touch, and boxes without area, overlap by 0.

    Args:
        a: (N, 7) boxes.
        b: (M, 7) boxes.

    Returns:
        (N, M) float64 in 0..1.

    Raises:
        DataError: See :func:`check_boxes`.
    """
    return _boxes.bev_iou(check_boxes(a, "a"), check_boxes(b, "b"))


def iou_3d(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """Intersection over union of the volumes of upright boxes, every box of ``a`` with every box of ``b``.

    Args:
        a: (N, 7) boxes.
        b: (M, 7) boxes.

    Returns:
        (N, M) float64 in 0..1.

    Raises:
        DataError: See :func:`check_boxes`.
    """
    return _boxes.iou_3d(check_boxes(a, "a"), check_boxes(b, "b"))


def paired_bev_iou(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """Like :func:`bev_iou`, but only row i of ``a`` with row i of ``b``: (N, 7) and (N, 7) give (N,).

    Raises:
        DataError: See :func:`check_boxes`; or the two differ in length.
    """
    return _boxes.paired_bev_iou(*_check_pairs(a, b))


def paired_iou_3d(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """Like :func:`iou_3d`, but only row i of ``a`` with row i of ``b``: (N, 7) and (N, 7) give (N,).

    Raises:
        DataError: See :func:`check_boxes`; or the two differ in length.
    """
    return _boxes.paired_iou_3d(*_check_pairs(a, b))


def _check_pairs(a: Floats, b: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    first, second = check_boxes(a, "a"), check_boxes(b, "b")
    if len(first) != len(second):
        raise DataError(f"a has {len(first)} boxes and b {len(second)}; pairs need the same number")
    return first, second


def nms_bev(boxes: Floats, scores: Floats, iou_threshold: float) -> npt.NDArray[np.int64]:
    """Rotated non-maximum suppression seen from above, whatever the class.

    Going from the best score down (equal scores: the earlier row first), a box is dropped when its footprint's IoU
    with a box already kept is above the threshold.

    Args:
        boxes: (N, 7) boxes.
        scores: (N,) finite scores.
        iou_threshold: 0..1.

    Returns:
        (K,) int64 rows kept, best first.

    Raises:
        DataError: See :func:`check_boxes`; the scores do not fit the boxes or are not finite; threshold out of range.
    """
    rows = check_boxes(boxes)
    return _boxes.nms_bev(rows, rank_scores(scores, len(rows), iou_threshold), iou_threshold)


def rank_scores(scores: Floats, count: int, iou_threshold: float) -> npt.NDArray[np.int64]:
    """Rows by falling score, equal scores in their order; checks what :func:`nms_bev` is given beside the boxes.

    Args:
        scores: (N,) finite scores.
        count: N, the number of boxes.
        iou_threshold: 0..1.

    Returns:
        (N,) int64.

    Raises:
        DataError: See :func:`nms_bev`.
    """
    values = _numbers(scores, "scores")
    if values.shape != (count,):
        raise DataError(f"scores has shape {values.shape}; expected ({count},), one score per box")
    _check_finite(values, "scores")
    if not 0 <= iou_threshold <= 1:
        raise DataError(f"iou_threshold is {iou_threshold}; expected 0..1")
    return np.argsort(-values, kind="stable")


def points_in_boxes(points: Floats, boxes: Floats) -> npt.NDArray[np.int32]:
    """The box each point lies in; faces belong to the box, the first of several boxes counts.

    Args:
        points: (N, 3 or more) x y z [m] first, in the frame of the boxes.
        boxes: (K, 7) boxes.

    Returns:
        (N,) int32 row of the box, -1 for a point in none.

    Raises:
        DataError: See :func:`check_boxes`; or points of wrong shape or not finite.
    """
    return _boxes.points_in_boxes(check_coordinates(points), place_boxes(check_boxes(boxes)))


def points_per_box(points: Floats, boxes: Floats) -> npt.NDArray[np.int64]:
    """Number of points in each box; a point in two boxes counts for both.

    Args:
        points: (N, 3 or more) x y z [m] first, in the frame of the boxes.
        boxes: (K, 7) boxes.

    Returns:
        (K,) int64.

    Raises:
        DataError: See :func:`check_boxes`; or points of wrong shape or not finite.
    """
    return _boxes.points_per_box(check_coordinates(points), place_boxes(check_boxes(boxes)))


def check_coordinates(points: Floats) -> Floats:
    """Checks points (N, 3 or more), x y z first, and gives them as a contiguous array of their own dtype.

    Raises:
        DataError: Wrong dtype or shape, or a coordinate is not finite (or beyond float32).
    """
    if not isinstance(points, np.ndarray) or points.dtype not in (np.float32, np.float64):
        raise DataError(f"points is {getattr(points, 'dtype', type(points))}; expected a float32 or float64 array")
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f"points has shape {points.shape}; expected (N, 3 or more): x y z first")
    _check_finite(points[:, :3], "points")
    return points if points.flags.c_contiguous else points.copy()


def place_boxes(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Checked boxes (K, 7) as (K, 8): centre, half sizes, cosine and sine of the yaw; the same for both twins."""
    return np.column_stack([boxes[:, :3], boxes[:, 3:6] / 2, np.cos(boxes[:, 6]), np.sin(boxes[:, 6])])
