"""Engines for TensorRT and TensorRT-RTX, whose Python interfaces are the same.

The network is strongly typed: the ONNX file alone says what is computed in which precision. Regular TensorRT tunes on
the GPU of the machine it runs on; TensorRT-RTX builds for any GPU it knows, also on a machine that has none.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from pd_edge.engine_folder import KERNELS, TENSORRT_ENGINE
from pd_edge.engine_manifest import BuildFlags, PointRange
from pd_edge.engine_targets import Target, find_target, target_of
from pd_edge.engines.build import Advance, BuildOptions, Device
from pd_edge.engines.build_progress import BuildProgress
from pd_edge.engines.exported import Exported
from pd_edge.errors import EngineError
from pd_edge.files import read_bytes, write_bytes
from pd_edge.runtimes.base import POINTS
from pd_edge.runtimes.cuda import find_gpu
from pd_edge.runtimes.cuda_pillars import compile_kernels
from pd_edge.runtimes.tensorrt_library import import_tensorrt, load_plugins, make_logger

_log = logging.getLogger(__name__)


def find_device(options: BuildOptions) -> Device:
    """What to build for: the target that was asked for, or this machine's GPU.

    Raises:
        EngineError: The target is no GPU, TensorRT-RTX does not know it, or regular TensorRT would have to build for
            another GPU than this machine's.
        MissingExtraError: The runtime is not installed.
    """
    wanted = None if options.target is None else find_target(options.target)
    if wanted is not None and wanted.capability is None:
        raise EngineError(f"target {wanted.name} has no GPU, {options.runtime} needs one; build for openvino")
    trt = import_tensorrt(options.runtime)
    if options.runtime == "tensorrt-rtx":
        target = wanted or target_of(find_gpu().capability)
        _rtx_capability(trt, target)
        return Device(str(trt.__version__), target, None)
    gpu = find_gpu()
    if wanted is not None and wanted.capability != gpu.capability:
        raise EngineError(
            f"TensorRT builds on the GPU that it builds for: target {wanted.name} is {wanted.sm} ({wanted.device}), "
            f"this machine has {gpu.name}, {target_of(gpu.capability).sm}; run the build on the target"
        )
    return Device(str(trt.__version__), wanted or target_of(gpu.capability), gpu.name)


def build_tensorrt(
    model: Exported, folder: Path, target: Target, options: BuildOptions, advance: Advance | None = None
) -> list[str]:
    """Writes a serialized engine.

    Args:
        model: What to build.
        folder: Where to.
        target: The GPU to build for.
        options: The build's options.
        advance: Called with the part done and the whole.

    Returns:
        Names of the files.

    Raises:
        EngineError: TensorRT's parser or builder refuses the network, or the plugin library is not the project's.
    """
    trt = import_tensorrt(options.runtime)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    files = [TENSORRT_ENGINE]
    if options.plugin is not None:
        load_plugins(builder.get_plugin_registry(), options.plugin)
        shutil.copyfile(options.plugin, folder / options.plugin.name)
        files.append(options.plugin.name)
    network, parser = _parse(trt, builder, logger, model)
    config = _config(trt, builder, target, options)
    if model.form != "dense":
        _add_point_range(builder, config, options.flags.points or PointRange())
    monitor = None if advance is None else _monitor(trt, BuildProgress(advance))
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    del parser  # it has to outlive the network's use
    if plan is None:
        raise EngineError(f"{model.path}: {options.runtime} {trt.__version__} cannot build it: {logger.last_problem}")
    (folder / TENSORRT_ENGINE).write_bytes(bytes(plan))
    if options.timing_cache is not None:
        write_bytes(options.timing_cache, bytes(config.get_timing_cache().serialize()))
    return [*files, *_write_kernels(model, folder, target)]


def _write_kernels(model: Exported, folder: Path, target: Target) -> list[str]:
    """Compiles what runs before a dense engine, so that no compiler is needed where the engine is opened."""
    if model.form != "dense" or target.capability is None:
        return []
    try:
        (folder / KERNELS).write_bytes(compile_kernels(target.capability))
    except EngineError as error:
        _log.warning("kernels are not in the engine folder and will be compiled when it is opened: %s", error)
        return []
    return [KERNELS]


def _parse(trt: Any, builder: Any, logger: Any, model: Exported) -> tuple[Any, Any]:
    """The network of an ONNX file, and the parser, which holds its weights."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.data):
        reasons = "; ".join(_reason(parser.get_error(i)) for i in range(parser.num_errors)) or logger.last_problem
        raise EngineError(
            f"{model.path}: TensorRT's parser refuses it: {reasons}; export it with this version of pd-edge"
        )
    return network, parser


def _reason(error: Any) -> str:
    """A parser's error, with the operator that it is about where this version tells."""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"{operator}: {error.desc()}" if operator else str(error.desc())


def _config(trt: Any, builder: Any, target: Target, options: BuildOptions) -> Any:
    """The builder's settings."""
    config, flags = builder.create_builder_config(), options.flags
    if not flags.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if flags.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if flags.hardware != "this":
        config.hardware_compatibility_level = _hardware_level(trt, flags)
    if options.runtime == "tensorrt-rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(_rtx_capability(trt, target), 0)
    if options.timing_cache is not None:
        known = read_bytes(options.timing_cache, "a timing cache") if options.timing_cache.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
            raise EngineError(f"{options.timing_cache}: timings of another GPU or TensorRT; give another file")
    return config


def _add_point_range(builder: Any, config: Any, points: PointRange) -> None:
    """The optimisation profile for the number of points."""
    profile = builder.create_optimization_profile()
    profile.set_shape(POINTS, (points.least, 4), (points.usual, 4), (points.most, 4))
    config.add_optimization_profile(profile)


def _rtx_capability(trt: Any, target: Target) -> Any:
    """TensorRT-RTX's name of a target's compute capability; raises EngineError where it has none."""
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if target.sm not in known:
        raise EngineError(
            f"TensorRT-RTX {trt.__version__} does not build for {target.name} ({target.sm}: {target.device}); it knows "
            f"{', '.join(sorted(known, key=lambda sm: int(sm[2:])))}. Build with --runtime tensorrt on the device"
        )
    return trt.ComputeCapability.__members__[target.sm.upper()]


def _hardware_level(trt: Any, flags: BuildFlags) -> Any:
    """TensorRT's level of hardware compatibility; raises EngineError where this version lacks it."""
    name = {"same": "SAME_COMPUTE_CAPABILITY", "ampere-plus": "AMPERE_PLUS"}[flags.hardware]
    level = getattr(trt.HardwareCompatibilityLevel, name, None)
    if level is None:
        raise EngineError(f"TensorRT {trt.__version__} has no --hardware {flags.hardware}; leave it out")
    return level


def _monitor(trt: Any, progress: BuildProgress) -> Any:
    """TensorRT's way to tell how far it is; the caller keeps it alive while the build goes on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes phases on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """Called by TensorRT."""
            progress.start(name, parent, steps)

        def step_complete(self, name: str, index: int) -> bool:
            """Called by TensorRT; True lets the build go on."""
            progress.step(name, index)
            return True

        def phase_finish(self, name: str) -> None:
            """Called by TensorRT."""
            progress.finish(name)

    return Monitor()
