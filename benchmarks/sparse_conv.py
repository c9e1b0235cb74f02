"""Time of SECOND's sparse encoder in torch: ``python benchmarks/sparse_conv.py [--cloud FILE] [--threads 1 2]``.

A front view of KITTI, the rulebooks apart, the encoder forward alone (evaluation) and forward with backward (training),
by size of the network and number type. All cases run by turns, several rounds over, and the least time of each counts:
what else the machine does only adds to it.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pd_edge.clouds import read_cloud
from pd_edge.config import SecondConfig, VoxelGridConfig
from pd_edge.training.voxel_encoder import SparseEncoder, VoxelBatch, batch_voxels

CLOUD = Path("data/kitti/object/training/velodyne_reduced/000000.bin")
SIZES = {"teacher": 1, "4x": 2, "16x": 4}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Case: TypeAlias = tuple[str, Callable[[], object]]


def config(divisor: int) -> SecondConfig:
    """The teacher's network with its channels divided."""
    one, two, three, folded = (channels // divisor for channels in (16, 32, 64, 128))
    return SecondConfig(
        sparse_channels=(one, two, three, three),
        folded_channels=folded,
        backbone_channels=(folded, 2 * folded),
        neck_channels=2 * folded,
    )


def voxels(points: npt.NDArray[np.float32], grid: VoxelGridConfig) -> tuple[npt.NDArray[np.float32], ...]:
    """Means (V, 4) and ascending keys (V,) of the voxels of a cloud; simple, and no part of what is timed."""
    axes = ((1, grid.scale, grid.y_offset), (0, grid.scale, grid.x_offset), (2, grid.z_scale, grid.z_offset))
    places = np.stack([np.floor(points[:, axis] * scale + offset) for axis, scale, offset in axes], 1).astype(np.int64)
    inside = ((places >= 0) & (places < (grid.ny, grid.nx, grid.nz))).all(1)
    flat = (places @ (grid.nx * (grid.nz + 1), grid.nz + 1, 1))[inside]
    keys, voxel, counts = np.unique(flat, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(voxel, column) for column in points[inside].T], 1)
    return (sums / counts[:, None]).astype(np.float32), keys


def forward(encoder: SparseEncoder, batch: VoxelBatch, dtype: torch.dtype) -> None:
    """The canvas, as in use."""
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        encoder.eval()(batch)


def step(encoder: SparseEncoder, batch: VoxelBatch, dtype: torch.dtype) -> None:
    """The canvas and all gradients, as in training."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        canvas = encoder.train()(batch)
    canvas.backward(torch.ones_like(canvas))


def cases(points: npt.NDArray[np.float32], frames: int) -> Iterator[Case]:
    """Names and calls to time."""
    frame = voxels(points, config(1).grid)
    yield f"rulebooks, 1 frame ({len(frame[1])} voxels)", partial(batch_voxels, [frame], config(1))
    one, several = (batch_voxels([frame] * count, config(1)) for count in (1, frames))
    for name, divisor in SIZES.items():
        encoder = SparseEncoder(config(divisor))
        for kind, dtype in TYPES.items():
            yield f"{name}, {kind}: forward, 1 frame", partial(forward, encoder, one, dtype)
            yield f"{name}, {kind}: forward + backward, {frames} frames", partial(step, encoder, several, dtype)


def milliseconds(call: Callable[[], object]) -> float:
    """Duration of one call [ms]."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Prints the least time of every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cloud", type=Path, default=CLOUD)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--frames", type=int, default=4, help="frames of a training batch")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        each = list(cases(read_cloud(arguments.cloud), arguments.frames))
        rounds = [[milliseconds(call) for _, call in each] for _ in range(arguments.rounds)]
        print(f"{threads} threads, least of {arguments.rounds}{'ms':>40}")
        for (name, _), times in zip(each, zip(*rounds, strict=True), strict=True):
            print(f"  {name:52}{min(times):9.1f}")


if __name__ == "__main__":
    main()
