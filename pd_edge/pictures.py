"""Bird's-eye pictures: a cloud, its ground truth and its detections from above, as PNG.

The picture lies as the canvas does: x (forward) to the right, y (left) up, equal scales, metres on both axes.
matplotlib comes with the extra ``viz`` and is imported when the first picture is drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import bev_corners
from pd_edge.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from pd_edge.config import GridConfig

BACKGROUND = "#0a0f1c"
PANEL = "#0d1424"
FAINT = "#25314c"
MUTED = "#8f9cba"
BRIGHT = "#eef2fb"
TRUTH = "#2fe0a7"
DETECTION = "#ff9d2e"
# Ground, then bumpers and people, then roofs, walls and trees: dark and bluish, so that the boxes stand out.
HEIGHT_COLOURS = ("#2b3c66", "#4468ab", "#6fa8da", "#cfe6f9")
HEIGHT_RANGE = (-2.0, 1.0)
DPI = 130
WIDTH = 16.0  # inches
LEFT, RIGHT, BOTTOM, TOP = 0.7, 0.25, 0.6, 0.95  # inches around the map
LABEL_POINTS = 10.0


class Overlay(NamedTuple):
    """Boxes to draw on a picture.

    Attributes:
        boxes: (K, 7) x y z length width height yaw, LiDAR frame [m, rad].
        texts: K labels, such as ``Car 0.87``; an empty one is not written.
    """

    boxes: npt.NDArray[np.floating[Any]]
    texts: Sequence[str]


class Extent(NamedTuple):
    """What a picture shows, in the LiDAR frame [m]."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    def contains(self, xy: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
        """(N,) whether each point of ``xy`` (N, >= 2) lies inside."""
        x, y = xy[:, 0], xy[:, 1]
        return (x >= self.x_min) & (x < self.x_max) & (y >= self.y_min) & (y < self.y_max)


def extent_of(
    grid: "GridConfig",
    overlays: Sequence[Overlay] = (),
    margin: float = 4.0,
    half: float = 20.0,
    *,
    around: bool = False,
    to_cloud: npt.NDArray[np.float64] | None = None,
) -> Extent:
    """The detection volume from above, narrowed in y to the boxes: empty sides would only shrink the rest.

    There are three metres more on the sensor's side, in x.

    Args:
        grid: The detection volume.
        overlays: Boxes that have to be inside, as far as the volume reaches.
        margin: Room beyond the outermost box centre [m].
        half: The picture reaches at least this far to either side [m].
        around: Whether the volume is turned all around the sensor, as full coverage does.
        to_cloud: (4, 4) from the model's frame to that of boxes and points [m]; None where they are the same.
    """
    (rear, right), (front, left) = _volume(grid, around=around, to_cloud=to_cloud)
    inside = [overlay.boxes[(overlay.boxes[:, 0] > rear) & (overlay.boxes[:, 0] < front), 1] for overlay in overlays]
    side = max([half, *(float(np.abs(y).max()) + margin for y in inside if len(y))])
    behind, ahead = (0.0, 0.0) if around else (3.0, 0.0) if abs(rear) <= abs(front) else (0.0, 3.0)
    return Extent(rear - behind, front + ahead, max(right, -side), min(left, side))


