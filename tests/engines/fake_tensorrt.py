"""A fake of TensorRT that keeps a log of its calls; shared by the tests with and without a GPU."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

Cloud = npt.NDArray[np.float32]


class Fake:
    """One log of all calls, and what stands behind them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.allocated: dict[int, int] = {}
        self.version, self.gpu, self.capability, self.gpus = "10.3.0", "Orin (fake)", (8, 7), 1
        self.creators = {"PillarVoxelize", "PillarScatter"}
        self.heads = {"logits": (1, 18, 32, 64), "residuals": (1, 42, 32, 64), "directions": (1, 12, 32, 64)}
        self.uploads: list[Cloud] = []
        self.modules: list[bytes] = []
        self.plan: bytes | None = b"a plan"
        self.opens = True

    def names(self) -> list[str]:
        return [str(call[0]) for call in self.calls]

    def allocate(self, size: int) -> "Memory":
        self.calls.append(("mem_alloc", size))
        return Memory(self, size)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: self.calls.append((name, *arguments))


class Memory:
    """Device memory that tells when it is let go."""

    def __init__(self, fake: Fake, size: int) -> None:
        self._fake, self._address = fake, 4096 + 256 * len(fake.calls)
        fake.allocated[self._address] = size

    def __int__(self) -> int:
        return self._address

    def __del__(self) -> None:
        self._fake.allocated.pop(self._address, None)


def fake_tensorrt(fake: Fake, context: Any = None) -> Any:
    """The module ``tensorrt``; its engines make the given context, or one that only writes down what it is asked."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = fake.version

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

    def load_library(path: str) -> object | None:
        fake.calls.append(("load_library", Path(path).name))
        return object() if Path(path).read_bytes().startswith(b"\x7fELF") else None

    registry = SimpleNamespace(
        load_library=load_library,
        get_creator=lambda name, version, space: (
            name if (version, space) == ("1", "pd_edge") and name in fake.creators else None
        ),
    )
    context = context or SimpleNamespace(
        set_input_shape=fake.set_input_shape,
        set_tensor_address=fake.set_tensor_address,
        get_tensor_shape=lambda name: fake.heads[name],
        execute_async_v3=lambda stream: fake.execute(stream) is None,
    )
    engine = SimpleNamespace(create_execution_context=lambda: context)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        get_plugin_registry = staticmethod(lambda: registry)

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            fake.calls.append(("deserialize", data))
            if not fake.opens:
                self.logger.log(ILogger.ERROR, "magic tag does not match")
            return engine if fake.opens else None

    cache = SimpleNamespace(serialize=lambda: b"timings")
    config = SimpleNamespace(
        progress_monitor=None,
        clear_flag=fake.clear_flag,
        set_flag=fake.set_flag,
        add_optimization_profile=lambda _: fake.add_profile(),
        create_timing_cache=lambda data: fake.read_cache(data) or cache,
        set_timing_cache=lambda _, ignore_mismatch: not ignore_mismatch,
        get_timing_cache=lambda: cache,
    )

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        get_plugin_registry = staticmethod(lambda: registry)
        create_network = staticmethod(fake.create_network)
        create_builder_config = staticmethod(lambda: config)
        create_optimization_profile = staticmethod(lambda: SimpleNamespace(set_shape=fake.set_shape))

        def build_serialized_network(self, _: Any, __: Any) -> bytes | None:
            fake.calls.append(("build",))
            if fake.plan is None:
                self.logger.log(ILogger.ERROR, "out of memory")
            return fake.plan

    trt.ILogger, trt.Runtime, trt.Builder = ILogger, Runtime, Builder
    trt.OnnxParser = lambda *_: SimpleNamespace(parse=lambda data: len(data) > 0)
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
    trt.BuilderFlag = SimpleNamespace(TF32="TF32", VERSION_COMPATIBLE="VERSION_COMPATIBLE")
    trt.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="AMPERE_PLUS")
    trt.IProgressMonitor = type("IProgressMonitor", (), {})
    return trt
