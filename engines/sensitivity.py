"""Which layers bear INT8: the average precision that is lost when one of them alone is quantised."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.batch import detect_batch
from pd_edge.bundle import CANVAS, HEADS
from pd_edge.config import DetectorConfig
from pd_edge.decode import Heads
from pd_edge.detector import Detector
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.evaluate import Evaluation
from pd_edge.kitti import Dataset, Frame
from pd_edge.pillars import Layout
from pd_edge.runtimes.signal_stack import kept_signal_stack
from pd_edge.tables import Table

try:
    import openvino as ov
except ModuleNotFoundError as error:
    raise MissingExtraError("openvino", "openvino") from error

from pd_edge.engine_manifest import Precision
from pd_edge.engines.onnx_file import form_onnx, numbers_of, rest_of
from pd_edge.engines.onnx_numbers import Numbers, Single
from pd_edge.engines.quantize import FLOAT_LAYERS, Calibration, Int8
from pd_edge.sensors import KITTI, SensorProfile
from pd_edge.training.network import Network
from pd_edge.training.validate import InMemory

AS_EXPORTED = "as exported"


class LayerLoss(NamedTuple):
    """What quantising a layer costs.

    Attributes:
        layer: Its name, or :data:`AS_EXPORTED` for what an export quantises by itself.
        loss_3d: Mean AP in 3D, R40, moderate, lost against fp32 [percentage points].
        loss_bev: The same in bird's-eye view.
    """

    layer: str
    loss_3d: float
    loss_bev: float


class Report(NamedTuple):
    """Layers by what they cost.

    Attributes:
        baseline_3d: Mean AP of the float32 network in 3D, R40, moderate [%].
        baseline_bev: The same in bird's-eye view.
        layers: The dearest first; at the top all that an export quantises by itself.
        frames: Frames evaluated.
    """

    baseline_3d: float
    baseline_bev: float
    layers: list[LayerLoss]
    frames: int


class DenseInOpenVino:
    """A dense graph in memory, in OpenVINO; what its Q/DQ do not make INT8 is computed in float32.

    Args:
        graph: The serialised ONNX model.

    Raises:
        EngineError: OpenVINO cannot use it.
    """

    name = "openvino"
    precision = "int8"
    layout: Layout = "nchw"

    def __init__(self, graph: bytes) -> None:
        core = ov.Core()
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        try:
            with kept_signal_stack():
                self._request = core.compile_model(core.read_model(graph, b""), "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot use the quantised graph: {str(error).splitlines()[-1]}") from error

    def infer(self, canvas: npt.NDArray[np.float32]) -> Heads:
        """Runs the dense part once; see :class:`pd_edge.runtimes.base.Runtime`."""
        self._request.set_tensor(CANVAS, ov.Tensor(canvas, shared_memory=True))
        self._request.infer()
        return Heads(*(self._request.get_tensor(name).data for name in HEADS))


class FramesInMemory:
    """The first frames of a data set, read once: each layer sees them again."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.ids = dataset.ids[:count]
        self._frames = [dataset.frame(index) for index in range(len(self.ids))]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def frame(self, index: int) -> Frame:
        """A frame."""
        return self._frames[index]


def measure_sensitivity(
    model: Network,
    config: DetectorConfig,
    calibration: Calibration,
    dataset: Dataset,
    *,
    unsigned: bool,
    sensor: SensorProfile = KITTI,
    advance: Callable[[int, int], None] | None = None,
) -> Report:
    """Ranks the layers of a network by the AP that is lost when only they are quantised.

    Args:
        model: The network on the CPU, in float32 and evaluation mode.
        config: Its configuration.
        calibration: Ranges of all layers.
        dataset: Labelled frames, each read once per layer.
        unsigned: UINT8 maps as in ``int8-cpu``, instead of the INT8 of ``int8-trt``.
        sensor: How the frames' sensor is mounted.
        advance: Called with the evaluations done and wanted, after each.

    Raises:
        DataError: A frame cannot be read or has no labels: every frame has to count.
    """
    precision: Precision = "int8-cpu" if unsigned else "int8-trt"
    rest = rest_of(precision)
    numbers: dict[str, Numbers] = {"": Single(), AS_EXPORTED: numbers_of(precision, calibration, FLOAT_LAYERS)}
    numbers |= {each: Int8(rest, calibration, unsigned=unsigned, layers=[each]) for each in calibration.ranges}
    means: dict[str, tuple[float, float]] = {}
    for layer, each in numbers.items():
        evaluation = _evaluate(model, config, each, dataset, sensor)
        means[layer] = evaluation.mean("3d", "moderate"), evaluation.mean("bev", "moderate")
        if advance is not None:
            advance(len(means), len(numbers))
    base_3d, base_bev = means.pop("")
    losses = [LayerLoss(layer, base_3d - ap_3d, base_bev - ap_bev) for layer, (ap_3d, ap_bev) in means.items()]
    losses.sort(key=lambda loss: (loss.layer != AS_EXPORTED, -loss.loss_3d, -loss.loss_bev))
    return Report(base_3d, base_bev, losses, len(dataset))


def sensitivity_table(report: Report) -> Table:
    """The report as a table."""
    rows = [(loss.layer, f"{loss.loss_3d:.2f}", f"{loss.loss_bev:.2f}") for loss in report.layers]
    title = f"AP lost when only this layer is INT8 [points], {report.frames} frames"
    note = f"Mean AP R40, moderate; in fp32 it is {report.baseline_3d:.2f} in 3D, {report.baseline_bev:.2f} in BEV."
    few = "Below some tenths of a point a loss, or a gain, is chance: the fewer objects, the more."
    return Table(title, ("layer", "3D", "BEV"), rows, (note, few))


def _evaluate(
    model: Network, config: DetectorConfig, numbers: Numbers, dataset: Dataset, sensor: SensorProfile
) -> Evaluation:
    graph = form_onnx(model, config, "dense", numbers, {}).SerializeToString()
    trained = InMemory("sensitivity", config, model.fold_encoder())
    return detect_batch(Detector(trained, DenseInOpenVino(graph), sensor), dataset).complete_evaluation()
