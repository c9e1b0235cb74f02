"""INT8: ranges from one calibration, and the Q/DQ nodes that write them into a graph.

Weights are symmetric INT8 with a scale for each output; the maps that a layer reads have one scale and, as none of them
is below 0 (the canvas, and maps behind a ReLU), the zero point 0. The range of a map is the largest value that the
calibration frames gave, or a percentile of all values; a layer's range is that of the map it reads.

The encoder stays in float, as coordinates of 70 m do not fit 8 bits, and so do the layers that
``pd-edge sensitivity`` finds dear: the last, and the two that read the first maps behind the canvas.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.config import DetectorConfig
from pd_edge.encoders import make_encoder
from pd_edge.errors import DataError, EngineError, MissingExtraError

try:
    import torch
    from onnx import TensorProto
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "torch", "train") from error

from pd_edge.engines.onnx_graph import HEAD
from pd_edge.engines.onnx_numbers import Floats, GraphWriter, Numbers, folded
from pd_edge.training.network import Network

FLOAT_LAYERS = ("backbone.stages.0.1", "backbone.stages.0.2", HEAD)
"""Layers that stay in float where nothing else is said.

Quantised alone, the first two cost pointpillars-4x 2.7 and 0.9 points of mAP 3D and pointpillars-16x 4.3 and 1.5, more
than any other; the last cost 4x 0.8.
"""
WEIGHT_LEVELS = 127
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
Cloud = npt.NDArray[np.float32]


class Calibration(NamedTuple):
    """What the layers read in some frames.

    Attributes:
        ranges: By layer, the value of its input that is to become the largest integer.
        frames: Frames that were seen.
        percentile: Which percentile of the values a range is; 100 is the maximum.
    """

    ranges: Mapping[str, float]
    frames: int
    percentile: float


class Int8:
    """Operands as Q/DQ pairs, which a runtime turns into INT8 convolutions.

    Args:
        rest: How layers that stay in float are written, and biases.
        calibration: Ranges of all layers that are quantised.
        unsigned: UINT8 maps, as CPU runtimes like them, instead of the symmetric INT8 that TensorRT asks for.
        layers: Layers to quantise.
    """

    def __init__(self, rest: Numbers, calibration: Calibration, *, unsigned: bool, layers: Iterable[str]) -> None:
        self.maps = rest.maps
        self._rest, self._ranges = rest, calibration.ranges
        self._integer = np.uint8 if unsigned else np.int8
        self._layers = set(layers)
        self._written: set[str] = set()

    def read(self, graph: GraphWriter, layer: str, source: str) -> str:
        """The map that a layer reads, quantised and widened again; once where several layers read it."""
        if layer not in self._layers:
            return self._rest.read(graph, layer, source)
        widened = f"{source}.dequantized"
        if widened not in self._written:
            self._written.add(widened)
            scale = np.array(self._ranges[layer] / np.iinfo(self._integer).max or 1.0)
            operands = self._scale_and_zero(graph, source, scale, np.zeros((), self._integer))
            small = graph.node("QuantizeLinear", [source, *operands], f"{source}.quantized")
            graph.node("DequantizeLinear", [small, *operands], widened)
        return widened

    def weight(self, graph: GraphWriter, layer: str, weight: Floats, factor: Floats | None, axis: int) -> str:
        """A layer's weight in INT8, with a scale for each of its outputs."""
        if layer not in self._layers:
            return self._rest.weight(graph, layer, weight, factor, axis)
        values = folded(weight, factor, axis)
        others = tuple(each for each in range(4) if each != axis)
        largest = np.abs(values).max(axis=others, keepdims=True).astype(np.float64)
        scale = self._representable(np.where(largest > 0, largest / WEIGHT_LEVELS, 1.0))
        levels = np.clip(np.rint(values / scale), -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8)
        small = graph.constant(f"{layer}.weight.int8", levels)
        operands = self._scale_and_zero(graph, f"{layer}.weight", scale.ravel(), np.zeros(scale.size, np.int8))
        return graph.node("DequantizeLinear", [small, *operands], f"{layer}.weight", axis=axis)

    def bias(self, graph: GraphWriter, layer: str, bias: Floats) -> str:
        """A layer's bias, in float: TensorRT's parser refuses quantised ones."""
        return self._rest.bias(graph, layer, bias)

    def _scale_and_zero(
        self, graph: GraphWriter, name: str, scale: npt.NDArray[Any], zero: npt.NDArray[Any]
    ) -> list[str]:
        stored = self._representable(scale).astype(self._float())
        return [graph.constant(f"{name}.scale", stored), graph.constant(f"{name}.zero", zero)]

    def _representable(self, scale: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Scales as they can be stored, rounded up so that the largest value is not cut off."""
        stored = scale.astype(self._float())
        up = np.nextafter(stored, np.array(np.inf, self._float()))
        return np.where(stored.astype(np.float64) < scale, up, stored).astype(np.float64)

    def _float(self) -> Any:
        return np.float16 if self.maps == TensorProto.FLOAT16 else np.float32


def calibrate(
    model: Network,
    config: DetectorConfig,
    clouds: Sequence[Cloud],
    percentile: float = 100.0,
    advance: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Runs a network over clouds and notes what its layers read.

    Args:
        model: The network; it stays as it is.
        config: Its configuration.
        clouds: (N, 4) float32 each, as the detector would get them.
        percentile: Which percentile of all values, zeros included, a range is: 100 the maximum, or 99 .. 100.
        advance: Called with the frames done and the frames wanted, after each.

    Raises:
        DataError: There are no clouds, or none of their points lies in the grid.
        EngineError: The percentile is out of range.
    """
    if not 99 <= percentile <= 100:
        raise EngineError(f"percentile {percentile:g}: give 99 .. 100; below, objects would be cut off with the noise")
    encoder = make_encoder(config.model, model.fold_encoder())
    watch = _Watch(len(clouds) * (1 - percentile / 100))
    layers = {
        name.removesuffix(".conv"): each for name, each in model.named_modules() if isinstance(each, CONVOLUTIONS)
    }
    hooks = [module.register_forward_pre_hook(watch.hook(layer)) for layer, module in layers.items()]
    occupied = False
    try:
        with torch.inference_mode():
            for done, cloud in enumerate(clouds, 1):
                canvas = encoder.encode(cloud)
                occupied = occupied or bool(canvas.any())
                model.dense(torch.from_numpy(canvas))
                if advance is not None:
                    advance(done, len(clouds))
    finally:
        for hook in hooks:
            hook.remove()
    if not occupied:
        raise DataError(f"{len(clouds)} calibration clouds without a point in the grid; give frames to detect in")
    return Calibration({layer: float(top[-1]) for layer, top in watch.top.items()}, len(clouds), percentile)


class _Watch:
    """The largest values of each layer's input, as many as lie above the percentile: that makes it exact.

    Args:
        share: Values to keep of a layer, relative to those it reads in one frame; at least one is kept.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self.top: dict[str, Tensor] = {}

    def hook(self, layer: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        """What torch is to call before a layer."""

        def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
            values = inputs[0].flatten()
            wanted = max(1, math.floor(values.numel() * self._share))
            top = self.top.get(layer, values[:0])
            if len(top) == wanted:  # only what belongs to the top; sorting all takes longer than the layer
                values = values[values > top[-1]]
            joined = torch.cat([top, values])
            self.top[layer] = torch.topk(joined, min(wanted, len(joined))).values

        return note
