"""One ONNX file for a trained detector: form and precision are written into it, once, for every runtime.

Forms, each ending in ``logits``, ``residuals`` and ``directions`` (float32, as :class:`pd_edge.decode.Heads` says):

* ``dense``: canvas (1, C, H, W) float32 to heads; points are encoded outside, with weights of the metadata.
* ``plain``: points (N, 4) float32, any N, to heads, in operators of the standard (opset 18).
* ``plugin``: the same with the operators PillarVoxelize and PillarScatter of the domain ``pd_edge``.

Metadata of every file: ``model``, ``form``, ``precision``, ``detector_config`` (JSON), ``weights_sha256`` and, for
``dense``, ``pillar_net`` (of SECOND ``voxel_net``): the encoder's weights, float32 in base64, each layer's bias behind.
"""

import base64
import copy
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

from pd_edge.bundle import CANVAS
from pd_edge.config import DetectorConfig
from pd_edge.encoders import EncoderNet, net_name, net_numbers
from pd_edge.engine_manifest import Form, Precision
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.files import write_bytes
from pd_edge.pillars import PillarNet

try:
    import torch
    from onnx import TensorProto
    from safetensors.torch import save
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "torch", "train") from error

from pd_edge.engines.onnx_export import check_finite
from pd_edge.engines.onnx_graph import OPSET, DenseGraph, add_dense, canvas_input, model_proto
from pd_edge.engines.onnx_numbers import Half, Numbers, Single
from pd_edge.engines.onnx_points import DOMAIN, add_plain_points, add_plugin_points, points_input
from pd_edge.engines.quantize import FLOAT_LAYERS, Calibration, Int8
from pd_edge.training.network import Network

OPSET_HALF_SCALES = 19
"""The first in which Q/DQ take a float16 scale."""


def export_onnx(
    model: Network,
    config: DetectorConfig,
    path: Path,
    form: Form,
    precision: Precision,
    *,
    calibration: Calibration | None = None,
    float_layers: Collection[str] = FLOAT_LAYERS,
    name: str | None = None,
    weights_sha256: str | None = None,
) -> Path:
    """Writes a trained network as one ONNX file.

    Args:
        model: The trained network; it is not changed.
        config: The detector's configuration; ``config.model`` must be the network's.
        path: The file.
        form: What the graph takes; see the module.
        precision: ``fp32``; ``fp16``: the convolutions and the maps between them in float16, all that meets coordinates
            in float32; ``int8-trt``: symmetric INT8 with the rest of the dense part in float16, for TensorRT;
            ``int8-cpu``: UINT8 maps with the rest in float32, for OpenVINO and ONNX Runtime.
        calibration: Ranges of the layers' inputs; needed for int8.
        float_layers: Layers that int8 leaves in float.
        name: Name of the model; the file's when left out.
        weights_sha256: Hash of the weights' file; of the state as float32 safetensors when left out.

    Returns:
        The path.

    Raises:
        EngineError: Form, precision or configuration do not fit, int8 has no calibration, a layer to leave in float
            does not exist, or a weight is not finite or beyond float16.
        DataError: The file cannot be written.
    """
    _check(model, config, form, precision)
    deployed = copy.deepcopy(model).to("cpu", torch.float32).eval()
    check_finite(deployed)
    numbers = numbers_of(precision, calibration, float_layers)
    metadata = {
        "model": name or path.stem,
        "form": form,
        "precision": precision,
        "detector_config": config.model_dump_json(),
        "weights_sha256": weights_sha256 or hashlib.sha256(save(deployed.state_dict())).hexdigest(),
    }
    if form == "dense":
        metadata[net_name(config.model)] = encode_net(deployed.fold_encoder())
    write_bytes(path, form_onnx(deployed, config, form, numbers, metadata).SerializeToString())
    return path


def form_onnx(model: Network, config: DetectorConfig, form: Form, numbers: Numbers, metadata: dict[str, str]) -> Any:
    """The checked ``onnx.ModelProto`` of a network on the CPU, in float32 and evaluation mode."""
    graph = DenseGraph(numbers)
    if form == "dense":
        canvas = graph.cast(CANVAS, f"{CANVAS}.maps", TensorProto.FLOAT, numbers.maps)
    else:
        net = _pillar_net(model, form)
        add_points = add_plain_points if form == "plain" else add_plugin_points
        canvas = add_points(graph, net, config.model.grid, numbers.maps)
    add_dense(graph, model, canvas)
    half_scales = isinstance(numbers, Int8) and numbers.maps == TensorProto.FLOAT16
    return model_proto(
        graph,
        model,
        canvas_input(config) if form == "dense" else points_input(),
        f"{config.model.detector}_{form}",
        metadata,
        opset=OPSET_HALF_SCALES if half_scales else OPSET,
        own_domain=DOMAIN if form == "plugin" else None,
    )


def numbers_of(precision: Precision, calibration: Calibration | None, float_layers: Collection[str]) -> Numbers:
    """How a precision writes the operands.

    Raises:
        EngineError: INT8 has no calibration, or a layer to leave in float does not exist.
    """
    rest = rest_of(precision)
    if precision in ("fp32", "fp16"):
        return rest
    if calibration is None:
        raise EngineError(f"{precision} needs a calibration; make one of some frames with calibrate()")
    unknown = sorted(set(float_layers) - set(calibration.ranges) - set(FLOAT_LAYERS))
    if unknown:
        raise EngineError(f"no layer '{unknown[0]}' to leave in float; there are {', '.join(calibration.ranges)}")
    layers = calibration.ranges.keys() - set(float_layers)
    return Int8(rest, calibration, unsigned=precision == "int8-cpu", layers=layers)


def rest_of(precision: Precision) -> Numbers:
    """How a precision writes what is not INT8."""
    return Half() if precision in ("fp16", "int8-trt") else Single()


def _pillar_net(model: Network, form: Form) -> PillarNet:
    """The encoder of a form that takes points.

    Raises:
        EngineError: The network has no pillars; sparse layers are not written into a graph.
    """
    net = model.fold_encoder()
    if not isinstance(net, PillarNet):
        raise EngineError(
            f"form {form} writes the encoder into the graph, which {model.config.detector}'s sparse layers cannot be; "
            "export `--form dense`"
        )
    return net


def encode_net(net: EncoderNet) -> str:
    """Base64 of the float32 bytes of an encoder's weights (:func:`pd_edge.encoders.net_numbers`)."""
    return base64.b64encode(net_numbers(net).astype("<f4").tobytes()).decode()


def _check(model: Network, config: DetectorConfig, form: str, precision: str) -> None:
    if model.config != config.model:
        raise EngineError(f"the network to export was built for {model.config}, the configuration says {config.model}")
    for what, value, known in (("form", form, get_args(Form)), ("precision", precision, get_args(Precision))):
        if value not in known:
            raise EngineError(f"{what} '{value}': choose one of {', '.join(known)}")
