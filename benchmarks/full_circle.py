"""Full coverage on simulated scans: ``python benchmarks/full_circle.py --out training/results/full_circle.json``.

A street that the simulator made up is scanned all around. The front model looks at each scan turned by every multiple
of 15 degrees, from which three things follow: how recall depends on the angle between an object and the axis of a
sector; what full coverage finds beside a seam and away from it; and how much its boxes change when the same scan is
turned by an angle that is no quarter turn. Then full coverage and the front are timed by turns.
"""

import argparse
import math
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Detections, bev_iou, wrap_angle
from pd_edge.detector import Detector, load
from pd_edge.drive_report import machine
from pd_edge.report import write_json
from pd_edge.sectors import SECTORS, Sectors, turned, turned_boxes
from pd_edge.terminal import counting
from pd_edge.training.sim.drive import draw_street, drive_scan
from pd_edge.training.sim.scene import SimulateConfig

STEP = 15
"""Angle between the views of a scan [degrees]."""
ANGLE_EDGES = (0, 15, 30, 45, 60, 75, 90)
RANGE_EDGES = (3, 20, 40, 52)
CLASSES = {"Car": 0.5, "Pedestrian": 0.25, "Cyclist": 0.25}
"""BEV IoU from which an object counts as found."""
SHOWN = 0.3
SEAM = 7.5
"""An object is beside a seam when the azimuth of its centre is nearer to it than this [degrees]."""
FIRST_SEED, FRAMES = 5000, 30

Floats = npt.NDArray[np.float32]


class Scan(NamedTuple):
    """A scan, its hardly occluded objects, and what the front model finds in it from every side."""

    points: Floats
    boxes: Floats
    labels: npt.NDArray[np.int64]
    views: list[Detections]
    """In the frame of each view; the scan was turned by -STEP degrees for each."""


def make_scan(seed: int) -> Scan:
    """The first scan of a simulated drive, without views."""
    config = SimulateConfig()
    scan = drive_scan(seed, FRAMES, config, 0)
    names = np.array([mover.actor.name for mover in draw_street(seed, FRAMES, config).movers])
    kept = scan.seen & np.isin(names, list(CLASSES)) & (scan.occlusion <= 1)
    labels = np.array([list(CLASSES).index(name) for name in names[kept]], np.int64)
    return Scan(scan.points, scan.boxes[kept].astype(np.float32), labels, [])


def look_around(detector: Detector, points: Floats) -> list[Detections]:
    """What the front model finds in the scan turned by every multiple of the step."""
    return [detector.detect(turned(points, -math.radians(angle))) for angle in range(0, 360, STEP)]


