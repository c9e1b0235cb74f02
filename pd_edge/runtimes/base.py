"""What a runtime is."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from pd_edge.config import GridConfig
from pd_edge.decode import Heads
from pd_edge.errors import EngineError
from pd_edge.pillars import Layout

PRECISIONS = ("fp32", "bf16")
POINTS = "points"
"""Name of the input of a network that takes points."""


class Runtime(Protocol):
    """The dense part of a detector, ready to run.

    Attributes:
        name: Name of the runtime.
        precision: Precision of its arithmetic, ``fp32`` or ``bf16``.
        layout: Layout of the canvas that it takes, the faster one for it.
    """

    name: str
    precision: str
    layout: Layout

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once.

        Args:
            canvas: (1, C, H, W) float32 for the layout ``nchw``, (1, H, W, C) for ``nhwc``, C-contiguous. It is
                read in place, without a copy.

        Returns:
            The heads, float32. They are the runtime's own memory and hold until its next call.
        """


@runtime_checkable
class BatchRuntime(Runtime, Protocol):
    """A runtime that takes the canvases of several views at once."""

    def infer_batch(self, canvases: Sequence[npt.NDArray[np.float32]]) -> Sequence[Heads]:
        """Runs the dense part for every canvas.

        Args:
            canvases: As :meth:`Runtime.infer` takes them, each in memory of its own.

        Returns:
            The heads of each, equal to those of :meth:`Runtime.infer`. They hold until the next call.
        """


@runtime_checkable
class PointsRuntime(Protocol):
    """A whole network, ready to run: it takes points, and makes the pillars itself.

    Attributes:
        name: Name of the runtime.
        precision: Precision of its arithmetic, such as ``fp32`` or ``int8-trt``.
    """

    name: str
    precision: str

    def infer_points(self, points: npt.NDArray[np.float32]) -> Heads:
        """Runs the network once.

        Args:
            points: (N, 4) float32, C-contiguous: x y z [m] in the LiDAR frame and intensity 0..1; N may be 0.

        Returns:
            The heads, float32. They are the runtime's own memory and hold until its next call.

        Raises:
            EngineError: The engine was not built for so many points.
        """


AnyRuntime: TypeAlias = Runtime | PointsRuntime


def filled_up(points: npt.NDArray[np.float32], least: int, grid: GridConfig) -> npt.NDArray[np.float32]:
    """Points with rows outside of the grid behind them until there are ``least``: such a point changes no head.

    Args:
        points: (N, 4) float32.
        least: Fewest rows.
        grid: The grid; the rows are above it.

    Returns:
        (max(N, least), 4) float32; the array itself where it is long enough.
    """
    missing = least - len(points)
    if missing <= 0:
        return points
    above = np.array([grid.x_min, grid.y_min, grid.z_max + 1, 0], np.float32)
    return np.concatenate([points, np.broadcast_to(above, (missing, 4))])


def precision_name(stored: str, arithmetic: str) -> str:
    """What a network computes in: the precision written into its file, and bf16 where that replaces float32.

    ``int8-cpu+bf16`` is an INT8 network whose layers without Q/DQ are computed in bf16.
    """
    if arithmetic == "fp32":
        return stored
    return arithmetic if stored == "fp32" else f"{stored}+{arithmetic}"


def only_fp32(runtime: str, precision: str) -> None:
    """Refuses any other precision for a runtime that computes in float32 alone.

    Raises:
        EngineError: Another precision was asked for.
    """
    if precision != "fp32":
        raise EngineError(f"{runtime} runs the network in fp32 only, not {precision}; use runtime openvino for it")
