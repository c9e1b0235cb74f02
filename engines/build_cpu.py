"""Engines for CPU runtimes: OpenVINO and ONNX Runtime."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pd_edge.engine_folder import ONNX_MODEL, OPENVINO_MODEL, OPENVINO_WEIGHTS
from pd_edge.engines.exported import Exported
from pd_edge.errors import EngineError, MissingExtraError

_ERRORS_ONLY = 3


def cpu_runtime_version(runtime: str) -> str:
    """Version of an installed CPU runtime, ``openvino`` or ``onnxruntime``.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return version(runtime)
    except PackageNotFoundError as error:
        raise MissingExtraError(runtime, runtime) from error


def build_openvino(model: Exported, folder: Path) -> list[str]:
    """Writes OpenVINO's own format, every number as the ONNX file has it; it loads on any CPU.

    Returns:
        Names of the files.

    Raises:
        EngineError: OpenVINO cannot read the file.
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        import openvino as ov  # noqa: PLC0415 - one runtime of several
    except ModuleNotFoundError as error:
        raise MissingExtraError("openvino", "openvino") from error
    try:
        network = ov.Core().read_model(model.data)
    except RuntimeError as error:
        raise EngineError(f"{model.path}: OpenVINO cannot read it ({' '.join(str(error).split())[-300:]})") from error
    ov.save_model(network, folder / OPENVINO_MODEL, compress_to_fp16=False)
    return [OPENVINO_MODEL, OPENVINO_WEIGHTS]


def build_onnxruntime(model: Exported, folder: Path) -> list[str]:
    """Writes an ONNX file with its constants folded, in standard operators: later versions and other CPUs read it.

    Returns:
        Names of the files.

    Raises:
        EngineError: ONNX Runtime cannot read the file.
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort  # noqa: PLC0415 - one runtime of several
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnxruntime", "onnxruntime") from error
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / ONNX_MODEL)
    try:
        ort.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise EngineError(f"{model.path}: ONNX Runtime cannot read it ({error})") from error
    return [ONNX_MODEL]
