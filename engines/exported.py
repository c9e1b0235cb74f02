"""What a builder builds from: one exported ONNX file with all that a detector needs, or the model folder beside it."""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np

from pd_edge.bundle import DENSE_ONNX, MANIFEST, Bundle, shipped_models
from pd_edge.config import DetectorConfig, parse_config
from pd_edge.encoders import EncoderNet, net_from_numbers, net_name
from pd_edge.engine_manifest import Form, Precision
from pd_edge.engines.onnx_metadata import read_metadata
from pd_edge.errors import EngineError

_EXPORT = "write one with `pd-edge export`"
_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True)
class Exported:
    """An ONNX file whose metadata is complete.

    Attributes:
        path: The file.
        data: Its content.
        name: Name of the model.
        form: What the graph takes: ``dense`` a canvas (1, C, H, W), ``plain`` and ``plugin`` points (N, 4).
        precision: What the export wrote into it.
        config: The detector's configuration.
        encoder_net: The encoder's weights, which stay outside of a ``dense`` graph; None for the other forms.
        weights_sha256: Hash of the weights that were exported.
    """

    path: Path
    data: bytes
    name: str
    form: Form
    precision: Precision
    config: DetectorConfig
    encoder_net: EncoderNet | None
    weights_sha256: str

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return hashlib.sha256(self.data).hexdigest()


def read_exported(name_or_path: str | Path) -> Exported:
    """Reads an exported ONNX file.

    Args:
        name_or_path: A file of `pd-edge export`; the ``dense.onnx`` of a model folder, that folder, or a shipped
            model's name, which stand for form ``dense`` in fp32.

    Raises:
        EngineError: There is no such file, it is no ONNX file, or it was not exported by this project.
        ConfigError: The configuration in it has an unknown, missing or wrong key.
    """
    path = Path(name_or_path)
    if str(name_or_path) in shipped_models() or (path / MANIFEST).is_file():
        return _from_folder(Bundle.load(name_or_path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(
            f"{path}: cannot be read ({error.strerror}); give an ONNX file of `pd-edge export`, a model folder or one "
            f"of {', '.join(shipped_models())}"
        ) from error
    metadata = _metadata(path, data)
    if "form" not in metadata and path.name == DENSE_ONNX and (path.parent / MANIFEST).is_file():
        return _from_folder(Bundle.load(path.parent))
    return _from_metadata(path, data, metadata)


def _metadata(path: Path, data: bytes) -> dict[str, str]:
    try:
        return read_metadata(data)
    except ValueError as error:
        raise EngineError(f"{path}: not an ONNX file, or a damaged one ({error}); {_EXPORT}") from error


def _from_folder(bundle: Bundle) -> Exported:
    path = bundle.file(DENSE_ONNX)
    data = path.read_bytes()
    return Exported(
        path,
        data,
        bundle.name,
        "dense",
        "fp32",
        bundle.config,
        bundle.encoder_net,
        _metadata(path, data)["weights_sha256"],
    )


def _from_metadata(path: Path, data: bytes, metadata: dict[str, str]) -> Exported:
    needed = ("model", "form", "precision", "detector_config", "weights_sha256")
    missing = [key for key in needed if key not in metadata]
    if missing:
        raise EngineError(
            f"{path}: no {', '.join(missing)} in its metadata, so it is not an export of pd-edge; {_EXPORT}"
        )
    form = _choice(path, "form", metadata["form"], get_args(Form))
    config = _config(path, metadata["detector_config"])
    net = net_name(config.model)
    if form == "dense" and net not in metadata:
        raise EngineError(f"{path}: no {net} in its metadata, which the form dense needs; {_EXPORT}")
    return Exported(
        path,
        data,
        metadata["model"],
        form,
        _choice(path, "precision", metadata["precision"], get_args(Precision)),
        config,
        _encoder_net(path, metadata[net], config) if form == "dense" else None,
        metadata["weights_sha256"],
    )


def _choice(path: Path, key: str, value: str, choices: tuple[_Choice, ...]) -> _Choice:
    for each in choices:
        if each == value:
            return each
    raise EngineError(f"{path}: {key} '{value}' is none of {', '.join(choices)}; export it anew with this version")


def _config(path: Path, text: str) -> DetectorConfig:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise EngineError(f"{path}: detector_config is not valid JSON ({error}); {_EXPORT}") from error
    return parse_config(data, DetectorConfig, f"{path}: detector_config")


def _encoder_net(path: Path, text: str, config: DetectorConfig) -> EncoderNet:
    """The encoder's weights from base64 of their float32 numbers."""
    try:
        return net_from_numbers(np.frombuffer(base64.b64decode(text, validate=True), "<f4"), config.model)
    except (binascii.Error, ValueError) as error:
        name = net_name(config.model)
        raise EngineError(f"{path}: {name} is not this network's float32 in base64 ({error}); {_EXPORT}") from error
