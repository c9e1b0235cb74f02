"""CUDA graphs: what a stream was given, recorded once and launched again at the price of one launch.

PyCUDA has none, so the driver's own functions are called. A graph keeps the addresses that it was recorded with.

Source: CUDA Driver API, stream and graph management.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from pd_edge.errors import EngineError
from pd_edge.runtimes.cuda import DRIVER

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating


class CudaGraph:
    """Work recorded from a stream.

    Args:
        driver: The driver library, ``libcuda.so.1``, as ctypes loads it.
        stream: Address of the stream; not the default one.
        work: Gives the work to the stream; nothing of it runs yet. What it raises is passed on.

    Raises:
        EngineError: The work cannot be recorded.
    """

    def __init__(self, driver: Any, stream: int, work: Callable[[], None]) -> None:
        self._driver = driver
        self._stream = ctypes.c_void_p(stream)
        self._executable = ctypes.c_void_p()
        graph = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        try:
            work()
        except BaseException:
            self._give_up()
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Gives the recorded work to the stream again."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Frees the graph; it cannot be launched any more."""
        if self._executable:
            self._call("cuGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()

    def _give_up(self) -> None:
        """Ends a recording whose work failed, so that the stream can be used again."""
        graph = ctypes.c_void_p()
        self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))  # may fail because the work did
        if graph:
            self._driver.cuGraphDestroy(graph)

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._driver, name)
        except AttributeError as error:
            raise EngineError(f"CUDA graph: the NVIDIA driver has no {name}; update the driver") from error
        status = function(*arguments)
        if status:
            raise EngineError(f"CUDA graph: {name} failed with the driver's error {status} (CUresult in CUDA's manual)")


def load_driver() -> Any:
    """The NVIDIA driver's library.

    Raises:
        EngineError: It is not installed.
    """
    try:
        return ctypes.CDLL(DRIVER)
    except OSError as error:
        raise EngineError(
            f"no NVIDIA driver on this machine ({error}); install it, or use the runtime openvino"
        ) from error
