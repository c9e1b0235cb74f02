"""The one box convention, and what is computed from boxes alone: corners, overlaps, suppression, points inside.

A box is a row ``x y z length width height yaw``: geometric centre and sizes in metres, yaw in radians,
counter-clockwise about +z with 0 along +x, in the LiDAR frame (x forward, y left, z up). Arrays of boxes may be float32
or float64; overlaps are computed in float64. The C++ is in ``native/boxes.cpp``; the functions named ``*_reference``
are its readable twins.
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
    return _boxes.nms_bev(rows, _ranking(scores, len(rows), iou_threshold), iou_threshold)


def _ranking(scores: Floats, count: int, iou_threshold: float) -> npt.NDArray[np.int64]:
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
    return _boxes.points_in_boxes(_check_points(points), _place(check_boxes(boxes)))


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
    return _boxes.points_per_box(_check_points(points), _place(check_boxes(boxes)))


def _check_points(points: Floats) -> Floats:
    if not isinstance(points, np.ndarray) or points.dtype not in (np.float32, np.float64):
        raise DataError(f"points is {getattr(points, 'dtype', type(points))}; expected a float32 or float64 array")
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f"points has shape {points.shape}; expected (N, 3 or more): x y z first")
    _check_finite(points[:, :3], "points")
    return points if points.flags.c_contiguous else points.copy()


def _place(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Boxes (K, 7) as (K, 8): centre, half sizes, cosine and sine of the yaw, the same numbers for both twins."""
    return np.column_stack([boxes[:, :3], boxes[:, 3:6] / 2, np.cos(boxes[:, 6]), np.sin(boxes[:, 6])])


def points_inside_reference(points: Floats, boxes: Floats) -> npt.NDArray[np.bool_]:
    """(N, K) whether point n lies in box k, in numpy; twin of the C++ behind the two functions above."""
    offset = _check_points(points)[:, None, :3].astype(np.float64) - check_boxes(boxes)[:, :3]
    half_length, half_width, half_height, cos, sin = _place(check_boxes(boxes)).T[3:]
    x, y, z = np.moveaxis(offset, 2, 0)
    inside: npt.NDArray[np.bool_] = np.abs(x * cos + y * sin) <= half_length
    inside &= np.abs(y * cos - x * sin) <= half_width
    inside &= np.abs(z) <= half_height
    return inside


def bev_iou_reference(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """:func:`bev_iou` in numpy, one pair at a time."""
    shared = _footprint_intersections(a, b)
    areas_a, areas_b = (np.prod(check_boxes(boxes)[:, 3:5], axis=1) for boxes in (a, b))
    return _ratio(shared, areas_a, areas_b)


def iou_3d_reference(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """:func:`iou_3d` in numpy, one pair at a time."""
    first, second = check_boxes(a, "a"), check_boxes(b, "b")
    top = np.minimum.outer(first[:, 2] + first[:, 5] / 2, second[:, 2] + second[:, 5] / 2)
    bottom = np.maximum.outer(first[:, 2] - first[:, 5] / 2, second[:, 2] - second[:, 5] / 2)
    shared = _footprint_intersections(first, second) * np.maximum(top - bottom, 0)
    return _ratio(shared, np.prod(first[:, 3:6], axis=1), np.prod(second[:, 3:6], axis=1))


def nms_bev_reference(boxes: Floats, scores: Floats, iou_threshold: float) -> npt.NDArray[np.int64]:
    """:func:`nms_bev` in numpy, from the full matrix of overlaps."""
    remaining = _ranking(scores, len(boxes), iou_threshold)
    overlaps = bev_iou_reference(boxes, boxes)
    kept = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        remaining = remaining[overlaps[best, remaining] <= iou_threshold]
    return np.array(kept, dtype=np.int64)


def _ratio(
    shared: npt.NDArray[np.float64], a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    shared = np.minimum(shared, np.minimum.outer(a, b))
    union = np.add.outer(a, b) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _footprint_intersections(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """(N, M) areas [m^2] shared by footprints."""
    first, second = bev_corners(a), bev_corners(b)
    areas = [_area(_intersect(p, q)) for p in first for q in second]
    return np.array(areas, dtype=np.float64).reshape(len(first), len(second))


def _intersect(polygon: npt.NDArray[np.float64], window: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convex polygon (V, 2) clipped by the edges of a counter-clockwise convex window, one after the other.

    Source: Sutherland and Hodgman, "Reentrant polygon clipping", 1974.
    """
    for start, end in zip(window, np.roll(window, -1, axis=0), strict=True):
        edge = end - start
        # Positive to the left of the edge, that is inside.
        side = edge[0] * (polygon[:, 1] - start[1]) - edge[1] * (polygon[:, 0] - start[0])
        polygon = _keep_left(polygon, side)
    return polygon


def _keep_left(polygon: npt.NDArray[np.float64], side: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    kept = []
    for p, q, side_p, side_q in zip(polygon, np.roll(polygon, -1, axis=0), side, np.roll(side, -1), strict=True):
        if side_p >= 0:
            kept.append(p)
        if (side_p >= 0) != (side_q >= 0):
            kept.append(p + (q - p) * (side_p / (side_p - side_q)))
    return np.array(kept, dtype=np.float64).reshape(-1, 2)


def _area(polygon: npt.NDArray[np.float64]) -> float:
    """Area [m^2] of a polygon (V, 2) by the shoelace formula."""
    if len(polygon) < 3:
        return 0.0
    x, y = (polygon - polygon[0]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
