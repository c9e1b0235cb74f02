"""TensorRT's runner and builder on a FAKE of TensorRT, PyCUDA and the driver: no number of a network is computed here.

What a fake can show honestly: what is called in which order, what is allocated and freed, what the GPU would be given,
and what is refused. That engines give the right heads, tests marked ``gpu`` show, on a machine that has one.
"""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.detector import load
from pd_edge.engine_folder import EngineFolder
from pd_edge.engine_manifest import BuildFlags, PointRange, write_manifest
from pd_edge.engines import kernels
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.runtimes import open_engine
from pd_edge.runtimes import tensorrt as runner
from pd_edge.runtimes.tensorrt import SMALLEST_BUCKET, TensorRtRuntime

from .fake_tensorrt import Cloud, Fake, fake_tensorrt

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("onnx", reason="needs the train extra")

WriteDense = Callable[..., Path]
CAPTURED = 77


def fake_pycuda(fake: Fake) -> Any:
    cuda: Any = ModuleType("pycuda.driver")
    context = SimpleNamespace(push=fake.pushed, pop=fake.popped)

    class Device:
        def __init__(self, index: int) -> None:
            assert index == 0

        count = staticmethod(lambda: fake.gpus)
        name = staticmethod(lambda: fake.gpu)
        compute_capability = staticmethod(lambda: fake.capability)
        retain_primary_context = staticmethod(lambda: context)

    def upload(_: Any, host: Cloud, __: Any) -> None:
        fake.uploads.append(host.copy())
        fake.calls.append(("upload", host.nbytes))

    def launcher(name: str) -> Callable[..., None]:
        def launch(argument: Any, block: tuple[int, ...], grid: tuple[int, ...], stream: Any) -> None:
            assert isinstance(argument, np.void)
            fake.calls.append((name, grid[0] * block[0]))

        return launch

    def module(data: bytes) -> Any:
        fake.modules.append(data)
        return SimpleNamespace(get_function=launcher)

    def pinned(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        fake.calls.append(("pinned", shape))
        return np.zeros(shape, dtype)

    cuda.Error, cuda.init, cuda.Device = type("Error", (Exception,), {}), lambda: None, Device
    cuda.Stream = lambda: SimpleNamespace(handle=5, synchronize=fake.synchronize)
    cuda.Event = lambda: SimpleNamespace(record=lambda _: fake.record(), time_since=lambda _: 1.5)
    cuda.mem_alloc, cuda.pagelocked_empty = fake.allocate, pinned
    cuda.memcpy_htod_async = upload
    cuda.to_device = lambda array: fake.allocate(array.nbytes)
    cuda.memset_d8_async = lambda _, value, size, __: fake.calls.append(("clear", value, size))
    cuda.module_from_buffer = module
    cuda.memcpy_dtoh_async = lambda host, _, __: fake.download(host.nbytes)
    return cuda


def fake_driver(fake: Fake) -> Any:
    def end(_: Any, graph: Any) -> int:
        fake.calls.append(("end_capture",))
        ctypes.cast(graph, ctypes.POINTER(ctypes.c_void_p))[0] = CAPTURED
        return 0

    def instantiate(executable: Any, graph: Any, _: Any) -> int:
        assert graph.value == CAPTURED
        ctypes.cast(executable, ctypes.POINTER(ctypes.c_void_p))[0] = CAPTURED + 1
        return 0

    def logged(name: str) -> Callable[..., int]:
        def call(*_: Any) -> int:
            fake.calls.append((name,))
            return 0

        return call

    return SimpleNamespace(
        cuStreamBeginCapture_v2=logged("begin_capture"),
        cuStreamEndCapture=end,
        cuGraphInstantiateWithFlags=instantiate,
        cuGraphDestroy=logged("destroy_graph"),
        cuGraphLaunch=logged("launch"),
        cuGraphExecDestroy=logged("destroy_executable"),
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    package: Any = ModuleType("pycuda")
    package.driver = fake_pycuda(made)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", package.driver)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(made))
    monkeypatch.setattr(runner, "load_driver", lambda: fake_driver(made))
    return made


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libpd_edge_plugins.so"
    path.write_bytes(b"\x7fELF of a fake")
    return path


POINTS = PointRange(least=1, usual=5000, most=20_000)


@pytest.fixture
def engine(fake: Fake, write_dense: WriteDense, library: Path, tmp_path: Path) -> EngineFolder:
    """A fake's engine of the form plugin, for up to 20,000 points."""
    source = write_dense(tmp_path / "tiny.onnx", form="plugin")
    options = BuildOptions("tensorrt", "orin", BuildFlags(points=POINTS), plugin=library)
    built, _ = build_engine(source, tmp_path / "engine", options)
    return built


def test_the_builder_does_what_the_options_say(
    fake: Fake, write_dense: WriteDense, library: Path, tmp_path: Path
) -> None:
    flags = BuildFlags(points=POINTS, version_compatible=True, hardware="ampere-plus")
    options = BuildOptions("tensorrt", "orin", flags, plugin=library, timing_cache=tmp_path / "timings")
    built, _ = build_engine(write_dense(tmp_path / "tiny.onnx", form="plugin"), tmp_path / "engine", options)
    assert fake.calls == [
        ("load_library", library.name),
        ("create_network", 1 << 3),
        ("clear_flag", "TF32"),
        ("set_flag", "VERSION_COMPATIBLE"),
        ("read_cache", b""),
        ("set_shape", "points", (1, 4), (5000, 4), (20_000, 4)),
        ("add_profile",),
        ("build",),
    ]
    assert (tmp_path / "timings").read_bytes() == b"timings"
    assert (built.folder / "model.engine").read_bytes() == b"a plan"
    manifest = built.manifest
    assert (manifest.runtime_version, manifest.capability, manifest.gpu) == ("10.3.0", (8, 7), fake.gpu)
    assert manifest.plugin == library.name
    assert manifest.files[library.name].size == library.stat().st_size


def test_a_frame_is_filled_up_and_recorded_once(fake: Fake, engine: EngineFolder, tiny_cloud: Cloud) -> None:
    fake.calls.clear()
    with TensorRtRuntime(engine) as runtime:
        cloud = tiny_cloud[:3000]
        heads = runtime.infer_points(cloud)
        first = [name for name in fake.names() if name not in ("pushed", "popped")]
        assert {name: head.shape for name, head in heads._asdict().items()} == fake.heads
        assert first == [
            *("load_library", "deserialize", "pinned", "mem_alloc", "set_input_shape", "set_tensor_address"),
            *("pinned", "mem_alloc", "set_tensor_address") * 3,
            *("upload", "execute", "synchronize", "begin_capture", "execute", "end_capture", "destroy_graph"),
            *("record", "upload", "record", "launch", "record", "download", "download", "download", "record"),
            "synchronize",
        ]
        fake.calls.clear()
        runtime.infer_points(tiny_cloud[:10])
        second = [name for name in fake.names() if name not in ("pushed", "popped")]
        assert second == ["record", "upload", "record", "launch", "record", *["download"] * 3, "record", "synchronize"]
        assert fake.names().count("pushed") == fake.names().count("popped") == 1
        given = fake.uploads[-1]
        assert given.shape == (SMALLEST_BUCKET, 4)
        np.testing.assert_array_equal(given[:10], tiny_cloud[:10])
        assert (given[10:, 2] > engine.config.model.grid.z_max).all()
        assert runtime.stage_times == (1.5, 1.5, 1.5)
    assert not fake.allocated
    assert "destroy_executable" in fake.names()


def test_a_larger_cloud_gets_a_larger_bucket_and_is_never_cut(
    fake: Fake, engine: EngineFolder, tiny_cloud: Cloud
) -> None:
    runtime = TensorRtRuntime(engine)
    sizes = []
    for count in (0, 8192, 8193, 16_385, 20_000):
        cloud = np.resize(tiny_cloud, (count, 4))
        runtime.infer_points(cloud)
        np.testing.assert_array_equal(fake.uploads[-1][:count], cloud)
        sizes.append(len(fake.uploads[-1]))
    assert sizes == [8192, 8192, 16_384, 20_000, 20_000]
    shapes = [call[2] for call in fake.calls if call[0] == "set_input_shape"]
    assert shapes == [(8192, 4), (16_384, 4), (20_000, 4)]
    assert fake.names().count("begin_capture") == 3
    assert fake.names().count("destroy_executable") == 2
    points = [size for size in fake.allocated.values() if size % 16 == 0 and size == 16 * 20_000]
    assert len(points) == 1
    assert 16 * 8192 not in fake.allocated.values()
    with pytest.raises(EngineError, match=r"20001 points, .* at most 20000; .*--max-points 20001"):
        runtime.infer_points(np.zeros((20_001, 4), np.float32))
    runtime.infer_points(tiny_cloud)


def test_dense_engines_have_the_kernels_before_them(
    fake: Fake, write_dense: WriteDense, tiny_cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pd_edge.engines.build_tensorrt.compile_kernels", lambda capability: b"for %d%d" % capability)
    monkeypatch.setattr("pd_edge.runtimes.cuda_pillars.compile_kernels", None)  # nothing is compiled at opening
    engine, _ = build_engine(write_dense(tmp_path / "tiny.onnx"), tmp_path / "engine", BuildOptions("tensorrt"))
    fake.calls.clear()
    with TensorRtRuntime(engine) as runtime:
        assert fake.modules == [b"for 87"]
        runtime.infer_points(tiny_cloud)
        canvas = 4 * 8 * 64 * 128
        count = SMALLEST_BUCKET
        work = [
            *((name, count) for name in kernels.VOXELIZE_KERNELS),
            ("clear", 0, canvas),
            (kernels.ENCODE_KERNEL, 8 * count),
            ("execute", 5),
        ]
        begin = fake.calls.index(("begin_capture",))
        assert fake.calls[begin + 1 : begin + 1 + len(work)] == work
        sizes = sorted(fake.allocated.values())
        assert {canvas, kernels.SUM_BYTES * 64 * 128, 16 * count, 40 * count, 4 * count, 4 * 80, 4 * 8} <= set(sizes)
        addresses = dict(call[1:] for call in fake.calls if call[0] == "set_tensor_address")
        assert fake.allocated[addresses["canvas"]] == canvas
        runtime.infer_points(np.resize(tiny_cloud, (100_000, 4)))  # a dense engine has no most
        assert {40 * 131_072, 4 * 131_072} <= set(fake.allocated.values())
        assert 40 * count not in fake.allocated.values()
    assert not fake.allocated


def test_kernels_that_could_not_be_compiled_or_are_for_another_gpu_are_compiled_at_opening(
    fake: Fake, write_dense: WriteDense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    source, missing = write_dense(tmp_path / "tiny.onnx"), EngineError("no nvcc")

    def refuse(_: tuple[int, int]) -> bytes:
        raise missing

    monkeypatch.setattr("pd_edge.engines.build_tensorrt.compile_kernels", refuse)
    monkeypatch.setattr("pd_edge.runtimes.cuda_pillars.compile_kernels", lambda capability: b"now %d%d" % capability)
    flags = BuildFlags(hardware="ampere-plus")
    engine, _ = build_engine(source, tmp_path / "without", BuildOptions("tensorrt", flags=flags))
    assert "kernels.fatbin" not in engine.manifest.files
    assert "will be compiled when it is opened: no nvcc" in caplog.text
    open_engine(engine)
    monkeypatch.setattr("pd_edge.engines.build_tensorrt.compile_kernels", lambda _: b"at build")
    engine, _ = build_engine(source, tmp_path / "with", BuildOptions("tensorrt", flags=flags))
    open_engine(engine)
    fake.capability = (8, 9)
    open_engine(engine)
    assert fake.modules == [b"now 87", b"at build", b"now 89"]


def test_the_detector_takes_the_engine_like_any_model(fake: Fake, engine: EngineFolder, tiny_cloud: Cloud) -> None:
    detector = load(engine.folder)
    detector.warm_up()
    assert (detector.runtime.name, detector.runtime.precision) == ("tensorrt", "fp32")
    assert len(detector.detect(tiny_cloud).boxes)  # heads of zeros: every anchor scores 0.5
    np.testing.assert_array_equal(fake.uploads[-1][: len(tiny_cloud)], tiny_cloud)
    with pytest.raises(EngineError, match="has no threads to set"):
        load(engine.folder, threads=2)
    with pytest.raises(EngineError, match="computes in fp32, as the file says, not in bf16"):
        load(engine.folder, precision="bf16")


def changed(engine: EngineFolder, **changes: object) -> EngineFolder:
    write_manifest(engine.manifest.model_copy(update=changes), engine.folder)
    return EngineFolder.load(engine.folder)


def test_another_version_is_refused_unless_compatible(fake: Fake, engine: EngineFolder) -> None:
    other = changed(engine, runtime_version="10.2.1")
    with pytest.raises(
        EngineError, match=r"built by tensorrt 10\.2\.1, installed is 10\.3\.0; build it again: pd-edge build"
    ):
        open_engine(other)
    flags = engine.manifest.flags.model_copy(update={"version_compatible": True})
    assert isinstance(open_engine(changed(engine, runtime_version="10.2.1", flags=flags)), TensorRtRuntime)
    for version in ("10.4.0", "9.3.0"):
        with pytest.raises(EngineError, match="installed is"):
            open_engine(changed(engine, runtime_version=version, flags=flags))


def test_another_gpu_is_refused_unless_compatible(fake: Fake, engine: EngineFolder) -> None:
    fake.gpu = "Orin Nano (fake)"
    with pytest.raises(EngineError, match=r"built for orin \(Orin \(fake\)\), this machine has Orin Nano .*sm87"):
        open_engine(engine)
    same = engine.manifest.flags.model_copy(update={"hardware": "same"})
    open_engine(changed(engine, flags=same))
    fake.capability = (8, 9)
    with pytest.raises(EngineError, match="sm89"):
        open_engine(changed(engine, flags=same))
    ampere = engine.manifest.flags.model_copy(update={"hardware": "ampere-plus"})
    open_engine(changed(engine, flags=ampere))
    fake.capability = (7, 5)
    with pytest.raises(EngineError, match="sm75"):
        open_engine(changed(engine, flags=ampere))


def test_another_plugin_library_is_refused(fake: Fake, engine: EngineFolder, library: Path) -> None:
    (engine.folder / library.name).write_bytes(b"\x7fELF of a FAKE")
    with pytest.raises(EngineError, match=r"libpd_edge_plugins\.so: another plugin library than the engine's"):
        load(engine.folder)


def test_a_library_that_is_not_ours_is_refused(fake: Fake, write_dense: WriteDense, tmp_path: Path) -> None:
    source = write_dense(tmp_path / "tiny.onnx", form="plugin")
    path = tmp_path / "other.so"
    options = BuildOptions("tensorrt", plugin=path)
    with pytest.raises(EngineError, match=r"other\.so: no such plugin library"):
        build_engine(source, tmp_path / "out", options)
    path.write_bytes(b"text")
    with pytest.raises(EngineError, match=r"other\.so: TensorRT cannot load it"):
        build_engine(source, tmp_path / "out", options)
    path.write_bytes(b"\x7fELF")
    fake.creators = {"PillarVoxelize"}
    with pytest.raises(EngineError, match=r"has no plugin PillarScatter 1 of pd_edge"):
        build_engine(source, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_what_tensorrt_refuses_is_passed_on(fake: Fake, engine: EngineFolder, tmp_path: Path, library: Path) -> None:
    fake.opens = False
    with pytest.raises(EngineError, match=r"cannot open the engine \(magic tag does not match\); build it again"):
        open_engine(engine)
    fake.plan = None
    options = BuildOptions("tensorrt", "orin", plugin=library)
    with pytest.raises(EngineError, match=r"tensorrt 10\.3\.0 cannot build it: out of memory"):
        build_engine(tmp_path / "tiny.onnx", tmp_path / "other", options)


def test_regular_tensorrt_builds_only_for_this_machine(fake: Fake, write_dense: WriteDense, tmp_path: Path) -> None:
    source = write_dense(tmp_path / "tiny.onnx")
    with pytest.raises(
        EngineError, match=r"target thor is sm110 .*this machine has Orin \(fake\), sm87; run the build on"
    ):
        build_engine(source, tmp_path / "out", BuildOptions("tensorrt", "thor"))
    engine, _ = build_engine(source, tmp_path / "out", BuildOptions("tensorrt"))
    assert engine.manifest.target in ("orin", "sm87")


def test_a_machine_without_a_gpu_says_so(
    fake: Fake, engine: EngineFolder, write_dense: WriteDense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.gpus = 0
    with pytest.raises(EngineError, match=r"no GPU on this machine; TensorRT needs an NVIDIA GPU.*openvino"):
        open_engine(engine)
    with pytest.raises(EngineError, match="no GPU on this machine"):
        build_engine(write_dense(tmp_path / "dense.onnx"), tmp_path / "out", BuildOptions("tensorrt"))
    cuda = sys.modules["pycuda.driver"]

    def init() -> None:
        raise cuda.Error("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(cuda, "init", init)
    with pytest.raises(EngineError, match=r"no GPU that CUDA can use on this machine \(cuInit failed"):
        open_engine(engine)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setattr("pd_edge.runtimes.cuda.DRIVER", "libno-such-driver.so")
    with pytest.raises(EngineError, match=r"no NVIDIA driver on this machine; TensorRT needs an NVIDIA GPU"):
        open_engine(engine)
    monkeypatch.setattr("pd_edge.runtimes.cuda.DRIVER", "libc.so.6")
    with pytest.raises(MissingExtraError, match=r"pycuda is not installed; .*pd-edge\[cuda\]"):
        open_engine(engine)
