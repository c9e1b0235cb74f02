"""The dense part of the network (canvas to heads) as an ONNX graph.

Written layer by layer with batch norms folded: convolutions, ReLU, one concatenation and one split, nothing a runtime
could choke on.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

import pd_edge
from pd_edge.bundle import CANVAS, HEADS
from pd_edge.config import DetectorConfig
from pd_edge.errors import MissingExtraError

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "torch", "train") from error

from pd_edge.training.model import ConvBlock, PointPillars

OPSET = 18
IR_VERSION = 8  # of ONNX 1.13, which brought opset 18

Floats = npt.NDArray[np.float32]
StoredAs = Literal["fp16", "fp32"]


class FeatureMap(NamedTuple):
    """A map in the graph under construction: its name and its size in cells."""

    name: str
    height: int
    width: int


class DenseGraph:
    """Nodes and constants of the dense part, with its multiply-adds counted.

    Args:
        half: Store convolution weights as float16; they must have been rounded to it.
    """

    def __init__(self, half: bool) -> None:
        self.half = half
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.multiply_adds = 0

    def block(self, name: str, block: ConvBlock, source: FeatureMap) -> FeatureMap:
        """A convolution, plain or transposed, with its batch norm folded, and ReLU."""
        conv = block.conv
        factor, offset = _fold(block.norm)
        stride, kernel, padding = int(conv.stride[0]), int(conv.kernel_size[0]), int(conv.padding[0])
        weight, transposed = _array(conv.weight), isinstance(conv, nn.ConvTranspose2d)
        if transposed and kernel == 1:  # the same as a plain one, which runtimes fuse with its ReLU
            weight, transposed = weight.transpose(1, 0, 2, 3), False
        if transposed:
            height, width = source.height * stride, source.width * stride
        else:
            height, width = ((size + 2 * padding - kernel) // stride + 1 for size in source[1:])
        self._count(weight, source if transposed else FeatureMap(name, height, width))
        factor = factor.reshape((1, -1, 1, 1) if transposed else (-1, 1, 1, 1))
        convolved = self._node(
            "ConvTranspose" if transposed else "Conv",
            [source.name, self._weight(name, weight, factor), self._constant(f"{name}.bias", offset)],
            f"{name}.conv",
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[padding] * 4,
        )
        return FeatureMap(self._node("Relu", [convolved], name), height, width)

    def concatenate(self, name: str, sources: list[FeatureMap]) -> FeatureMap:
        """Joins maps of one size along their channels."""
        self._node("Concat", [each.name for each in sources], name, axis=1)
        return sources[0]._replace(name=name)

    def head(self, weight: Floats, bias: Floats, channels: list[int], source: FeatureMap) -> None:
        """The 1x1 convolution that makes all outputs, and their split."""
        self._count(weight, source)
        inputs = [source.name, self._weight("head", weight, None), self._constant("head.bias", bias)]
        joined = self._node("Conv", inputs, "head", kernel_shape=[1, 1])
        sizes = self._constant("head.channels", np.array(channels, np.int64))
        self.nodes.append(helper.make_node("Split", [joined, sizes], HEADS, name="heads", axis=1))

    def _weight(self, name: str, weight: Floats, factor: Floats | None) -> str:
        if not self.half:
            folded = weight if factor is None else weight * factor
            return self._constant(f"{name}.weight", folded)
        stored = self._constant(f"{name}.weight_fp16", weight.astype(np.float16))
        widened = self._node("Cast", [stored], f"{name}.weight_fp32", to=TensorProto.FLOAT)
        if factor is None:
            return widened
        return self._node("Mul", [widened, self._constant(f"{name}.factor", factor)], f"{name}.weight")

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _count(self, weight: Floats, where: FeatureMap) -> None:
        self.multiply_adds += weight.size * where.height * where.width


def dense_onnx(
    model: PointPillars, config: DetectorConfig, weights: StoredAs, metadata: Mapping[str, str]
) -> tuple[Any, int]:
    """The dense part as an ONNX model of static shape, and its multiply-adds.

    Args:
        model: The network on the CPU, in float32 and evaluation mode.
        config: Its configuration.
        weights: How to store the convolution weights; for fp16 they must have been rounded (:func:`round_to_half`).
        metadata: Properties written into the file.

    Returns:
        The checked ``onnx.ModelProto``: ``canvas`` (1, C, ny, nx) float32 to ``logits``, ``residuals`` and
        ``directions``, laid out as :class:`pd_edge.decode.Heads` says.
    """
    grid = config.model.grid
    graph = DenseGraph(half=weights == "fp16")
    features = _add_backbone_and_neck(graph, model, FeatureMap(CANVAS, grid.ny, grid.nx))
    head = model.head.state_dict()
    graph.head(_array(head["weight"]), _array(head["bias"]), model.head_channels, features)
    shapes = {name: (1, size, *features[1:]) for name, size in zip(HEADS, model.head_channels, strict=True)}
    canvas = helper.make_tensor_value_info(
        CANVAS, TensorProto.FLOAT, [1, config.model.pillar_channels, grid.ny, grid.nx]
    )
    heads = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "pointpillars_dense", [canvas], heads, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pd-edge",
        producer_version=pd_edge.__version__,
    )
    helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    return proto, graph.multiply_adds


def _add_backbone_and_neck(graph: DenseGraph, model: PointPillars, maps: FeatureMap) -> FeatureMap:
    """Writes the three stages and their upsampled maps; returns the map that the heads read."""
    upsampled = []
    upsamplings = _blocks(model.neck.upsamplings)
    for s, stage in enumerate(model.backbone.stages):
        for i, block in enumerate(_blocks(stage)):
            maps = graph.block(f"backbone.stages.{s}.{i}", block, maps)
        upsampled.append(graph.block(f"neck.upsamplings.{s}", upsamplings[s], maps))
    return graph.concatenate("neck", upsampled)


def _blocks(modules: nn.Module) -> list[ConvBlock]:
    return [cast("ConvBlock", block) for block in modules.children()]


def _fold(norm: nn.BatchNorm2d) -> tuple[Floats, Floats]:
    """A batch norm at inference as factor and offset per channel, computed in float64."""
    state = norm.state_dict()
    mean, variance, gain, shift = (
        _array(state[name]).astype(np.float64) for name in ("running_mean", "running_var", "weight", "bias")
    )
    factor = gain / np.sqrt(variance + norm.eps)
    return factor.astype(np.float32), (shift - mean * factor).astype(np.float32)


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().numpy()
