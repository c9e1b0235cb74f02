"""Runtimes for a network or the dense part of it, behind two small protocols."""

from pd_edge.bundle import DENSE_ONNX, Bundle
from pd_edge.engine_folder import ONNX_MODEL, OPENVINO_MODEL, EngineFolder
from pd_edge.errors import EngineError
from pd_edge.runtimes.base import (
    PRECISIONS,
    AnyRuntime,
    BatchRuntime,
    PointsRuntime,
    Runtime,
    only_fp32,
    precision_name,
)

__all__ = [
    "PRECISIONS",
    "RUNTIMES",
    "AnyRuntime",
    "BatchRuntime",
    "PointsRuntime",
    "Runtime",
    "open_engine",
    "open_runtime",
]

RUNTIMES = ("openvino", "onnxruntime", "torch")


def open_runtime(
    bundle: Bundle, name: str = "openvino", precision: str = "fp32", threads: int | None = None, at_once: int = 1
) -> Runtime:
    """Opens the dense part of a model in a runtime.

    Args:
        bundle: The model.
        name: One of :data:`RUNTIMES`.
        precision: In which the network is computed: ``fp32``, or ``bf16`` (openvino, on a CPU that has it).
        threads: CPU threads; None leaves the choice to the runtime.
        at_once: How many canvases it is to be given at a time, which openvino is tuned for.

    Raises:
        EngineError: The name, precision or thread count is not offered, or the weights do not fit the configuration.
        MissingExtraError: The runtime is not installed.
    """
    _check_options(precision, threads)
    # One import per branch: a runtime's module imports its package, which is heavy or not there at all.
    if name == "openvino":
        from pd_edge.runtimes.openvino import OpenVinoRuntime  # noqa: PLC0415

        return OpenVinoRuntime(
            bundle.file(DENSE_ONNX), bundle.canvas_shape, threads, precision, precision, at_once=at_once
        )
    if name == "onnxruntime":
        from pd_edge.runtimes.onnxruntime import OnnxRuntime  # noqa: PLC0415

        only_fp32(name, precision)
        return OnnxRuntime(bundle.file(DENSE_ONNX), bundle.canvas_shape, threads)
    if name == "torch":
        from pd_edge.runtimes.torch import TorchRuntime  # noqa: PLC0415

        return TorchRuntime(bundle, precision, threads)
    if name in ("tensorrt", "tensorrt-rtx"):
        raise EngineError(
            f"runtime '{name}' runs engines, not model folders; build one with `pd-edge build {bundle.name} "
            f"--runtime {name} --target TARGET --out DIR` and give DIR as the model"
        )
    raise EngineError(f"runtime '{name}': choose one of {', '.join(RUNTIMES)}")


def open_engine(
    engine: EngineFolder,
    name: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    at_once: int = 1,
) -> AnyRuntime:
    """Opens an engine folder in the runtime that it was built for.

    Args:
        engine: The engine folder.
        name: The runtime that is expected; None takes the engine's.
        precision: None or ``fp32``: as the file says, but that CPU runtimes compute in float32 what they have no
            float16 for; ``bf16``: what the file has in float is computed in bfloat16 (openvino, on a CPU that has it).
        threads: CPU threads; None leaves the choice to the runtime. A GPU has none to set.
        at_once: As :func:`open_runtime` takes it.

    Raises:
        EngineError: Another runtime was expected, the precision or thread count is not offered, or the engine was built
            for another version or GPU.
        MissingExtraError: The runtime is not installed.
    """
    runtime, arithmetic = engine.manifest.runtime, precision or "fp32"
    if name not in (None, runtime):
        raise EngineError(
            f"{engine.folder} was built for {runtime}, not {name}; leave the runtime out, or build another"
        )
    _check_options(arithmetic, threads)
    if runtime == "openvino":
        return _open_openvino(engine, arithmetic, threads, at_once)
    if arithmetic != "fp32":
        raise EngineError(
            f"{engine.folder}: {runtime} computes in {engine.manifest.precision}, as the file says, not in "
            f"{arithmetic}; leave the precision out, or build the model for openvino"
        )
    if runtime == "onnxruntime":
        return _open_onnxruntime(engine, threads)
    if threads is not None:
        raise EngineError(f"{engine.folder}: {runtime} runs on the GPU and has no threads to set; leave them out")
    from pd_edge.runtimes.tensorrt import TensorRtRuntime  # noqa: PLC0415 - for those who have a GPU

    return TensorRtRuntime(engine)


def _open_openvino(engine: EngineFolder, arithmetic: str, threads: int | None, at_once: int) -> AnyRuntime:
    from pd_edge.runtimes.openvino import OpenVinoPointsRuntime, OpenVinoRuntime, cpu_has  # noqa: PLC0415

    path, precision = engine.file(OPENVINO_MODEL), precision_name(engine.manifest.precision, arithmetic)
    if engine.manifest.form == "dense":
        # Asked for fp32, OpenVINO would widen what the file has in float16. A form that takes points has to be: its
        # coordinates need float32.
        if (engine.manifest.precision, arithmetic) == ("fp16", "fp32") and cpu_has("fp16"):
            arithmetic = "fp16"
        return OpenVinoRuntime(path, engine.canvas_shape, threads, arithmetic, precision, at_once=at_once)
    return OpenVinoPointsRuntime(path, engine.config.model.grid, threads, arithmetic, precision)


def _open_onnxruntime(engine: EngineFolder, threads: int | None) -> AnyRuntime:
    from pd_edge.runtimes.onnxruntime import OnnxPointsRuntime, OnnxRuntime  # noqa: PLC0415

    path, precision = engine.file(ONNX_MODEL), engine.manifest.precision
    if engine.manifest.form == "dense":
        return OnnxRuntime(path, engine.canvas_shape, threads, precision)
    return OnnxPointsRuntime(path, engine.config.model.grid, threads, precision)


def _check_options(precision: str, threads: int | None) -> None:
    if precision not in PRECISIONS:
        raise EngineError(f"precision '{precision}': choose one of {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise EngineError(f"threads {threads}: give 1 or more, or leave it out for the runtime's own choice")
