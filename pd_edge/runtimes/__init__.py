"""Runtimes for the dense part of the network, behind one small protocol."""

from pd_edge.bundle import Bundle
from pd_edge.errors import EngineError
from pd_edge.runtimes.base import PRECISIONS, Runtime

__all__ = ["PRECISIONS", "RUNTIMES", "Runtime", "open_runtime"]

RUNTIMES = ("openvino", "onnxruntime", "torch")


def open_runtime(
    bundle: Bundle, name: str = "openvino", precision: str = "fp32", threads: int | None = None
) -> Runtime:
    """Opens the dense part of a model in a runtime.

    Args:
        bundle: The model.
        name: One of :data:`RUNTIMES`.
        precision: In which the network is computed: ``fp32``, or ``bf16`` (openvino, on a CPU that has it).
        threads: CPU threads; None leaves the choice to the runtime.

    Raises:
        EngineError: The name, precision or thread count is not offered, or the weights do not fit the configuration.
        MissingExtraError: The runtime is not installed.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"precision '{precision}': choose one of {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise EngineError(f"threads {threads}: give 1 or more, or leave it out for the runtime's own choice")
    # One import per branch: a runtime's module imports its package, which is heavy or not there at all.
    if name == "openvino":
        from pd_edge.runtimes.openvino import OpenVinoRuntime  # noqa: PLC0415

        return OpenVinoRuntime(bundle, precision, threads)
    if name == "onnxruntime":
        from pd_edge.runtimes.onnxruntime import OnnxRuntime  # noqa: PLC0415

        return OnnxRuntime(bundle, precision, threads)
    if name == "torch":
        from pd_edge.runtimes.torch import TorchRuntime  # noqa: PLC0415

        return TorchRuntime(bundle, precision, threads)
    raise EngineError(f"runtime '{name}': choose one of {', '.join(RUNTIMES)}")
