"""Builds engine folders: one small function per runtime, one manifest, nothing in place before all of it succeeded."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pd_edge
from pd_edge.batch import detect_batch
from pd_edge.bundle import CONFIG, file_entry
from pd_edge.config import dump_config
from pd_edge.detector import load
from pd_edge.encoders import net_file, save_net
from pd_edge.engine_folder import EngineFolder, is_engine_folder
from pd_edge.engine_manifest import (
    ENGINE_MANIFEST,
    BuildFlags,
    EngineManifest,
    Measured,
    PointRange,
    RuntimeName,
    read_manifest,
    write_manifest,
)
from pd_edge.engine_targets import Target, find_target
from pd_edge.engines.build_cpu import build_onnxruntime, build_openvino, cpu_runtime_version
from pd_edge.engines.exported import Exported, read_exported
from pd_edge.errors import EngineError
from pd_edge.evaluate import Evaluation
from pd_edge.kitti import Dataset
from pd_edge.runtimes.cuda import find_gpu
from pd_edge.sensors import KITTI, SensorProfile

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine.

    Attributes:
        runtime: The runtime to build for.
        target: Name of a device (:data:`pd_edge.engine_targets.TARGETS`); None stands for the CPU or this machine's
            GPU.
        flags: What changes the engine; ``points`` is left out where the engine takes a canvas or runs on a CPU.
        plugin: The plugin library, for the form ``plugin``.
        timing_cache: File that TensorRT keeps its timings in from one build to the next.
        rebuild: Replace the engine that is there.
    """

    runtime: RuntimeName
    target: str | None = None
    flags: BuildFlags = field(default_factory=lambda: BuildFlags(points=PointRange()))
    plugin: Path | None = None
    timing_cache: Path | None = None
    rebuild: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether the runtime is a TensorRT."""
        return self.runtime in ("tensorrt", "tensorrt-rtx")


class Device(NamedTuple):
    """What an engine is built with and for."""

    version: str
    """Of the runtime."""
    target: Target
    gpu: str | None
    """Name of this machine's GPU where the engine is tuned on it."""


class Trial(NamedTuple):
    """Labelled frames to measure an engine's AP on."""

    name: str
    """The data set, as it was given."""
    frames: Dataset
    sensor: SensorProfile = KITTI
    """The profile that they are read with."""


def build_engine(
    source: str | Path, out: Path, options: BuildOptions, trial: Trial | None = None, advance: Advance | None = None
) -> tuple[EngineFolder, bool]:
    """Builds an engine folder from an exported ONNX file.

    Args:
        source: An ONNX file of `pd-edge export`, a model folder or a shipped model's name.
        out: Folder to write.
        options: How to build.
        trial: Frames to measure AP on before the engine is put in place; it has to run on this machine for that.
        advance: Called with the part done and the whole, while TensorRT builds.

    Returns:
        The folder, loaded, and whether it was built: an engine of the same file, runtime, version and flags that is
        already there is kept.

    Raises:
        EngineError: The file, form, precision, target or options do not fit the runtime, the build failed, or another
            engine or folder is there.
        ConfigError: The configuration in the file is wrong.
        DataError: A frame to measure on cannot be used.
        MissingExtraError: The runtime is not installed.
    """
    model = read_exported(source)
    _check_fits(model, options)
    device = _device(options)
    identity = _identity(model, device, options)
    if not options.rebuild and trial is None and _is_there(out, identity, options.plugin):
        return EngineFolder.load(out), False
    _check_free(out, options)
    if trial is not None and options.on_gpu:
        find_gpu()  # before the minutes that a build may take
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        draft = Path(name)
        files = _build(model, draft, device, options, advance)
        manifest = _describe_build(model, str(source), draft, files, identity, plugin=options.plugin)
        if trial is not None:
            write_manifest(manifest.model_copy(update={"measured": measure(draft, trial)}), draft)
        elif not options.on_gpu:
            load(draft).warm_up(1)
        _put_in_place(draft, out)
    return EngineFolder.load(out), True


