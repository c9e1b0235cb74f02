"""The TensorRT plugins, compiled against TensorRT's public headers and run on host memory without libnvinfer.

A harness in C++ takes them from creator to enqueue as TensorRT does, under address and undefined-behaviour sanitizers;
here its results are held against numpy, bit for bit.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.config import GridConfig
from pd_edge.engines.host_kernels import HOST_FLAGS
from pd_edge.engines.kernels import NATIVE, PLUGINS, SUM_BYTES, grid_argument, run_compiler
from pd_edge.pillars import GridConstants

from .kernel_clouds import CLOUDS, KITTI, NEAR, expected_canvas, expected_voxels, random_cloud, random_values, same_bits

HARNESS = Path(__file__).with_name("plugin_harness.cpp")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class Headers(NamedTuple):
    tensorrt: Path
    cuda: Path


def find_headers() -> Headers | None:
    root, cuda = Path(os.environ.get("TENSORRT_ROOT", "/usr")), Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    nvcc = shutil.which("nvcc")
    system = root / "include" / f"{platform.machine()}-linux-gnu"
    toolkits = [cuda, *sorted(Path("/usr/local").glob("cuda-*")), *([Path(nvcc).resolve().parents[1]] if nvcc else [])]
    tensorrt = next((each for each in (root / "include", system) if (each / "NvInferRuntime.h").is_file()), None)
    runtime = next((each / "include" for each in toolkits if (each / "include/cuda_runtime_api.h").is_file()), None)
    return Headers(tensorrt, runtime) if tensorrt and runtime else None


HEADERS = find_headers()
pytestmark = pytest.mark.skipif(
    HEADERS is None or shutil.which("g++") is None,
    reason="needs g++, CUDA's headers and TensorRT's public headers; set TENSORRT_ROOT to the folder with include/",
)


class Harness(NamedTuple):
    """The compiled harness and the plugin library, built for the CPU."""

    program: Path
    library: Path

    def __call__(self, *arguments: str) -> str:
        result = subprocess.run(
            [self.program, self.library, *arguments], capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, result.stderr
        assert not result.stderr
        return result.stdout


def compiler(*flags: str) -> list[str]:
    assert HEADERS is not None
    includes = [f"-I{NATIVE}", f"-I{PLUGINS}", "-isystem", str(HEADERS.tensorrt), "-isystem", str(HEADERS.cuda)]
    return ["g++", *HOST_FLAGS, "-Werror", *flags, *includes]


def build_library(library: Path, *flags: str) -> None:
    sources = [str(PLUGINS / "pd_edge_plugins.cpp"), str(PLUGINS / "pillar_launch_host.cpp")]
    run_compiler([*compiler(*flags), "-fvisibility=hidden", "-fPIC", "-shared", *sources, "-o", str(library)])


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    folder = tmp_path_factory.mktemp("plugin")
    built = Harness(folder / "harness", folder / "libpd_edge_plugins.so")
    build_library(built.library, *SANITIZERS)
    run_compiler([*compiler(*SANITIZERS), str(HARNESS), "-ldl", "-o", str(built.program)])
    return built


class Found(NamedTuple):
    features: npt.NDArray[np.float32]
    cells: npt.NDArray[np.int32]
    canvas: npt.NDArray[Any]
    told: str


def run(
    harness: Harness,
    folder: Path,
    grid: GridConfig,
    points: npt.NDArray[np.float32],
    values: npt.NDArray[Any],
    *,
    layout: str = "linear",
) -> Found:
    (folder / "grid.bin").write_bytes(bytes(grid_argument(grid)))
    (folder / "points.bin").write_bytes(points.tobytes())
    (folder / "values.bin").write_bytes(values.tobytes())
    dtype = "half" if values.dtype == np.float16 else "float"
    told = harness("run", str(folder), str(len(points)), str(values.shape[1]), dtype, layout)
    return Found(
        np.fromfile(folder / "features.bin", np.float32).reshape(-1, 10),
        np.fromfile(folder / "cells.bin", np.int32),
        np.fromfile(folder / "canvas.bin", values.dtype),
        told,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_plugins_are_bit_identical_to_numpy(harness: Harness, cloud: str, dtype: type, tmp_path: Path) -> None:
    grid, points = CLOUDS[cloud]()
    values = random_values(len(points), 5, dtype)
    found = run(harness, tmp_path, grid, points, values)
    features, cells = expected_voxels(points, grid)
    assert same_bits(found.features, features)
    assert same_bits(found.cells, cells)
    assert same_bits(found.canvas, expected_canvas(values, cells, grid).ravel())


def test_three_hundred_thousand_points(harness: Harness, tmp_path: Path) -> None:
    points = random_cloud(KITTI, 300_000)
    values = random_values(len(points), 3, np.float16)
    found = run(harness, tmp_path, KITTI, points, values)
    features, cells = expected_voxels(points, KITTI)
    assert same_bits(found.features, features)
    assert same_bits(found.canvas, expected_canvas(values, cells, KITTI).ravel())


@pytest.mark.parametrize("channels", [1, 8, 13])
@pytest.mark.parametrize(("dtype", "vector"), [(np.float32, 1), (np.float16, 8)])
def test_the_canvas_may_be_channels_last(
    harness: Harness, dtype: type, vector: int, channels: int, tmp_path: Path
) -> None:
    """TensorRT's HWC for float32, and HWC8 for float16, whose channels are padded with zeros to a multiple of 8."""
    points = random_cloud(NEAR, 3000)
    values = random_values(len(points), channels, dtype)
    found = run(harness, tmp_path, NEAR, points, values, layout="channels_last")
    planes = expected_canvas(values, expected_voxels(points, NEAR)[1], NEAR)
    padded = -(-channels // vector) * vector
    expected: npt.NDArray[Any] = np.zeros((NEAR.ny, NEAR.nx, padded), dtype)
    expected[..., :channels] = planes[0].transpose(1, 2, 0)
    assert same_bits(found.canvas, expected.ravel())


def test_workspace_and_timing_cache(harness: Harness, tmp_path: Path) -> None:
    points = random_cloud(NEAR, 10)
    told = [
        run(harness, tmp_path, grid, points, random_values(10, 1, np.float32)).told
        for grid in (NEAR, NEAR.model_copy(update={"z_min": -0.8}))
    ]
    assert f"PillarVoxelize workspace {NEAR.nx * NEAR.ny * SUM_BYTES} timing _79_69_" in told[0]
    assert "PillarScatter workspace 0 timing _79_69\n" in told[0]
    assert told[0].splitlines()[0] != told[1].splitlines()[0], "the timing cache must tell grids apart"
    assert re.search(r"TensorRT 1[01]\.\d+\n$", told[0])


@pytest.fixture(scope="module")
def refusals(harness: Harness) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in harness("refuse").splitlines() if ": " in line)


