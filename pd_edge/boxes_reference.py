"""The readable numpy twins of the C++ in ``native/boxes.cpp``: overlaps, suppression and points in boxes.

Boxes are as :mod:`pd_edge.boxes` has them. Parity tests compare the two; nothing else runs this.
"""

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Floats, bev_corners, check_boxes, check_coordinates, place_boxes, rank_scores


def points_inside_reference(points: Floats, boxes: Floats) -> npt.NDArray[np.bool_]:
    """(N, K) whether point n lies in box k, in numpy.

    :func:`pd_edge.boxes.points_in_boxes` and :func:`pd_edge.boxes.points_per_box` follow from it.
    """
    offset = check_coordinates(points)[:, None, :3].astype(np.float64) - check_boxes(boxes)[:, :3]
    half_length, half_width, half_height, cos, sin = place_boxes(check_boxes(boxes)).T[3:]
    x, y, z = np.moveaxis(offset, 2, 0)
    inside: npt.NDArray[np.bool_] = np.abs(x * cos + y * sin) <= half_length
    inside &= np.abs(y * cos - x * sin) <= half_width
    inside &= np.abs(z) <= half_height
    return inside


def bev_iou_reference(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """:func:`pd_edge.boxes.bev_iou` in numpy, one pair at a time."""
    shared = _footprint_intersections(a, b)
    areas_a, areas_b = (np.prod(check_boxes(boxes)[:, 3:5], axis=1) for boxes in (a, b))
    return _ratio(shared, areas_a, areas_b)


def iou_3d_reference(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """:func:`pd_edge.boxes.iou_3d` in numpy, one pair at a time."""
    first, second = check_boxes(a, "a"), check_boxes(b, "b")
    top = np.minimum.outer(first[:, 2] + first[:, 5] / 2, second[:, 2] + second[:, 5] / 2)
    bottom = np.maximum.outer(first[:, 2] - first[:, 5] / 2, second[:, 2] - second[:, 5] / 2)
    shared = _footprint_intersections(first, second) * np.maximum(top - bottom, 0)
    return _ratio(shared, np.prod(first[:, 3:6], axis=1), np.prod(second[:, 3:6], axis=1))


def nms_bev_reference(boxes: Floats, scores: Floats, iou_threshold: float) -> npt.NDArray[np.int64]:
    """:func:`pd_edge.boxes.nms_bev` in numpy, from the full matrix of overlaps."""
    remaining = rank_scores(scores, len(boxes), iou_threshold)
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
