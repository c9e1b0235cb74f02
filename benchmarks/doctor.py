"""What ``pd-edge doctor`` says of frames that were spoilt on purpose, and what its profile brings.

    python benchmarks/doctor.py KITTI_OBJECT_FOLDER [FRAMES]

prints a Markdown table: mistake, what was named, and boxes that score 0.3 or more before and after.
"""

import logging
import sys
from collections.abc import Callable

import numpy as np

from pd_edge import load
from pd_edge.clouds import Cloud
from pd_edge.doctor import diagnose
from pd_edge.doctor_evidence import Sample
from pd_edge.doctor_reference import reference
from pd_edge.doctor_trial import LEAST, try_profile
from pd_edge.kitti import ObjectDataset
from pd_edge.sensors import KITTI, SensorProfile, mount_of


def mounted(**mount: float) -> Callable[[Cloud], Cloud]:
    """The cloud as a sensor on another mount than KITTI's would see it."""
    spoilt = mount_of(SensorProfile(**{"name": "spoilt", "height": KITTI.height, **mount}))
    return spoilt._replace(to_model=spoilt.to_cloud).points


def times(*factors: float) -> Callable[[Cloud], Cloud]:
    """x, y, z and intensity times factors."""
    return lambda points: points * np.array(factors, np.float32)


MISTAKES: dict[str, Callable[[Cloud], Cloud]] = {
    "none": lambda points: points,
    "2 m too high": mounted(height=KITTI.height + 2),
    "tilted 10 degrees, nose down": mounted(pitch=10),
    "tilted 10 degrees to the right": mounted(roll=10),
    "intensity 0..255": times(1, 1, 1, 255),
    "x and y swapped": lambda points: np.ascontiguousarray(points[:, [1, 0, 2, 3]]),
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
    detector = load("pointpillars-4x")
    detector.set_score_threshold(LEAST)
    print("| mistake | named | line of the profile | boxes before | after |\n|---|---|---|---:|---:|")
    for name, spoil in MISTAKES.items():
        sample = Sample([spoil(points) for points in frames])
        findings, profile = diagnose(sample, KITTI, detector.config.model.grid, reference())
        named = ", ".join(each.name for each in findings) or "nothing"
        lines = "; ".join(each.remedy.partition(": ")[2].partition(" (")[0] for each in findings)
        before, after = (try_profile(detector, sample, each).boxes for each in (KITTI, profile))
        print(f"| {name} | {named} | {lines.partition(', where')[0]} | {before} | {after} |", flush=True)


if __name__ == "__main__":
    main()
