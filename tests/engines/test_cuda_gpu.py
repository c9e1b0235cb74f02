"""Kernels, CUDA graph and runner on a GPU through PyCUDA; of TensorRT alone, a fake stands in for the network.

The fake's engine copies the canvas to the heads, channel by channel, so that what comes back is known.
"""

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.bundle import CANVAS, HEADS, file_entry
from pd_edge.config import DetectorConfig, GridConfig, PointPillarsConfig
from pd_edge.engine_folder import KERNELS, TENSORRT_ENGINE, EngineFolder
from pd_edge.engine_manifest import EngineManifest
from pd_edge.engine_targets import target_of
from pd_edge.errors import EngineError
from pd_edge.pillars import Floats, PillarEncoder, PillarNet, point_cells_reference
from pd_edge.runtimes import tensorrt as runner
from pd_edge.runtimes.base import filled_up
from pd_edge.runtimes.cuda_graph import CudaGraph, load_driver
from pd_edge.runtimes.cuda_pillars import CudaPillars, compile_kernels
from pd_edge.runtimes.tensorrt import SMALLEST_BUCKET, TensorRtRuntime

from .fake_tensorrt import Fake, fake_tensorrt
from .kernel_clouds import CLOUDS, KITTI, random_cloud, random_net, rounded_canvas, same_bits

pytestmark = pytest.mark.gpu

SMALL = GridConfig(x_max=20.48, y_min=-5.12, y_max=5.12)
PLANES = {"logits": slice(0, 2), "residuals": slice(2, 7), "directions": slice(7, 8)}
"""Which channels of the canvas the fake's engine copies to a head."""


@pytest.fixture(scope="module")
def module(capability: str) -> bytes:
    """The kernels, compiled for this GPU."""
    return compile_kernels((int(capability[:-1]), int(capability[-1])))


@pytest.fixture
def cuda(capability: str) -> Iterator[Any]:
    """PyCUDA's driver with the GPU's primary context, as the runner has it."""
    from pycuda import driver

    context = driver.Device(0).retain_primary_context()
    context.push()
    try:
        yield driver
    finally:
        context.synchronize()
        context.pop()


def gpu_canvas(cuda: Any, pillars: CudaPillars, points: Floats, shape: tuple[int, ...]) -> Floats:
    """A cloud's canvas by the kernels; the memory for it held something else before."""
    stream = cuda.Stream()
    on_gpu = cuda.to_device(points)
    pillars.reserve(len(points))
    canvas = np.empty(shape, np.float32)
    cuda.memset_d8(pillars.canvas, 0xA5, canvas.nbytes)
    pillars.encode(on_gpu, len(points), stream)
    stream.synchronize()
    cuda.memcpy_dtoh(canvas, pillars.canvas)
    return canvas


def assert_canvas(found: Floats, points: Floats, net: PillarNet, grid: GridConfig) -> None:
    """Bit for bit what numpy makes of the kernel's arithmetic, and the CPU path's canvas up to rounding."""
    expected = PillarEncoder(grid, net).encode(points)
    cells = point_cells_reference(points, grid)
    empty = np.setdiff1d(np.arange(grid.nx * grid.ny), cells)
    assert not found.reshape(-1, grid.nx * grid.ny)[:, empty].any()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.max())))
    assert same_bits(found, rounded_canvas(points, net, grid))


@pytest.mark.parametrize("count", [0, 1, 9000, 20_000, 120_000])
def test_the_canvas_is_the_cpus_and_the_same_again(cuda: Any, module: bytes, count: int) -> None:
    net, cloud = random_net(16), random_cloud(KITTI, count)
    given = filled_up(cloud, 1 if count else SMALLEST_BUCKET, KITTI)  # the runner never launches on nothing
    pillars = CudaPillars(cuda, module, KITTI, net)
    shape = (1, 16, KITTI.ny, KITTI.nx)
    found = gpu_canvas(cuda, pillars, given, shape)
    assert_canvas(found, cloud, net, KITTI)
    assert found.any() or count <= 1
    assert same_bits(gpu_canvas(cuda, pillars, given, shape), found)
    shuffled = np.random.default_rng(0).permutation(given)
    assert same_bits(gpu_canvas(cuda, pillars, shuffled, shape), found)


