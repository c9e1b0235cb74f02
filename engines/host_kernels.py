"""The bodies of the pillar kernels on the CPU, in any order of their threads: what a GPU would compute, without one.

Not a way to detect objects, for which :class:`pd_edge.pillars.PillarEncoder` is far faster, but the way to check the
kernels where there is no GPU: the same lines compiled by the host's compiler.
"""

import ctypes
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.config import GridConfig
from pd_edge.engines.kernels import (
    NATIVE,
    PLUGINS,
    SUM_BYTES,
    Canvas,
    Encoding,
    Scatter,
    Voxelization,
    grid_argument,
    planar_canvas,
    run_compiler,
)
from pd_edge.errors import DataError
from pd_edge.pillars import POINT_FEATURES, Floats, Ints, PillarNet

HOST_FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra")
"""Without contraction of multiplications and additions, which would change cells."""

Values = npt.NDArray[np.float16] | npt.NDArray[np.float32]


class Schedule(NamedTuple):
    """How to run a launch's threads.

    Attributes:
        order: A permutation of the threads' numbers, int64; None for ascending order.
        workers: Threads of the operating system that share them.
    """

    order: npt.NDArray[np.int64] | None = None
    workers: int = 1


SERIAL = Schedule()


class HostKernels:
    """The kernels compiled for the CPU.

    Args:
        folder: Where to put the library.

    Raises:
        EngineError: The compiler (``CXX``, else g++) failed.
    """

    def __init__(self, folder: Path) -> None:
        library, source = folder / "libpd_edge_host_kernels.so", PLUGINS / "pillar_launch_host.cpp"
        compiler = os.environ.get("CXX", "g++")
        run_compiler([compiler, *HOST_FLAGS, "-shared", "-fPIC", f"-I{NATIVE}", str(source), "-o", str(library)])
        self._library = ctypes.CDLL(str(library))

    def voxelize(self, points: Floats, grid: GridConfig, schedule: Schedule = SERIAL) -> tuple[Floats, Ints]:
        """Points to decorated points and their cells; the workspace holds rubbish before, as on a GPU.

        Args:
            points: (N, 4) float32, x y z [m] in the LiDAR frame and intensity.
            grid: The detection volume.
            schedule: Order of the N threads of each launch.

        Returns:
            Features (N, 10) float32 as in :class:`pd_edge.pillars.Pillars`, zero outside the grid, and cells (N,)
            int32, -1 outside.

        Raises:
            DataError: Wrong dtype or shape.
        """
        count = _rows("points", points, np.dtype(np.float32), 4)
        features = np.full((count, POINT_FEATURES), np.nan, np.float32)
        cells = np.full(count, -2, np.int32)
        sums = np.full(grid.nx * grid.ny * SUM_BYTES, 0xA5, np.uint8)
        argument = Voxelization(
            points.ctypes.data, count, grid_argument(grid), sums.ctypes.data, features.ctypes.data, cells.ctypes.data
        )
        self._run("voxelize", argument, schedule, count)
        return features, cells

    def scatter(self, values: Values, cells: Ints, grid: GridConfig, schedule: Schedule = SERIAL) -> Values:
        """The maximum of the values over each cell's points.

        Args:
            values: (N, C) float32 or float16, none negative.
            cells: (N,) int32; a point outside 0 .. nx * ny - 1 counts nowhere.
            grid: Its nx and ny are those of the canvas.
            schedule: Order of the N * C threads.

        Returns:
            Canvas (1, C, ny, nx) of the values' dtype, 0 where no point is.

        Raises:
            DataError: Wrong dtype or shape.
        """
        half = values.dtype == np.float16
        count = _rows("values", values, np.dtype(np.float16 if half else np.float32), values.shape[-1])
        canvas, planes = _rubbish_canvas(values.shape[1], grid, values.dtype)
        argument = Scatter(values.ctypes.data, _cells(cells, count), count, values.shape[1], planes)
        self._run("scatter_half" if half else "scatter_float", argument, schedule, values.size)
        return canvas

    def encode(
        self, features: Floats, cells: Ints, net: PillarNet, grid: GridConfig, schedule: Schedule = SERIAL
    ) -> Floats:
        """Decorated points to the canvas: feature net, ReLU, maximum over each cell's points and scatter.

        Args:
            features: (N, 10) float32.
            cells: (N,) int32; -1 for a point that counts nowhere.
            net: The folded feature net.
            grid: Its nx and ny are those of the canvas.
            schedule: Order of the N * C threads.

        Returns:
            Canvas (1, C, ny, nx) float32.

        Raises:
            DataError: Wrong dtype or shape.
        """
        count = _rows("features", features, np.dtype(np.float32), POINT_FEATURES)
        channels = net.bias.size
        canvas, planes = _rubbish_canvas(channels, grid, np.dtype(np.float32))
        weight, bias = np.ascontiguousarray(net.weight), np.ascontiguousarray(net.bias)
        argument = Encoding(
            features.ctypes.data, _cells(cells, count), count, channels, weight.ctypes.data, bias.ctypes.data, planes
        )
        self._run("encode", argument, schedule, count * channels)
        return canvas

    def _run(self, operation: str, argument: ctypes.Structure, schedule: Schedule, threads: int) -> None:
        order = schedule.order
        if order is not None and not np.array_equal(np.sort(order), np.arange(threads)):
            raise DataError(f"the order has {order.size} entries, expected a permutation of {threads} threads")
        address = None if order is None else np.ascontiguousarray(order, np.int64).ctypes.data_as(ctypes.c_void_p)
        function = getattr(self._library, f"pd_edge_host_{operation}")
        function(ctypes.byref(argument), address, ctypes.c_int32(schedule.workers))


def _rows(name: str, array: npt.NDArray[Any], dtype: np.dtype[Any], columns: int) -> int:
    if array.dtype != dtype or array.ndim != 2 or array.shape[1] != columns or not array.flags.c_contiguous:
        raise DataError(
            f"{name} are {array.dtype} of shape {array.shape}, expected contiguous {dtype} of shape (N, {columns})"
        )
    return len(array)


def _cells(cells: Ints, count: int) -> int:
    if cells.dtype != np.int32 or cells.shape != (count,) or not cells.flags.c_contiguous:
        raise DataError(
            f"cells are {cells.dtype} of shape {cells.shape}, expected contiguous int32 of shape {(count,)}"
        )
    return cells.ctypes.data


def _rubbish_canvas(channels: int, grid: GridConfig, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Canvas]:
    canvas = np.full((1, channels, grid.ny, grid.nx), 7, dtype)
    return canvas, planar_canvas(canvas.ctypes.data, channels, grid)
