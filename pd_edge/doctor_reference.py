"""What clouds of the training data look like in figures, which ``pd-edge doctor`` compares a sensor's clouds with.

    python -m pd_edge.doctor_reference FRAMES FOLDER...

measures up to FRAMES frames of each KITTI object folder and writes ``reference_scans.yaml`` beside this module. Only
statistics are written.
"""

import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import Field

from pd_edge.clouds import Cloud
from pd_edge.config import Config, GridConfig, dump_config, load_config
from pd_edge.errors import DataError
from pd_edge.kitti import ObjectDataset
from pd_edge.pillars import point_cells

TABLE = Path(__file__).resolve().parent / "reference_scans.yaml"
VIEW = 40.0
"""Clouds are compared ahead, to this angle on either side [degrees]: training frames are cut to a camera's view."""


class Spread(Config):
    """A figure over frames."""

    low: float = Field(description="5 % of the frames have less.")
    middle: float = Field(description="Median.")
    high: float = Field(description="5 % of the frames have more.")


class Reference(Config):
    """Figures of training frames, of the points in the grid within 40 degrees of ahead."""

    frames: int = Field(gt=0, description="Frames measured.")
    pillars: Spread = Field(description="Cells with points.")
    points_per_pillar: Spread = Field(description="Mean points of such a cell.")
    median_range: Spread = Field(description="Of the points, over the ground [m].")
    intensity_median: Spread = Field(description="Of the points, 0..1.")
    intensity_p95: Spread = Field(description="95th percentile of the points, 0..1.")


FIGURES = tuple(name for name in Reference.model_fields if name != "frames")


def figures(points: Cloud, grid: GridConfig) -> dict[str, float] | None:
    """The figures of one cloud by the names of :class:`Reference`'s fields.

    Args:
        points: (N, 4) float32 in the model's frame [m], intensity 0..1.
        grid: The model's grid.

    Returns:
        The figures; None where no point lies ahead in the grid.
    """
    ahead = np.abs(np.arctan2(points[:, 1], points[:, 0])) < np.radians(VIEW)
    cells = point_cells(points, grid)
    inside = ahead & (cells >= 0)
    if not inside.any():
        return None
    kept, pillars = points[inside], len(np.unique(cells[inside]))
    median, p95 = np.percentile(kept[:, 3], [50, 95])
    reach = float(np.median(np.hypot(kept[:, 0], kept[:, 1])))
    return dict(zip(FIGURES, (pillars, len(kept) / pillars, reach, float(median), float(p95)), strict=True))


def measure(clouds: Iterable[Cloud], grid: GridConfig) -> Reference:
    """The spread of the figures over clouds.

    Raises:
        DataError: No cloud has a point in the grid.
    """
    found = [each for each in (figures(points, grid) for points in clouds) if each is not None]
    if not found:
        raise DataError("no cloud with points in the grid; give KITTI object folders of training frames")
    spreads = {}
    for name in FIGURES:
        low, middle, high = np.percentile([each[name] for each in found], [5, 50, 95]).round(3)
        spreads[name] = Spread(low=low, middle=middle, high=high)
    return Reference(frames=len(found), **spreads)


def reference() -> Reference:
    """The committed table: 104 KITTI and 104 simulated training frames, in the shipped models' grid."""
    return load_config(TABLE, Reference)


def main() -> None:
    """Writes the table from the folders on the command line."""
    most, folders = int(sys.argv[1]), sys.argv[2:]
    frames = [islice(ObjectDataset(folder, "train", cloud="reduced"), most) for folder in folders]
    dump_config(measure((each.points for chosen in frames for each in chosen), GridConfig()), TABLE)


if __name__ == "__main__":
    main()