@pytest.mark.parametrize(
    ("mistake", "message"),
    {
        "missing": "attribute z_centre is missing",
        "unknown": "attribute voxel_size is unknown",
        "nameless": "attribute without a name is unknown",
        "no data": "attribute scale must be one number",
        "two numbers": "attribute scale must be one number",
        "wrong type": "attribute scale must be a float32",
        "float nx": "attribute nx must be an integer",
        "negative": "attribute nx is -8, expected a positive 32-bit integer",
        "large": "nx * ny is larger than a 32-bit cell number; use larger cells",
        "nan": "attribute cell must be finite",
        "upside down": "scale and cell must be positive and z_min less than z_max",
        "no fields": "no attributes were given",
    }.items(),
)
def test_wrong_attributes_are_refused_and_logged(refusals: dict[str, str], mistake: str, message: str) -> None:
    assert refusals[mistake] == f"null; pd_edge PillarVoxelize: {message}"


def test_right_attributes_are_accepted(refusals: dict[str, str]) -> None:
    assert refusals["whole"] == refusals["int64"] == "created; "


@pytest.mark.parametrize(
    ("mistake", "message"),
    {
        "five columns": "PillarVoxelize: points must have shape (N, 4): x y z [m] and intensity",
        "flat points": "PillarVoxelize: points must have shape (N, 4): x y z [m] and intensity",
        "half points": "PillarVoxelize: points must be float32 in linear format",
        "too many points": "PillarVoxelize: 549755813888 points overflow a pillar's 64-bit sum; split the cloud",
        "unequal rows": "PillarScatter: 7 rows of values, but 6 cells",
        "int8 values": "PillarScatter: values must be float32 or float16 in linear format",
        "int64 cells": "PillarScatter: cell must be int32 in linear format",
        "no channel": "PillarScatter: values must have a channel",
    }.items(),
)
def test_wrong_tensors_are_refused_logged_and_recorded(refusals: dict[str, str], mistake: str, message: str) -> None:
    assert refusals[mistake] == f"-1 with 1 recorded; pd_edge {message}"


def test_a_wrong_number_of_tensors_is_refused(refusals: dict[str, str]) -> None:
    assert refusals["three inputs"] == "-1; pd_edge PillarScatter: 3 inputs and 1 outputs, expected 2 and 1"


def test_the_library_exports_what_tensorrt_looks_for_and_needs_nothing_of_it(harness: Harness) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not on PATH")
    symbols = subprocess.run([nm, "-D", harness.library], capture_output=True, text=True, check=True).stdout
    assert " T getCreators\n" in symbols
    assert " T setLoggerFinder\n" in symbols
    assert not re.search(r" U (getPluginRegistry|getLogger|createInfer|cuda)", symbols)


REGISTRY = """
import sys
import numpy as np
import tensorrt_rtx as trt

class Logger(trt.ILogger):
    def log(self, severity, message):
        if message.startswith("pd_edge"):
            print(message)

logger = Logger()
registry = trt.Builder(logger).get_plugin_registry()
assert registry.load_library(sys.argv[1]) is not None
for name in ("PillarVoxelize", "PillarScatter"):
    creator = registry.get_creator(name, "1", "pd_edge")
    print(name, *(field.name for field in creator.field_names))
fields = [trt.PluginField(name, np.array([8], np.int32), trt.PluginFieldType.INT32) for name in ("nx", "ny")]
for given in (fields, fields[:1]):
    plugin = creator.create_plugin("node", trt.PluginFieldCollection(given), trt.TensorRTPhase.BUILD)
    print("null" if plugin is None else type(plugin).__name__)
"""


def test_nvidias_registry_loads_the_library(tmp_path: Path) -> None:
    """TensorRT for RTX runs no plugins, but its registry loads, lists and creates them, also without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx-cu13")
    assert HEADERS is not None
    if "class ILoggerFinder : public" not in (HEADERS.tensorrt / "NvInferRuntime.h").read_text():
        pytest.skip("TensorRT for RTX hands out loggers as TensorRT 11 does, these headers are of TensorRT 10")
    library = tmp_path / "libpd_edge_plugins.so"
    build_library(library, "-O0")
    code = [sys.executable, "-c", REGISTRY, str(library)]
    lines = subprocess.run(code, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0].split() == ["PillarVoxelize", "nx", "ny", *GridConstants._fields[:9]]
    assert lines[1:] == ["PillarScatter nx ny", "IPluginV3", "pd_edge PillarScatter: attribute ny is missing", "null"]
