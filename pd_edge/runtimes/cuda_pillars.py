"""Pillars on the GPU without a plugin library: the project's kernels, launched by PyCUDA, from points to canvas."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pd_edge.config import GridConfig
from pd_edge.engine_folder import KERNELS, EngineFolder
from pd_edge.engines import kernels
from pd_edge.pillars import POINT_FEATURES, PillarNet

_BLOCK = 256


def find_kernels(engine: EngineFolder, capability: tuple[int, int]) -> bytes:
    """The kernels for a GPU: those of the engine folder where they are for it, else compiled now.

    Raises:
        EngineError: The folder has none for this GPU, and this machine has no compiler that knows the GPU.
    """
    if KERNELS in engine.manifest.files and engine.manifest.capability == capability:
        return engine.file(KERNELS).read_bytes()
    return compile_kernels(capability)


def compile_kernels(capability: tuple[int, int]) -> bytes:
    """The kernels, compiled for a GPU by nvcc, or by the NVRTC of CUDA 12 where that is installed instead.

    Raises:
        EngineError: There is neither, or it does not know the GPU.
    """
    architecture = 10 * capability[0] + capability[1]
    if kernels.find_nvcc() is None:
        return kernels.compile_cubin(architecture)
    with tempfile.TemporaryDirectory() as folder:
        path: Path = kernels.compile_fatbin(Path(folder) / KERNELS, [architecture])
        return path.read_bytes()


class CudaPillars:
    """Voxelization, feature net and scatter on a stream.

    Args:
        cuda: ``pycuda.driver``, with a current context.
        module: The compiled kernels (:func:`compile_kernels`).
        grid: The detection volume.
        net: The folded feature net.
    """

    def __init__(self, cuda: Any, module: bytes, grid: GridConfig, net: PillarNet) -> None:
        self._cuda, self._grid = cuda, grid
        self._channels = net.bias.size
        names = (*kernels.VOXELIZE_KERNELS, kernels.ENCODE_KERNEL)
        self._module = cuda.module_from_buffer(module)
        self._functions = {name: self._module.get_function(name) for name in names}
        cells = grid.nx * grid.ny
        self.canvas = cuda.mem_alloc(4 * self._channels * cells)
        self._sums = cuda.mem_alloc(kernels.SUM_BYTES * cells)
        self._weight = cuda.to_device(np.ascontiguousarray(net.weight))
        self._bias = cuda.to_device(np.ascontiguousarray(net.bias))
        self._features: Any = None
        self._cells: Any = None

    def reserve(self, count: int) -> None:
        """Makes room for that many points; what was there is freed first."""
        self._features = self._cells = None
        self._features = self._cuda.mem_alloc(4 * POINT_FEATURES * count)
        self._cells = self._cuda.mem_alloc(4 * count)

    def encode(self, points: Any, count: int, stream: Any) -> None:
        """Gives the work to the stream: ``count`` points on the GPU to the canvas (1, C, ny, nx) float32."""
        cells = self._grid.nx * self._grid.ny
        voxelization = kernels.Voxelization(
            points=int(points),
            count=count,
            grid=kernels.grid_argument(self._grid),
            sums=int(self._sums),
            features=int(self._features),
            cells=int(self._cells),
        )
        encoding = kernels.Encoding(
            features=int(self._features),
            cells=int(self._cells),
            count=count,
            channels=self._channels,
            weight=int(self._weight),
            bias=int(self._bias),
            canvas=kernels.planar_canvas(int(self.canvas), self._channels, self._grid),
        )
        for name in kernels.VOXELIZE_KERNELS:
            self._launch(name, voxelization, count, stream)
        self._cuda.memset_d8_async(self.canvas, 0, 4 * self._channels * cells, stream)
        self._launch(kernels.ENCODE_KERNEL, encoding, count * self._channels, stream)

    def _launch(self, name: str, argument: Any, threads: int, stream: Any) -> None:
        grid = ((threads + _BLOCK - 1) // _BLOCK, 1, 1)
        self._functions[name](np.void(bytes(argument)), block=(_BLOCK, 1, 1), grid=grid, stream=stream)