@pytest.mark.parametrize("channels", [1, 33, 64])
@pytest.mark.parametrize("cloud", ["edges", "damaged", "far", "outside", "one"])
def test_the_canvas_of_clouds_that_try_the_kernels(cuda: Any, module: bytes, cloud: str, channels: int) -> None:
    grid, points = CLOUDS[cloud]()
    net = random_net(channels)
    pillars = CudaPillars(cuda, module, grid, net)
    assert_canvas(gpu_canvas(cuda, pillars, points, (1, channels, grid.ny, grid.nx)), points, net, grid)


def test_one_bucket_serves_clouds_by_turns(cuda: Any, module: bytes) -> None:
    net = random_net(8)
    pillars = CudaPillars(cuda, module, SMALL, net)
    pillars.reserve(20_000)
    stream, points = cuda.Stream(), cuda.mem_alloc(16 * 20_000)
    canvas = cuda.pagelocked_empty((1, 8, SMALL.ny, SMALL.nx), np.float32)
    for seed, count in enumerate((20_000, 10, 5000)):
        cloud = random_cloud(SMALL, count, seed)
        cuda.memcpy_htod(points, cloud)
        pillars.encode(points, count, stream)
        cuda.memcpy_dtoh_async(canvas, pillars.canvas, stream)
        stream.synchronize()
        assert_canvas(canvas, cloud, net, SMALL)


def test_a_graph_does_its_work_on_what_is_there_when_it_is_launched(cuda: Any, module: bytes) -> None:
    net, count = random_net(8), 3000
    pillars = CudaPillars(cuda, module, SMALL, net)
    pillars.reserve(count)
    stream, points = cuda.Stream(), cuda.mem_alloc(16 * count)
    canvas = np.empty((1, 8, SMALL.ny, SMALL.nx), np.float32)
    pillars.encode(points, count, stream)  # as the runner does: kernels may be loaded at their first launch
    stream.synchronize()
    graph = CudaGraph(load_driver(), stream.handle, lambda: pillars.encode(points, count, stream))
    for seed in (1, 2, 3):
        cloud = random_cloud(SMALL, count, seed)
        cuda.memcpy_htod(points, cloud)
        graph.launch()
        stream.synchronize()
        cuda.memcpy_dtoh(canvas, pillars.canvas)
        assert_canvas(canvas, cloud, net, SMALL)
    graph.close()
    graph.close()


def test_recording_runs_nothing(cuda: Any) -> None:
    stream, memory, found = cuda.Stream(), cuda.mem_alloc(4), np.empty(4, np.uint8)
    cuda.memset_d8(memory, 1, 4)
    graph = CudaGraph(load_driver(), stream.handle, lambda: cuda.memset_d8_async(memory, 7, 4, stream))
    stream.synchronize()
    cuda.memcpy_dtoh(found, memory)
    assert (found == 1).all()
    graph.launch()
    stream.synchronize()
    cuda.memcpy_dtoh(found, memory)
    assert (found == 7).all()
    graph.close()


