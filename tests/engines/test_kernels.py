"""The CUDA kernels: their bodies on the CPU against numpy, bit for bit, and what the compilers make of them."""

import ctypes
import importlib.util
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.engines.host_kernels import HostKernels, Schedule
from pd_edge.engines.kernels import (
    ARCHITECTURES,
    ENCODE_KERNEL,
    NATIVE,
    NVRTC_PACKAGE,
    PLUGINS,
    SCATTER_KERNELS,
    SUM_BYTES,
    VOXELIZE_KERNELS,
    Scatter,
    Voxelization,
    compile_cubin,
    compile_fatbin,
    grid_argument,
    planar_canvas,
    run_compiler,
)
from pd_edge.errors import DataError, EngineError
from pd_edge.pillars import encode_reference, pillarize_reference, scatter_reference
from pd_edge.runtimes.cuda_pillars import compile_kernels

from .kernel_clouds import (
    CLOUDS,
    KITTI,
    NEAR,
    edge_cloud,
    expected_canvas,
    expected_voxels,
    random_cloud,
    random_net,
    random_values,
    rounded_canvas,
    same_bits,
)

NEEDS_NVCC = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not on PATH; it comes with the CUDA toolkit"
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH")
    return HostKernels(tmp_path_factory.mktemp("host"))


def schedules(threads: int) -> list[Schedule]:
    """In order, shuffled, and shuffled over three threads of the operating system at a time."""
    rng = np.random.default_rng(6)
    return [Schedule(), Schedule(rng.permutation(threads)), Schedule(rng.permutation(threads), workers=3)]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_voxelize_is_bit_identical_to_numpy_in_any_order_of_threads(kernels: HostKernels, cloud: str) -> None:
    grid, points = CLOUDS[cloud]()
    features, cells = expected_voxels(points, grid)
    for schedule in schedules(len(points)):
        found = kernels.voxelize(points, grid, schedule)
        assert same_bits(found[0], features)
        assert same_bits(found[1], cells)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_scatter_is_bit_identical_to_numpy_in_any_order_of_threads(
    kernels: HostKernels, cloud: str, dtype: type
) -> None:
    grid, points = CLOUDS[cloud]()
    _, cells = expected_voxels(points, grid)
    values = random_values(len(points), 5, dtype)
    expected = expected_canvas(values, cells, grid)
    for schedule in schedules(values.size):
        assert same_bits(kernels.scatter(values, cells, grid, schedule), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_three_hundred_thousand_points(kernels: HostKernels, dtype: type) -> None:
    points = np.concatenate([random_cloud(KITTI, 240_000), np.tile(edge_cloud(KITTI), (10, 1))])
    features, cells = expected_voxels(points, KITTI)
    values = random_values(len(points), 3, dtype)
    for schedule in schedules(len(points))[::2]:
        found = kernels.voxelize(points, KITTI, schedule)
        assert same_bits(found[0], features)
        assert same_bits(found[1], cells)
    expected = expected_canvas(values, cells, KITTI)
    for schedule in schedules(values.size)[::2]:
        assert same_bits(kernels.scatter(values, cells, KITTI, schedule), expected)


def test_a_cell_hit_by_all_threads_loses_no_maximum(kernels: HostKernels) -> None:
    values = random_values(30_000, 2, np.float16)
    values[np.isinf(values)] = 1
    cells = np.full(len(values), NEAR.nx * NEAR.ny - 1, np.int32)  # the last: the canvas ends there
    canvas = kernels.scatter(values, cells, NEAR, Schedule(np.random.default_rng(7).permutation(values.size), 4))
    assert np.array_equal(canvas[0, :, -1, -1], values.max(axis=0))
    assert np.count_nonzero(canvas) == 2


@pytest.mark.parametrize("channels", [1, 16, 33])
def test_encode_agrees_with_the_reference_and_does_not_depend_on_the_order(kernels: HostKernels, channels: int) -> None:
    points, net = edge_cloud(NEAR), random_net(channels)
    features, cells = expected_voxels(points, NEAR)
    serial, *others = (kernels.encode(features, cells, net, NEAR, each) for each in schedules(len(points) * channels))
    assert all(same_bits(other, serial) for other in others)
    pillars = pillarize_reference(points, NEAR)
    expected = scatter_reference(encode_reference(pillars, net), pillars.cells, NEAR)
    np.testing.assert_allclose(serial, expected, rtol=1e-5, atol=1e-4)
    assert serial.any()


def test_encode_rounds_every_product_and_sum(kernels: HostKernels) -> None:
    points, net = random_cloud(NEAR, 800), random_net(4)
    features, cells = expected_voxels(points, NEAR)
    assert same_bits(kernels.encode(features, cells, net, NEAR), rounded_canvas(points, net, NEAR))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_what_breaks_the_contract_does_no_harm(kernels: HostKernels, dtype: type) -> None:
    values: npt.NDArray[Any] = np.array([[np.nan, 0], [2, 0], [-1, -1], [-np.inf, -2], [5, 5], [5, 5]], dtype)
    cells = np.array([0, 0, 1, 1, NEAR.nx * NEAR.ny, -7], np.int32)  # a NaN; negative values; no such cell
    canvas = kernels.scatter(values, cells, NEAR).ravel()
    assert np.isnan(canvas[0])
    assert not canvas[1:].any()


def test_wrong_arrays_are_named(kernels: HostKernels) -> None:
    cells = np.zeros(3, np.int32)
    with pytest.raises(DataError, match=r"points are float64 of shape \(3, 4\)"):
        kernels.voxelize(np.zeros((3, 4)), NEAR)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"cells are int32 of shape \(3,\), expected contiguous int32 of shape \(2,\)"):
        kernels.scatter(np.zeros((2, 4), np.float32), cells, NEAR)
    with pytest.raises(DataError, match="expected contiguous float32"):
        kernels.scatter(np.zeros((3, 8), np.float32)[:, ::2], cells, NEAR)
    with pytest.raises(DataError, match=r"2 entries, expected a permutation of 3 threads"):
        kernels.voxelize(np.zeros((3, 4), np.float32), NEAR, Schedule(np.array([0, 1])))


