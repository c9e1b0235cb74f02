"""Dynamic pillars: points to decorated points, and the pillar feature net with its scatter to the canvas.

No cap on points per pillar or on pillars per cloud: every point inside the grid counts. Three choices make the result
the same in every runtime and for any order of the points:

* The cell of a point is ``floor(x * scale + offset)``: one float32 multiplication, then one float32 addition, neither
  fused nor replaced by a division. LiDAR points are often quantised to millimetres, so that many lie on cell edges.
  A graph compiler may fuse the two (OpenVINO does); a Max with the lowest float32 between them keeps it from that.
* The mean of a pillar comes from 64-bit integer sums of the coordinates in steps of 2^-24 m, which are exact in any
  order, and one float64 division.
* Features and centres are single float32 subtractions, or one multiplication and one addition.

The functions named ``*_reference`` are the readable numpy twins of the C++ in ``native/pillars.cpp``.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.config import GridConfig
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.native import _pillars

POINT_FEATURES = 10
FIXED_POINT = np.float32(2**24)
"""Steps to the metre in the coordinate sums of a pillar."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Layout = Literal["nchw", "nhwc"]


class Pillars(NamedTuple):
    """A cloud divided into pillars.

    Attributes:
        features: (M, 10) float32, per kept point, in the order of the cloud: x y z [m], intensity, offset to the
            pillar's mean (x y z) [m], offset to the pillar's centre (x y z) [m].
        pillar: (M,) int32, per kept point, its index into ``cells``.
        cells: (P,) int32, ascending, flat cell ``iy * nx + ix`` of every occupied pillar.
        counts: (P,) int32, points in each pillar.
    """

    features: Floats
    pillar: Ints
    cells: Ints
    counts: Ints


class PillarNet(NamedTuple):
    """The pillar feature net with its batch norm folded; a ReLU and the maximum over a pillar's points follow.

    Attributes:
        weight: (10, C) float32.
        bias: (C,) float32.
    """

    weight: Floats
    bias: Floats


class GridConstants(NamedTuple):
    """The grid as the float32 numbers both twins compute with."""

    scale: np.float32
    x_offset: np.float32
    y_offset: np.float32
    z_min: np.float32
    z_max: np.float32
    cell: np.float32
    x_centre: np.float32
    y_centre: np.float32
    z_centre: np.float32
    nx: int
    ny: int


def grid_constants(grid: GridConfig) -> GridConstants:
    """The constants of a grid.

    Raises:
        ConfigError: It has more cells than 32 bits number.
    """
    if grid.nx * grid.ny >= 2**31:
        raise ConfigError(f"a grid of {grid.nx} x {grid.ny} cells has no 32-bit cell number; use larger cells")
    return GridConstants(
        scale=grid.scale,
        x_offset=grid.x_offset,
        y_offset=grid.y_offset,
        z_min=np.float32(grid.z_min),
        z_max=np.float32(grid.z_max),
        cell=np.float32(grid.cell),
        x_centre=np.float32(grid.x_min + grid.cell / 2),
        y_centre=np.float32(grid.y_min + grid.cell / 2),
        z_centre=np.float32((grid.z_min + grid.z_max) / 2),
        nx=grid.nx,
        ny=grid.ny,
    )


def _native_grid(grid: GridConfig) -> _pillars.Grid:
    return _pillars.Grid(**grid_constants(grid)._asdict())


def check_points(points: Floats, grid: GridConfig) -> Floats:
    """The cloud (N, 4), contiguous.

    Raises:
        DataError: Wrong dtype or shape, or more points than the sums of a pillar or voxel hold.
    """
    if points.ndim != 2 or points.shape[1] != 4 or points.dtype != np.float32:
        raise DataError(
            f"points are {points.dtype} of shape {points.shape}, expected float32 (N, 4): x y z [m] and intensity; "
            "read them with pd_edge.clouds.read_cloud or convert them"
        )
    reach = max(abs(bound) for bound in (grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.z_min, grid.z_max))
    if len(points) * reach >= 2**63 / float(FIXED_POINT):
        raise DataError(f"{len(points)} points within {reach:g} m overflow a pillar's 64-bit sum; split the cloud")
    return np.ascontiguousarray(points)


def point_cells(points: Floats, grid: GridConfig) -> Ints:
    """Finds the cell of every point.

    Args:
        points: (N, 4) float32, x y z [m] in the LiDAR frame and intensity.
        grid: The detection volume.

    Returns:
        (N,) int32: flat cell ``iy * nx + ix``; -1 for a point outside the grid, outside ``z_min <= z < z_max``, or with
        a NaN or an infinity in any of its four values.

    Raises:
        DataError: Wrong dtype or shape.
    """
    return _pillars.point_cells(check_points(points, grid), _native_grid(grid))


def point_cells_reference(points: Floats, grid: GridConfig) -> Ints:
    """Numpy twin of :func:`point_cells`."""
    g = grid_constants(grid)
    x, y, z, intensity = check_points(points, grid).T
    with np.errstate(over="ignore", invalid="ignore"):  # a far or NaN coordinate is simply outside
        column = np.floor(x * g.scale + g.x_offset)
        row = np.floor(y * g.scale + g.y_offset)
    inside = (column >= 0) & (column < g.nx) & (row >= 0) & (row < g.ny) & (z >= g.z_min) & (z < g.z_max)
    inside &= np.isfinite(intensity)
    cells = np.full(len(points), -1, np.int32)
    cells[inside] = row[inside].astype(np.int32) * np.int32(g.nx) + column[inside].astype(np.int32)
    return cells


