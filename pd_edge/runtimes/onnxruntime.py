"""ONNX Runtime on the CPU."""

import numpy as np
import numpy.typing as npt

from pd_edge.bundle import CANVAS, DENSE_ONNX, HEADS, Bundle, check_shape
from pd_edge.decode import Heads
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.pillars import Layout
from pd_edge.runtimes.base import only_fp32

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    raise MissingExtraError("onnxruntime", "onnxruntime") from error

_ERRORS_ONLY = 3


class OnnxRuntime:
    """The dense part in ONNX Runtime's CPU provider, in float32."""

    name = "onnxruntime"
    precision = "fp32"
    layout: Layout = "nchw"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None) -> None:
        """Loads the model.

        Raises:
            EngineError: Another precision was asked for, or the ONNX file cannot be read or is of another grid.
        """
        only_fp32(self.name, precision)
        path = bundle.file(DENSE_ONNX)
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads or 0
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class of their own
            raise EngineError(f"{path}: ONNX Runtime cannot use it ({error})") from error
        check_shape(tuple(self._session.get_inputs()[0].shape), bundle.canvas_shape, f"{path}: canvas")

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once; see :class:`pd_edge.runtimes.base.Runtime`."""
        return Heads(*self._session.run(HEADS, {CANVAS: canvas}))
