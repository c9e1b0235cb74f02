"""What ``pd-edge doctor`` says of frames that were spoilt on purpose, and what its profile brings.

    python benchmarks/doctor.py KITTI_OBJECT_FOLDER [FRAMES]

prints a Markdown table: mistake, what was named, boxes in those whole frames that score 0.3 or more, and Car 3D AP
(R40, moderate) of all val frames, before and after. The profile comes from FRAMES frames (6 where left out). For the
AP, boxes are put back to where the clouds had been, so that a box counts that lies right among the spoilt
points.
"""

import logging
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pd_edge import load
from pd_edge.batch import points_to_use
from pd_edge.boxes import Detections
from pd_edge.clouds import Cloud
from pd_edge.detector import Detector
from pd_edge.doctor import diagnose
from pd_edge.doctor_evidence import Sample
from pd_edge.doctor_reference import reference
from pd_edge.doctor_trial import LEAST, try_profile
from pd_edge.errors import DataError
from pd_edge.evaluate import MIN_OVERLAP, evaluate
from pd_edge.kitti import Frame, ObjectDataset, detections_to_labels
from pd_edge.sensors import KITTI, SensorProfile, mount_of

MODEL = "pointpillars-4x"


class Mistake(NamedTuple):
    """How clouds are spoilt.

    Attributes:
        spoil: A cloud to the spoilt one.
        restore: Boxes among the spoilt points to where they belong.
        moved: Whether the cloud was but moved, which a profile leaves as it is; else the profile mends coordinates, and
            boxes come where they belong.
    """

    spoil: Callable[[Cloud], Cloud]
    restore: Callable[[Detections], Detections]
    moved: bool = False


def mounted(**mount: float) -> Mistake:
    """The cloud as a sensor on another mount than KITTI's would see it."""
    spoilt = mount_of(SensorProfile(**{"name": "spoilt", "height": KITTI.height, **mount}))
    return Mistake(spoilt.inverse.points, spoilt.inverse.boxes, moved=True)


def times(*factors: float) -> Mistake:
    """x, y, z, all of one factor, and intensity times factors."""
    back = np.array([1 / factors[0]] * 6 + [1], np.float32)
    return Mistake(
        lambda points: points * np.array(factors, np.float32), lambda found: found._replace(boxes=found.boxes * back)
    )


def _exchanged(found: Detections) -> Detections:
    """Boxes with x and y exchanged, which mirrors their headings."""
    boxes = found.boxes[:, [1, 0, 2, 3, 4, 5, 6]]
    boxes[:, 6] = math.pi / 2 - boxes[:, 6]
    return found._replace(boxes=boxes)


MISTAKES: dict[str, Mistake] = {
    "none": times(1, 1, 1, 1),
    "2 m too high": mounted(height=KITTI.height + 2),
    "tilted 10 degrees, nose down": mounted(pitch=10),
    "tilted 10 degrees to the right": mounted(roll=10),
    "intensity 0..255": times(1, 1, 1, 255),
    "x and y swapped": Mistake(lambda points: np.ascontiguousarray(points[:, [1, 0, 2, 3]]), _exchanged),
    "millimetres": times(1000, 1000, 1000, 1),
    "upside down": mounted(roll=180),
}


def main() -> None:
    """Prints the table for the folder on the command line."""
    logging.disable(logging.WARNING)
    dataset = ObjectDataset(sys.argv[1], "val")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    places = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    frames = [dataset.frame(int(place)).points for place in places]
    plain = load(MODEL)
    detector = load(MODEL)
    detector.set_score_threshold(LEAST)
    print("| mistake | named | line of the profile | boxes before | after | Car 3D AP before | after |")
    print("|---|---|---|---:|---:|---:|---:|")
    for name, mistake in MISTAKES.items():
        sample = Sample([mistake.spoil(points) for points in frames])
        findings, profile = diagnose(sample, KITTI, detector.config.model.grid, reference())
        named = ", ".join(each.name for each in findings) or "nothing"
        lines = "; ".join(each.remedy.partition(": ")[2].partition(" (")[0] for each in findings)
        boxes = [try_profile(detector, sample, each).boxes for each in (KITTI, profile)]
        mended = load(MODEL, sensor=profile)
        # With nothing to mend, the profile is KITTI's and boxes are among the spoilt points still.
        back = mistake if mistake.moved or profile == KITTI else mistake._replace(restore=lambda found: found)
        found = [average_precision(plain, dataset, mistake), average_precision(mended, dataset, back)]
        row = [name, named, lines.partition(", where")[0], *boxes, *(f"{each:.1f}" for each in found)]
        print("|", " | ".join(map(str, row)), "|", flush=True)


def average_precision(detector: Detector, dataset: ObjectDataset, mistake: Mistake) -> float:
    """Car 3D AP R40 [%], moderate, on spoilt val frames; a refused cloud has no boxes."""
    truth, found = [], []
    for frame in dataset:
        truth.append(frame.labels or [])
        found.append(detections_to_labels(detect(detector, frame, mistake), detector.classes, *camera(frame)))
    return evaluate(truth, found, MIN_OVERLAP).result("Car", "3d", "moderate").ap


def detect(detector: Detector, frame: Frame, mistake: Mistake) -> Detections:
    """Boxes of a spoilt frame, where they belong."""
    try:
        return mistake.restore(detector.detect(mistake.spoil(points_to_use(frame)[0])))
    except DataError:
        nothing = np.empty((0, 7), np.float32)
        return Detections(nothing, np.empty(0, np.int64), np.empty(0, np.float32))


def camera(frame: Frame) -> tuple[Any, Any]:
    """Calibration and image size, which every labelled frame has."""
    return frame.calibration, frame.image_size


if __name__ == "__main__":
    main()
