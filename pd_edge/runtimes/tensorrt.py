"""TensorRT and TensorRT-RTX on a GPU, with PyCUDA: points in, heads out.

A form that takes points is one engine. The form ``dense`` is preceded by the project's kernels on the same stream and
needs no plugin library. Its tests run on a fake of TensorRT, and on one of PyCUDA where there is no GPU.
"""

from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.bundle import CANVAS, HEADS
from pd_edge.decode import Heads
from pd_edge.engine_folder import TENSORRT_ENGINE, EngineFolder
from pd_edge.engine_manifest import EngineManifest, rebuild_advice
from pd_edge.engine_targets import target_of
from pd_edge.errors import EngineError
from pd_edge.pillars import PillarNet
from pd_edge.runtimes.base import POINTS, filled_up
from pd_edge.runtimes.cuda import Gpu, cuda_driver
from pd_edge.runtimes.cuda_graph import CudaGraph, load_driver
from pd_edge.runtimes.cuda_pillars import CudaPillars, find_kernels
from pd_edge.runtimes.tensorrt_library import import_tensorrt, load_plugins, make_logger

SMALLEST_BUCKET = 8192
"""Points that buffers and graphs are made for at first; each further bucket is twice the last."""


class StageTimes(NamedTuple):
    """Time of one frame on the GPU's own clock [ms]."""

    upload: float
    network: float
    """Pillars included."""
    download: float