def test_work_that_fails_leaves_a_stream_that_can_be_recorded(cuda: Any) -> None:
    stream, memory, driver = cuda.Stream(), cuda.mem_alloc(4), load_driver()

    def clear() -> None:
        cuda.memset_d8_async(memory, 0, 4, stream)

    def stumble() -> None:
        clear()
        raise RuntimeError("no more")

    def wait() -> None:
        clear()
        stream.synchronize()  # a recording cannot be waited for

    def wait_and_go_on() -> None:
        try:
            wait()
        except cuda.Error:
            return

    with pytest.raises(RuntimeError, match="no more"):
        CudaGraph(driver, stream.handle, stumble)
    with pytest.raises(cuda.Error, match=r"(?i)captur"):
        CudaGraph(driver, stream.handle, wait)
    with pytest.raises(EngineError, match=r"cuStreamEndCapture failed with the driver's error 901"):
        CudaGraph(driver, stream.handle, wait_and_go_on)
    with pytest.raises(EngineError, match="cuStreamBeginCapture_v2 failed"):
        CudaGraph(driver, 0, clear)  # the default stream
    graph = CudaGraph(driver, stream.handle, clear)
    graph.launch()
    stream.synchronize()
    graph.close()


class CopyingContext:
    """Execution context of an engine whose heads are planes of its canvas, copied on the GPU."""

    def __init__(self, grid: GridConfig) -> None:
        self._plane = 4 * grid.ny * grid.nx
        self._shapes = {name: (1, at.stop - at.start, grid.ny, grid.nx) for name, at in PLANES.items()}
        self._addresses: dict[str, int] = {}
        self._copy = load_driver().cuMemcpyDtoDAsync_v2
        self._copy.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
        self.executed = 0
        self.fails_at = 0
        """Which execution, counted from 1, is refused; 0: none."""

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.executed += 1
        canvas = self._addresses[CANVAS]
        for name, at in PLANES.items():
            size = (at.stop - at.start) * self._plane
            if self._copy(self._addresses[name], canvas + at.start * self._plane, size, stream):
                return False
        return self.executed != self.fails_at


@pytest.fixture
def context(capability: str, monkeypatch: pytest.MonkeyPatch) -> CopyingContext:
    """The context of every engine that the fake of TensorRT opens."""
    made = CopyingContext(SMALL)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(Fake(), made))
    return made


@pytest.fixture
def engine(context: CopyingContext, module: bytes, tmp_path: Path) -> EngineFolder:
    """A dense engine for this GPU, whose plan the fake opens."""
    from pycuda import driver

    device = driver.Device(0)
    (tmp_path / TENSORRT_ENGINE).write_bytes(b"a plan")
    (tmp_path / KERNELS).write_bytes(module)
    model = PointPillarsConfig(
        grid=SMALL, pillar_channels=8, backbone_channels=(8, 16, 32), backbone_layers=(1, 1, 1), neck_channels=8
    )
    config, target = DetectorConfig(model=model), target_of(tuple(device.compute_capability()))
    manifest = EngineManifest(
        name="copies",
        form="dense",
        precision="fp32",
        runtime="tensorrt",
        runtime_version=Fake().version,
        target=target.name,
        capability=target.capability,
        gpu=device.name(),
        detector=config,
        source="copies.onnx",
        onnx_sha256="0" * 64,
        weights_sha256="0" * 64,
        files={name: file_entry(tmp_path / name) for name in (TENSORRT_ENGINE, KERNELS)},
        made_with={},
    )
    return EngineFolder(tmp_path, manifest, config, random_net(8))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to the runner's graphs, in order."""
    seen: list[str] = []

    class Watched(CudaGraph):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            seen.append("made")

        def launch(self) -> None:
            super().launch()
            seen.append("launched")

        def close(self) -> None:
            super().close()
            seen.append("closed")

    monkeypatch.setattr(runner, "CudaGraph", Watched)
    return seen


def heads_as_canvas(runtime: TensorRtRuntime, cloud: Floats) -> npt.NDArray[np.float32]:
    heads = runtime.infer_points(cloud)._asdict()
    assert tuple(heads) == HEADS
    return np.concatenate([heads[name] for name in PLANES], axis=1)


def net_of(engine: EngineFolder) -> PillarNet:
    assert isinstance(engine.encoder_net, PillarNet)
    return engine.encoder_net


