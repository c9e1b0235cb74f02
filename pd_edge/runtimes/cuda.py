"""The GPU of this machine, through PyCUDA."""

import ctypes
from typing import Any, NamedTuple

from pd_edge.errors import EngineError, MissingExtraError

DRIVER = "libcuda.so.1"


class Gpu(NamedTuple):
    """A GPU."""

    name: str
    capability: tuple[int, int]
    """Compute capability, (major, minor)."""


def cuda_driver() -> Any:
    """``pycuda.driver``, initialised.

    Raises:
        EngineError: The machine has no GPU that CUDA can use.
        MissingExtraError: PyCUDA is not installed.
    """
    try:
        import pycuda.driver as cuda  # noqa: PLC0415 - needs CUDA's driver library
    except ModuleNotFoundError as error:
        if not has_driver():  # installing PyCUDA would not help
            raise EngineError(f"no NVIDIA driver on this machine; {_WAY_OUT}") from error
        raise MissingExtraError("pycuda", "cuda") from error
    except ImportError as error:  # its library links against the driver's
        raise EngineError(f"no CUDA driver on this machine ({error}); {_WAY_OUT}") from error
    try:
        cuda.init()
        count = cuda.Device.count()
    except cuda.Error as error:
        raise EngineError(f"no GPU that CUDA can use on this machine ({error}); {_WAY_OUT}") from error
    if not count:
        raise EngineError(f"no GPU on this machine; {_WAY_OUT}")
    return cuda


def has_driver() -> bool:
    """Whether NVIDIA's driver library can be loaded."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def find_gpu() -> Gpu:
    """The first GPU of this machine; raises as :func:`cuda_driver` does."""
    device = cuda_driver().Device(0)
    return Gpu(device.name(), tuple(device.compute_capability()))


_WAY_OUT = (
    "TensorRT needs an NVIDIA GPU and its driver. Without one use the runtime openvino or onnxruntime, or build for "
    "tensorrt-rtx with --target"
)
