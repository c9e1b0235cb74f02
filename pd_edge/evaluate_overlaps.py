"""Labels as columns, and every overlap of a detection with an object of its frame, computed once."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import paired_bev_iou, paired_iou_3d
from pd_edge.errors import DataError
from pd_edge.kitti_labels import DONT_CARE, Label

Ints: TypeAlias = npt.NDArray[np.int64]
Doubles: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


class Objects(NamedTuple):
    """The labels of all frames as columns of length N, in frame order."""

    frame: Ints
    name: npt.NDArray[np.str_]
    """Lower case: the official program compares without regard to case."""
    truncation: Doubles
    occlusion: Doubles
    alpha: Doubles
    bbox: Doubles
    """(N, 4) left, top, right, bottom [px]."""
    boxes: Doubles
    """(N, 7) boxes along the camera's axes, turned to x forward, y left, z up; a box not given has size 0."""
    score: Doubles

    def where(self, mask: Mask) -> "Objects":
        """The objects that the mask selects."""
        return Objects._make(column[mask] for column in self)


class Pairs(NamedTuple):
    """Every detection with every object of its frame, P of them, and how far the two overlap."""

    detection: Ints
    truth: Ints
    overlap: dict[str, Doubles]
    """IoU (P,) by metric: 2d, bev, 3d."""


class Comparison(NamedTuple):
    """All that the matching of any class, metric and difficulty starts from."""

    frames: int
    truths: Objects
    detections: Objects
    pairs: Pairs
    covered: Doubles
    """(detections,) greatest share of the detection's image box that a DontCare region covers."""


def prepare(ground_truth: Sequence[Sequence[Label]], predictions: Sequence[Sequence[Label]]) -> Comparison:
    """Gathers labels and computes every overlap once.

    Raises:
        DataError: The two differ in length, a prediction has no score, or a number is not finite.
    """
    if len(ground_truth) != len(predictions):
        raise DataError(
            f"{len(ground_truth)} frames of ground truth but {len(predictions)} of predictions; "
            "give one list per frame on both sides, empty where there is nothing"
        )
    for frame, labels in enumerate(predictions):
        for label in labels:
            if label.score is None:
                raise DataError(f"predictions, frame {frame}: a {label.name} has no score; every prediction needs one")
    everything, detections = gather(ground_truth, "ground truth"), gather(predictions, "predictions")
    stuff = everything.name == DONT_CARE.lower()
    truths = everything.where(~stuff)
    return Comparison(
        len(ground_truth), truths, detections, pair_up(detections, truths), cover(detections, everything.where(stuff))
    )


def gather(frames: Sequence[Sequence[Label]], source: str) -> Objects:
    """Turns lists of labels into columns.

    Raises:
        DataError: A number is not finite.
    """
    labels = [label for frame in frames for label in frame]
    numbers = np.array(
        [(o.truncation, o.occlusion, o.alpha, *o.bbox, o.score or 0.0, *_box_row(o)) for o in labels], dtype=np.float64
    ).reshape(len(labels), 15)
    frame = np.repeat(np.arange(len(frames)), np.array([len(frame) for frame in frames], dtype=np.int64))
    bad = np.nonzero(~np.isfinite(numbers).all(axis=1))[0]
    if len(bad):
        raise DataError(
            f"{source}, frame {frame[bad[0]]}: {labels[bad[0]]} holds a number that is not finite; correct or remove it"
        )
    return Objects(
        frame=frame,
        name=np.array([label.name.lower() for label in labels], dtype=np.str_),
        truncation=numbers[:, 0],
        occlusion=numbers[:, 1],
        alpha=numbers[:, 2],
        bbox=numbers[:, 3:7],
        boxes=numbers[:, 8:],
        score=numbers[:, 7],
    )


def _box_row(label: Label) -> tuple[float, ...]:
    x, y, z = label.location
    # -1 is KITTI's "not given"; a box without size overlaps nothing.
    length, width, height = max(label.length, 0.0), max(label.width, 0.0), max(label.height, 0.0)
    return z, -x, height / 2 - y, length, width, height, -label.rotation_y - np.pi / 2


def pair_up(detections: Objects, truths: Objects) -> Pairs:
    """Pairs detections with the objects of the same frame and measures their overlaps."""
    first, second = _same_frame(detections.frame, truths.frame)
    boxes = detections.boxes[first], truths.boxes[second]
    shared, area, other_area = _image_overlap(detections.bbox[first], truths.bbox[second])
    overlap = {
        "2d": _share(shared, area + other_area - shared),
        "bev": paired_bev_iou(*boxes),
        "3d": paired_iou_3d(*boxes),
    }
    return Pairs(first, second, overlap)


def cover(detections: Objects, regions: Objects) -> Doubles:
    """(detections,) greatest share of each detection's image box that lies in one region."""
    first, second = _same_frame(detections.frame, regions.frame)
    shared, area, _ = _image_overlap(detections.bbox[first], regions.bbox[second])
    covered = np.zeros(len(detections.frame))
    np.maximum.at(covered, first, _share(shared, area))
    return covered


def _same_frame(a: Ints, b: Ints) -> tuple[Ints, Ints]:
    """Row numbers (P,), (P,) of all pairs with equal frame; both columns ascend."""
    start, end = np.searchsorted(b, a, side="left"), np.searchsorted(b, a, side="right")
    count = end - start
    first = np.repeat(np.arange(len(a)), count)
    return first, count_up(count) + np.repeat(start, count)


def count_up(counts: Ints) -> Ints:
    """0 .. count - 1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _image_overlap(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Shared area and both areas [px^2] of paired image boxes (P, 4)."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.where((sides > 0).all(axis=1), np.prod(sides, axis=1), 0.0)
    return shared, np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)


def _share(part: Doubles, whole: Doubles) -> Doubles:
    return np.divide(part, whole, out=np.zeros_like(part), where=part > 0)
