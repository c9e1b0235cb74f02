"""Plots of the realism report."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pd_edge.boxes import bev_corners
from pd_edge.errors import MissingExtraError
from pd_edge.kitti import DONT_CARE, Frame, boxes_to_lidar
from pd_edge.training.realism import (
    CLASSES,
    OBJECT_EDGES,
    RANGE_EDGES,
    Measures,
    place_histogram,
    point_counts,
)

COLOURS = {"simulated": "#1f6feb", "real": "#d1495b"}
CLASS_COLOURS = {"Car": "#d1495b", "Pedestrian": "#1f6feb", "Cyclist": "#2a9d4a"}
CLOSE = 25.0
"""Farthest object drawn close up [m]."""


def plot_measures(measured: dict[str, Measures], path: Path) -> None:
    """One page of plots with a line for each data set.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _subplots(4, 3, (16, 17))
    for name, each in measured.items():
        colour = COLOURS.get(name)
        _line(axes[0, 0], np.arange(64), each.per_beam, name, colour)
        _line(axes[0, 1], np.arange(len(each.per_range)), each.per_range, name, colour)
        axes[0, 2].hist(each.ground_share, np.linspace(0, 1, 26), density=True, alpha=0.5, label=name, color=colour)
        for axis, kind in zip((axes[1, 0], axes[1, 1], axes[1, 2]), ("all", "ground", "Car"), strict=True):
            share = np.full(len(each.intensity[kind]), 1.0 / max(len(each.intensity[kind]), 1))
            bins = np.linspace(0, 1, 51)
            axis.hist(each.intensity[kind], bins, weights=share, alpha=0.5, label=name, color=colour)
            axis.set(title=f"intensity: {kind}, share of points", xlabel="intensity")
            axis.set_yscale("symlog", linthresh=1e-5)
        for axis, kind in zip(axes[2], CLASSES, strict=True):
            _plot_counts(axis, each, kind, name, colour)
        for place, (axis, title) in enumerate(zip(axes[3], ("along", "across", "above"), strict=True)):
            histogram = place_histogram(each, "Car", place)
            _line(axis, np.arange(16) / 16, histogram / max(histogram.sum(), 1), name, colour)
            axis.set(title=f"cars: share of points {title} the box", xlabel="share of the box")
    axes[0, 0].set(title="points per beam and frame", xlabel="beam, 0 is the highest")
    axes[0, 1].set(title="points per range and frame", xlabel="range [m]")
    ticks = [f"{low:.0f}" for low in RANGE_EDGES[:-1]]
    axes[0, 1].set_xticks(np.arange(len(ticks)), ticks)
    axes[0, 2].set(title="share of ground, frames", xlabel="share")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=70)


def _plot_counts(axis: Any, measures: Measures, kind: str, name: str, colour: str | None) -> None:
    """Median number of points against distance, with the middle half of the objects."""
    centres = [0.5 * (near + far) for near, far in pairwise(OBJECT_EDGES)]
    counts = [point_counts(measures, kind, near, far) for near, far in pairwise(OBJECT_EDGES)]
    low, middle, high = np.array(
        [np.percentile(each, (25, 50, 75)) if len(each) else np.full(3, np.nan) for each in counts]
    ).T
    axis.plot(centres, middle, "o-", label=name, color=colour)
    axis.fill_between(centres, low, high, alpha=0.2, color=colour)
    axis.set(title=f"points per visible {kind}", xlabel="distance [m]")
    axis.set_yscale("symlog", linthresh=1.0)


def _line(axis: Any, x: Any, y: Any, name: str, colour: str | None) -> None:
    axis.plot(x, y, "-", label=name, color=colour)


def plot_views(frames: Sequence[Frame], path: Path) -> None:
    """Four frames from above, and close-ups of a few objects from the side.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _subplots(3, 4, (20, 16))
    for axis, frame in zip(axes[0], frames, strict=False):
        _plot_frame(axis, frame)
    close_ups = [(kind, frame, box) for kind in CLASSES for frame, box in _near_objects(frames, kind, 3)]
    for axis, (kind, frame, box) in zip(axes[1:].flat, close_ups, strict=False):
        _plot_close(axis, kind, frame, box)
    figure.savefig(path, dpi=60)


def _plot_frame(axis: Any, frame: Frame) -> None:
    axis.scatter(-frame.points[:, 1], frame.points[:, 0], c=frame.points[:, 3], s=0.5, vmin=0, vmax=0.6)
    labels, boxes = _labelled(frame)
    for name, corners in zip(labels, bev_corners(boxes), strict=True):
        outline = np.concatenate([corners, corners[:1]])
        axis.plot(-outline[:, 1], outline[:, 0], color=CLASS_COLOURS.get(name, "black"), linewidth=1)
    axis.set(xlim=(-30, 30), ylim=(0, 70), title=f"frame {frame.id} from above", xlabel="right [m]", ylabel="[m]")


def _plot_close(axis: Any, kind: str, frame: Frame, box: Any) -> None:
    """One object from the side, in its own frame."""
    delta = frame.points[:, :3] - box[:3]
    along = delta[:, 0] * np.cos(box[6]) + delta[:, 1] * np.sin(box[6])
    across = delta[:, 1] * np.cos(box[6]) - delta[:, 0] * np.sin(box[6])
    near = (np.abs(along) < box[3] / 2 + 0.5) & (np.abs(across) < box[4] / 2 + 0.3)
    axis.scatter(along[near], delta[near, 2], c=frame.points[near, 3], s=5, vmin=0, vmax=0.6)
    x, z = box[3] / 2, box[5] / 2
    axis.plot([-x, x, x, -x, -x], [-z, -z, z, z, -z], color=CLASS_COLOURS[kind], linewidth=1)
    axis.set(
        title=f"{kind} at {np.hypot(box[0], box[1]):.0f} m from the side", aspect="equal", ylim=(-z - 0.4, z + 0.5)
    )


def _near_objects(frames: Sequence[Frame], kind: str, count: int) -> list[tuple[Frame, Any]]:
    """The first fully visible objects of a class that are near enough, one a frame."""
    found: list[tuple[Frame, Any]] = []
    for frame in frames:
        labels = [label for label in frame.labels or [] if label.name == kind and label.occlusion == 0]
        if frame.calibration is None or len(found) == count:
            continue
        boxes = boxes_to_lidar(labels, frame.calibration)
        near = boxes[np.hypot(boxes[:, 0], boxes[:, 1]) < CLOSE]
        found += [(frame, box) for box in near[:1]]
    return found


def _labelled(frame: Frame) -> tuple[list[str], Any]:
    labels = [label for label in frame.labels or [] if label.name != DONT_CARE]
    if frame.calibration is None:
        return [], np.empty((0, 7))
    return [label.name for label in labels], boxes_to_lidar(labels, frame.calibration)


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("matplotlib", "viz") from error
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.05, 0.04, 0.98, 0.97, wspace=0.2, hspace=0.25)
    return figure, figure.subplots(rows, columns)