def pillarize(points: Floats, grid: GridConfig) -> Pillars:
    """Divides a cloud into pillars and decorates its points.

    Points outside the grid (see :func:`point_cells`) have no pillar. A permutation of the points permutes ``features``
    and ``pillar`` and changes no bit of them, nor of ``cells`` and ``counts``.

    Args:
        points: (N, 4) float32, x y z [m] in the LiDAR frame and intensity.
        grid: The detection volume.

    Raises:
        DataError: Wrong dtype or shape.

    Source: ten features as in OpenPCDet's PillarVFE (absolute coordinates kept, unlike mmdetection3d's legacy mode,
    which overwrites x and y); no padding, unlike both.
    """
    return Pillars(*_pillars.pillarize(check_points(points, grid), _native_grid(grid)))


def pillarize_reference(points: Floats, grid: GridConfig) -> Pillars:
    """Numpy twin of :func:`pillarize`, equal to the last bit."""
    g = grid_constants(grid)
    cell_of_point = point_cells_reference(points, grid)
    kept = points[cell_of_point >= 0]
    cells, pillar, counts = np.unique(cell_of_point[cell_of_point >= 0], return_inverse=True, return_counts=True)
    xyz = kept[:, :3]
    sums = np.zeros((len(cells), 3), np.int64)
    np.add.at(sums, pillar, np.rint(xyz * FIXED_POINT).astype(np.int64))
    means = (sums / (counts.astype(np.float64) * float(FIXED_POINT))[:, None]).astype(np.float32)
    row, column = np.divmod(cells, np.int32(g.nx))
    centres = np.empty_like(means)
    centres[:, 0] = column.astype(np.float32) * g.cell + g.x_centre
    centres[:, 1] = row.astype(np.float32) * g.cell + g.y_centre
    centres[:, 2] = g.z_centre
    features = np.concatenate([kept, xyz - means[pillar], xyz - centres[pillar]], axis=1)
    return Pillars(features, pillar.astype(np.int32), cells, counts.astype(np.int32))


def encode_reference(pillars: Pillars, net: PillarNet) -> Floats:
    """Runs the pillar feature net: linear, ReLU, maximum over each pillar's points.

    Returns:
        (P, C) float32, not negative, one row per entry of ``pillars.cells``.
    """
    values = np.maximum(pillars.features @ net.weight + net.bias, np.float32(0))
    encoded = np.zeros((len(pillars.cells), net.weight.shape[1]), np.float32)
    np.maximum.at(encoded, pillars.pillar, values)
    return encoded


def scatter_reference(encoded: Floats, cells: Ints, grid: GridConfig) -> Floats:
    """Places encoded pillars (P, C) on the canvas.

    Returns:
        (1, C, ny, nx) float32, 0 where no pillar is.
    """
    canvas = np.zeros((1, encoded.shape[1], grid.ny, grid.nx), np.float32)
    canvas.reshape(encoded.shape[1], -1)[:, cells] = encoded.T
    return canvas


def _check_net(net: PillarNet) -> None:
    for name, array, shape in (("weight", net.weight, (POINT_FEATURES, net.bias.size)), ("bias", net.bias, (-1,))):
        if array.dtype != np.float32 or array.ndim != len(shape) or array.size == 0:
            raise EngineError(f"pillar net {name} is {array.dtype} of shape {array.shape}, expected float32 {shape}")
        if not np.isfinite(array).all():
            raise EngineError(f"pillar net {name} holds a NaN or an infinity; the weights are damaged, export anew")
    if net.weight.shape != (POINT_FEATURES, net.bias.size):
        raise EngineError(
            f"pillar net weight has shape {net.weight.shape}, expected {(POINT_FEATURES, net.bias.size)}: "
            "ten features by the channels of the bias"
        )


class PillarEncoder:
    """Points to canvas in one pass: pillars, feature net, maximum and scatter, fused in C++ for the CPU.

    Equal to :func:`pillarize`, :func:`encode_reference` and :func:`scatter_reference` in turn, up to float32 rounding
    (about 1e-6 of the largest term): products that are constant within a pillar are taken once per pillar. Does not
    depend on the order of the points.

    Args:
        grid: The detection volume.
        net: The folded feature net.
        layout: "nchw" gives a canvas (1, C, ny, nx), "nhwc" gives (1, ny, nx, C).

    Raises:
        EngineError: The net's arrays have a wrong dtype or shape, or are not finite.
    """

    def __init__(self, grid: GridConfig, net: PillarNet, layout: Layout = "nchw") -> None:
        if layout not in ("nchw", "nhwc"):
            raise ConfigError(f"canvas layout {layout!r} is unknown; use 'nchw' or 'nhwc'")
        _check_net(net)
        self._grid = grid
        self._native = _pillars.PillarEncoder(
            _native_grid(grid),
            np.ascontiguousarray(net.weight),
            np.ascontiguousarray(net.bias),
            channels_last=layout == "nhwc",
        )

    def encode(self, points: Floats) -> Floats:
        """Encodes a cloud.

        Args:
            points: (N, 4) float32, x y z [m] in the LiDAR frame and intensity.

        Returns:
            The canvas, float32, every value >= 0 and 0 where no point is. The array belongs to the encoder: **the next
            call overwrites it**, and only the cells that change, so copy it to keep it and never write into it.

        Raises:
            DataError: Wrong dtype or shape; the canvas stays as it was.
        """
        return self._native.encode(check_points(points, self._grid))