# What the compilers make of the source.


def fatbin_entries(fatbin: bytes) -> list[tuple[str, int]]:
    """Kind and architecture of each image in a fatbin."""
    magic, _, start, size = struct.unpack_from("<IHHQ", fatbin)
    assert magic == 0xBA55ED50
    entries, at = [], start
    while at < start + size:
        kind, _, header, length = struct.unpack_from("<HHIQ", fatbin, at)
        entries.append(({1: "ptx", 2: "elf"}[kind], struct.unpack_from("<I", fatbin, at + 28)[0]))
        at += header + length
    return entries


@NEEDS_NVCC
def test_nvcc_compiles_for_every_architecture(tmp_path: Path) -> None:
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    if unknown := {f"compute_{each}" for each in ARCHITECTURES} - set(known):
        pytest.skip(f"this nvcc does not know {', '.join(sorted(unknown))}; CUDA 13 does")
    entries = fatbin_entries(compile_fatbin(tmp_path / "kernels.fatbin").read_bytes())
    assert sorted(entries) == [("elf", each) for each in ARCHITECTURES] + [("ptx", ARCHITECTURES[0])]


@NEEDS_NVCC
def test_nothing_is_contracted_on_the_gpu(tmp_path: Path) -> None:
    """A fused multiply-add would move points to other cells than on the CPU."""
    ptx = tmp_path / "kernels.ptx"
    source = str(PLUGINS / "pillar_kernels.cu")
    run_compiler(["nvcc", "-std=c++17", "-ptx", "-arch=compute_75", f"-I{NATIVE}", source, "-o", str(ptx)])
    text = ptx.read_text()
    for name in (*VOXELIZE_KERNELS, *SCATTER_KERNELS.values(), ENCODE_KERNEL):
        assert f".entry {name}(" in text
    assert "fma." not in text
    assert "mul.rn.f32" in text
    for atomic in ("add.u64", "add.u32", "max.s32", "cas.b16"):
        assert f"atom.global.{atomic}" in text


@NEEDS_NVCC
def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="compute_12"):
        compile_fatbin(tmp_path / "kernels.fatbin", (12,))


def test_a_machine_without_nvcc_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(EngineError, match="install the CUDA toolkit"):
        compile_fatbin(tmp_path / "kernels.fatbin")