def measure(folder: Path, trial: Trial) -> Measured:
    """AP of an engine folder on labelled frames.

    Raises:
        EngineError: The engine cannot run on this machine.
        DataError: A frame cannot be used or has no labels.
    """
    evaluation = detect_batch(load(folder, sensor=trial.sensor.only_mount()), trial.frames).complete_evaluation()
    return Measured(data=trial.name, frames=evaluation.frames, ap=ap_by_name(evaluation))


def ap_by_name(evaluation: Evaluation) -> dict[str, float]:
    """AP R40 [%] by `class metric difficulty` for 3D and BEV, with `mean`; only where there are objects."""
    found = {
        f"{each.class_name} {each.metric} {each.difficulty}": each.ap
        for each in evaluation.results
        if each.objects and each.recall == "r40" and each.metric in ("3d", "bev")
    }
    for metric in ("3d", "bev"):
        for level in ("easy", "moderate", "hard"):
            found[f"mean {metric} {level}"] = evaluation.mean(metric, level)
    return {name: ap for name, ap in found.items() if not math.isnan(ap)}


def _describe_build(
    model: Exported, source: str, draft: Path, files: list[str], identity: dict[str, Any], *, plugin: Path | None
) -> EngineManifest:
    """Writes what every engine folder has beside the engine."""
    dump_config(model.config, draft / CONFIG)
    if model.encoder_net is not None:
        weights = net_file(model.config.model)
        save_net(model.encoder_net, draft / weights)
        files = [*files, weights]
    manifest = EngineManifest(
        **identity,
        detector=model.config,
        source=source,
        files={each: file_entry(draft / each) for each in files},
        plugin=None if plugin is None else plugin.name,
        made_with={"pd-edge": pd_edge.__version__},
    )
    write_manifest(manifest, draft)
    return manifest


def _build(model: Exported, draft: Path, device: Device, options: BuildOptions, advance: Advance | None) -> list[str]:
    """Writes the runtime's own files; returns their names."""
    if options.runtime == "openvino":
        return build_openvino(model, draft)
    if options.runtime == "onnxruntime":
        return build_onnxruntime(model, draft)
    from pd_edge.engines.build_tensorrt import build_tensorrt  # noqa: PLC0415 - for those who have a GPU

    return build_tensorrt(model, draft, device.target, options, advance)


def _device(options: BuildOptions) -> Device:
    """The device to build for, and the version of the runtime."""
    if options.on_gpu:
        from pd_edge.engines.build_tensorrt import find_device  # noqa: PLC0415

        return find_device(options)
    target = find_target(options.target or "cpu")
    if target.capability is not None:
        raise EngineError(
            f"target {target.name} ({target.device}) is a GPU, {options.runtime} runs on the CPU: leave the target "
            "out, or build for tensorrt"
        )
    return Device(cpu_runtime_version(options.runtime), target, None)


def _check_fits(model: Exported, options: BuildOptions) -> None:
    """Refuses a form or a precision that a runtime cannot do, and options that would not act."""
    runtime = options.runtime
    if model.form == "plugin" and runtime != "tensorrt":
        forms = "dense" if runtime == "tensorrt-rtx" else "plain` or `--form dense"
        raise EngineError(
            f"{model.path}: form plugin is for tensorrt, {runtime} has no plugins; export `--form {forms}`"
        )
    if model.form == "plain" and runtime == "tensorrt-rtx":
        raise EngineError(f"{model.path}: tensorrt-rtx lacks ScatterElements with a maximum; export `--form dense`")
    if model.precision == "int8-cpu" and options.on_gpu:
        raise EngineError(f"{model.path}: {runtime} refuses precision int8-cpu; export `--precision int8-trt`")
    if options.on_gpu and model.config.model.detector != "pointpillars":
        raise EngineError(
            f"{model.path}: {runtime} makes pillars on the GPU, {model.config.model.detector}'s sparse layers have "
            "code for the CPU alone; build it for openvino or onnxruntime"
        )
    if model.form == "plugin" and options.plugin is None:
        raise EngineError(f"{model.path}: form plugin needs the plugin library; add `--plugin libpd_edge_plugins.so`")
    idle = _idle(model, options)
    if idle:
        raise EngineError(
            f"{model.path}: {runtime} with form {model.form} has no use for {', '.join(idle)}; leave it out"
        )


