"""Which detection matches which object, frame by frame, at every score threshold at once.

The rules are those of the official KITTI evaluation. A detection's fate depends on the score threshold only through
which detections of its own frame are still there, so that each frame's counts are steps at its own scores. They are
kept as events: at this score this frame gains or loses a true or a false positive. Any set of frames, also a
resampled one, is then evaluated by adding events up.

Source: ``evaluate_object.cpp`` of KITTI's object development kit (cleanData, computeStatistics).
"""

from typing import NamedTuple

import numpy as np

from pd_edge.evaluate_overlaps import Comparison, Doubles, Ints, Mask, Objects, count_up

# Objects of these classes neither count nor are they false positives when found.
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}


class Difficulty(NamedTuple):
    """Which objects count: the others may be found or missed without consequence."""

    name: str
    min_height: float
    """Height of the box in the image [px], for objects and for detections."""
    max_occlusion: int
    max_truncation: float


DIFFICULTIES = (
    Difficulty("easy", 40, 0, 0.15),
    Difficulty("moderate", 25, 1, 0.30),
    Difficulty("hard", 25, 2, 0.50),
)


class Rule(NamedTuple):
    """One way of looking: a class, a metric (2d, bev, 3d), the IoU to exceed, a difficulty and a recall convention."""

    class_name: str
    metric: str
    min_overlap: float
    difficulty: Difficulty
    recall: str
    """r40 or r11. The official programs differ: the one with 40 recall points wants objects to be higher in the image
    than the least height, the older one with 11 is content with that height."""


class Events(NamedTuple):
    """The outcome for one class, metric and difficulty, by frame."""

    objects: Ints
    """(frames,) objects that count."""
    candidate_frame: Ints
    candidate_score: Doubles
    """Descending scores of the detections that find an object when no threshold is set: the recall steps."""
    frame: Ints
    score: Doubles
    """Descending: the event holds for every threshold up to this score."""
    true_positives: Doubles
    false_positives: Doubles
    similarity: Doubles
    """(1 + cos(angle between the two)) / 2 of each true positive; alpha in the image, yaw on the ground and in 3D."""


class _Chosen(NamedTuple):
    """The pairs that overlap enough for a match, by row of the truths and detections."""

    frame: Ints
    detection: Ints
    truth: Ints
    overlap: Doubles
    score: Doubles
    small: Mask
    """The detection is too small to count."""
    counts: Mask
    """A match of the two is a true positive: the object counts and the detection is of its class and size."""


def match(comparison: Comparison, rule: Rule) -> Events:
    """Matches the detections of one class in every frame and at every score.

    Objects are served in file order. While counting, an object takes the free detection with the greatest overlap,
    or, failing that, one that is too small to count; to find the recall steps it takes the one with the best
    score. DontCare regions excuse false positives in the image only: they have no box on the ground.
    """
    truths, detections = comparison.truths, comparison.detections
    counts, relevant = _judge_truths(truths, rule)
    valid, small = _judge_detections(detections, rule)
    overlap = comparison.pairs.overlap[rule.metric]
    kept = relevant[comparison.pairs.truth] & (valid | small)[comparison.pairs.detection] & (overlap > rule.min_overlap)
    detection, truth = comparison.pairs.detection[kept], comparison.pairs.truth[kept]
    chosen = _Chosen(
        frame=detections.frame[detection],
        detection=detection,
        truth=truth,
        overlap=overlap[kept],
        score=detections.score[detection],
        small=small[detection],
        counts=counts[truth] & valid[detection],
    )
    alarm = valid & ~(comparison.covered > rule.min_overlap) if rule.metric == "2d" else valid
    candidates = _recall_candidates(chosen)
    return Events(
        np.bincount(truths.frame[counts], minlength=comparison.frames),
        chosen.frame[candidates],
        chosen.score[candidates],
        *_events(comparison, chosen, alarm, rule.metric),
    )


def _judge_truths(truths: Objects, rule: Rule) -> tuple[Mask, Mask]:
    """Which objects count, and which take part in the matching at all."""
    own = truths.name == rule.class_name.lower()
    neighbour = truths.name == NEIGHBOURS.get(rule.class_name.lower(), "")
    height = truths.bbox[:, 3] - truths.bbox[:, 1]
    least = rule.difficulty.min_height
    visible = truths.occlusion <= rule.difficulty.max_occlusion
    whole = truths.truncation <= rule.difficulty.max_truncation
    return own & visible & whole & ((height > least) if rule.recall == "r40" else (height >= least)), own | neighbour


