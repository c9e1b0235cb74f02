"""From matched frames to average precision: recall steps, precision, and the mean over recall points.

Source: ``evaluate_object.cpp`` of KITTI's object development kit (getThresholds, eval_class); R40 after Simonelli et
al., "Disentangling Monocular 3D Object Detection", 2019.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.evaluate_matching import Events
from pd_edge.evaluate_overlaps import Doubles, Ints

STEPS = 41
# Weighted events held at once: larger falls out of the processor's cache.
_CHUNK = 200_000


class Curves(NamedTuple):
    """Precision and orientation similarity, each (R, 41) in 0..1, of R sets of frames at the 41 recall points."""

    precision: Doubles
    similarity: Doubles


def curves(events: Events, weights: npt.NDArray[np.integer]) -> Curves:
    """Evaluates sets of frames.

    Args:
        events: Of one class, metric and difficulty.
        weights: (R, frames) how often each frame stands in each set.

    Returns:
        The curves; recall points that are not reached are 0.
    """
    rows = max(1, _CHUNK // max(1, len(events.score)))
    parts = [_curves(events, weights[i : i + rows]) for i in range(0, len(weights), rows)]
    return Curves(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _curves(events: Events, weights: npt.NDArray[np.integer]) -> Curves:
    after, used = _steps(events, weights)
    weight = weights[:, events.frame]
    hits = _sum_until(weight * events.true_positives, after)
    alarms = _sum_until(weight * events.false_positives, after)
    similar = _sum_until(weight * events.similarity, after)
    # Nothing found at a step (objects that do not count have taken all the detections) is a precision of 0.
    total = np.where(used & (hits + alarms > 0), hits + alarms, np.inf)
    return Curves(hits / total, similar / total)


def _steps(events: Events, weights: npt.NDArray[np.integer]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Number of events (R, 41) that hold at each recall step, and whether the step is reached."""
    candidates = np.cumsum(weights[:, events.candidate_frame], axis=1, dtype=np.int64)
    total = candidates[:, -1] if candidates.shape[1] else np.zeros(len(weights), dtype=np.int64)
    index = recall_steps(total, weights @ events.objects)
    after = np.searchsorted(-events.score, -events.candidate_score, side="right")
    # The index counts a frame as often as it was drawn; back to the candidate itself.
    position = np.array([np.searchsorted(row, i, side="right") for row, i in zip(candidates, index, strict=True)])
    used = index >= 0
    return np.append(after, 0)[np.where(used, position, len(after))], used


def _sum_until(values: Doubles, after: Ints) -> Doubles:
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return np.take_along_axis(sums, after, axis=1)


def recall_steps(candidates: Ints, objects: Ints) -> Ints:
    """Picks the scores at which precision is sampled: up to 41, about evenly spread over recall.

    Args:
        candidates: (R,) number of detections, by descending score, that find an object.
        objects: (R,) number of objects that count.

    Returns:
        (R, 41) index of the picked candidate, -1 where there is none left.
    """
    last = candidates - 1
    previous = np.full(len(candidates), -1, dtype=np.int64)
    steps = np.full((len(candidates), STEPS), -1, dtype=np.int64)
    many = np.maximum(objects, 1)
    recall = 0.0
    for k in range(STEPS):
        # The official program walks through the candidates; all below recall * n - 1.5 would be skipped.
        start = np.ceil(recall * objects - 1.5).astype(np.int64) - 1
        index = np.minimum(np.maximum(previous + 1, start), last)
        while (skip := ((index + 2) / many - recall < recall - (index + 1) / many) & (index < last)).any():
            index += skip
        left = previous < last
        steps[left, k] = previous[left] = index[left]
        # Added up, not k / 40: a tie in the comparison has to fall as in the official program.
        recall += 1.0 / (STEPS - 1)
    return steps


def average(curve: Doubles, recall: str) -> Doubles:
    """Mean [%] of the best value at each recall point or beyond it.

    Args:
        curve: (R, 41) values in 0..1.
        recall: r40 for the 40 points above 0, r11 for every fourth point from 0 to 1.

    Returns:
        (R,) 0..100.
    """
    best: Doubles = np.maximum.accumulate(curve[:, ::-1], axis=1)[:, ::-1]
    points = best[:, 1:] if recall == "r40" else best[:, ::4]
    return np.asarray(100 * points.mean(axis=1), dtype=np.float64)


def ceiling(objects: int, recall: str) -> float:
    """AP [%] of a perfect detector on this many objects.

    Precision is sampled at scores of found objects, so that n of them give at most n of the 41 recall points; the
    others count as 0. Up to 40 objects that leaves (n - 1) / 40 for R40, which does not use the first point.
    """
    number = np.array([objects])
    return float(average((recall_steps(number, number) >= 0).astype(np.float64), recall)[0])