def has_nvrtc() -> bool:
    try:
        return importlib.util.find_spec("nvidia.cuda_nvrtc") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(not has_nvrtc(), reason=f"needs pip install {NVRTC_PACKAGE}")
def test_nvrtc_of_cuda_12_compiles_for_orin() -> None:
    cubin = compile_cubin(87)
    assert cubin.startswith(b"\x7fELF")
    for name in (*VOXELIZE_KERNELS, *SCATTER_KERNELS.values(), ENCODE_KERNEL):
        assert f".text.{name}".encode() in cubin
    with pytest.raises(EngineError, match="did not compile the kernels for sm_12"):
        compile_cubin(12)


@pytest.mark.skipif(not has_nvrtc(), reason=f"needs pip install {NVRTC_PACKAGE}")
def test_nvrtc_takes_over_where_nvcc_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pd_edge.engines.kernels.find_nvcc", lambda: None)
    assert compile_kernels((8, 7)).startswith(b"\x7fELF")


@pytest.mark.skipif(has_nvrtc(), reason="NVRTC of CUDA 12 is installed")
def test_a_machine_without_nvrtc_is_told() -> None:
    with pytest.raises(EngineError, match=NVRTC_PACKAGE):
        compile_cubin(87)


@NEEDS_NVCC
def test_an_engine_folder_gets_the_kernels_for_its_gpu() -> None:
    assert sorted(fatbin_entries(compile_kernels((8, 9)))) == [("elf", 89), ("ptx", 89)]


# On a GPU, through the driver: the fatbin against numpy.


class Module:
    """The fatbin, loaded into torch's CUDA context."""

    def __init__(self, fatbin: bytes) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        assert self._driver.cuModuleLoadData(ctypes.byref(self._module), fatbin) == 0

    def launch(self, kernel: str, threads: int, argument: ctypes.Structure) -> None:
        function = ctypes.c_void_p()
        assert self._driver.cuModuleGetFunction(ctypes.byref(function), self._module, kernel.encode()) == 0
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        blocks = (threads + 255) // 256
        assert self._driver.cuLaunchKernel(function, blocks, 1, 1, 256, 1, 1, 0, None, parameters, None) == 0


@pytest.mark.gpu
@NEEDS_NVCC
@pytest.mark.parametrize("cloud", ["random", "edges", "damaged", "far", "outside", "one"])
def test_kernels_on_a_gpu_are_bit_identical_to_numpy(cloud: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    grid, points = CLOUDS[cloud]()
    torch.zeros(1, device="cuda")  # makes the context
    major, minor = torch.cuda.get_device_capability()
    module = Module(compile_fatbin(tmp_path / "kernels.fatbin", (10 * major + minor,)).read_bytes())
    on_gpu = torch.from_numpy(points).cuda()
    features = torch.full((len(points), 10), float("nan"), device="cuda")
    cells = torch.full((len(points),), -2, dtype=torch.int32, device="cuda")
    sums = torch.full((grid.nx * grid.ny * SUM_BYTES,), 0xA5, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    addresses = (each.data_ptr() for each in (sums, features, cells))
    argument = Voxelization(on_gpu.data_ptr(), len(points), grid_argument(grid), *addresses)
    for kernel in VOXELIZE_KERNELS:
        module.launch(kernel, len(points), argument)
    torch.cuda.synchronize()
    expected: tuple[Any, ...] = expected_voxels(points, grid)
    assert same_bits(features.cpu().numpy(), expected[0])
    assert same_bits(cells.cpu().numpy(), expected[1])
    for dtype, kernel in SCATTER_KERNELS.items():
        values = random_values(len(points), 5, dtype)
        held = torch.from_numpy(values).cuda()
        canvas = torch.zeros((1, 5, grid.ny, grid.nx), dtype=held.dtype, device="cuda")
        torch.cuda.synchronize()
        planes = planar_canvas(canvas.data_ptr(), 5, grid)
        module.launch(kernel, values.size, Scatter(held.data_ptr(), cells.data_ptr(), len(points), 5, planes))
        torch.cuda.synchronize()
        assert same_bits(canvas.cpu().numpy(), expected_canvas(values, expected[1], grid))