def _volume(
    grid: "GridConfig", *, around: bool, to_cloud: npt.NDArray[np.float64] | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Least and greatest x and y of the detection volume in the cloud's frame [m]."""
    if around:
        return (-grid.x_max, -grid.x_max), (grid.x_max, grid.x_max)
    if to_cloud is None:
        return (grid.x_min, grid.y_min), (grid.x_max, grid.y_max)
    corners = np.array([[x, y, 0, 1] for x in (grid.x_min, grid.x_max) for y in (grid.y_min, grid.y_max)])
    places = (corners @ to_cloud.T)[:, :2]
    (x_low, y_low), (x_high, y_high) = places.min(axis=0).tolist(), places.max(axis=0).tolist()
    return (x_low, y_low), (x_high, y_high)


def check_drawable() -> None:
    """Makes sure that pictures can be drawn, before long work whose result is to be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401, PLC0415 - extra
    except ImportError as error:
        raise MissingExtraError("matplotlib", "viz") from error


def draw_bird_eye(
    path: Path,
    points: npt.NDArray[np.float32],
    detections: Overlay,
    ground_truth: Overlay | None = None,
    *,
    extent: Extent,
    title: str,
    subtitle: str = "",
) -> Path:
    """Draws one frame from above and writes it as PNG.

    Args:
        path: The picture to write; its folder is made if need be.
        points: (N, 4) float32 x y z [m] intensity, LiDAR frame; coloured by height.
        detections: Drawn solid and orange.
        ground_truth: Drawn dashed and green, under the detections; None where there is none.
        extent: The area shown.
        title: First line, such as the frame and the model.
        subtitle: Second line, smaller.

    Returns:
        ``path``.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: The picture cannot be written.
    """
    check_drawable()
    from matplotlib.figure import Figure  # noqa: PLC0415 - extra

    across = WIDTH - LEFT - RIGHT
    along = across * (extent.y_max - extent.y_min) / (extent.x_max - extent.x_min)
    height = along + BOTTOM + TOP
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=BACKGROUND)
    axes = figure.add_axes((LEFT / WIDTH, BOTTOM / height, across / WIDTH, along / height))
    _prepare(axes, extent)
    _draw_range_rings(axes, extent)
    _draw_points(axes, points, extent)
    _draw_ego(axes)
    if ground_truth is not None:
        _draw_boxes(axes, ground_truth.boxes, TRUTH, dashed=True)
    _draw_boxes(axes, detections.boxes, DETECTION, dashed=False)
    _draw_labels(axes, extent, detections, ground_truth)
    _draw_header(figure, height, title, subtitle, with_truth=ground_truth is not None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, facecolor=BACKGROUND)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give a folder you may write to") from error
    return path


def place_labels(
    anchors: npt.NDArray[np.floating[Any]],
    sizes: npt.NDArray[np.floating[Any]],
    obstacles: npt.NDArray[np.floating[Any]],
    extent: Extent,
) -> npt.NDArray[np.float64]:
    """Finds a place for each label where it covers as little as possible, the first label first.

    Args:
        anchors: (K, 2) centres of the labelled boxes [m].
        sizes: (K, 2) width and height of each label [m].
        obstacles: (M, 4) rectangles x_min y_min x_max y_max to keep free, such as the boxes themselves [m].
        extent: Labels stay inside it where they can.

    Returns:
        (K, 2) centres of the labels [m].
    """
    angles = np.deg2rad([90, 60, 120, 30, 150, 0, 180, 270, 300, 240, 330, 210])
    steps = np.concatenate(
        [np.stack([r * 1.5 * np.cos(angles), r * np.sin(angles)], axis=1) for r in (1.9, 2.7, 3.8, 5.2, 7.0)]
    )
    distance = np.linalg.norm(steps, axis=1)
    taken = np.array(obstacles, dtype=np.float64).reshape(-1, 4)
    labels = np.empty((0, 4))
    centres = np.empty((len(anchors), 2))
    for k, (anchor, size) in enumerate(zip(anchors, sizes, strict=True)):
        candidates = anchor + steps
        rectangles = np.concatenate([candidates - size / 2, candidates + size / 2], axis=1)
        covered = _overlap(rectangles, taken).sum(axis=1)
        unreadable = _overlap(rectangles, labels).any(axis=1)  # a label over a label
        outside = size.prod() - _overlap(rectangles, np.array([_rectangle(extent)]))[:, 0]
        best = int(np.argmin(covered + 1000 * unreadable + 20 * outside + 0.35 * distance))
        centres[k] = candidates[best]
        labels = np.concatenate([labels, rectangles[best : best + 1]])
    return centres


def _rectangle(extent: Extent) -> tuple[float, float, float, float]:
    return extent.x_min, extent.y_min, extent.x_max, extent.y_max


def _overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, M) common areas of axis-aligned rectangles (N, 4) and (M, 4), x_min y_min x_max y_max."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray((high - low).clip(min=0).prod(axis=2), dtype=np.float64)


def _prepare(axes: Any, extent: Extent) -> None:
    axes.set_facecolor(PANEL)
    axes.set_xlim(extent.x_min, extent.x_max)
    axes.set_ylim(extent.y_min, extent.y_max)
    axes.set_xlabel("x, forward [m]", color=MUTED, fontsize=11)
    axes.set_ylabel("y, left [m]", color=MUTED, fontsize=11, labelpad=0)
    axes.tick_params(colors=MUTED, labelsize=10, length=3)
    axes.set_xticks(np.arange(np.ceil(extent.x_min / 10) * 10, extent.x_max, 10))
    axes.set_yticks(np.arange(np.ceil(extent.y_min / 10) * 10, extent.y_max + 1e-6, 10))
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def _draw_range_rings(axes: Any, extent: Extent) -> None:
    """Circles every 10 m of range, named to the right of straight ahead."""
    from matplotlib.patches import Circle  # noqa: PLC0415 - extra

    farthest = float(np.hypot(extent.x_max, max(-extent.y_min, extent.y_max)))
    for radius in range(10, int(farthest) + 1, 10):
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=FAINT, linewidth=0.9, zorder=1))
        y = max(-0.58 * radius, extent.y_min + 1.2)
        x = np.sqrt(radius**2 - y**2)
        if extent.contains(np.array([(x - 1, y - 1)]))[0] and extent.contains(np.array([(x + 1, y + 1)]))[0]:
            place = {"ha": "center", "va": "center", "zorder": 3.5}
            plate = {"boxstyle": "round,pad=0.15", "facecolor": PANEL, "edgecolor": "none", "alpha": 0.85}
            axes.text(x, y, f"{radius} m", color=MUTED, fontsize=8.5, bbox=plate, **place)


def _draw_points(axes: Any, points: npt.NDArray[np.float32], extent: Extent) -> None:
    """Draws the points inside the picture, low ones first so that what stands out of the ground stays visible."""
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415 - extra

    shown = points[extent.contains(points)]
    shown = shown[np.argsort(shown[:, 2], kind="stable")]
    colours = LinearSegmentedColormap.from_list("height", HEIGHT_COLOURS)
    low, high = HEIGHT_RANGE
    axes.scatter(
        shown[:, 0], shown[:, 1], c=shown[:, 2], cmap=colours, vmin=low, vmax=high, s=2.2, linewidths=0, zorder=3
    )


def _draw_ego(axes: Any) -> None:
    """An arrowhead at the sensor, pointing forward."""
    outline = np.array([(1.5, 0.0), (-1.2, 0.9), (-0.6, 0.0), (-1.2, -0.9)])
    axes.fill(outline[:, 0], outline[:, 1], color=BRIGHT, zorder=6, linewidth=0)


def _draw_boxes(axes: Any, boxes: npt.NDArray[np.floating[Any]], colour: str, *, dashed: bool) -> None:
    """Outlines, each with a heading tick out of its front."""
    if not len(boxes):
        return
    from matplotlib.collections import LineCollection, PolyCollection  # noqa: PLC0415 - extra

    # Where a detection matches, the truth stays visible as the wider line under it.
    width, order = (3.2, 4) if dashed else (1.6, 5)
    axes.add_collection(
        PolyCollection(
            list(bev_corners(boxes)),
            facecolors="none" if dashed else f"{colour}30",
            edgecolors=colour,
            linewidths=width,
            linestyles=[(0, (1.6, 0.9))] if dashed else "solid",
            zorder=order,
        )
    )
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
    front = boxes[:, :2] + heading * boxes[:, 3:4] / 2
    tip = front + heading * 0.9
    axes.add_collection(
        LineCollection(list(np.stack([front, tip], axis=1)), colors=colour, linewidths=width, zorder=order)
    )


def _draw_labels(axes: Any, extent: Extent, detections: Overlay, ground_truth: Overlay | None) -> None:
    overlays = [(detections, DETECTION)] + ([(ground_truth, TRUTH)] if ground_truth is not None else [])
    boxes = np.concatenate([overlay.boxes.reshape(-1, 7) for overlay, _ in overlays])
    texts = [text for overlay, _ in overlays for text in overlay.texts]
    colours = [colour for overlay, colour in overlays for _ in overlay.texts]
    if not texts:
        return
    keep = np.flatnonzero(extent.contains(boxes) & np.array([bool(text) for text in texts]))
    metres_per_point = (extent.x_max - extent.x_min) / (WIDTH - LEFT - RIGHT) / 72
    sizes = np.array([(0.6 * len(texts[k]) + 0.8, 1.5) for k in keep]).reshape(-1, 2) * LABEL_POINTS * metres_per_point
    corners = bev_corners(boxes)
    obstacles = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    for k, (x, y) in zip(keep, place_labels(boxes[keep, :2], sizes, obstacles, extent), strict=True):
        axes.plot([boxes[k, 0], x], [boxes[k, 1], y], color=colours[k], linewidth=0.8, alpha=0.6, zorder=6)
        axes.text(
            x,
            y,
            texts[k],
            color=colours[k],
            fontsize=LABEL_POINTS,
            ha="center",
            va="center",
            zorder=7,
            clip_on=True,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": BACKGROUND, "edgecolor": "none", "alpha": 0.8},
        )


def _draw_header(figure: Any, height: float, title: str, subtitle: str, *, with_truth: bool) -> None:
    figure.text(LEFT / WIDTH, 1 - 0.38 / height, title, color=BRIGHT, fontsize=17, weight="bold", va="center")
    figure.text(LEFT / WIDTH, 1 - 0.69 / height, subtitle, color=MUTED, fontsize=11.5, va="center")
    _draw_legend(figure, height, with_truth=with_truth)
    _draw_height_scale(figure, height)


def _draw_legend(figure: Any, height: float, *, with_truth: bool) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415 - extra

    lines = [Line2D([], [], color=DETECTION, linewidth=2)]
    names = ["detection"]
    if with_truth:
        lines.append(Line2D([], [], color=TRUTH, linewidth=3.2, linestyle=(0, (1.6, 0.9))))
        names.append("ground truth")
    legend = figure.legend(
        lines,
        names,
        loc="center right",
        bbox_to_anchor=(1 - (RIGHT + 2.7) / WIDTH, 1 - 0.5 / height),
        ncols=2,
        frameon=False,
        fontsize=12,
        handlelength=2.6,
    )
    for text in legend.get_texts():
        text.set_color(BRIGHT)


def _draw_height_scale(figure: Any, height: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415 - extra

    bar = figure.add_axes((1 - (RIGHT + 2.3) / WIDTH, 1 - 0.5 / height, 2.3 / WIDTH, 0.12 / height))
    low, high = HEIGHT_RANGE
    colours = LinearSegmentedColormap.from_list("height", HEIGHT_COLOURS)
    bar.imshow(np.linspace(low, high, 256)[None], cmap=colours, aspect="auto", extent=(low, high, 0, 1))
    bar.set_yticks([])
    bar.set_xticks(np.linspace(low, high, 4))
    bar.set_title("height of points, z [m]", color=MUTED, fontsize=9.5, pad=3)
    bar.tick_params(colors=MUTED, labelsize=9, length=2, pad=2)
    for spine in bar.spines.values():
        spine.set_visible(False)
