"""Average precision on crowded random scenes: equality with a plain twin, and with itself on resampled frames."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.boxes import bev_iou, iou_3d
from pd_edge.evaluate import Metric, bootstrap, evaluate
from pd_edge.evaluate_curves import curves, recall_steps
from pd_edge.kitti_labels import Label

Frames = list[list[Label]]
UNHURRIED = settings(deadline=None, max_examples=40)
KINDS = ("Car", "Van", "car", "Pedestrian", "Person_sitting", "Cyclist", "DontCare")
LIMITS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.3), "hard": (25, 2, 0.5)}
NEIGHBOUR = {"Car": "van", "Pedestrian": "person_sitting"}
ORIENTATION: dict[str, Metric] = {"2d": "aos", "bev": "aos_bev", "3d": "aos_3d"}


def image_overlap(a: Label, b: Label, *, of_first: bool = False) -> float:
    width = min(a.bbox[2], b.bbox[2]) - max(a.bbox[0], b.bbox[0])
    height = min(a.bbox[3], b.bbox[3]) - max(a.bbox[1], b.bbox[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(o.bbox[2] - o.bbox[0]) * (o.bbox[3] - o.bbox[1]) for o in (a, b)]
    return width * height / (areas[0] if of_first else sum(areas) - width * height)


def overlap_of(a: Label, b: Label, metric: str) -> float:
    if metric == "2d":
        return image_overlap(a, b)
    rows = [
        np.array(
            [[o.location[0], o.location[2], -o.location[1] + o.height / 2, o.length, o.width, o.height, -o.rotation_y]]
        )
        for o in (a, b)
    ]
    return float((bev_iou if metric == "bev" else iou_3d)(rows[0], rows[1])[0, 0])


def score_of(detection: Label) -> float:
    assert detection.score is not None
    return detection.score


def thresholds(scores: list[float], objects: int) -> list[float]:
    """Scores at which precision is sampled, found by walking through all of them."""
    picked: list[float] = []
    recall = 0.0
    scores = sorted(scores, reverse=True)
    for i, score in enumerate(scores):
        left, is_last = (i + 1) / objects, i == len(scores) - 1
        right = left if is_last else (i + 2) / objects
        if right - recall < recall - left and not is_last:
            continue
        picked.append(score)
        recall += 1 / 40
    return picked


class Outcome(NamedTuple):
    hits: list[float]
    similarity: float
    alarms: int


class PlainTwin:
    """KITTI's evaluation of one class, metric and difficulty: one frame, one threshold, one object at a time."""

    def __init__(self, name: str, metric: str, least_overlap: float, difficulty: str, recall: str) -> None:
        self.name, self.metric, self.least_overlap, self.recall = name, metric, least_overlap, recall
        self.height, self.occlusion, self.truncation = LIMITS[difficulty]

    def truth_state(self, o: Label) -> int:
        """0 counts, 1 may be found, -1 does not exist."""
        if o.name.lower() != self.name.lower():
            return 1 if o.name.lower() == NEIGHBOUR.get(self.name) else -1
        height = o.bbox[3] - o.bbox[1]
        low = height <= self.height if self.recall == "r40" else height < self.height
        return int(low or o.occlusion > self.occlusion or o.truncation > self.truncation)

    def detection_state(self, o: Label) -> int:
        if int(abs(o.bbox[3] - o.bbox[1])) < self.height:
            return 1
        return 0 if o.name.lower() == self.name.lower() else -1

    def by_score(self, free: dict[int, Label]) -> int:
        """Choice of the recall pass."""
        best, best_score = -1, -1e7
        for j, detection in free.items():
            if score_of(detection) > best_score:
                best, best_score = j, score_of(detection)
        return best

    def by_overlap(self, free: dict[int, Label], truth: Label) -> int:
        """Choice of the counting pass."""
        best, best_overlap, small_taken = -1, 0.0, False
        for j, detection in free.items():
            overlap = overlap_of(detection, truth, self.metric)
            if self.detection_state(detection) == 0 and (overlap > best_overlap or small_taken):
                best, best_overlap, small_taken = j, overlap, False
            elif self.detection_state(detection) == 1 and best == -1:
                best, small_taken = j, True
        return best

    def frame(self, truths: list[Label], detections: list[Label], threshold: float | None) -> Outcome:
        """What the detections that reach the threshold find; without a threshold: the recall pass."""
        there = {j: d for j, d in enumerate(detections) if threshold is None or score_of(d) >= threshold}
        there = {j: d for j, d in there.items() if self.detection_state(d) != -1}
        hits, similarity = [], 0.0
        for truth in truths:
            if truth.name == "DontCare" or self.truth_state(truth) == -1:
                continue
            free = {j: d for j, d in there.items() if overlap_of(d, truth, self.metric) > self.least_overlap}
            best = self.by_score(free) if threshold is None else self.by_overlap(free, truth)
            if best == -1:
                continue
            chosen = there.pop(best)
            if self.truth_state(truth) == 0 and self.detection_state(chosen) == 0:
                hits.append(score_of(chosen))
                angle = truth.alpha - chosen.alpha if self.metric == "2d" else truth.rotation_y - chosen.rotation_y
                similarity += (1 + math.cos(angle)) / 2
        alarms = [d for d in there.values() if self.detection_state(d) == 0 and not self.excused(d, truths)]
        return Outcome(hits, similarity, len(alarms))

    def excused(self, detection: Label, truths: list[Label]) -> bool:
        return self.metric == "2d" and any(
            image_overlap(detection, o, of_first=True) > self.least_overlap for o in truths if o.name == "DontCare"
        )

    def averages(self, truths: Frames, predictions: Frames) -> tuple[float, float, int]:
        """AP, orientation similarity, objects."""
        frames = list(zip(truths, predictions, strict=True))
        objects = sum(o.name != "DontCare" and self.truth_state(o) == 0 for frame in truths for o in frame)
        scores = [score for gt, dt in frames for score in self.frame(gt, dt, None).hits]
        precision, similarity = [0.0] * 41, [0.0] * 41
        for k, threshold in enumerate(thresholds(scores, objects)):
            outcomes = [self.frame(gt, dt, threshold) for gt, dt in frames]
            hits, alarms = sum(len(o.hits) for o in outcomes), sum(o.alarms for o in outcomes)
            if hits + alarms:
                precision[k] = hits / (hits + alarms)
                similarity[k] = sum(o.similarity for o in outcomes) / (hits + alarms)
        points = range(1, 41) if self.recall == "r40" else range(0, 41, 4)
        return (
            100 * sum(max(precision[k:]) for k in points) / len(points),
            100 * sum(max(similarity[k:]) for k in points) / len(points),
            objects,
        )


