"""Model folders: a trained detector as a handful of files that every runtime reads, and the list of those shipped.

A model folder holds::

    manifest.json       what the weights were made for, and the SHA-256 of every weight file
    config.yaml         the DetectorConfig; its `decode` part may be edited, its `model` part belongs to the weights
    pillar_net.npz      the encoder's weights, batch norms folded (voxel_net.npz of SECOND); pd_edge.encoders
    dense.onnx          canvas (1, C, H, W) -> logits, residuals, directions
    model.safetensors   the torch state dict, for training and the torch runtime; may be left out on a vehicle
    results.json        measured figures by name, optional
    MODEL_CARD.md       data, licence, how to reproduce
    train.yaml          settings of the training run, optional
    run.json            what it ran with and how many samples it saw, optional

:func:`pd_edge.engines.onnx_export.export_bundle` writes one.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from pd_edge.config import Config, DetectorConfig, ModelConfig, load_config, parse_config
from pd_edge.encoders import EncoderNet, net_file, read_net
from pd_edge.errors import EngineError

SHIPPED = Path(__file__).resolve().parent / "weights"
MANIFEST = "manifest.json"
CONFIG = "config.yaml"
DENSE_ONNX = "dense.onnx"
TORCH_WEIGHTS = "model.safetensors"
RESULTS = "results.json"

# Names of the tensors of dense.onnx; the heads in the order of pd_edge.decode.Heads.
CANVAS = "canvas"
HEADS = ("logits", "residuals", "directions")


class FileEntry(Config):
    """A weight file as the manifest knows it."""

    size: int = Field(gt=0, description="Size [bytes].")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the content.")


class Manifest(Config):
    """What a model folder is: checked whenever it is loaded."""

    format: Literal[1] = Field(1, description="Version of the folder's layout.")
    name: str = Field(min_length=1, description="Name of the model.")
    model: ModelConfig = Field(description="The network and grid that the weights were trained for.")
    weights: Literal["fp32", "fp16"] = Field(
        description="Precision in which the convolution weights are stored; SECOND's sparse layers are fp32 either way."
    )
    parameters: int = Field(gt=0, description="Trained parameters.")
    multiply_adds: int = Field(
        gt=0, description="Multiply-adds of the dense part for one frame; SECOND's sparse layers come on top."
    )
    made_with: dict[str, str] = Field(description="Package versions at export.")
    files: dict[str, FileEntry] = Field(description="The weight files.")


class ModelSummary(NamedTuple):
    """One row of ``pd-edge models``."""

    name: str
    parameters: int
    multiply_adds: int  # of the dense part, for one frame
    weights: str
    runtime_bytes: int  # what a vehicle needs: the ONNX file and the encoder's weights
    total_bytes: int
    results: dict[str, Any]  # results.json as it stands; empty where there is none


@dataclass(frozen=True)
class Bundle:
    """A model folder whose manifest, configuration and weight files agree.

    Attributes:
        folder: The folder.
        manifest: Its manifest.
        config: The detector's configuration; ``config.model`` equals ``manifest.model``.
        encoder_net: The encoder's weights.
        results: ``results.json``, empty where there is none.
    """

    folder: Path
    manifest: Manifest
    config: DetectorConfig
    encoder_net: EncoderNet
    results: dict[str, Any]

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Bundle":
        """Reads and verifies a model folder.

        Args:
            name_or_path: Name of a shipped model (see :func:`list_models`) or the path of a model folder.

        Raises:
            EngineError: There is no such model, a file is missing or differs from the manifest, or the weights belong
                to another network or grid than ``config.yaml`` describes.
            ConfigError: ``config.yaml`` or the manifest has an unknown, missing or wrong key.
        """
        folder = find_model(name_or_path)
        manifest = read_manifest(folder)
        config = load_config(folder / CONFIG, DetectorConfig)
        _check_model(config.model, manifest.model, folder)
        for name, entry in manifest.files.items():
            if (folder / name).exists():
                _check_file(folder / name, entry)
        weights = net_file(config.model)
        bundle = cls(folder, manifest, config, read_net(folder / weights, config.model), read_results(folder))
        bundle.file(weights)
        return bundle

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def canvas_shape(self) -> tuple[int, int, int, int]:
        """Shape of the canvas that the dense part takes: (1, C, H, W)."""
        return self.config.model.canvas_shape

    def file(self, name: str) -> Path:
        """Path of a weight file that is there and was verified.

        Raises:
            EngineError: The manifest does not list the file, or it is missing.
        """
        path = self.folder / name
        if name not in self.manifest.files or not path.is_file():
            raise EngineError(f"{self.folder}: {name} is missing; copy it from the original model or export it again")
        return path


def find_model(name_or_path: str | Path) -> Path:
    """Folder of a shipped model or of a path; a shipped name wins over a folder of that name.

    Raises:
        EngineError: It is neither.
    """
    shipped = shipped_models()
    if str(name_or_path) in shipped:
        return SHIPPED / str(name_or_path)
    folder = Path(name_or_path)
    if (folder / MANIFEST).is_file():
        return folder
    if folder.is_dir():
        raise EngineError(f"{folder}: no {MANIFEST}, so not a model folder; write one with engines/onnx_export.py")
    known = ", ".join(shipped) or "none"
    raise EngineError(f"no model named '{name_or_path}' (shipped: {known}) and no folder of that path")


def shipped_models() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}"))


def list_models() -> list[ModelSummary]:
    """The models that come with the package, with their sizes and measured results."""
    return [summarize(SHIPPED / name) for name in shipped_models()]


def summarize(folder: Path) -> ModelSummary:
    """Sizes and results of a model folder, read from its manifest without opening the weights.

    Raises:
        EngineError: The manifest or the results cannot be read.
        ConfigError: The manifest has an unknown, missing or wrong key.
    """
    manifest = read_manifest(folder)
    sizes = {name: entry.size for name, entry in manifest.files.items()}
    return ModelSummary(
        name=manifest.name,
        parameters=manifest.parameters,
        multiply_adds=manifest.multiply_adds,
        weights=manifest.weights,
        runtime_bytes=sum(sizes.get(name, 0) for name in (net_file(manifest.model), DENSE_ONNX)),
        total_bytes=sum(sizes.values()),
        results=read_results(folder),
    )


def read_manifest(folder: Path) -> Manifest:
    """Reads a model folder's manifest.

    Raises:
        EngineError: It cannot be read or is not JSON.
        ConfigError: It has an unknown, missing or wrong key.
    """
    path = folder / MANIFEST
    return parse_config(_read_json(path), Manifest, str(path))


def read_results(folder: Path) -> dict[str, Any]:
    """Reads a model folder's measured results; empty where there are none.

    Raises:
        EngineError: ``results.json`` is not a JSON object.
    """
    path = folder / RESULTS
    if not path.is_file():
        return {}
    results = _read_json(path)
    if not isinstance(results, dict):
        raise EngineError(f"{path}: expected a JSON object of figures by name, found {type(results).__name__}")
    return results


def file_entry(path: Path) -> FileEntry:
    """A weight file's size and SHA-256, for the manifest."""
    return FileEntry(size=path.stat().st_size, sha256=_sha256(path))


