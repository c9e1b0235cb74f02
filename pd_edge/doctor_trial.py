"""What a detector finds in a sample of clouds, under the profile in use and under the one that is proposed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import SHOWN_SCORE
from pd_edge.detector import Detector
from pd_edge.doctor_evidence import Finding, Sample
from pd_edge.errors import DataError
from pd_edge.sensors import SensorProfile, corrected, mount_of

LEAST = 0.05
"""The detector of a trial gives boxes from this score on."""
EDGES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Of the histogram of scores."""


class Trial(NamedTuple):
    """What was found in the clouds of a sample.

    Attributes:
        boxes: Detections that score enough.
        best: Greatest score; 0 where there is no detection.
        histogram: Detections by score, between :data:`EDGES`.
        refused: Why a cloud was refused; empty where none was.
    """

    boxes: int
    best: float
    histogram: tuple[int, ...]
    refused: str = ""


def try_profile(detector: Detector, sample: Sample, profile: SensorProfile, enough: float = SHOWN_SCORE) -> Trial:
    """Detects in a sample's clouds as a profile has them.

    Args:
        detector: Of KITTI's sensor, with a score threshold of :data:`LEAST`.
        sample: The clouds.
        profile: The profile.
        enough: Score from which a detection counts.
    """
    mount, scores, refused = mount_of(profile), [np.empty(0, np.float32)], ""
    for cloud in sample.clouds:
        try:
            points = mount.points(corrected(cloud, "cloud", profile).points)
            scores.append(detector.detect(points).scores)
        except DataError as error:  # noqa: PERF203 - each cloud is refused by itself
            refused = str(error)
    return _trial(np.concatenate(scores), refused, enough)


def _trial(scores: npt.NDArray[np.float32], refused: str, enough: float) -> Trial:
    counts, _ = np.histogram(scores, EDGES)
    boxes = int(np.count_nonzero(scores >= enough))
    return Trial(boxes, float(scores.max(initial=0.0)), tuple(map(int, counts)), refused)


def check_scores(trial: Trial, threshold: float) -> Finding | None:
    """Clouds in which nothing scores enough, once all else that was found is mended."""
    if trial.best >= threshold:
        return None
    if trial.refused:
        return Finding(
            "scores",
            f"the detector refuses clouds: {trial.refused}",
            "clouds that can be used",
            "there are no boxes for these",
            "what the message says",
            blocks=True,
            change={},
        )
    low = trial.best > LEAST
    return Finding(
        "scores",
        f"the best of all boxes scores {trial.best:.2f}" if low else f"no box scores {LEAST:g}",
        f"{threshold:g} or more where there is an object",
        "there may be no object in these clouds; else the sensor is unlike those that the model was trained for",
        f"command: --score {max(LEAST, np.floor(20 * trial.best) / 20):g}" if low else "a model trained for the sensor",
        blocks=not low,
        change={},
    )


def histogram_line(counts: Sequence[int]) -> str:
    """A histogram in words."""
    return ", ".join(f"{low:g}-{high:g}: {n}" for low, high, n in zip(EDGES, EDGES[1:], counts, strict=False))