def _judge_detections(detections: Objects, rule: Rule) -> tuple[Mask, Mask]:
    """Which detections count, and which are too small to: those of every class, as in the official program."""
    small = np.abs(detections.bbox[:, 3] - detections.bbox[:, 1]) < rule.difficulty.min_height
    return (detections.name == rule.class_name.lower()) & ~small, small


def _recall_candidates(chosen: _Chosen) -> Ints:
    """Pairs that are true positives when all detections stand and objects prefer the best score; best first."""
    order = np.lexsort((chosen.detection, -chosen.score, chosen.truth))
    taken = assign(chosen, order, np.ones((len(order), 1), dtype=bool))[:, 0]
    candidates = np.nonzero(taken & chosen.counts)[0]
    return candidates[np.argsort(-chosen.score[candidates], kind="stable")]


def _events(
    comparison: Comparison, chosen: _Chosen, alarm: Mask, metric: str
) -> tuple[Ints, Doubles, Doubles, Doubles, Doubles]:
    """Last five columns of :class:`Events`: each detection starts as a false alarm, then pairs form or break up."""
    pair, score, step = _assignment_steps(chosen)
    detection, truth = chosen.detection[pair], chosen.truth[pair]
    angle = comparison.truths.alpha[truth] - comparison.detections.alpha[detection]
    if metric != "2d":
        angle = comparison.truths.boxes[truth, 6] - comparison.detections.boxes[detection, 6]
    gain = step * chosen.counts[pair]
    scores = np.concatenate([comparison.detections.score[alarm], score])
    order = np.argsort(-scores, kind="stable")
    none = np.zeros(int(alarm.sum()))
    return (
        np.concatenate([comparison.detections.frame[alarm], chosen.frame[pair]])[order],
        scores[order],
        np.concatenate([none, gain])[order],
        np.concatenate([none + 1, -step * alarm[detection]])[order],
        np.concatenate([none, gain * (1 + np.cos(angle)) / 2])[order],
    )


def _assignment_steps(chosen: _Chosen) -> tuple[Ints, Doubles, Doubles]:
    """The scores at which pairs come into being (+1) or break up (-1): pair, score, step."""
    # Which of several small detections goes makes no difference: none of them counts.
    order = np.lexsort((chosen.detection, -chosen.overlap, chosen.small, chosen.truth))
    levels, row = _score_levels(chosen)
    taken = assign(chosen, order, chosen.score[:, None] >= levels[row])
    change = np.diff(taken.astype(np.int8), axis=1, prepend=0)
    pair, level = np.nonzero(change)
    return pair, levels[row[pair], level], change[pair, level].astype(np.float64)


def _score_levels(chosen: _Chosen) -> tuple[Doubles, Ints]:
    """Descending scores (frames with pairs, levels), filled up with -inf, and the row of each pair's frame in it."""
    frames, row, count = np.unique(chosen.frame, return_inverse=True, return_counts=True)
    levels = np.full((len(frames), int(count.max(initial=0))), -np.inf)
    order = np.lexsort((-chosen.score, row))
    levels[row[order], count_up(count)] = chosen.score[order]
    return levels, row


def assign(chosen: _Chosen, order: Ints, active: Mask) -> Mask:
    """Greedy one-to-one assignment, at all levels at once.

    Args:
        chosen: The P pairs.
        order: (P,) pairs by object, and for each object by preference.
        active: (P, L) whether the pair's detection is there at level l.

    Returns:
        (P, L) pairs that come about.
    """
    detections, detection = np.unique(chosen.detection, return_inverse=True)
    truths, truth = np.unique(chosen.truth, return_inverse=True)
    used = np.zeros((len(detections), active.shape[1]), dtype=bool)
    served = np.zeros((len(truths), active.shape[1]), dtype=bool)
    taken = np.zeros_like(active)
    # The frames are independent: the first pair of every frame in one step, then the second of every frame.
    _, count = np.unique(chosen.frame[order], return_counts=True)
    turn = count_up(count)
    by_turn = order[np.argsort(turn, kind="stable")]
    for pairs in np.split(by_turn, np.cumsum(np.bincount(turn))[:-1]):
        free = active[pairs] & ~used[detection[pairs]] & ~served[truth[pairs]]
        taken[pairs] = free
        used[detection[pairs]] |= free
        served[truth[pairs]] |= free
    return taken