def scans_of(detector: Detector, count: int, keep: Path) -> Iterator[Scan]:
    """Scans with their views; views are kept in a folder, so that an interrupted run goes on."""
    keep.mkdir(parents=True, exist_ok=True)
    with counting("scans") as advance:
        for index in range(count):
            path, scan = keep / f"{FIRST_SEED + index}.npz", make_scan(FIRST_SEED + index)
            if not path.exists():
                views = look_around(detector, scan.points)
                sides = np.repeat(np.arange(len(views)), [len(view.boxes) for view in views])
                np.savez(path, sides=sides, **{name: np.concatenate(each) for name, each in _columns(views)})
            with np.load(path) as held:
                parts = [held["sides"] == side for side in range(360 // STEP)]
                views = [Detections(*(held[name][part] for name in Detections._fields)) for part in parts]
            yield scan._replace(views=views)
            advance(index + 1, count)


def _columns(views: list[Detections]) -> Iterator[tuple[str, list[npt.NDArray[Any]]]]:
    for name in Detections._fields:
        yield name, [getattr(view, name) for view in views]


def is_found(boxes: Floats, labels: npt.NDArray[np.int64], found: Detections) -> npt.NDArray[np.bool_]:
    """(K,) whether each object has a detection of its class that overlaps it enough and is shown."""
    shown = found.at_least(SHOWN)
    overlap = bev_iou(boxes, shown.boxes) * (labels[:, None] == shown.labels)
    least = np.array(list(CLASSES.values()))[labels]
    result: npt.NDArray[np.bool_] = overlap.max(axis=1, initial=0) >= least
    return result


def angles_to_axis(boxes: Floats, axis: float) -> npt.NDArray[np.float64]:
    """(K,) degrees between the azimuths of centres and an axis [degrees], 0..180."""
    azimuth = np.degrees(np.arctan2(boxes[:, 1], boxes[:, 0]))
    return np.abs((azimuth - axis + 180) % 360 - 180)


def full_answer(scan: Scan, sectors: Sectors, angle: int) -> Detections:
    """What full coverage finds in the scan turned by an angle [degrees], turned back."""
    sides = [round((math.degrees(axis) - angle) / STEP) % len(scan.views) for axis in sectors.axes]
    found = sectors.merge([scan.views[side] for side in sides], 0.01)
    return found._replace(boxes=turned_boxes(found.boxes, -math.radians(angle)))


def of_class(found: Detections, label: int) -> Detections:
    """Those of one class."""
    kept = found.labels == label
    return Detections(found.boxes[kept], found.labels[kept], found.scores[kept])


def recall_by_angle(scans: list[Scan]) -> list[dict[str, Any]]:
    """Recall of each class and range, by the angle from the view's axis."""
    rows = []
    for scan in scans:
        distance = np.hypot(scan.boxes[:, 0], scan.boxes[:, 1])
        for side, view in enumerate(scan.views):
            boxes = turned_boxes(scan.boxes, -math.radians(STEP * side))
            hit = is_found(boxes, scan.labels, view)
            rows.append(np.column_stack([scan.labels, distance, angles_to_axis(boxes, 0), hit]))
    table = np.concatenate(rows)
    result = []
    for label, name in enumerate(CLASSES):
        for low, high in pairwise(RANGE_EDGES):
            part = table[(table[:, 0] == label) & (table[:, 1] >= low) & (table[:, 1] < high)]
            bins = [part[(part[:, 2] >= a) & (part[:, 2] < b), 3] for a, b in pairwise(ANGLE_EDGES)]
            recalls = [round(100 * float(each.mean()), 1) if len(each) else None for each in bins]
            result.append({"class": name, "range_m": [low, high], "recall": recalls, "objects": list(map(len, bins))})
    return result


def recall_at_seams(scans: list[Scan], sectors: Sectors) -> dict[str, Any]:
    """Recall of full coverage, all classes and ranges, whatever the scan's turn: beside a seam and away from it."""
    hits: dict[bool, list[npt.NDArray[np.bool_]]] = {True: [], False: []}
    for scan in scans:
        distance = np.hypot(scan.boxes[:, 0], scan.boxes[:, 1])
        within = (distance >= RANGE_EDGES[0]) & (distance < RANGE_EDGES[-1])
        for angle in range(0, 360 // sectors.count, STEP):
            hit = is_found(scan.boxes, scan.labels, full_answer(scan, sectors, angle))
            away = [angles_to_axis(scan.boxes, math.degrees(axis) - angle) for axis in sectors.axes]
            beside = np.min(away, axis=0) > 180 / sectors.count - SEAM
            for where, parts in hits.items():
                parts.append(hit[within & (beside == where)])
    seam, rest = (np.concatenate(hits[where]) for where in (True, False))
    return {
        "beside": round(100 * float(seam.mean()), 1),
        "away": round(100 * float(rest.mean()), 1),
        "objects": [len(seam), len(rest)],
    }


def agreement(scans: list[Scan], sectors: Sectors, label: int) -> dict[str, Any]:
    """How the shown boxes of a class change when the scan is turned by other angles than a sector's."""
    rows, total = [], 0
    for scan in scans:
        shown = of_class(full_answer(scan, sectors, 0).at_least(SHOWN), label)
        for angle in range(STEP, 360 // sectors.count, STEP):
            after = of_class(full_answer(scan, sectors, angle), label)
            total += len(shown.boxes)
            if not len(after.boxes):
                continue
            overlap = bev_iou(shown.boxes, after.boxes)
            pair, met = overlap.argmax(axis=1), overlap.max(axis=1) >= 0.1
            moved = np.hypot(*(shown.boxes[met, :2] - after.boxes[pair[met], :2]).T)
            turn = np.abs(wrap_angle((shown.boxes[met, 6] - after.boxes[pair[met], 6]).astype(np.float64)))
            change = np.abs(shown.scores[met] - after.scores[pair[met]])
            rows.append(np.column_stack([moved, np.degrees(turn), change]))
    table = np.concatenate(rows)
    reversed_ones = table[:, 1] > 90
    table[reversed_ones, 1] = 180 - table[reversed_ones, 1]
    median, high = np.percentile(table, [50, 95], axis=0)
    names = ("centre_m", "yaw_but_for_half_turns_deg", "score")
    return {
        "boxes": total,
        "matched": round(100 * len(table) / total, 1),
        "half_turns": round(100 * float(reversed_ones.mean()), 1),
        **{
            name: {"p50": round(float(middle), 3), "p95": round(float(top), 3)}
            for name, middle, top in zip(names, median, high, strict=True)
        },
    }


def times(model: str, precision: str, points: Floats, runs: int) -> dict[str, Any]:
    """Median time of a scan, front and full by turns [ms]."""
    detectors = {coverage: load(model, precision=precision, coverage=coverage) for coverage in SECTORS}
    spent: dict[str, list[float]] = {coverage: [] for coverage in SECTORS}
    for run in range(-2, runs):
        for coverage, detector in detectors.items():
            start = time.perf_counter()
            detector.detect(points)
            if run >= 0:
                spent[coverage].append(1e3 * (time.perf_counter() - start))
    medians = {coverage: round(float(np.median(each)), 1) for coverage, each in spent.items()}
    ratios = np.array(spent["full"]) / np.array(spent["front"])
    return {"median_ms": medians, "ratio": round(float(np.median(ratios)), 2), "runs": runs}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="pointpillars-4x")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--keep", type=Path, default=Path("build/full_circle"), help="Folder of the detections.")
    parser.add_argument("--out", type=Path, default=Path("full_circle.json"))
    given = parser.parse_args()
    detector = load(given.model, precision=given.precision)
    scans = list(scans_of(detector, given.scans, given.keep))
    grid = detector.config.model.grid
    measured = {
        "model": given.model,
        "precision": given.precision,
        "scans": given.scans,
        "machine": machine(),
        "angles_deg": list(ANGLE_EDGES),
        "recall_by_angle": recall_by_angle(scans),
        "sectors": {
            str(count): {
                "reach_m": [round(each, 1) for each in Sectors(grid, count).reach()],
                "recall": recall_at_seams(scans, Sectors(grid, count)),
                "agreement": {
                    name: agreement(scans, Sectors(grid, count), label) for label, name in enumerate(CLASSES)
                },
            }
            for count in (4, 6)
        },
        "time": times(given.model, given.precision, scans[0].points, given.runs),
    }
    write_json(given.out, measured)
    print(given.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
