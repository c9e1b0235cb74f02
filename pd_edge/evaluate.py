"""KITTI average precision: 2D, BEV, 3D and orientation, R40 and R11, with the number of objects behind each figure.

The rules, with their corner cases, are those of the official program; on its own data the figures agree.
``evaluate_overlaps`` measures overlaps, ``evaluate_matching`` decides what is found, ``evaluate_curves`` turns that
into AP.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pd_edge.errors import ConfigError, DataError
from pd_edge.evaluate_curves import average, ceiling, curves
from pd_edge.evaluate_matching import DIFFICULTIES, Events, Rule, match
from pd_edge.evaluate_overlaps import Doubles, prepare
from pd_edge.kitti_labels import Label

Metric: TypeAlias = Literal["2d", "bev", "3d", "aos", "aos_bev", "aos_3d"]
Recall: TypeAlias = Literal["r40", "r11"]
Key: TypeAlias = tuple[str, Metric, str, Recall]

MIN_OVERLAP: Mapping[str, float] = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
OTHER_OVERLAP = 0.5
"""Of classes that KITTI does not evaluate."""
# Orientation similarity comes with the matching of the metric it stands beside.
_ORIENTATION: Mapping[Metric, Metric] = {"2d": "aos", "bev": "aos_bev", "3d": "aos_3d"}
_NO_ALPHA = -10.0
OVERLAPS: tuple[Metric, ...] = tuple(_ORIENTATION)
_RECALLS: tuple[Recall, Recall] = ("r40", "r11")


class Result(NamedTuple):
    """One figure of the table."""

    class_name: str
    metric: Metric
    """2d, bev, 3d: average precision; aos, aos_bev, aos_3d: average orientation similarity of the same matches."""
    difficulty: str
    """easy, moderate or hard."""
    recall: Recall
    """r40 or r11."""
    ap: float
    """0..100."""
    objects: int
    """Ground-truth objects that count."""
    ceiling: float
    """What a perfect detector would get on this many objects, 0..100."""


@dataclass(frozen=True)
class Evaluation:
    """A table of average precision, and the matches it came from.

    Attributes:
        frames: Number of frames.
        results: One entry per class, metric, difficulty and recall.
        events: Matches by class, overlap metric (2d, bev, 3d), difficulty and recall, for :func:`bootstrap`.
    """

    frames: int
    results: tuple[Result, ...]
    events: Mapping[Key, Events]

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes evaluated, in order."""
        return tuple(dict.fromkeys(result.class_name for result in self.results))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics evaluated, in order; without orientation when the predictions gave no alpha."""
        return tuple(dict.fromkeys(result.metric for result in self.results))

    def result(self, class_name: str, metric: Metric, difficulty: str, recall: Recall = "r40") -> Result:
        """One entry of the table.

        Raises:
            DataError: There is no such entry.
        """
        for result in self.results:
            if result[:4] == (class_name, metric, difficulty, recall):
                return result
        raise DataError(
            f"no AP of {class_name} {metric} {difficulty} {recall}; there is {', '.join(self.classes)} with "
            f"{', '.join(self.metrics)}, easy, moderate or hard, r40 or r11"
        )

    def mean(self, metric: Metric, difficulty: str, recall: Recall = "r40") -> float:
        """Mean AP [%] over the classes that have objects at this difficulty; NaN if none has."""
        rows = [self.result(name, metric, difficulty, recall) for name in self.classes]
        values = [row.ap for row in rows if row.objects]
        return float(np.mean(values)) if values else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The table as plain data for JSON."""
        return {"frames": self.frames, "results": [result._asdict() for result in self.results]}


