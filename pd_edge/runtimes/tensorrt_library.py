"""TensorRT and TensorRT-RTX as Python modules: importing them, their log, and the plugin library."""

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from pd_edge.errors import EngineError, MissingExtraError

_log = logging.getLogger(__name__)

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
PLUGINS = ("PillarVoxelize", "PillarScatter")
PLUGIN_VERSION, PLUGIN_NAMESPACE = "1", "pd_edge"


def import_tensorrt(runtime: str) -> Any:
    """The module ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        MissingExtraError: It is not installed.
        EngineError: It is installed, but its libraries cannot be loaded.
    """
    name = _MODULES[runtime]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(name, runtime) from error
    except (ImportError, OSError) as error:
        raise EngineError(f"{name} cannot be loaded ({error}); install it again with its libraries") from error


def load_plugins(registry: Any, library: Path) -> None:
    """Loads the plugin library into TensorRT's registry and looks for the two plugins.

    Raises:
        EngineError: The file is missing, no library for this machine, or another one.
    """
    advice = "give the libpd_edge_plugins.so that engines/plugins/README.md tells how to build for this machine"
    if not library.is_file():
        raise EngineError(f"{library}: no such plugin library; {advice}")
    try:
        handle = registry.load_library(str(library.resolve()))
    except (RuntimeError, TypeError) as error:  # a null handle is a TypeError in some versions
        raise EngineError(f"{library}: TensorRT cannot load it ({error}); {advice}") from error
    if handle is None:
        raise EngineError(f"{library}: TensorRT cannot load it; {advice}")
    for name in PLUGINS:
        if registry.get_creator(name, PLUGIN_VERSION, PLUGIN_NAMESPACE) is None:
            raise EngineError(f"{library}: has no plugin {name} {PLUGIN_VERSION} of {PLUGIN_NAMESPACE}; {advice}")


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that passes messages on to ``logging`` and keeps the last error, as ``last_problem``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        """Errors are kept, warnings and the rest are for those who debug."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_problem = "it gives no reason"

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            serious = severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            if serious:
                self.last_problem = message
            _log.log(logging.WARNING if serious else logging.DEBUG, "%s", message)

    return Log()
