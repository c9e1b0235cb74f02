"""OpenVINO: the default runtime on x86 CPUs."""

import numpy as np
import numpy.typing as npt

from pd_edge.bundle import CANVAS, DENSE_ONNX, HEADS, Bundle, check_shape
from pd_edge.decode import Heads
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.pillars import Layout
from pd_edge.runtimes.signal_stack import kept_signal_stack

try:
    import openvino as ov
    from openvino.preprocess import PrePostProcessor
except ModuleNotFoundError as error:
    raise MissingExtraError("openvino", "openvino") from error

# OpenVINO computes in bf16 by itself on a CPU that has it, so the precision is always said.
_PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime:
    """The dense part in OpenVINO, tuned for latency.

    The canvas is taken as NHWC: the CPU's convolutions work in that layout, and the reordering of an NCHW canvas
    costs 2 to 5 ms a frame.
    """

    name = "openvino"
    layout: Layout = "nhwc"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None) -> None:
        """Compiles the model.

        Raises:
            EngineError: The CPU lacks the precision, or the ONNX file cannot be read or is of another grid.
        """
        with kept_signal_stack():
            compiled = _compile(bundle, precision, threads)
        self.precision = precision
        self._request = compiled.create_infer_request()
        self._heads = Heads(*(self._request.get_tensor(name).data for name in HEADS))
        self._canvas: npt.NDArray[np.float32] | None = None

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once; see :class:`pd_edge.runtimes.base.Runtime`."""
        if canvas is not self._canvas:
            self._request.set_tensor(CANVAS, ov.Tensor(canvas, shared_memory=True))
            self._canvas = canvas
        self._request.infer()
        return self._heads


def _compile(bundle: Bundle, precision: str, threads: int | None) -> ov.CompiledModel:
    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineError("precision bf16: this CPU has no bfloat16 instructions; use fp32")
    options: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[precision],
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        return core.compile_model(_read_model(core, bundle), "CPU", options)
    except RuntimeError as error:
        raise EngineError(f"{bundle.folder / DENSE_ONNX}: OpenVINO cannot use it ({_last_line(error)})") from error


def _read_model(core: ov.Core, bundle: Bundle) -> ov.Model:
    """Reads dense.onnx, checks its canvas against the grid, and makes it take an NHWC canvas."""
    path = bundle.file(DENSE_ONNX)
    model = core.read_model(path)
    check_shape(tuple(model.input(CANVAS).shape), bundle.canvas_shape, f"{path}: canvas")
    steps = PrePostProcessor(model)
    steps.input(CANVAS).tensor().set_layout(ov.Layout("NHWC"))
    steps.input(CANVAS).model().set_layout(ov.Layout("NCHW"))
    return steps.build()


def _last_line(error: Exception) -> str:
    """What OpenVINO has to say: its messages begin with source files and end with the reason."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
