"""The learnt table: how many objects real frames hold, where they stand, how large and how turned they are."""

from functools import cache
from pathlib import Path

from pydantic import Field

from pd_edge.config import Config, load_config

TABLE = Path(__file__).with_name("layout_stats.yaml")


class ClassLayout(Config):
    """Statistics of one class; every list of shares adds up to one."""

    counts: tuple[float, ...] = Field(min_length=1, description="Share of frames with 0, 1, 2 ... objects.")
    cells: tuple[tuple[float, ...], ...] = Field(
        description="Share of objects per position cell, a row per range of x, a column per range of y / x."
    )
    yaw: tuple[tuple[float, ...], ...] = Field(
        description="Share per heading sector; a row per range of |y|, sectors of equal width from -pi to pi."
    )
    size_mean: tuple[float, float, float] = Field(description="Mean length, width, height [m].")
    size_sd: tuple[float, float, float] = Field(description="Standard deviation of length, width, height [m].")


class RowLayout(Config):
    """Cars that stand in a row."""

    share: float = Field(ge=0, le=1, description="Share of all cars and vans that stand in such a row.")
    lengths: tuple[float, ...] = Field(min_length=1, description="Share of rows with 2, 3, 4 ... cars.")
    gap: tuple[float, float] = Field(description="Median and standard deviation of the gap between neighbours [m].")
    offset_sd: float = Field(ge=0, description="Standard deviation of a car's offset across the row [m].")


class GroundLayout(Config):
    """The ground as the objects' bottoms show it, in the LiDAR frame."""

    height: tuple[float, float] = Field(description="Mean and standard deviation of the ground below the sensor [m].")
    slope_x: tuple[float, float] = Field(description="Mean and standard deviation of the slope along x.")
    slope_y: tuple[float, float] = Field(description="Mean and standard deviation of the slope along y.")


class LayoutStats(Config):
    """Everything placement needs to know about real layouts."""

    x_edges: tuple[float, ...] = Field(min_length=2, description="Limits of the ranges of x [m].")
    ratio_edges: tuple[float, ...] = Field(min_length=2, description="Limits of the ranges of y / x.")
    band_edges: tuple[float, ...] = Field(min_length=2, description="Limits of the ranges of |y| [m] of the headings.")
    classes: dict[str, ClassLayout]
    lengthwise: RowLayout = Field(description="Parked or queueing bumper to bumper.")
    abreast: RowLayout = Field(description="Parked side by side.")
    near_another: dict[str, float] = Field(description="Share with another of the class within 1.5 m.")
    ground: GroundLayout


@cache
def layout_stats() -> LayoutStats:
    """The table that comes with the package."""
    return load_config(TABLE, LayoutStats)
