"""Time of SECOND's sparse encoder in torch: ``python benchmarks/sparse_conv.py [--cloud FILE] [--threads 1 2]``.

A front view of KITTI: the rulebooks, in C++ and by their twin in torch; the encoder without them, forward alone
(evaluation) and forward with backward (training), by size of the network and number type. All cases run by turns,
several rounds over, and the least time of each counts: what else the machine does only adds to it.
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
from pd_edge.config import SecondConfig
from pd_edge.training.second import student_4x_config, student_16x_config, teacher_config
from pd_edge.training.sparse_conv import Sites, strided_rules, submanifold_rules
from pd_edge.training.voxel_encoder import SparseEncoder, VoxelBatch, batch_voxels, rulebook_layers
from pd_edge.voxels import Voxels, grid_sizes, sparse_layers, voxelize

CLOUD = Path("data/kitti/object/training/velodyne_reduced/000000.bin")
SIZES = {"teacher": teacher_config(), "4x": student_4x_config(), "16x": student_16x_config()}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Case: TypeAlias = tuple[str, Callable[[], object]]


def torch_rulebooks(frame: Voxels, model: SecondConfig) -> None:
    """The distinct rulebooks of a frame by the twin in torch."""
    sites = Sites(torch.from_numpy(frame.keys), grid_sizes(model)[0])
    for layer in rulebook_layers(sparse_layers(model)):
        if layer.submanifold:
            submanifold_rules(sites, layer.kernel)
        else:
            sites, _ = strided_rules(sites, layer)


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
    teacher = SIZES["teacher"]
    frame = voxelize(points, teacher.grid)
    yield f"rulebooks, 1 frame ({len(frame.keys)} voxels)", partial(batch_voxels, [frame], teacher)
    yield "rulebooks in torch, 1 frame", partial(torch_rulebooks, frame, teacher)
    one, several = (batch_voxels([frame] * count, teacher) for count in (1, frames))
    for name, model in SIZES.items():
        encoder = SparseEncoder(model)
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
