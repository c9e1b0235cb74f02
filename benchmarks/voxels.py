"""Times the sparse encoder of SECOND: ``python benchmarks/voxels.py [--repeats N] [CLOUD.bin ...]``.

The clouds have to be cut to the camera's field of view, as KITTI's ``velodyne_reduced`` are; without any, real frames
of data/kitti stand in where they are, else a simple synthetic scan. Prints the least and the median of many runs, and
the sites and pairs of each layer. Weights are a network's initial ones, which needs the extra train.
"""

import argparse
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pillars import milliseconds, scan

from pd_edge.clouds import read_cloud
from pd_edge.config import SecondConfig
from pd_edge.sparse import sparse_rules, sparse_sites
from pd_edge.training.second import student_4x_config, student_16x_config, teacher_config
from pd_edge.training.voxel_encoder import SparseEncoder
from pd_edge.voxels import VoxelEncoder, grid_sizes, sparse_layers, voxelize

Floats: TypeAlias = npt.NDArray[np.float32]

FRAMES = Path("data/kitti/object/training/velodyne_reduced")
SIZES = {"teacher": teacher_config(), "4x": student_4x_config(), "16x": student_16x_config()}


class Timing(NamedTuple):
    """Durations [ms] of an encoder's calls, and of their steps, (runs, 4)."""

    total: Floats
    steps: Floats


def time_encoder(encoder: VoxelEncoder, points: Floats, repeats: int) -> Timing:
    """Encodes a cloud and a shifted one by turns: as in a drive, cells have to be cleared."""
    turns = cycle((points, points + np.array([0.4, -0.3, 0, 0], np.float32)))
    steps: list[list[float]] = []

    def call() -> None:
        encoder.encode(next(turns))
        steps.append([1e3 * seconds for seconds in encoder.seconds.values()])

    return Timing(milliseconds(call, repeats), np.array(steps[3:], np.float32))


def layer_lines(points: Floats, model: SecondConfig) -> Iterator[str]:
    """Sites and pairs of every layer, as lines of a table."""
    keys = voxelize(points, model.grid).keys
    total = 0.0
    for layer, size in zip(sparse_layers(model), grid_sizes(model), strict=False):
        sites = sparse_sites(keys, size, layer)
        pairs = sum(len(rows) for rows, _ in sparse_rules(keys, sites, size, layer))
        operations = 2e-6 * pairs * layer.inputs * layer.outputs
        total += operations
        kind = "submanifold" if layer.submanifold else "strided"
        yield f"  {kind:12} {layer.inputs:3} -> {layer.outputs:3} {len(sites):8} {pairs:8} {operations:8.1f}"
        keys = sites
    yield f"  {'sum':41}{total:8.1f}"


def clouds(paths: list[Path]) -> dict[str, Floats]:
    """The clouds asked for, else four real frames, else a synthetic one."""
    paths = paths or sorted(FRAMES.glob("*.bin"))[::35]
    return {path.name: read_cloud(path) for path in paths} or {"synthetic": scan(20_000, np.random.default_rng(0))}


def main() -> None:
    """Prints a table of timings and one of layers for every cloud."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clouds", nargs="*", type=Path, metavar="CLOUD", help="clouds instead of the real frames")
    parser.add_argument("--repeats", type=int, default=100)
    arguments = parser.parse_args()
    for name, points in clouds(arguments.clouds).items():
        print(f"{name}: {len(points)} points")
        print(f"{'':20}  least  median ms   least: voxelize  rules  convolve  fold")
        for size, model in SIZES.items():
            for threads in (1, 2):
                encoder = VoxelEncoder(model, SparseEncoder(model).fold(), threads=threads)
                total, steps = time_encoder(encoder, points, arguments.repeats)
                shares = "".join(f"{step:9.2f}" for step in steps.min(axis=0))
                print(f"  {size:8}{threads} threads {total.min():7.2f} {np.median(total):7.2f}   {shares}")
        print("  layer                       sites    pairs   MFLOP (4x)")
        print(*layer_lines(points, SIZES["4x"]), sep="\n")


if __name__ == "__main__":
    main()