def crowd(rng: np.random.Generator, count: int, *, scored: bool) -> list[Label]:
    """Objects piled up so that most overlap several others, in every state the rules know."""
    result = []
    for _ in range(count):
        x, depth = rng.uniform(-1, 1), 20 + rng.uniform(-0.5, 0.5)
        left, top = 500 + 60 * rng.uniform(-1, 1), 150 + rng.uniform(-3, 3)
        pixels = float(rng.choice([24.9, 25.0, 25.5, 39.7, 40.0, 40.2, 60.0]))
        result.append(
            Label(
                name=str(rng.choice(KINDS, p=[0.4, 0.1, 0.1, 0.1, 0.05, 0.1, 0.15])),
                truncation=float(rng.choice([0.0, 0.2, 0.4, 0.6])) if rng.random() < 0.3 else 0.0,
                occlusion=int(rng.choice([0, 1, 2, 3], p=[0.7, 0.1, 0.1, 0.1])),
                alpha=rng.uniform(-4, 4),
                bbox=(left, top, left + 100, top + pixels),
                height=rng.uniform(1.2, 1.8),
                width=1.6,
                length=4.0,
                location=(x, 1.6 + rng.uniform(-0.1, 0.1), depth),
                rotation_y=rng.uniform(-0.2, 0.2) + rng.choice([0, 2 * np.pi, np.pi]),
                score=float(rng.integers(1, 9)) / 8 if scored else None,
            )
        )
    return result


