"""ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.bundle import CANVAS, HEADS
from pd_edge.config import GridConfig
from pd_edge.decode import Heads
from pd_edge.encoders import check_shape
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.pillars import Layout
from pd_edge.runtimes.base import POINTS, filled_up

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    raise MissingExtraError("onnxruntime", "onnxruntime") from error

_ERRORS_ONLY = 3


class OnnxRuntime:
    """The dense part in ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    layout: Layout = "nchw"

    def __init__(
        self, path: Path, canvas_shape: tuple[int, int, int, int], threads: int | None, precision: str = "fp32"
    ) -> None:
        """Loads the model.

        Args:
            path: The ONNX file.
            canvas_shape: (1, C, H, W) of the model.
            threads: CPU threads; None leaves the choice to the runtime.
            precision: What the file computes in, as its name.

        Raises:
            EngineError: The ONNX file cannot be read or is of another grid.
        """
        self.precision = precision
        self._session = _open(path, threads)
        check_shape(tuple(self._session.get_inputs()[0].shape), canvas_shape, f"{path}: canvas")

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once; see :class:`pd_edge.runtimes.base.Runtime`."""
        return Heads(*self._session.run(HEADS, {CANVAS: canvas}))


class OnnxPointsRuntime:
    """The whole network, points to heads, in ONNX Runtime's CPU provider."""

    name = "onnxruntime"

    def __init__(self, path: Path, grid: GridConfig, threads: int | None, precision: str) -> None:
        """Loads the model; see :class:`OnnxRuntime`."""
        self.precision = precision
        self._grid = grid
        self._session = _open(path, threads)

    def infer_points(self, points: npt.NDArray[np.float32]) -> Heads:
        """Runs the network once; see :class:`pd_edge.runtimes.base.PointsRuntime`."""
        return Heads(*self._session.run(HEADS, {POINTS: filled_up(points, 1, self._grid)}))


def _open(path: Path, threads: int | None) -> Any:
    """An inference session of a file; raises EngineError where it is no network for ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise EngineError(f"{path}: ONNX Runtime cannot use it ({error})") from error