def test_heads_of_clouds_that_grow_and_shrink(engine: EngineFolder, context: CopyingContext, graphs: list[str]) -> None:
    with TensorRtRuntime(engine) as runtime:
        for seed, count in enumerate((100, 20_000, 9000, 1, 0, 40_000, 40_000)):
            cloud = random_cloud(SMALL, count, seed)
            assert_canvas(heads_as_canvas(runtime, cloud), cloud, net_of(engine), SMALL)
            assert all(0 < time < 1000 for time in runtime.stage_times)
    once = ["made", "launched"]
    assert graphs == [*once, "closed", *once, *["launched"] * 3, "closed", *once, "launched", "closed"]
    assert context.executed == 6  # twice a bucket: once before and once for the recording


def test_points_that_have_no_cell_change_no_head(engine: EngineFolder) -> None:
    cloud = random_cloud(SMALL, 5000)
    strange = cloud[:1000].copy()
    strange[::2, 0], strange[1::2, 3] = np.nan, np.inf
    with TensorRtRuntime(engine) as runtime:
        expected = heads_as_canvas(runtime, cloud)
        assert expected.any()
        assert same_bits(heads_as_canvas(runtime, np.concatenate([strange, cloud])), expected)
        assert not heads_as_canvas(runtime, strange).any()


def test_kernels_that_are_not_in_the_folder_are_compiled(engine: EngineFolder) -> None:
    files = {TENSORRT_ENGINE: engine.manifest.files[TENSORRT_ENGINE]}
    manifest = engine.manifest.model_copy(update={"files": files})
    bare = EngineFolder(engine.folder, manifest, engine.config, engine.encoder_net)
    cloud = random_cloud(SMALL, 2000)
    with TensorRtRuntime(bare) as runtime:
        assert_canvas(heads_as_canvas(runtime, cloud), cloud, net_of(engine), SMALL)


def test_two_runners_at_once_do_not_disturb_each_other(engine: EngineFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TensorRtRuntime(engine)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(Fake(), CopyingContext(SMALL)))
    second = TensorRtRuntime(engine)
    with first, second:
        for seed, count in enumerate((500, 10_000, 20)):
            clouds = [random_cloud(SMALL, count, 2 * seed + each) for each in (0, 1)]
            for runtime, cloud in zip((first, second), clouds, strict=True):
                assert_canvas(heads_as_canvas(runtime, cloud), cloud, net_of(engine), SMALL)


@pytest.mark.parametrize("execution", [1, 2])
def test_an_engine_that_does_not_run_is_told_and_may_be_tried_again(
    engine: EngineFolder, context: CopyingContext, execution: int
) -> None:
    """The first execution is outside of the graph, the second is recorded."""
    cloud = random_cloud(SMALL, 700)
    with TensorRtRuntime(engine) as runtime:
        context.fails_at = execution
        with pytest.raises(EngineError, match="the engine did not run"):
            runtime.infer_points(cloud)
        assert_canvas(heads_as_canvas(runtime, cloud), cloud, net_of(engine), SMALL)


def test_another_thread_may_run_what_this_one_opened_and_closes(engine: EngineFolder) -> None:
    clouds = [random_cloud(SMALL, count, count) for count in (300, 30_000, 7)]
    with ThreadPoolExecutor(1) as thread, TensorRtRuntime(engine) as runtime:
        for cloud in clouds:
            heads = thread.submit(heads_as_canvas, runtime, cloud).result()
            assert_canvas(heads, cloud, net_of(engine), SMALL)


def test_closing_frees_what_the_runner_held(engine: EngineFolder, cuda: Any) -> None:
    cloud = random_cloud(SMALL, 2_000_000)

    def held() -> tuple[int, int]:
        before: int = cuda.mem_get_info()[0]
        with TensorRtRuntime(engine) as runtime:
            runtime.infer_points(cloud)
            inside: int = cuda.mem_get_info()[0]
        return before - inside, before - int(cuda.mem_get_info()[0])

    held()  # what the driver keeps for itself it takes now
    most, left = held()
    assert most > 60 * 2_000_000
    assert left < 2**22
