"""AP of detectors on the same frames, and how sure a difference is: the same draws of the frames for all of them."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from pd_edge.batch import BatchResult
from pd_edge.evaluate import Evaluation, bootstrap
from pd_edge.evaluate_overlaps import Doubles

ENOUGH = 50
"""Labelled objects of a class from which on its AP is compared; with fewer, one box moves it by more than a gate."""
RESAMPLES = 500
CONFIDENCE = 0.95


class Ap(NamedTuple):
    """AP of one detector: 3D, R40, moderate [%]."""

    classes: dict[str, float]
    """By class, those with :data:`ENOUGH` objects."""
    mean: float
    """Their mean; NaN where there is none."""
    samples: Doubles
    """The mean in each draw of the frames, (R,); empty where there is no class."""


def measure_ap(result: BatchResult) -> Ap:
    """AP of the classes with enough objects in the labelled frames of a run."""
    evaluation = result.evaluation()
    rows = [] if evaluation is None else [evaluation.result(each, "3d", "moderate") for each in evaluation.classes]
    classes = {row.class_name: row.ap for row in rows if row.objects >= ENOUGH}
    if evaluation is None or not classes:
        return Ap({}, math.nan, np.empty(0))
    drawn = bootstrap(_only(evaluation, set(classes)), RESAMPLES)
    samples = np.nanmean(np.stack(list(drawn.samples.values())), axis=0)
    return Ap(classes, float(np.mean(list(classes.values()))), samples)


def loss_interval(found: Ap, expected: Ap) -> tuple[float, float]:
    """Interval of the AP that one detector loses against another on the same frames, drawn with replacement [points].

    Returns:
        Ends of the 95 % interval of the paired differences; NaN without a class.
    """
    if not found.classes or not expected.classes:
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(expected.samples - found.samples, [tail, 1 - tail])
    return float(low), float(high)


def _only(evaluation: Evaluation, classes: set[str]) -> Evaluation:
    """The evaluation with the matches of some classes in 3D, moderate, R40 alone, and without orientation."""
    wanted = {(each, "3d", "moderate", "r40") for each in classes}
    results = tuple(each for each in evaluation.results if each[:4] in wanted)
    events = {key: events for key, events in evaluation.events.items() if key in wanted}
    return dataclasses.replace(evaluation, results=results, events=events)
