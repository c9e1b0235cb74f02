"""How the numbers of a network stand in its ONNX graph: the one place where a float precision enters it."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pd_edge.errors import EngineError, MissingExtraError

try:
    from onnx import TensorProto, helper, numpy_helper
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "onnx", "train") from error

Floats = npt.NDArray[np.float32]


class GraphWriter:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Adds a constant and returns its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds a node, named as its output, and returns that."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def cast(self, source: str, output: str, found: int, wanted: int) -> str:
        """Adds a Cast between two element types, where they differ, and returns the tensor of the wanted type."""
        return source if found == wanted else self.node("Cast", [source], output, to=wanted)


class Numbers(Protocol):
    """How the operands of a convolution are written.

    Attributes:
        maps: Element type (``TensorProto``) of the maps between the layers.
    """

    maps: int

    def read(self, graph: GraphWriter, layer: str, source: str) -> str:
        """The tensor that a layer is to read in place of ``source``."""

    def weight(self, graph: GraphWriter, layer: str, weight: Floats, factor: Floats | None, axis: int) -> str:
        """A layer's weight, times a factor for each of its outputs, which lie along ``axis``."""

    def bias(self, graph: GraphWriter, layer: str, bias: Floats) -> str:
        """A layer's bias (C,)."""


class Single:
    """Everything in float32."""

    maps: int = TensorProto.FLOAT

    def read(self, graph: GraphWriter, layer: str, source: str) -> str:  # noqa: ARG002, D102 - as Numbers says
        return source

    def weight(self, graph: GraphWriter, layer: str, weight: Floats, factor: Floats | None, axis: int) -> str:  # noqa: D102
        return graph.constant(f"{layer}.weight", folded(weight, factor, axis))

    def bias(self, graph: GraphWriter, layer: str, bias: Floats) -> str:  # noqa: D102
        return graph.constant(f"{layer}.bias", bias)


class StoredHalf(Single):
    """Convolution weights stored as float16, which they have to be rounded to; arithmetic in float32."""

    def weight(self, graph: GraphWriter, layer: str, weight: Floats, factor: Floats | None, axis: int) -> str:  # noqa: D102
        stored = graph.constant(f"{layer}.weight_fp16", weight.astype(np.float16))
        widened = graph.cast(stored, f"{layer}.weight_fp32", TensorProto.FLOAT16, TensorProto.FLOAT)
        if factor is None:
            return widened
        scale = graph.constant(f"{layer}.factor", along(factor, axis))
        return graph.node("Mul", [widened, scale], f"{layer}.weight")


class Half(Single):
    """Maps, weights and biases in float16: what a strongly typed TensorRT engine computes in."""

    maps: int = TensorProto.FLOAT16

    def weight(self, graph: GraphWriter, layer: str, weight: Floats, factor: Floats | None, axis: int) -> str:  # noqa: D102
        return graph.constant(f"{layer}.weight", to_half(folded(weight, factor, axis), f"{layer}.weight"))

    def bias(self, graph: GraphWriter, layer: str, bias: Floats) -> str:  # noqa: D102
        return graph.constant(f"{layer}.bias", to_half(bias, f"{layer}.bias"))


def folded(weight: Floats, factor: Floats | None, axis: int) -> Floats:
    """A weight times a factor for each of its outputs, which lie along ``axis``."""
    return weight if factor is None else weight * along(factor, axis)


def along(values: Floats, axis: int) -> Floats:
    """One value for each output of a convolution, shaped to be multiplied with its weight."""
    return values.reshape([-1 if each == axis else 1 for each in range(4)])


def to_half(values: Floats, name: str) -> npt.NDArray[np.float16]:
    """Rounds to float16.

    Raises:
        EngineError: A value is beyond float16's range.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise EngineError(f"{name}: {np.abs(values).max():g} is beyond float16's 65504; export as fp32")
    return rounded
