"""The pillar kernels of ``plugins/``, compiled by nvcc or NVRTC for launching them without a plugin library.

That way, the kernels are launched from Python around an engine of the dense part. A kernel takes one argument, by
value: a :class:`Voxelization`, a :class:`Scatter` or an :class:`Encoding` that holds device addresses (PyCUDA takes it
as ``numpy.void(bytes(argument))``). A block may have any number of threads.
"""

import ctypes
import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import pd_edge.native
from pd_edge.config import GridConfig
from pd_edge.errors import EngineError
from pd_edge.pillars import GridConstants, grid_constants

ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120)
"""Compute capabilities of the fatbin; PTX of the first serves all later ones. 87 is Orin, 110 is Thor."""
VOXELIZE_KERNELS = ("pd_edge_locate", "pd_edge_sum", "pd_edge_decorate")
"""Launched one after the other with N threads each; they take a :class:`Voxelization`."""
SCATTER_KERNELS: dict[np.dtype[Any], str] = {
    np.dtype(np.float32): "pd_edge_scatter_float",
    np.dtype(np.float16): "pd_edge_scatter_half",
}
"""Launched with N * C threads on a zeroed canvas; they take a :class:`Scatter`."""
ENCODE_KERNEL = "pd_edge_encode"
"""Launched with N * C threads on a zeroed canvas; takes an :class:`Encoding`."""
SUM_BYTES = 32
"""Size of a pillar's sum: the workspace of the voxelization is this times nx * ny."""

PLUGINS = Path(__file__).parent / "plugins"
"""Sources of the kernels and of the plugin library."""
NATIVE = Path(pd_edge.native.__file__).parent
"""Folder of ``pillar_math.hpp``, which they include."""
NVRTC_PACKAGE = "nvidia-cuda-nvrtc-cu12==12.6.85"

_SOURCE = PLUGINS / "pillar_kernels.cu"
# NVRTC brings no standard headers; these are the names that the kernels use of them.
_NVRTC_HEADERS = {
    "cstdint": "namespace std { using int16_t = short; using int32_t = int; using int64_t = long long; }",
    "cmath": "",
    "cstring": "",
}


class _Grid(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32 if name in {"nx", "ny"} else ctypes.c_float) for name in GridConstants._fields]


class Voxelization(ctypes.Structure):
    """Points (N, 4) to features (N, 10), cells (N,) and the workspace of nx * ny sums; fields hold addresses."""

    _fields_ = [
        ("points", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("grid", _Grid),
        ("sums", ctypes.c_void_p),
        ("features", ctypes.c_void_p),
        ("cells", ctypes.c_void_p),
    ]


class Canvas(ctypes.Structure):
    """Where a scatter writes: address, values in all, cells, and the steps from cell to cell and channel to channel."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("size", "cells", "per_cell", "per_channel")),
    ]


class Scatter(ctypes.Structure):
    """Values (N, C) of float32 or float16, cells (N,) and the canvas of the same type."""

    _fields_ = [
        ("values", ctypes.c_void_p),
        ("cells", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("canvas", Canvas),
    ]


class Encoding(ctypes.Structure):
    """Features (N, 10), cells (N,), the feature net's weight (10, C) and bias (C,), and the canvas, all float32."""

    _fields_ = [
        ("features", ctypes.c_void_p),
        ("cells", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("canvas", Canvas),
    ]


def grid_argument(grid: GridConfig) -> ctypes.Structure:
    """The grid as the kernels take it, in :class:`Voxelization`."""
    return _Grid(**grid_constants(grid)._asdict())


def planar_canvas(address: int, channels: int, grid: GridConfig) -> Canvas:
    """A canvas (1, C, ny, nx) at an address."""
    cells = grid.nx * grid.ny
    return Canvas(data=address, size=channels * cells, cells=cells, per_cell=1, per_channel=cells)


def compile_fatbin(out: Path, architectures: Sequence[int] = ARCHITECTURES) -> Path:
    """Compiles the kernels with nvcc, for several GPUs and as PTX for those that come after them.

    Args:
        out: The fatbin to write.
        architectures: Compute capabilities, e.g. 87; all of the default are known to CUDA 13 and later only.

    Returns:
        ``out``.

    Raises:
        EngineError: There is no nvcc, or it does not know an architecture.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise EngineError("nvcc is not on PATH nor in /usr/local/cuda/bin; install the CUDA toolkit")
    codes = [f"arch=compute_{each},code=sm_{each}" for each in architectures]
    codes.append(f"arch=compute_{architectures[0]},code=compute_{architectures[0]}")
    targets = [word for code in codes for word in ("-gencode", code)]
    run_compiler([nvcc, "-std=c++17", "-fatbin", *targets, f"-I{NATIVE}", str(_SOURCE), "-o", str(out)])
    return out


def find_nvcc() -> str | None:
    """Path of nvcc: from PATH, or where the CUDA toolkit puts it; None where there is none."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def run_compiler(command: list[str]) -> None:
    """Runs a compiler.

    Raises:
        EngineError: It failed; the message holds what it printed.
    """
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        raise EngineError(f"{' '.join(command)} failed:\n{result.stderr or result.stdout}")


def compile_cubin(architecture: int) -> bytes:
    """Compiles the kernels with the NVRTC 12.6 from PyPI, for drivers too old for CUDA 13, such as JetPack 6's.

    Needs neither a GPU nor a CUDA toolkit.

    Args:
        architecture: Compute capability, e.g. 87 for Orin.

    Returns:
        The module's machine code, an ELF image.

    Raises:
        EngineError: The package is not installed, or the compiler refused, for instance an unknown architecture.
    """
    nvrtc = ctypes.CDLL(str(_find_nvrtc()))
    headers = {path.name: path.read_text() for path in (PLUGINS / "pillar_kernels.cuh", NATIVE / "pillar_math.hpp")}
    headers |= _NVRTC_HEADERS
    texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
    names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), _SOURCE.read_text().encode(), b"pillar_kernels.cu", len(headers), texts, names
    )
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17")
    try:
        if nvrtc.nvrtcCompileProgram(program, len(options), options):
            log = _nvrtc_output(nvrtc, program, "ProgramLog").rstrip(b"\0").decode()
            raise EngineError(f"NVRTC did not compile the kernels for sm_{architecture}:\n{log}")
        return _nvrtc_output(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _find_nvrtc() -> Path:
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        spec = None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        library = Path(folder) / "lib" / "libnvrtc.so.12"
        if library.is_file():
            return library
    raise EngineError(
        "nothing here compiles CUDA kernels: nvcc is not on PATH nor in /usr/local/cuda/bin, and NVRTC of CUDA 12 is "
        f"not installed; install the CUDA toolkit, or: pip install {NVRTC_PACKAGE}"
    )


def _nvrtc_output(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    output = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, output)
    return output.raw