class TensorRtRuntime:
    """A whole network on a GPU; a context manager that frees what it holds there.

    Points go through pinned memory to a bucket, filled up with points outside of the grid. What follows is one CUDA
    graph a bucket. A cloud beyond the bucket gets a larger one; nothing is ever cut off.

    Args:
        engine: An engine folder for ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        EngineError: No GPU, another GPU or version than the engine's, or a damaged engine.
        MissingExtraError: The runtime or PyCUDA is not installed.
    """

    def __init__(self, engine: EngineFolder) -> None:
        manifest = engine.manifest
        self.name: str = manifest.runtime
        self.precision: str = manifest.precision
        self._grid = engine.config.model.grid
        self._points_range = manifest.flags.points
        self._trt = import_tensorrt(manifest.runtime)
        self._cuda = cuda_driver()
        device = self._cuda.Device(0)
        gpu = Gpu(device.name(), tuple(device.compute_capability()))
        check_fits(engine, str(self._trt.__version__), gpu)
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._pillars: CudaPillars | None = None
        self._capacity = 0
        self._host_points: Any = None
        self._device_points: Any = None
        self._graph: CudaGraph | None = None
        self._heads: dict[str, Any] = {}
        self._device_heads: dict[str, Any] = {}
        self._device_context = device.retain_primary_context()
        self._device_context.push()
        try:
            self._open(engine, gpu)
        finally:
            self._device_context.pop()

    def infer_points(self, points: npt.NDArray[np.float32]) -> Heads:
        """Runs the network once; see :class:`pd_edge.runtimes.base.PointsRuntime`."""
        self._device_context.push()
        try:
            self._reserve(len(points))
            self._host_points[:] = filled_up(points, self._capacity, self._grid)
            return self._run()
        finally:
            self._device_context.pop()

    @property
    def stage_times(self) -> StageTimes:
        """Times of the last frame."""
        begin, *ends = self._events
        times = [float(end.time_since(start)) for start, end in zip([begin, *ends], ends, strict=False)]
        return StageTimes(*times)

    def close(self) -> None:
        """Frees everything on the GPU; the runtime cannot be used any more."""
        self._device_context.push()
        try:
            self._free_bucket()
            self._context = self._engine = self._pillars = self._stream = None
            self._heads, self._device_heads = {}, {}
        finally:
            self._device_context.pop()

    def __enter__(self) -> "TensorRtRuntime":  # noqa: PYI034 - Self is Python 3.11's
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self, engine: EngineFolder, gpu: Gpu) -> None:
        """Everything whose size does not depend on the cloud."""
        self._engine = self._deserialize(engine)
        self._context = self._engine.create_execution_context()
        self._stream = self._cuda.Stream()
        self._events = [self._cuda.Event() for _ in range(4)]
        self._driver = load_driver()
        if isinstance(engine.encoder_net, PillarNet):
            module = find_kernels(engine, gpu.capability)
            self._pillars = CudaPillars(self._cuda, module, self._grid, engine.encoder_net)
            self._context.set_tensor_address(CANVAS, int(self._pillars.canvas))

    def _deserialize(self, engine: EngineFolder) -> Any:
        manifest = engine.manifest
        logger = make_logger(self._trt)
        self._library = self._trt.Runtime(logger)
        if manifest.plugin is not None:
            load_plugins(self._library.get_plugin_registry(), engine.file(manifest.plugin))
        if manifest.flags.version_compatible:  # such an engine brings the runtime it needs; its hash was checked
            self._library.engine_host_code_allowed = True
        opened = self._library.deserialize_cuda_engine(engine.file(TENSORRT_ENGINE).read_bytes())
        if opened is None:
            raise EngineError(
                f"{engine.folder}: {manifest.runtime} cannot open the engine ({logger.last_problem}); "
                f"{rebuild_advice(manifest, engine.folder)}"
            )
        return opened

    def _reserve(self, count: int) -> None:
        """Makes sure that the bucket holds ``count`` points."""
        most = None if self._points_range is None else self._points_range.most
        if most is not None and count > most:
            raise EngineError(
                f"{count} points, but the engine was built for at most {most}; build it again with --max-points {count}"
            )
        if self._capacity and count <= self._capacity:
            return
        capacity = max(self._capacity, SMALLEST_BUCKET)
        while capacity < count:
            capacity *= 2
        if self._points_range is not None:
            capacity = max(min(capacity, self._points_range.most), self._points_range.least)
        self._free_bucket()
        self._host_points = self._cuda.pagelocked_empty((capacity, 4), np.float32)
        self._device_points = self._cuda.mem_alloc(16 * capacity)
        self._bind(capacity)
        self._capacity = capacity  # only now: a bucket that did not fit into memory is tried again

    def _bind(self, capacity: int) -> None:
        """Tells the engine where its tensors are, for a new bucket."""
        if self._pillars is not None:
            self._pillars.reserve(capacity)
        else:
            self._context.set_input_shape(POINTS, (capacity, 4))
            self._context.set_tensor_address(POINTS, int(self._device_points))
        for name in HEADS:
            if name not in self._heads:
                self._heads[name] = self._cuda.pagelocked_empty(tuple(self._context.get_tensor_shape(name)), np.float32)
                self._device_heads[name] = self._cuda.mem_alloc(self._heads[name].nbytes)
                self._context.set_tensor_address(name, int(self._device_heads[name]))

    def _free_bucket(self) -> None:
        """Lets go of the bucket and of the graph, which knows its addresses."""
        if self._graph is not None:
            self._graph.close()
        self._graph = self._host_points = self._device_points = None
        self._capacity = 0

    def _run(self) -> Heads:
        """One frame from pinned memory to pinned memory."""
        if self._graph is None:
            self._cuda.memcpy_htod_async(self._device_points, self._host_points, self._stream)
            self._enqueue()  # once outside of a graph: TensorRT may allocate when a shape is new
            self._stream.synchronize()
            self._graph = CudaGraph(self._driver, self._stream.handle, self._enqueue)
        begin, uploaded, computed, downloaded = self._events
        begin.record(self._stream)
        self._cuda.memcpy_htod_async(self._device_points, self._host_points, self._stream)
        uploaded.record(self._stream)
        self._graph.launch()
        computed.record(self._stream)
        for name in HEADS:
            self._cuda.memcpy_dtoh_async(self._heads[name], self._device_heads[name], self._stream)
        downloaded.record(self._stream)
        self._stream.synchronize()
        return Heads(*(self._heads[name] for name in HEADS))

    def _enqueue(self) -> None:
        """Gives kernels and engine to the stream."""
        if self._pillars is not None:
            self._pillars.encode(self._device_points, self._capacity, self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError(f"{self.name}: the engine did not run; see the log, and check the GPU's free memory")


def check_fits(engine: EngineFolder, version: str, gpu: Gpu) -> None:
    """Refuses an engine of another version of TensorRT, or for another GPU.

    Args:
        engine: The engine folder.
        version: The version that is installed.
        gpu: The GPU of this machine.

    Raises:
        EngineError: It does not fit; the message has the command that builds it again.
    """
    manifest = engine.manifest
    if not _version_fits(manifest, version):
        raise EngineError(
            f"{engine.folder}: built by {manifest.runtime} {manifest.runtime_version}, installed is {version}; "
            f"{rebuild_advice(manifest, engine.folder)}"
        )
    least = (8, 0) if manifest.flags.hardware == "ampere-plus" else None
    fits = gpu.capability == manifest.capability if least is None else gpu.capability >= least
    if manifest.flags.hardware == "this" and manifest.gpu is not None:
        fits = fits and gpu.name == manifest.gpu
    if not fits:
        raise EngineError(
            f"{engine.folder}: built for {manifest.target}{f' ({manifest.gpu})' if manifest.gpu else ''}, this machine "
            f"has {gpu.name} ({target_of(gpu.capability).sm}); build it here, with the target left out: "
            f"{rebuild_advice(manifest, engine.folder)}"
        )


def _version_fits(manifest: EngineManifest, version: str) -> bool:
    if version == manifest.runtime_version:
        return True
    installed, built = (_numbers(each) for each in (version, manifest.runtime_version))
    return manifest.flags.version_compatible and installed[0] == built[0] and installed >= built


def _numbers(version: str) -> list[int]:
    """The leading numbers of a version: 10.3.0 is [10, 3, 0]."""
    return [int(each) for each in version.split(".") if each.isdigit()]
