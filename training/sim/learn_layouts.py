"""Learns the table of :mod:`pd_edge.training.sim.layouts` from a folder of KITTI label files.

    python -m pd_edge.training.sim.learn_layouts LABEL_FOLDER

Only shares, means and spreads are kept: the table names no frame and no object.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from pd_edge.errors import DataError
from pd_edge.kitti import Label, boxes_to_lidar, read_labels
from pd_edge.training.sim.camera import camera_calibration
from pd_edge.training.sim.layouts import TABLE, ClassLayout, GroundLayout, LayoutStats, RowLayout

FloatArray = npt.NDArray[np.float64]

CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
X_EDGES = (0.0, 5.0, 8.0, 12.0, 16.0, 20.0, 25.0, 30.0, 36.0, 43.0, 52.0, 70.0)
RATIO_EDGES = (-0.9, -0.6, -0.4, -0.25, -0.14, -0.07, 0.0, 0.07, 0.14, 0.25, 0.4, 0.6, 0.9)
BAND_EDGES = (0.0, 2.5, 5.5, 9.0, 40.0)
SECTORS = 36
NEAR = 1.5
SAME_ROW_TURN = 0.26
HEIGHT = (-1.713, 0.032)
"""Mean and spread of the ground's height at the sensor [m]; measured on scans, labels do not show it."""
ROW_GAP = {"lengthwise": 4.0, "abreast": 1.6}


class Frame(NamedTuple):
    """The objects of one label file."""

    names: list[str]
    boxes: FloatArray
    """(K, 7) in the LiDAR frame."""


def learn(folder: Path) -> LayoutStats:
    """Statistics of all label files in a folder.

    Raises:
        DataError: The folder holds no label files, one is malformed, or there is nothing to learn a part from.
    """
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise DataError(f"{folder}: no label files (*.txt) here; give KITTI's label_2 folder")
    frames = [_frame(read_labels(path)) for path in paths]
    rows = {kind: _row_layout(frames, kind) for kind in ROW_GAP}
    return LayoutStats(
        x_edges=X_EDGES,
        ratio_edges=RATIO_EDGES,
        band_edges=BAND_EDGES,
        classes={name: _class_layout(frames, name) for name in CLASSES},
        lengthwise=rows["lengthwise"],
        abreast=rows["abreast"],
        near_another={name: _near_another(frames, name) for name in ("Pedestrian", "Person_sitting", "Cyclist")},
        ground=_ground_layout(frames),
    )


def _need(found: int, what: str) -> None:
    if not found:
        raise DataError(f"no {what} in the label files; learn from a folder of some hundred frames")


def _frame(labels: Sequence[Label]) -> Frame:
    kept = [label for label in labels if label.name in CLASSES]
    return Frame([label.name for label in kept], boxes_to_lidar(kept, camera_calibration()))


def _of(frame: Frame, *names: str) -> FloatArray:
    return frame.boxes[[name in names for name in frame.names]]


def _shares(counts: npt.NDArray[np.generic], digits: int = 4) -> tuple[float, ...]:
    values = np.asarray(counts, np.float64)
    return tuple(round(float(value), digits) for value in values / max(values.sum(), 1.0))


def _class_layout(frames: Sequence[Frame], name: str) -> ClassLayout:
    per_frame = [_of(frame, name) for frame in frames]
    boxes = np.concatenate(per_frame)
    _need(len(boxes), f"objects of class {name}")
    x, y = boxes[:, 0], boxes[:, 1]
    cells, _, _ = np.histogram2d(x, y / np.maximum(x, 0.1), (X_EDGES, RATIO_EDGES))
    total = cells.sum()
    bands = np.digitize(np.abs(y), BAND_EDGES) - 1
    headings = [_headings(boxes[bands == band, 6]) for band in range(len(BAND_EDGES) - 1)]
    return ClassLayout(
        counts=_shares(np.bincount([len(rows) for rows in per_frame])),
        cells=tuple(tuple(round(float(cell), 4) for cell in row / total) for row in cells),
        yaw=tuple(headings),
        size_mean=_triple(boxes[:, 3:6].mean(axis=0)),
        size_sd=_triple(boxes[:, 3:6].std(axis=0)),
    )


def _headings(yaw: FloatArray) -> tuple[float, ...]:
    """Shares per sector, with one imaginary object spread over all so that no heading is impossible."""
    counts, _ = np.histogram(yaw, SECTORS, (-np.pi, np.pi))
    return _shares(counts + 1.0 / SECTORS)


