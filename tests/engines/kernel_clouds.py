"""Clouds that try the kernels, and what numpy makes of them; shared by the tests of kernels and plugins."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.config import GridConfig
from pd_edge.pillars import Floats, Ints, PillarNet, pillarize_reference, point_cells_reference

KITTI = GridConfig()
FAR = GridConfig(x_min=100.3, x_max=107.3, y_min=-0.35, y_max=0.35, z_min=0, z_max=0.25, cell=0.35)
NEAR = GridConfig(x_min=-5.0, x_max=2.9, y_min=-2.1, y_max=4.8, z_min=-0.7, z_max=2.3, cell=0.1)
"""79 x 69 cells: an odd number, so that a canvas of float16 ends in the middle of a 32-bit word."""


def random_cloud(grid: GridConfig, count: int, seed: int = 0) -> Floats:
    """Points in the grid and around it."""
    low = [grid.x_min - 1, grid.y_min - 1, grid.z_min - 0.2, 0]
    high = [grid.x_max + 1, grid.y_max + 1, grid.z_max + 0.2, 1]
    return np.random.default_rng(seed).uniform(low, high, (count, 4)).astype(np.float32)


def edge_cloud(grid: GridConfig) -> Floats:
    """Whole millimetres, every third point on an edge of cells, many in one cell."""
    points = random_cloud(grid, 6000, 1)
    points[:, :3] = np.round(points[:, :3], 3)
    points[::3, :2] = (np.round(points[::3, :2] / grid.cell) * grid.cell).astype(np.float32)
    points[::7] = points[0]
    return points


def damaged_cloud(grid: GridConfig) -> Floats:
    """One value in twenty is a NaN, an infinity, far away, or a zero with a sign."""
    points = random_cloud(grid, 4000, 2)
    damaged = np.random.default_rng(3).random(points.shape) < 0.05
    points[damaged] = np.resize(np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, -0.0], np.float32), damaged.sum())
    return points


def outside_cloud(grid: GridConfig) -> Floats:
    """No point lies in the grid."""
    return random_cloud(grid, 500, 4) + np.float32(1000)


CLOUDS: dict[str, Callable[[], tuple[GridConfig, Floats]]] = {
    "random": lambda: (NEAR, random_cloud(NEAR, 5000)),
    "edges": lambda: (KITTI, edge_cloud(KITTI)),
    "damaged": lambda: (NEAR, damaged_cloud(NEAR)),
    "far": lambda: (FAR, random_cloud(FAR, 3000)),
    "outside": lambda: (KITTI, outside_cloud(KITTI)),
    "one": lambda: (KITTI, np.array([[10, 0, -1, 0.5]], np.float32)),
    "empty": lambda: (KITTI, np.empty((0, 4), np.float32)),
}


def expected_voxels(points: Floats, grid: GridConfig) -> tuple[Floats, Ints]:
    """Features (N, 10), zero outside the grid, and cells (N,), by the numpy reference."""
    cells = point_cells_reference(points, grid)
    features = np.zeros((len(points), 10), np.float32)
    features[cells >= 0] = pillarize_reference(points, grid).features
    return features, cells


def expected_canvas(values: npt.NDArray[Any], cells: Ints, grid: GridConfig) -> npt.NDArray[Any]:
    """Canvas (1, C, ny, nx): the maximum of the values (N, C) over each cell's points, by numpy."""
    canvas = np.zeros((values.shape[1], grid.ny * grid.nx), values.dtype)
    np.maximum.at(canvas.T, cells[cells >= 0], values[cells >= 0])
    return canvas.reshape(1, -1, grid.ny, grid.nx)


def rounded_canvas(points: Floats, net: PillarNet, grid: GridConfig) -> Floats:
    """Canvas (1, C, ny, nx) of a cloud, every product and sum rounded to float32 in the order of the kernel."""
    features, cells = expected_voxels(points, grid)
    values: Floats = np.repeat(net.bias[None], len(features), axis=0)
    for column, weights in zip(features.T, net.weight, strict=True):
        values = column[:, None] * weights + values
    return expected_canvas(np.maximum(values, np.float32(0)), cells, grid)


def random_net(channels: int) -> PillarNet:
    """A feature net of random weights."""
    rng = np.random.default_rng(channels)
    return PillarNet(rng.normal(size=(10, channels)).astype(np.float32), rng.normal(size=channels).astype(np.float32))


def random_values(count: int, channels: int, dtype: npt.DTypeLike, seed: int = 5) -> npt.NDArray[Any]:
    """Values (N, C) as a ReLU gives them: half of them zero, the others all over the dtype's range, some infinite."""
    rng = np.random.default_rng(seed)
    top = np.log2(float(np.finfo(np.dtype(dtype)).max)) - 1
    values: npt.NDArray[Any] = np.exp2(rng.uniform(-top, top, (count, channels))).astype(dtype)
    values[rng.random(values.shape) < 0.5] = 0
    values[rng.random(values.shape) < 0.01] = np.inf
    return values


def same_bits(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    """Whether dtype, shape and every bit are the same."""
    return (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