@given(st.integers(0, 2**32 - 1))
@UNHURRIED
def test_crowded_scenes_equal_the_plain_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths = [crowd(rng, int(rng.integers(0, 7)), scored=False) for _ in range(3)]
    predictions = [crowd(rng, int(rng.integers(0, 9)), scored=True) for _ in range(3)]
    overlaps = {"Car": 0.3, "Pedestrian": 0.2}
    evaluation = evaluate(truths, predictions, overlaps)
    for name, metric, difficulty, recall in evaluation.events:
        twin = PlainTwin(name, metric, overlaps[name], difficulty, recall)
        expected, similarity, objects = twin.averages(truths, predictions)
        result = evaluation.result(name, metric, difficulty, recall)
        assert result.ap == pytest.approx(expected, abs=1e-9)
        assert result.objects == objects
        oriented = evaluation.result(name, ORIENTATION[metric], difficulty, recall)
        assert oriented.ap == pytest.approx(similarity, abs=1e-9)


@given(st.integers(1, 300), st.integers(0, 300))
@UNHURRIED
def test_recall_steps_equal_the_walk_through_the_candidates(objects: int, missed: int) -> None:
    candidates = max(objects - missed, 0)
    scores = [-float(i) for i in range(candidates)]
    expected = [-int(s) for s in thresholds(scores, objects)]
    steps = recall_steps(np.array([candidates]), np.array([objects]))[0]
    assert steps[steps >= 0].tolist() == expected
    assert (steps[len(expected) :] == -1).all()


def crowds(seed: int, frames: int) -> tuple[Frames, Frames]:
    rng = np.random.default_rng(seed)
    truths = [crowd(rng, 5, scored=False) for _ in range(frames)]
    return truths, [crowd(rng, 6, scored=True) for _ in range(frames)]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_weighted_frames_equal_evaluating_the_drawn_frames(seed: int) -> None:
    truths, predictions = crowds(seed, 6)
    overlaps = {"Car": 0.3}
    evaluation = evaluate(truths, predictions, overlaps)
    samples = bootstrap(evaluation, resamples=3, seed=seed).samples
    draws = np.random.default_rng(seed).multinomial(6, np.full(6, 1 / 6), size=3)
    for k, draw in enumerate(draws):
        frames = np.repeat(np.arange(6), draw)
        drawn = evaluate([truths[i] for i in frames], [predictions[i] for i in frames], overlaps)
        for result in drawn.results:
            sample = samples[result[:4]][k]
            assert (math.isnan(sample) and not result.objects) or sample == pytest.approx(result.ap, abs=1e-9)


def test_interval_holds_the_middle_of_the_samples() -> None:
    evaluation = evaluate(*crowds(5, 20), {"Car": 0.3})
    wide = bootstrap(evaluation, resamples=200, seed=1)
    samples = wide.samples["Car", "3d", "hard", "r40"]
    low, high_end = wide.interval("Car", "3d", "hard")
    assert low < high_end
    assert np.mean((samples >= low) & (samples <= high_end)) == pytest.approx(0.95, abs=0.01)
    assert wide.mean_interval("3d", "hard") == (low, high_end)  # one class
    narrow = bootstrap(evaluation, resamples=200, seed=1, confidence=0.5).interval("Car", "3d", "hard")
    assert low < narrow.low < narrow.high < high_end
    again = bootstrap(evaluation, resamples=200, seed=1)
    np.testing.assert_array_equal(again.samples["Car", "3d", "hard", "r40"], samples)
    other = bootstrap(evaluation, resamples=200, seed=2)
    assert (other.samples["Car", "3d", "hard", "r40"] != samples).any()


def test_large_and_small_chunks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = evaluate(*crowds(6, 8), {"Car": 0.3})
    events = evaluation.events["Car", "bev", "hard", "r40"]
    weights = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=7)
    whole = curves(events, weights)
    monkeypatch.setattr("pd_edge.evaluate_curves._CHUNK", 1)
    np.testing.assert_array_equal(curves(events, weights).precision, whole.precision)
