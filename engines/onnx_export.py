"""Writes a trained detector as a model folder; its dense part (canvas to heads) becomes one plain ONNX file.

Before the folder is put in place, its heads are compared with torch's.

Half precision is decided once, before anything is written: the weights of the convolutions are rounded to float16. The
ONNX file stores those very values, widens them to float32 and multiplies them by the batch norm's float32 factor inside
the graph, which every runtime does once, when it loads the file; the safetensors file holds the same values. So torch
and the other runtimes agree as closely as in full precision, at half the size. All the rest stays in float32: it is
small, and the encoder meets coordinates of 70 m.
"""

import copy
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import pd_edge
from pd_edge import bundle as folder_format
from pd_edge.bundle import DENSE_ONNX, TORCH_WEIGHTS, Bundle, Manifest
from pd_edge.config import DetectorConfig, dump_config
from pd_edge.encoders import net_file, save_net
from pd_edge.errors import DataError, EngineError, MissingExtraError
from pd_edge.runtimes import Runtime, open_runtime

try:
    import onnx
    import torch
    from safetensors.torch import save
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "torch", "train") from error

from pd_edge.engines.onnx_graph import StoredAs, dense_onnx
from pd_edge.engines.onnx_numbers import Floats
from pd_edge.training.network import Network

# Largest difference to torch's heads, relative to the largest value of that head. Measured: 1e-6 to 5e-6.
PARITY = 1e-4


def export_bundle(
    model: Network,
    config: DetectorConfig,
    folder: Path,
    weights: StoredAs = "fp32",
    results: Mapping[str, Any] | None = None,
) -> Bundle:
    """Writes a model folder and checks it against torch.

    Nothing is changed in an existing folder unless everything succeeds; files the export does not write
    (``MODEL_CARD.md``) stay.

    Args:
        model: The trained network; it is not changed.
        config: The detector's configuration; ``config.model`` must be the network's.
        folder: The model folder; its name becomes the model's.
        weights: Precision in which the convolution weights are stored, sparse layers left out, which stay float32. The
            network computes in float32 either way.
        results: Measured figures by name, for ``results.json``.

    Returns:
        The folder, loaded again.

    Raises:
        EngineError: The configuration is another network's, a weight is not finite or beyond float16, or the heads of
            the written ONNX file differ from torch's.
        DataError: There is a file where the folder is to be.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the name of a model folder")
    if model.config != config.model:
        raise EngineError(f"the network to export was built for {model.config}, the configuration says {config.model}")
    deployed = copy.deepcopy(model).to("cpu", torch.float32).eval()
    check_finite(deployed)
    if weights == "fp16":
        round_to_half(deployed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        draft = Path(name)
        _write(deployed, config, draft, folder.name, weights)
        if results is not None:
            (draft / folder_format.RESULTS).write_text(json.dumps(dict(results), indent=2) + "\n", encoding="utf-8")
        _check_parity(deployed, Bundle.load(draft))
        folder.mkdir(exist_ok=True)
        for path in draft.iterdir():
            path.replace(folder / path.name)
    return Bundle.load(folder)


def round_to_half(model: Network) -> None:
    """Rounds the weights of the convolutions to float16 values, in place; the dtype stays float32.

    Raises:
        EngineError: A weight is beyond float16's range.
    """
    with torch.no_grad():
        for name, weight in _convolutions(model):
            rounded = weight.half().float()
            if not torch.isfinite(rounded).all():
                raise EngineError(f"{name}: weight {weight.abs().max():g} is beyond float16's 65504; export as fp32")
            weight.copy_(rounded)


def head_difference(model: Network, runtime: Runtime, canvas: Floats) -> float:
    """Largest difference between a runtime's heads and torch's, relative to the largest value of that head.

    Args:
        model: The network on the CPU, in evaluation mode.
        runtime: The runtime.
        canvas: (1, C, H, W) float32.
    """
    with torch.inference_mode():
        expected = [head.numpy() for head in model.dense(torch.from_numpy(canvas))]
    laid_out = canvas if runtime.layout == "nchw" else canvas.transpose(0, 2, 3, 1)
    found = runtime.infer(np.ascontiguousarray(laid_out))
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(f - e).max() / max(np.abs(e).max(), 1e-6)) for f, e in pairs)


def _write(model: Network, config: DetectorConfig, folder: Path, name: str, weights: StoredAs) -> None:
    """Writes the files of a model folder, the manifest last."""
    dump_config(config, folder / folder_format.CONFIG)
    encoder = net_file(config.model)
    save_net(model.fold_encoder(), folder / encoder)
    state = _state(model, weights)
    (folder / TORCH_WEIGHTS).write_bytes(state)
    metadata = {
        "model": name,
        "config": config.model.model_dump_json(),
        "weights_sha256": hashlib.sha256(state).hexdigest(),
    }
    proto, multiply_adds = dense_onnx(model, config, weights, metadata)
    onnx.save(proto, folder / DENSE_ONNX)
    manifest = Manifest(
        name=name,
        model=config.model,
        weights=weights,
        parameters=sum(each.numel() for each in model.parameters()),
        multiply_adds=multiply_adds,
        made_with={"pd-edge": pd_edge.__version__, "torch": torch.__version__, "onnx": onnx.__version__},
        files={each: folder_format.file_entry(folder / each) for each in (encoder, DENSE_ONNX, TORCH_WEIGHTS)},
    )
    (folder / folder_format.MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _state(model: Network, weights: StoredAs) -> bytes:
    """The state dict in safetensors form, with the rounded weights as float16 where they are to be stored so."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if weights == "fp16":
        state |= {name: weight.half() for name, weight in _convolutions(model)}
    data: bytes = save(state)
    return data


def _check_parity(model: Network, bundle: Bundle) -> None:
    """Compares the ONNX file with torch on a canvas as sparse as a real one."""
    rng = np.random.default_rng(0)
    canvas = rng.random(bundle.canvas_shape, np.float32) * (rng.random(bundle.canvas_shape[2:], np.float32) < 0.05)
    try:
        runtime = open_runtime(bundle, "openvino")
    except MissingExtraError:  # not made for this machine
        runtime = open_runtime(bundle, "onnxruntime")
    difference = head_difference(model, runtime, canvas)
    if not difference <= PARITY:
        raise EngineError(
            f"{bundle.name}: the exported heads differ from torch's by {difference:.1e} of their largest value, "
            f"expected at most {PARITY:.0e}; nothing was written. Look for huge weights or batch norm variances near 0"
        )


def _convolutions(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The weights of the convolutions over maps, by name: most of a network's size, without any sparse layers."""
    return [(name, each) for name, each in model.named_parameters() if each.ndim == 4]


def check_finite(model: nn.Module) -> None:
    """Refuses a network with a weight or statistic that is not finite.

    Raises:
        EngineError: There is one; it is named.
    """
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise EngineError(f"{name} holds a NaN or an infinity: the training diverged; export an earlier checkpoint")
