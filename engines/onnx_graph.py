"""The dense part of the network (canvas to heads) as an ONNX graph.

Written layer by layer with batch norms folded: convolutions, ReLU, one concatenation and one split, nothing a runtime
could choke on. A layer is called as in the state dict: ``backbone.stages.0.0``, ``neck.upsamplings.1``, ``head``.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np

import pd_edge
from pd_edge.bundle import CANVAS, HEADS
from pd_edge.config import DetectorConfig
from pd_edge.decode import anchor_axes
from pd_edge.errors import MissingExtraError

try:
    import onnx
    from onnx import TensorProto, helper
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "torch", "train") from error

from pd_edge.engines.onnx_numbers import Floats, GraphWriter, Numbers, Single, StoredHalf
from pd_edge.training.network import ConvBlock, Network

OPSET = 18
# The IR version of the ONNX that brought the operator set: 1.13 for 18, 1.14 for 19 (Q/DQ with float16 scales).
IR_VERSIONS = {18: 8, 19: 9}
HEAD = "head"
"""Name of the last layer."""

StoredAs = Literal["fp16", "fp32"]


class FeatureMap(NamedTuple):
    """A map in the graph under construction: its name and its size in cells."""

    name: str
    height: int
    width: int


class DenseGraph(GraphWriter):
    """Nodes and constants of the dense part, with its multiply-adds counted.

    Args:
        numbers: How the layers' operands are written.
    """

    def __init__(self, numbers: Numbers) -> None:
        super().__init__()
        self.numbers = numbers
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
        convolved = self.node(
            "ConvTranspose" if transposed else "Conv",
            [
                self.numbers.read(self, name, source.name),
                self.numbers.weight(self, name, weight, factor, axis=1 if transposed else 0),
                self.numbers.bias(self, name, offset),
            ],
            f"{name}.conv",
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[padding] * 4,
        )
        return FeatureMap(self.node("Relu", [convolved], name), height, width)

    def concatenate(self, name: str, sources: list[FeatureMap]) -> FeatureMap:
        """Joins maps of one size along their channels."""
        self.node("Concat", [each.name for each in sources], name, axis=1)
        return sources[0]._replace(name=name)

    def head(self, weight: Floats, bias: Floats, channels: list[int], source: FeatureMap) -> None:
        """The 1x1 convolution that makes all outputs, and their split, in float32."""
        self._count(weight, source)
        numbers = self.numbers
        inputs = [
            numbers.read(self, HEAD, source.name),
            numbers.weight(self, HEAD, weight, None, axis=0),
            numbers.bias(self, HEAD, bias),
        ]
        joined = self.node("Conv", inputs, HEAD, kernel_shape=[1, 1])
        joined = self.cast(joined, f"{HEAD}.fp32", numbers.maps, TensorProto.FLOAT)
        sizes = self.constant(f"{HEAD}.channels", np.array(channels, np.int64))
        self.nodes.append(helper.make_node("Split", [joined, sizes], HEADS, name="heads", axis=1))

    def _count(self, weight: Floats, where: FeatureMap) -> None:
        self.multiply_adds += weight.size * where.height * where.width


def dense_onnx(
    model: Network, config: DetectorConfig, weights: StoredAs, metadata: Mapping[str, str]
) -> tuple[Any, int]:
    """The dense part as an ONNX model of static shape, and its multiply-adds.

    Args:
        model: The network on the CPU, in float32 and evaluation mode.
        config: Its configuration.
        weights: How to store the convolution weights; for fp16 they must have been rounded (:func:`round_to_half`).
        metadata: Properties written into the file.

    Returns:
        The checked ``onnx.ModelProto``: ``canvas`` (1, C, H, W) float32 to ``logits``, ``residuals`` and
        ``directions``, laid out as :class:`pd_edge.decode.Heads` says.
    """
    graph = DenseGraph(StoredHalf() if weights == "fp16" else Single())
    add_dense(graph, model, CANVAS)
    name = f"{config.model.detector}_dense"
    return model_proto(graph, model, canvas_input(config), name, metadata), graph.multiply_adds


def add_dense(graph: DenseGraph, model: Network, canvas: str) -> None:
    """Writes the layers from the canvas, a tensor (1, C, H, W) of the type of the maps, to the heads."""
    height, width = model.config.canvas_shape[2:]
    features = _add_backbone_and_neck(graph, model, FeatureMap(canvas, height, width))
    head = model.head.state_dict()
    graph.head(_array(head["weight"]), _array(head["bias"]), model.head_channels, features)


def canvas_input(config: DetectorConfig) -> Any:
    """The ``ValueInfoProto`` of a float32 canvas as the graph's input."""
    return helper.make_tensor_value_info(CANVAS, TensorProto.FLOAT, config.model.canvas_shape)


def model_proto(
    graph: GraphWriter,
    model: Network,
    source: Any,
    name: str,
    metadata: Mapping[str, str],
    *,
    opset: int = OPSET,
    own_domain: str | None = None,
) -> Any:
    """A written graph as an ``onnx.ModelProto``, checked, with shapes inferred where no own operator stops that.

    Args:
        graph: The graph, which ends in the heads.
        model: The network, for the heads' shapes.
        source: ``ValueInfoProto`` of the input.
        name: Name of the graph.
        metadata: Properties written into the file.
        opset: Version of the standard operators.
        own_domain: Domain of operators that are not standard.
    """
    along_x, along_y = anchor_axes(model.config)
    heads = [
        helper.make_tensor_value_info(each, TensorProto.FLOAT, (1, size, along_y.number, along_x.number))
        for each, size in zip(HEADS, model.head_channels, strict=True)
    ]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, name, [source], heads, graph.constants),
        opset_imports=[
            helper.make_opsetid("", opset),
            *([helper.make_opsetid(own_domain, 1)] if own_domain else []),
        ],
        ir_version=IR_VERSIONS[opset],
        producer_name="pd-edge",
        producer_version=pd_edge.__version__,
    )
    helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _add_backbone_and_neck(graph: DenseGraph, model: Network, maps: FeatureMap) -> FeatureMap:
    """Writes the stages and their upsampled maps; returns the map that the heads read."""
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