class Interval(NamedTuple):
    """A percentile interval of AP [%]; NaN when no resample had an object."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """AP over frames drawn with replacement.

    Two evaluations of the same frames, resampled with the same seed, draw the same frames: their samples may be
    subtracted one by one.

    Attributes:
        confidence: Share of the resamples inside an interval.
        samples: AP [%] (resamples,) by class, metric, difficulty and recall; NaN for a resample without an object.
    """

    confidence: float
    samples: Mapping[Key, Doubles]

    def interval(self, class_name: str, metric: Metric, difficulty: str, recall: Recall = "r40") -> Interval:
        """Interval of one figure.

        Raises:
            DataError: There is no such figure.
        """
        key = (class_name, metric, difficulty, recall)
        if key not in self.samples:
            raise DataError(f"no samples of {' '.join(key)}; the evaluation has {', '.join(self._classes())}")
        return self._percentiles(self.samples[key])

    def mean_interval(self, metric: Metric, difficulty: str, recall: Recall = "r40") -> Interval:
        """Interval of the mean over the classes that have objects in the resample."""
        stack = np.stack([self.samples[name, metric, difficulty, recall] for name in self._classes()])
        known = ~np.isnan(stack)
        count = np.maximum(known.sum(axis=0), 1)
        total = np.where(known, stack, 0).sum(axis=0)
        return self._percentiles(np.where(known.any(axis=0), total / count, np.nan))

    def _classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key[0] for key in self.samples))

    def _percentiles(self, samples: Doubles) -> Interval:
        known = samples[~np.isnan(samples)]
        if not len(known):
            return Interval(math.nan, math.nan)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return Interval(float(low), float(high))


def evaluate(
    ground_truth: Sequence[Sequence[Label]],
    predictions: Sequence[Sequence[Label]],
    min_overlap: Mapping[str, float] = MIN_OVERLAP,
    metrics: Sequence[Metric] = OVERLAPS,
) -> Evaluation:
    """Computes KITTI's average precision.

    Labels are in the camera frame, as in KITTI's files; angles may be beyond +-pi. Orientation is left out when a
    prediction's alpha is -10, KITTI's "not given". KITTI labels only what the left colour camera sees: detections on
    full scans have to be cropped to its field of view first.

    Args:
        ground_truth: One list of labels per frame, DontCare regions and neighbouring classes included.
        predictions: One list of labels with scores per frame, in the same order.
        min_overlap: Classes to evaluate, and the IoU, in every metric, above which a detection finds an object.
        metrics: Which of 2d, bev and 3d; without the first for boxes that no camera saw.

    Returns:
        The table; a class without objects has AP 0, objects 0 and ceiling 0.

    Raises:
        DataError: The two differ in length, a prediction has no score, or a number is not finite.
        ConfigError: There is no class, or an overlap is not within 0..1.
    """
    _check_overlaps(min_overlap)
    comparison = prepare(ground_truth, predictions)
    oriented = not (comparison.detections.alpha == _NO_ALPHA).any()
    events: dict[Key, Events] = {
        (name, metric, difficulty.name, recall): match(comparison, Rule(name, metric, overlap, difficulty, recall))
        for name, overlap in min_overlap.items()
        for metric in metrics
        for difficulty in DIFFICULTIES
        for recall in _RECALLS
    }
    once = np.ones((1, comparison.frames), dtype=np.int64)
    results = [result for key, matched in events.items() for result in _results(key, matched, once, oriented=oriented)]
    return Evaluation(comparison.frames, tuple(results), events)


def overlaps_of(classes: Sequence[str], given: Mapping[str, float] | None = None) -> dict[str, float]:
    """The IoU to exceed by class: as given, else KITTI's, else :data:`OTHER_OVERLAP`.

    Raises:
        ConfigError: One is given for another class.
    """
    given = given or {}
    unknown = sorted(set(given) - set(classes))
    if unknown:
        raise ConfigError(f"min_overlap of {unknown[0]}: no such class; the model knows {', '.join(classes)}")
    return {name: given.get(name, MIN_OVERLAP.get(name, OTHER_OVERLAP)) for name in classes}


def _check_overlaps(min_overlap: Mapping[str, float]) -> None:
    if not min_overlap:
        raise ConfigError("min_overlap names no class; give at least one, as in {'Car': 0.7}")
    for name, overlap in min_overlap.items():
        if not 0 <= overlap < 1:
            raise ConfigError(f"min_overlap of {name} is {overlap}; expected an IoU of at least 0 and below 1")


def _averages(key: Key, events: Events, weights: npt.NDArray[np.int64], *, oriented: bool) -> dict[Key, Doubles]:
    """AP (R,) of each set of frames, and the orientation similarity beside it."""
    name, metric, difficulty, recall = key
    precision, similarity = curves(events, weights)
    averages = {key: average(precision, recall)}
    if oriented:
        averages[name, _ORIENTATION[metric], difficulty, recall] = average(similarity, recall)
    return averages


def _results(key: Key, events: Events, once: npt.NDArray[np.int64], *, oriented: bool) -> list[Result]:
    objects = int(events.objects.sum())
    averages = _averages(key, events, once, oriented=oriented)
    return [Result(*each, float(ap[0]), objects, ceiling(objects, each[3])) for each, ap in averages.items()]


def bootstrap(evaluation: Evaluation, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> Bootstrap:
    """Draws as many frames as there are, with replacement, and evaluates each draw from the matches at hand.

    Args:
        evaluation: What :func:`evaluate` returned.
        resamples: Number of draws.
        seed: Of the draws.
        confidence: Share of the draws inside an interval, e.g. 0.95.

    Raises:
        ConfigError: ``resamples`` or ``confidence`` is out of range, or the evaluation has no frames.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            f"resamples {resamples}, confidence {confidence}; expected at least 1, and a share between 0 and 1"
        )
    if not evaluation.frames:
        raise ConfigError("the evaluation has no frames to draw from")
    even = np.full(evaluation.frames, 1 / evaluation.frames)
    weights = np.random.default_rng(seed).multinomial(evaluation.frames, even, size=resamples)
    oriented = not set(evaluation.metrics).isdisjoint(_ORIENTATION.values())
    samples: dict[Key, Doubles] = {}
    for key, events in evaluation.events.items():
        known = np.where(weights @ events.objects > 0, 1.0, np.nan)
        for each, values in _averages(key, events, weights, oriented=oriented).items():
            samples[each] = values * known
    return Bootstrap(confidence, samples)
