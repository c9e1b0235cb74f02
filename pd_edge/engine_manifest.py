"""The manifest of an engine folder: what was built, from what, for what; checked whenever the folder is loaded."""

import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pd_edge.bundle import FileEntry, file_entry
from pd_edge.config import Config, DetectorConfig, parse_config
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.files import read_json, write_bytes

ENGINE_MANIFEST = "engine.json"
Form = Literal["plugin", "plain", "dense"]
Precision = Literal["fp32", "fp16", "int8-trt", "int8-cpu"]
RuntimeName = Literal["openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"]
Hardware = Literal["this", "same", "ampere-plus"]

_SHA256 = "^[0-9a-f]{64}$"


class PointRange(Config):
    """How many points an engine that takes points is tuned for."""

    least: int = Field(1, gt=0, description="Fewest points; fewer are filled up with points outside of the grid.")
    usual: int = Field(20_000, gt=0, description="Points that the builder tunes for.")
    most: int = Field(200_000, gt=0, description="Most points.")

    @model_validator(mode="after")
    def _ascending(self) -> "PointRange":
        if not self.least <= self.usual <= self.most:
            raise ValueError(f"points {self.least} .. {self.usual} .. {self.most} must not descend")
        return self


class BuildFlags(Config):
    """Options of a build that change the engine."""

    points: PointRange | None = Field(None, description="Range of N; None for the form dense and for CPU runtimes.")
    tf32: bool = Field(
        default=False, description="Whether float32 convolutions may use TF32, which has three digits of seven."
    )
    version_compatible: bool = Field(
        default=False, description="Whether later TensorRT versions of this major may load it."
    )
    hardware: Hardware = Field(
        "this", description="GPUs that may load it: this model, all of its compute capability, or all from 8.0 on."
    )


class Measured(Config):
    """What the engine was measured at when it was built."""

    data: str = Field(min_length=1, description="The data set, as it was given.")
    frames: int = Field(gt=0, description="Number of frames.")
    ap: dict[str, float] = Field(description="AP R40 [%] by `class metric difficulty`, such as `Car 3d moderate`.")


class EngineManifest(Config):
    """What an engine folder is."""

    format: Literal[1] = Field(1, description="Version of the folder's layout.")
    name: str = Field(min_length=1, description="Name of the model.")
    form: Form = Field(description="What the engine takes: dense a canvas, plain and plugin points.")
    precision: Precision = Field(description="What the export wrote into the ONNX file.")
    runtime: RuntimeName = Field(description="The runtime it is for.")
    runtime_version: str = Field(min_length=1, description="Version of the runtime that built it.")
    target: str = Field(min_length=1, description="The device as it was asked for, such as orin.")
    capability: tuple[int, int] | None = Field(description="Compute capability of the GPU; None for a CPU.")
    gpu: str | None = Field(None, description="Name of the GPU it was tuned on; None where none was at hand.")
    detector: DetectorConfig = Field(description="The detector that was exported.")
    source: str = Field(min_length=1, description="The ONNX file or model, as it was given to the builder.")
    onnx_sha256: str = Field(pattern=_SHA256, description="SHA-256 of the ONNX file.")
    weights_sha256: str = Field(pattern=_SHA256, description="SHA-256 of the exported weights.")
    files: dict[str, FileEntry] = Field(min_length=1, description="The engine's own files.")
    plugin: str | None = Field(None, description="Which of the files is the plugin library; the form plugin has one.")
    flags: BuildFlags = BuildFlags()
    made_with: dict[str, str] = Field(description="Package versions at the build.")
    measured: Measured | None = Field(None, description="AP at build time, where data was given.")

    @model_validator(mode="after")
    def _plugin_is_listed(self) -> "EngineManifest":
        if (self.form == "plugin") != (self.plugin is not None):
            raise ValueError(f"form {self.form} with the plugin library {self.plugin}")
        if self.plugin is not None and self.plugin not in self.files:
            raise ValueError(f"plugin library {self.plugin} is none of the files")
        return self


def read_manifest(folder: Path) -> EngineManifest:
    """Reads an engine folder's manifest.

    Raises:
        EngineError: It is missing, cut short, or has an unknown, missing or wrong key.
    """
    path = folder / ENGINE_MANIFEST
    try:
        return parse_config(read_json(path, "the manifest of an engine folder"), EngineManifest, str(path))
    except (ConfigError, DataError) as error:
        raise EngineError(
            f"{error}; build the engine again: pd-edge build MODEL.onnx --runtime RUNTIME --out {folder} --rebuild"
        ) from error


def write_manifest(manifest: EngineManifest, folder: Path) -> None:
    """Writes an engine folder's manifest, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    write_bytes(folder / ENGINE_MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())


def check_files(manifest: EngineManifest, folder: Path) -> None:
    """Refuses an engine of which a file is missing or not the one that was built.

    Raises:
        EngineError: The file is named, with the command that builds the engine again.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise EngineError(f"{path} is missing; {rebuild_advice(manifest, folder)}")
        found = file_entry(path) if path.stat().st_size == entry.size else None
        if found != entry:
            what = "another plugin library than the engine's" if name == manifest.plugin else "damaged or replaced"
            raise EngineError(
                f"{path}: {what} ({path.stat().st_size} bytes, SHA-256 is not the manifest's {entry.sha256[:12]}..., "
                f"{entry.size} bytes); copy the folder again, or {rebuild_advice(manifest, folder)}"
            )


def rebuild_advice(manifest: EngineManifest, folder: Path) -> str:
    """The command that builds an engine again, as the end of an error."""
    return f"build it again: {rebuild_command(manifest, folder)}"


def rebuild_command(manifest: EngineManifest, folder: Path) -> str:
    """The command that builds an engine folder again as it was built."""
    flags = manifest.flags
    words: list[Any] = ["pd-edge", "build", manifest.source, "--runtime", manifest.runtime, "--out", folder]
    if manifest.capability is not None:
        words += ["--target", manifest.target]
    if flags.points is not None:
        words += ["--min-points", flags.points.least, "--opt-points", flags.points.usual]
        words += ["--max-points", flags.points.most]
    if flags.tf32:
        words.append("--tf32")
    if flags.version_compatible:
        words.append("--version-compatible")
    if flags.hardware != "this":
        words += ["--hardware", flags.hardware]
    if manifest.plugin is not None:
        words += ["--plugin", manifest.plugin]
    return shlex.join([*map(str, words), "--rebuild"])