def _idle(model: Exported, options: BuildOptions) -> list[str]:
    """Options that were given but would change nothing.

    TensorRT-RTX has no lean runtime, which version-compatible engines need.
    """
    flags, regular = options.flags, options.runtime == "tensorrt"
    given = {
        "--plugin": options.plugin is not None and model.form != "plugin",
        "--timing-cache": options.timing_cache is not None and not regular,
        "--hardware": flags.hardware != "this" and not regular,
        "--tf32": flags.tf32 and not options.on_gpu,
        "--version-compatible": flags.version_compatible and not regular,
        "--min-points, --opt-points, --max-points": flags.points not in (None, PointRange())
        and not _ranged(model, options),
    }
    return [name for name, idle in given.items() if idle]


def _ranged(model: Exported, options: BuildOptions) -> bool:
    """Whether the engine is tuned for a range of points."""
    return options.runtime == "tensorrt" and model.form != "dense"


def _identity(model: Exported, device: Device, options: BuildOptions) -> dict[str, Any]:
    """What makes one engine equal to another, as fields of the manifest."""
    points = (options.flags.points or PointRange()) if _ranged(model, options) else None
    return {
        "name": model.name,
        "form": model.form,
        "precision": model.precision,
        "runtime": options.runtime,
        "runtime_version": device.version,
        "target": device.target.name,
        "capability": device.target.capability,
        "gpu": device.gpu,
        "onnx_sha256": model.sha256,
        "weights_sha256": model.weights_sha256,
        "flags": options.flags.model_copy(update={"points": points}),
    }


def _is_there(out: Path, identity: dict[str, Any], plugin: Path | None) -> bool:
    """Whether the very engine is there, undamaged."""
    if not is_engine_folder(out):
        return False
    try:
        manifest = EngineFolder.load(out).manifest
    except EngineError:
        return False
    if plugin is not None and manifest.files.get(plugin.name) != file_entry(plugin):
        return False
    return all(getattr(manifest, name) == value for name, value in identity.items())


def _check_free(out: Path, options: BuildOptions) -> None:
    """Refuses to write over another engine unasked, or into a folder that holds something else."""
    if is_engine_folder(out):
        if not options.rebuild:
            raise EngineError(f"{out}: another engine is there, {_describe(out)}; add --rebuild to replace it")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise EngineError(f"{out}: exists and is no engine folder; give another folder or empty it")


def _describe(out: Path) -> str:
    try:
        found = read_manifest(out)
    except EngineError:
        return "whose manifest is damaged"
    return f"{found.name} {found.form} {found.precision} for {found.runtime} {found.runtime_version} on {found.target}"


def _files_there(out: Path) -> list[str]:
    """The files of the engine that is to be replaced; none where its manifest is damaged."""
    try:
        return [name for name in read_manifest(out).files if Path(name).name == name]
    except EngineError:
        return []


def _put_in_place(draft: Path, out: Path) -> None:
    """Moves a finished folder's files, the manifest last: half a replacement is refused, as files do not fit."""
    out.mkdir(exist_ok=True)
    if is_engine_folder(out):
        for name in [*_files_there(out), ENGINE_MANIFEST]:
            (out / name).unlink(missing_ok=True)
    for path in sorted(draft.iterdir(), key=lambda each: each.name == ENGINE_MANIFEST):
        path.replace(out / path.name)
