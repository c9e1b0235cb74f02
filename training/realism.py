"""How close simulated scans come to real ones: the same measurements on both, in a table and in plots.

    python -m pd_edge.training.realism SIMULATED REAL OUT

Both folders are in KITTI's object layout, cut to the camera's view. Only statistics of the real frames are written.
"""

import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.errors import DataError
from pd_edge.files import write_bytes
from pd_edge.kitti import DONT_CARE, Frame, ObjectDataset, boxes_to_lidar
from pd_edge.training.sim.beams import nearest_beam

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CLASSES = ("Car", "Pedestrian", "Cyclist")
RANGE_EDGES = (0.0, 8.0, 12.0, 16.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0)
OBJECT_EDGES = (0.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 80.0)
GROUND_BAND = 0.15
"""Points this near the frame's ground plane count as ground [m]."""
WITHIN = 0.1
"""Objects are within the image when less than this share of them is cut off."""
FEET = 0.08
"""Lowest share of a box's height left out when its points are counted: they may be ground."""


class ObjectPoints(NamedTuple):
    """Points of one labelled object."""

    name: str
    distance: float
    """[m] from the sensor, over the ground."""
    whole: bool
    """Labelled fully visible, and within the image."""
    intensity: FloatArray
    """(n,)"""
    place: FloatArray
    """(n, 3): along, across and above, as shares of the box: -0.5..0.5, -0.5..0.5, 0..1."""


class Measures(NamedTuple):
    """What is measured on a data set; histograms are means per frame."""

    points: FloatArray
    """(frames,) points in view."""
    ground_share: FloatArray
    """(frames,) share of them on the ground."""
    ground_height: FloatArray
    """(frames,) height of the ground plane below the sensor [m]."""
    per_range: FloatArray
    """(ranges,)"""
    per_beam: FloatArray
    """(64,)"""
    intensity: dict[str, FloatArray]
    """Intensities of all points, of the ground, of everything else, and of each class's points."""
    ground_by_range: tuple[FloatArray, ...]
    """Intensities of ground points, one array a range."""
    objects: tuple[ObjectPoints, ...]


def measure(frames: Iterable[Frame]) -> Measures:
    """Measures a data set of frames with labels and calibration.

    Raises:
        DataError: There are no frames, or one has no labels or no calibration.
    """
    parts = [_measure_frame(frame) for frame in frames]
    if not parts:
        raise DataError("no frames to measure; give a KITTI object folder with clouds, labels and calibration")
    everything = np.concatenate([part.intensity for part in parts])
    ground = np.concatenate([part.intensity[part.ground] for part in parts])
    objects = tuple(each for part in parts for each in part.objects)
    intensity = {"all": everything, "ground": ground}
    for name in CLASSES:
        chosen = [each.intensity for each in objects if each.name == name]
        intensity[name] = np.concatenate([*chosen, np.empty(0)])
    ranges = np.concatenate([part.range[part.ground] for part in parts])
    bins = np.digitize(ranges, RANGE_EDGES) - 1
    return Measures(
        points=np.array([float(len(part.range)) for part in parts]),
        ground_share=np.array([part.ground.mean() for part in parts]),
        ground_height=np.array([part.height for part in parts]),
        per_range=np.mean([np.histogram(part.range, RANGE_EDGES)[0] for part in parts], axis=0),
        per_beam=np.mean([np.bincount(part.beam, minlength=64) for part in parts], axis=0),
        intensity=intensity,
        ground_by_range=tuple(ground[bins == index] for index in range(len(RANGE_EDGES) - 1)),
        objects=objects,
    )


class _FrameParts(NamedTuple):
    range: FloatArray
    beam: npt.NDArray[np.int64]
    intensity: FloatArray
    ground: BoolArray
    height: float
    objects: list[ObjectPoints]


