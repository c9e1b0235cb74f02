"""KITTI labels of a simulated scan: boxes, and how much of each object the pulses reach."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pd_edge.kitti import Label, boxes_to_labels
from pd_edge.kitti_labels import DONT_CARE, dont_care
from pd_edge.training.sim.camera import camera_calibration
from pd_edge.training.sim.scan import Hits
from pd_edge.training.sim.sensor import Rays

FloatArray = npt.NDArray[np.float64]

PARTLY, LARGELY, HIDDEN = 0.85, 0.5, 0.08
"""Visible share below which an object counts as partly, as largely occluded, and as not to be told."""


def visibility(boxes: FloatArray, rays: Rays, hits: Hits) -> FloatArray:
    """How much of each object can be seen.

    Args:
        boxes: (K, 7) in the sensor frame.
        rays: The pulses.
        hits: What they met.

    Returns:
        (K,) float64, share of the pulses towards each box that nothing before it stops; 0 where there are none.
    """
    azimuth = np.arctan2(rays.directions[:, 1], rays.directions[:, 0])
    order = np.argsort(azimuth, kind="stable")
    fan = azimuth[order].astype(np.float64)
    return np.array([_open_share(box, rays, hits, order[_towards(box, fan)]) for box in boxes])


def _towards(box: FloatArray, fan: FloatArray) -> npt.NDArray[np.int64]:
    """Rows of ascending azimuths ``fan`` [rad] that may meet the box."""
    distance = float(np.hypot(box[0], box[1]))
    half = np.arctan2(0.5 * np.hypot(box[3], box[4]), max(distance, 0.1))
    middle = np.arctan2(box[1], box[0])
    parts = []
    for turn in (-2 * np.pi, 0.0, 2 * np.pi):
        first, last = np.searchsorted(fan, (middle - half + turn, middle + half + turn))
        parts.append(np.arange(first, last))
    return np.concatenate(parts)


def _open_share(box: FloatArray, rays: Rays, hits: Hits, near: npt.NDArray[np.int64]) -> float:
    entry = _entry(box, rays.origins[near], rays.directions[near])
    towards = np.isfinite(entry)
    if not towards.any():
        return 0.0
    return float((hits.distance[near][towards] > entry[towards] - 0.2).mean())


def _entry(box: FloatArray, origins: npt.NDArray[np.float32], directions: npt.NDArray[np.float32]) -> FloatArray:
    """(N,) distance at which each ray enters the box [m], infinite where it misses (slab method)."""
    cosine, sine = np.cos(box[6]), np.sin(box[6])
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    start, heading = (origins - box[:3]) @ turn, directions @ turn
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-box[3:6] / 2 - start) / heading, (box[3:6] / 2 - start) / heading
    near = np.nanmax(np.minimum(first, second), axis=1, initial=0.0)
    far = np.nanmin(np.maximum(first, second), axis=1, initial=np.inf)
    return np.where(near <= far, near, np.inf)


def occlusion_states(share: FloatArray) -> npt.NDArray[np.int64]:
    """(K,) int64, KITTI's occlusion state for each visible share: 0 visible .. 2 largely occluded, 3 not to be told."""
    return np.digitize(-share, (-PARTLY, -LARGELY, -HIDDEN)).astype(np.int64)


def annotate(
    names: Sequence[str],
    boxes: FloatArray,
    share: FloatArray,
    points: npt.NDArray[np.int64],
    min_points: int,
) -> list[Label]:
    """Labels as KITTI's annotators give them.

    Objects outside the image are left out. One with fewer points than ``min_points`` becomes a DontCare region, as
    KITTI does with what is too far or too hidden to be sure of.

    Args:
        names: K classes.
        boxes: (K, 7) in the sensor frame.
        share: (K,) what :func:`visibility` says.
        points: (K,) measured points on each object.
        min_points: See above.
    """
    if not len(boxes):
        return []
    states = occlusion_states(share)
    labels = boxes_to_labels(boxes, names, camera_calibration(), occlusion=states.tolist())
    kept = []
    for label, count in zip(labels, points, strict=True):
        left, top, right, bottom = label.bbox
        if right - left < 1 or bottom - top < 1 or label.location[2] < 0.5 or label.truncation > 0.98:
            continue
        kept.append(label if count >= min_points else dont_care(label))
    return sorted(kept, key=lambda label: label.name == DONT_CARE)