def _triple(values: FloatArray) -> tuple[float, float, float]:
    first, second, third = (round(float(value), 3) for value in values)
    return first, second, third


def _row_layout(frames: Sequence[Frame], kind: str) -> RowLayout:
    lengths: list[int] = []
    pairs: list[tuple[float, float]] = []
    cars = 0
    for frame in frames:
        boxes = _of(frame, "Car", "Van")
        cars += len(boxes)
        links = _row_links(boxes, kind)
        pairs += [(gap, offset) for _, _, gap, offset in links]
        lengths += _chain_lengths(len(boxes), [(first, second) for first, second, _, _ in links])
    _need(len(pairs), f"cars that stand {kind}")
    gaps = np.array(pairs)
    return RowLayout(
        share=round(sum(lengths) / max(cars, 1), 4),
        lengths=_shares(np.bincount(lengths)[2:]),
        gap=(round(float(np.median(gaps[:, 0])), 3), round(float(gaps[:, 0].std()), 3)),
        offset_sd=round(float(gaps[:, 1].std()), 3),
    )


def _row_links(boxes: FloatArray, kind: str) -> list[tuple[int, int, float, float]]:
    """Pairs that stand in one row: first, second, gap along the row [m], offset across it [m]."""
    links = []
    for i, box in enumerate(boxes):
        delta = boxes[:, :2] - box[:2]
        cosine, sine = np.cos(box[6]), np.sin(box[6])
        ahead = delta[:, 0] * cosine + delta[:, 1] * sine
        aside = delta[:, 1] * cosine - delta[:, 0] * sine
        turned = np.abs((boxes[:, 6] - box[6] + np.pi / 2) % np.pi - np.pi / 2)
        along, across, extent = (ahead, aside, 3) if kind == "lengthwise" else (aside, ahead, 4)
        gap = along - (boxes[:, extent] + box[extent]) / 2
        fits = (along > 0) & (np.abs(across) < 1.0) & (gap < ROW_GAP[kind]) & (turned < SAME_ROW_TURN)
        links += [(i, int(j), float(gap[j]), float(across[j])) for j in np.flatnonzero(fits)]
    return links


def _chain_lengths(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """Sizes of the connected groups of two or more."""
    group = list(range(count))
    for first, second in links:
        old, new = group[second], group[first]
        group = [new if value == old else value for value in group]
    sizes = np.bincount(group, minlength=1) if count else np.zeros(1, np.int64)
    return [int(size) for size in sizes if size > 1]


def _near_another(frames: Sequence[Frame], name: str) -> float:
    near = total = 0
    for frame in frames:
        centres = _of(frame, name)[:, :2]
        distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e9 * np.eye(len(centres))
        total += len(centres)
        near += int((distances.min(axis=1) < NEAR).sum()) if len(centres) else 0
    return round(near / max(total, 1), 4)


def _ground_layout(frames: Sequence[Frame]) -> GroundLayout:
    """A plane per frame through the objects' bottoms; the height below the sensor is held near its known value."""
    planes = []
    for frame in frames:
        x, y, bottom = frame.boxes[:, 0], frame.boxes[:, 1], frame.boxes[:, 2] - frame.boxes[:, 5] / 2
        if len(x) < 6 or np.ptp(x) < 25.0:
            continue
        matrix = np.column_stack([x, y, np.ones(len(x))])
        anchored = np.concatenate([matrix, [[0.0, 0.0, 20.0]]])
        plane, *_ = np.linalg.lstsq(anchored, np.append(bottom, HEIGHT[0] * 20.0), rcond=None)
        planes.append(plane)
    _need(len(planes), "frames with six objects over 25 m, for the ground")
    fits = np.array(planes)
    mean, spread = fits.mean(axis=0).round(4), fits.std(axis=0).round(4)
    return GroundLayout(
        height=HEIGHT,
        slope_x=(float(mean[0]), float(spread[0])),
        slope_y=(float(mean[1]), float(spread[1])),
    )


def main() -> None:
    """Learns from the folder on the command line and writes the table beside this file."""
    table = learn(Path(sys.argv[1])).model_dump(mode="json")
    TABLE.write_text(yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=118), encoding="utf-8")


if __name__ == "__main__":
    main()