def _measure_frame(frame: Frame) -> _FrameParts:
    if frame.labels is None or frame.calibration is None:
        raise DataError(f"frame {frame.id}: no labels or no calibration; realism needs label_2 and calib")
    points = frame.points.astype(np.float64)
    labels = [label for label in frame.labels if label.name != DONT_CARE]
    boxes = boxes_to_lidar(labels, frame.calibration)
    objects, taken = [], np.zeros(len(points), bool)
    for label, box in zip(labels, boxes, strict=True):
        place, inside = _place_in_box(points, box)
        taken |= inside
        distance = float(np.hypot(box[0], box[1]))
        whole = label.occlusion == 0 and label.truncation < WITHIN
        objects.append(ObjectPoints(label.name, distance, whole, points[inside, 3], place[inside]))
    plane = _ground_plane(points)
    above = points[:, 2] - points[:, :2] @ plane[:2] - plane[2]
    ground = (np.abs(above) < GROUND_BAND) & ~taken
    return _FrameParts(
        np.hypot(points[:, 0], points[:, 1]), nearest_beam(points), points[:, 3], ground, float(plane[2]), objects
    )


def _place_in_box(points: FloatArray, box: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Where points are in a box, as shares of its sizes, and which are inside (feet left out)."""
    cosine, sine = np.cos(box[6]), np.sin(box[6])
    delta = points[:, :3] - box[:3]
    along, across = delta[:, 0] * cosine + delta[:, 1] * sine, delta[:, 1] * cosine - delta[:, 0] * sine
    place = np.column_stack([along, across, delta[:, 2]]) / box[3:6] + (0.0, 0.0, 0.5)
    inside = (np.abs(place[:, :2]) < 0.52).all(axis=1) & (place[:, 2] > FEET) & (place[:, 2] < 1.02)
    return place, inside


def _ground_plane(points: FloatArray) -> FloatArray:
    """(3,) slopes along x and y, and height [m] of the plane that most low points lie on."""
    low = points[points[:, 2] < -1.2]
    if len(low) < 3:
        return np.array([0.0, 0.0, -1.7])
    matrix = np.column_stack([low[:, :2], np.ones(len(low))])
    kept = np.ones(len(low), bool)
    plane = np.zeros(3)
    for _ in range(8):
        plane, *_ = np.linalg.lstsq(matrix[kept], low[kept, 2], rcond=None)
        kept = np.abs(low[:, 2] - matrix @ plane) < GROUND_BAND
        if kept.sum() < 3:
            break
    return np.asarray(plane, np.float64)


def report(simulated: Path, real: Path, out: Path, split: str = "train", limit: int = 200) -> Path:
    """Writes ``realism.md`` and its plots.

    Args:
        simulated: KITTI object folder of simulated frames.
        real: KITTI object folder of real frames.
        out: Folder of the report.
        split: Which list of frames to read in both.
        limit: Most frames of either.

    Returns:
        The report's path.

    Raises:
        DataError: A data set cannot be read or lacks labels or calibration.
        MissingExtraError: matplotlib is not installed.
    """
    from pd_edge.training.realism_plots import plot_measures, plot_views  # noqa: PLC0415 - needs matplotlib

    ours, theirs = (_first(ObjectDataset(root, split, cloud="reduced"), limit) for root in (simulated, real))
    measured = {"simulated": measure(ours), "real": measure(theirs)}
    out.mkdir(parents=True, exist_ok=True)
    plot_measures(measured, out / "realism.png")
    plot_views(ours, out / "simulated_views.png")
    path = out / "realism.md"
    write_bytes(path, markdown(measured).encode())
    return path


def _first(dataset: ObjectDataset, limit: int) -> list[Frame]:
    return [dataset.frame(index) for index in range(min(limit, len(dataset)))]


def markdown(measured: dict[str, Measures]) -> str:
    """The table of the report."""
    lines = [
        "# Simulated scans beside real ones",
        "",
        "Both cut to the view of the left colour camera. Distances are total variation: 0 is the same histogram, 1 no",
        "overlap. Objects are those labelled fully visible and not truncated.",
        "",
        "| quantity | " + " | ".join(measured) + " |",
        "|---|" + "---|" * len(measured),
    ]
    rows = {name: _rows(each) for name, each in measured.items()}
    first = next(iter(rows.values()))
    lines += [f"| {key} | " + " | ".join(rows[name][key] for name in measured) + " |" for key in first]
    lines += ["", "| histogram | distance |", "|---|---|"]
    lines += [f"| {key} | {value:.3f} |" for key, value in distances(*measured.values()).items()]
    lines += ["", "![Measurements of both](realism.png)", "", "![Simulated frames](simulated_views.png)", ""]
    return "\n".join(lines)


def _rows(measures: Measures) -> dict[str, str]:
    """The table's column for one data set."""
    rows = {
        "frames": str(len(measures.points)),
        "points in view": f"{measures.points.mean():.0f} +- {measures.points.std():.0f}",
        "share of ground": f"{measures.ground_share.mean():.2f} +- {measures.ground_share.std():.2f}",
        "ground below the sensor [m]": f"{measures.ground_height.mean():.2f} +- {measures.ground_height.std():.2f}",
    }
    for name, values in measures.intensity.items():
        if len(values):
            rows[f"median intensity, zeros: {name}"] = f"{np.median(values):.2f}, {(values == 0).mean():.0%}"
    for name in CLASSES:
        for low, high in pairwise(OBJECT_EDGES):
            rows[f"points per {name}, {low:.0f}..{high:.0f} m"] = _points_of(measures, name, low, high)
    return rows


def _points_of(measures: Measures, name: str, low: float, high: float) -> str:
    counts = point_counts(measures, name, low, high)
    return f"{np.median(counts):.0f} ({len(counts)} objects)" if len(counts) else "no objects"


def point_counts(measures: Measures, name: str, low: float, high: float) -> FloatArray:
    """Points of every fully visible object of a class between two distances [m]."""
    chosen = [
        float(len(each.intensity))
        for each in measures.objects
        if each.name == name and each.whole and low <= each.distance < high
    ]
    return np.array(chosen)


def distances(first: Measures, second: Measures) -> dict[str, float]:
    """Total variation distance of the histograms of two data sets."""
    found = {
        "points per range": _total_variation(first.per_range, second.per_range),
        "points per beam": _total_variation(first.per_beam, second.per_beam),
    }
    bins = np.linspace(0.0, 1.0, 26)
    for name in first.intensity:
        pair = (np.histogram(each.intensity[name], bins)[0] for each in (first, second))
        found[f"intensity: {name}"] = _total_variation(*pair)
    for name in CLASSES:
        for axis, label in enumerate(("along", "across", "above")):
            found[f"place in the box, {label}: {name}"] = _total_variation(
                *(place_histogram(each, name, axis) for each in (first, second))
            )
    return found


def place_histogram(measures: Measures, name: str, axis: int, near: float = 25.0) -> FloatArray:
    """(16,) how the points of a class spread along one axis of their boxes; nearer than ``near`` [m]."""
    places = [
        each.place[:, axis] for each in measures.objects if each.name == name and each.whole and each.distance < near
    ]
    edges = np.linspace(*((0.0, 1.0) if axis == 2 else (-0.5, 0.5)), 17)
    return np.histogram(np.concatenate([*places, np.empty(0)]), edges)[0].astype(np.float64)


def _total_variation(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> float:
    shares = [np.asarray(each, np.float64) / max(float(np.sum(each)), 1.0) for each in (first, second)]
    return float(0.5 * np.abs(shares[0] - shares[1]).sum())


def main() -> None:
    """Writes the report of the folders on the command line."""
    simulated, real, out = map(Path, sys.argv[1:4])
    report(simulated, real, out)


if __name__ == "__main__":
    main()