def _check_model(found: ModelConfig, trained: ModelConfig, folder: Path) -> None:
    """Refuses a configuration whose network or grid is not the one the weights were trained for."""
    if found.detector != trained.detector:
        raise EngineError(
            f"{folder}: weights of another network: {CONFIG} is of {found.detector}, they are of {trained.detector}; "
            f"restore the {CONFIG} that came with them"
        )
    changes = _differences(found.model_dump(), trained.model_dump(), "model")
    if changes:
        raise EngineError(
            f"{folder}: weights of another network or grid: {'; '.join(changes)}; "
            f"restore these values in {CONFIG} or train and export a model for them"
        )


def _differences(found: Any, trained: Any, where: str) -> list[str]:
    """Every leaf in which two dumped configurations differ, with both values."""
    if isinstance(found, dict) and isinstance(trained, dict):
        keys = {**trained, **found}  # a field may be left out where it says nothing
        return [text for key in keys for text in _differences(found.get(key), trained.get(key), f"{where}.{key}")]
    return [] if found == trained else [f"{where} is {found} in {CONFIG}, the weights were trained for {trained}"]


def _check_file(path: Path, entry: FileEntry) -> None:
    found = _sha256(path)
    if found != entry.sha256:
        raise EngineError(
            f"{path}: SHA-256 {found[:12]}... ({path.stat().st_size} bytes) is not the manifest's "
            f"{entry.sha256[:12]}... ({entry.size} bytes): damaged or replaced; copy it again or export the model again"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise EngineError(f"{path}: not valid JSON ({error}); export the model again") from error
