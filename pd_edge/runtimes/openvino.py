"""OpenVINO: the default runtime on x86 CPUs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pd_edge.bundle import CANVAS, HEADS
from pd_edge.config import GridConfig
from pd_edge.decode import Heads
from pd_edge.encoders import check_shape
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.pillars import Layout
from pd_edge.runtimes.base import POINTS, filled_up
from pd_edge.runtimes.signal_stack import kept_signal_stack

try:
    import openvino as ov
    from openvino.preprocess import PrePostProcessor
except ModuleNotFoundError as error:
    raise MissingExtraError("openvino", "openvino") from error

# OpenVINO computes in bf16 by itself on a CPU that has it, so the precision is always said.
_PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"bf16": ("BF16", "bfloat16"), "fp16": ("FP16", "float16")}


class OpenVinoRuntime:
    """The dense part in OpenVINO, tuned for latency, of one canvas or of several at once.

    Several are in flight side by side: a batch of four in one request gives the same heads, bit for bit, in four times
    the time of one, and side by side they take less.

    The canvas is taken as NHWC: the CPU's convolutions work in that layout, and the reordering of an NCHW canvas
    costs 2 to 5 ms a frame.
    """

    name = "openvino"
    layout: Layout = "nhwc"

    def __init__(
        self,
        path: Path,
        canvas_shape: tuple[int, int, int, int],
        threads: int | None,
        arithmetic: str = "fp32",
        precision: str = "fp32",
        *,
        at_once: int = 1,
    ) -> None:
        """Compiles the model.

        Args:
            path: The model, ``.onnx`` or ``.xml``.
            canvas_shape: (1, C, H, W) of the model.
            threads: CPU threads; None leaves the choice to the runtime.
            arithmetic: ``fp32``, ``bf16`` or ``fp16``: how what the file has in float is computed.
            precision: What the network computes in, as its name.
            at_once: How many canvases it is to be given at a time; more are possible, and slower.

        Raises:
            EngineError: The CPU lacks the arithmetic, or the file cannot be read or is of another grid.
        """
        self.precision = precision
        with kept_signal_stack():
            self._compiled = _compile(path, canvas_shape, threads, arithmetic, at_once)
        self._requests = [_Request(self._compiled) for _ in range(at_once)]

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once; see :class:`pd_edge.runtimes.base.Runtime`."""
        first = self._requests[0]
        first.take(canvas)
        first.request.infer()
        return first.heads

    def infer_batch(self, canvases: Sequence[npt.NDArray[np.float32]]) -> list[Heads]:
        """Runs the dense part for every canvas; see :class:`pd_edge.runtimes.base.BatchRuntime`."""
        while len(self._requests) < len(canvases):
            self._requests.append(_Request(self._compiled))
        busy = self._requests[: len(canvases)]
        for each, canvas in zip(busy, canvases, strict=True):
            each.take(canvas)
            each.request.start_async()
        for each in busy:
            each.request.wait()
        return [each.heads for each in busy]


class _Request:
    """An inference request, with the canvas that it reads and the heads that it writes."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.request = compiled.create_infer_request()
        self.heads = Heads(*(self.request.get_tensor(name).data for name in HEADS))
        self._canvas: npt.NDArray[np.float32] | None = None

    def take(self, canvas: npt.NDArray[np.float32]) -> None:
        """Reads this canvas from now on."""
        if canvas is not self._canvas:
            self.request.set_tensor(CANVAS, ov.Tensor(canvas, shared_memory=True))
            self._canvas = canvas


class OpenVinoPointsRuntime:
    """The whole network, points to heads, in OpenVINO."""

    name = "openvino"

    def __init__(self, path: Path, grid: GridConfig, threads: int | None, arithmetic: str, precision: str) -> None:
        """Compiles the model; see :class:`OpenVinoRuntime`."""
        self.precision = precision
        self._grid = grid
        with kept_signal_stack():
            compiled = _compile(path, None, threads, arithmetic)
        self._request = compiled.create_infer_request()

    def infer_points(self, points: npt.NDArray[np.float32]) -> Heads:
        """Runs the network once; see :class:`pd_edge.runtimes.base.PointsRuntime`."""
        cloud = np.ascontiguousarray(filled_up(points, 1, self._grid))
        self._request.set_tensor(POINTS, ov.Tensor(cloud, shared_memory=True))
        self._request.infer()
        return Heads(*(self._request.get_tensor(name).data for name in HEADS))


def cpu_has(arithmetic: str) -> bool:
    """Whether this CPU has instructions for ``fp32``, ``bf16`` or ``fp16``."""
    if arithmetic not in _CAPABILITIES:
        return True
    return _CAPABILITIES[arithmetic][0] in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _compile(
    path: Path, canvas_shape: tuple[int, int, int, int] | None, threads: int | None, arithmetic: str, at_once: int = 1
) -> ov.CompiledModel:
    """Compiles a file for so many requests at once; a canvas is checked against its shape and taken as NHWC."""
    core = ov.Core()
    if not cpu_has(arithmetic):
        raise EngineError(
            f"precision {arithmetic}: this CPU has no {_CAPABILITIES[arithmetic][1]} instructions; use fp32"
        )
    options: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[arithmetic],
    }
    if at_once > 1:
        options.update(PERFORMANCE_HINT="THROUGHPUT", PERFORMANCE_HINT_NUM_REQUESTS=at_once)
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        model = core.read_model(path)
        if canvas_shape is not None:
            check_shape(tuple(model.input(CANVAS).shape), canvas_shape, f"{path}: canvas")
            model = _with_nhwc_canvas(model)
        return core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise EngineError(f"{path}: OpenVINO cannot use it ({_last_line(error)})") from error


def _with_nhwc_canvas(model: ov.Model) -> ov.Model:
    steps = PrePostProcessor(model)
    steps.input(CANVAS).tensor().set_layout(ov.Layout("NHWC"))
    steps.input(CANVAS).model().set_layout(ov.Layout("NCHW"))
    return steps.build()


def _last_line(error: Exception) -> str:
    """What OpenVINO has to say: its messages begin with source files and end with the reason."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
