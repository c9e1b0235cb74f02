"""Voxels and the sparse layers of SECOND: a cloud to the canvas of its BEV network.

A site is a voxel, or a place of a later, coarser layer. The sites of a layer are listed by ascending key
``(iy * nx + ix) * heights + iz`` in that layer's own grid, in numpy, C++ and torch alike.

Voxels are dynamic, as pillars are: no cap on their points or their number. The cell of a point on the ground, its
height index and the mean of a voxel are found as :mod:`pd_edge.pillars` finds a cell and a pillar's mean, so that they
are the same in every runtime and for any order of the points. The readable numpy twin of the encoder in
``native/voxels.cpp`` is :mod:`pd_edge.sparse`.
"""

import math
import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.config import SecondConfig, VoxelGridConfig
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.native import _voxels
from pd_edge.pillars import FIXED_POINT, Layout, check_points, grid_constants, point_cells_reference

VOXEL_FEATURES = 4
"""Mean x y z [m] in the LiDAR frame and mean intensity 0..1 of a voxel's points."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Keys = npt.NDArray[np.int64]
Triple = tuple[int, int, int]


class Voxels(NamedTuple):
    """A cloud divided into voxels.

    Attributes:
        features: (V, 4) float32, mean x y z [m] and intensity of each voxel's points.
        keys: (V,) int64, ascending, ``(iy * nx + ix) * (nz + 1) + iz``.
        counts: (V,) int32, points in each voxel.
    """

    features: Floats
    keys: Keys
    counts: Ints


class SparseLayer(NamedTuple):
    """A sparse convolution; all triples are (z, y, x).

    Out of site ``o`` comes ``sum over k of W[k] in[o * stride - padding + k]`` over those neighbours that are sites.
    A submanifold layer has the sites of its input; a strided one has every site with a neighbour.
    """

    submanifold: bool
    kernel: Triple
    stride: Triple
    padding: Triple
    inputs: int
    outputs: int

    @property
    def weight_shape(self) -> Triple:
        """(K, inputs, outputs), K the places of the kernel."""
        return math.prod(self.kernel), self.inputs, self.outputs


class VoxelNet(NamedTuple):
    """The sparse layers with their batch norms folded; a ReLU follows each.

    Attributes:
        weights: Per layer (K, inputs, outputs) float32, the K places of the kernel in the order z, y, x.
        biases: Per layer (outputs,) float32.
    """

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]


def sparse_layers(model: SecondConfig) -> list[SparseLayer]:
    """The sparse layers of a model, in order.

    Two submanifold layers, then three stages of a strided and two submanifold layers, which halve the grid, and a last
    layer that halves the heights alone.

    Source: SECOND's middle encoder as mmdetection3d's SparseEncoder has it.
    """
    first, *later = model.sparse_channels
    layers = [_submanifold(VOXEL_FEATURES, first), _submanifold(first, first)]
    inputs = first
    for stage, channels in enumerate(later):
        lower = 0 if stage == len(later) - 1 else 1
        layers.append(_strided((3, 3, 3), (2, 2, 2), (lower, 1, 1), inputs, channels))
        layers += [_submanifold(channels, channels)] * 2
        inputs = channels
    return [*layers, _strided((3, 1, 1), (2, 1, 1), (0, 0, 0), inputs, model.folded_channels)]


def grid_sizes(model: SecondConfig) -> list[Triple]:
    """(heights, ny, nx) of the input and of each layer's output; the heights of the input are one more than voxels.

    Source: mmdetection3d's configuration, 41 heights for 40 voxels.
    """
    sizes = [(model.grid.nz + 1, model.grid.ny, model.grid.nx)]
    for layer in sparse_layers(model):
        sizes.append(sizes[-1] if layer.submanifold else output_size(sizes[-1], layer))
    return sizes


def _submanifold(inputs: int, outputs: int) -> SparseLayer:
    kernel, stride, padding = (3, 3, 3), (1, 1, 1), (1, 1, 1)
    return SparseLayer(submanifold=True, kernel=kernel, stride=stride, padding=padding, inputs=inputs, outputs=outputs)


def _strided(kernel: Triple, stride: Triple, padding: Triple, inputs: int, outputs: int) -> SparseLayer:
    return SparseLayer(submanifold=False, kernel=kernel, stride=stride, padding=padding, inputs=inputs, outputs=outputs)


def output_size(size: Triple, layer: SparseLayer) -> Triple:
    """(heights, ny, nx) of a layer's output, of those of its input."""
    z, y, x = (
        (cells + 2 * padding - kernel) // stride + 1
        for cells, padding, kernel, stride in zip(size, layer.padding, layer.kernel, layer.stride, strict=True)
    )
    return z, y, x


def _native_grid(grid: VoxelGridConfig) -> _voxels.Grid:
    ground = grid_constants(grid)._asdict()
    shared = {name: ground[name] for name in ("scale", "x_offset", "y_offset", "z_min", "z_max", "nx", "ny")}
    return _voxels.Grid(**shared, z_scale=float(grid.z_scale), z_offset=float(grid.z_offset), nz=grid.nz)


def _check_cloud(points: Floats, grid: VoxelGridConfig) -> Floats:
    points = check_points(points, grid)
    intensities = np.abs(points[:, 3])
    greatest = float(np.max(intensities, initial=0, where=np.isfinite(intensities)))
    if len(points) * greatest >= 2**63 / float(FIXED_POINT):
        raise DataError(
            f"an intensity of {greatest:g} among {len(points)} points overflows a voxel's 64-bit sum; "
            "scale intensities to 0..1, as pd_edge.clouds does"
        )
    return points


def voxelize(points: Floats, grid: VoxelGridConfig) -> Voxels:
    """Divides a cloud into voxels.

    A point belongs to none if it is outside the grid, outside ``z_min <= z < z_max``, or has a NaN or an infinity in
    any of its four values. The height index is rounded to float32, so that a z just below ``z_max`` may be outside too
    (in the default grid the last 2.4e-7 m).

    A permutation of the points changes no bit of the result: means come from 64-bit integer sums in steps of 2^-24 (of
    a metre, of the intensity's scale) and one float64 division.

    Args:
        points: (N, 4) float32, x y z [m] in the LiDAR frame and intensity 0..1.
        grid: The detection volume.

    Raises:
        DataError: Wrong dtype or shape, or intensities that overflow the sums.

    Source: means as in mmdetection3d's HardSimpleVFE; no cap of points or voxels, unlike there.
    """
    return Voxels(*_voxels.voxelize(_check_cloud(points, grid), _native_grid(grid)))


def voxelize_reference(points: Floats, grid: VoxelGridConfig) -> Voxels:
    """Numpy twin of :func:`voxelize`, equal to the last bit."""
    cells = point_cells_reference(_check_cloud(points, grid), grid)
    with np.errstate(over="ignore", invalid="ignore"):  # a far or NaN height is simply outside
        height = np.floor(points[:, 2] * grid.z_scale + grid.z_offset)
    inside = (cells >= 0) & (height >= 0) & (height < grid.nz)
    point_keys = cells[inside].astype(np.int64) * (grid.nz + 1) + height[inside].astype(np.int64)
    keys, voxel, counts = np.unique(point_keys, return_inverse=True, return_counts=True)
    sums = np.zeros((len(keys), VOXEL_FEATURES), np.int64)
    np.add.at(sums, voxel, np.rint(points[inside] * FIXED_POINT).astype(np.int64))
    features = (sums / (counts.astype(np.float64) * float(FIXED_POINT))[:, None]).astype(np.float32)
    return Voxels(features, keys, counts.astype(np.int32))


def check_voxel_net(net: VoxelNet, model: SecondConfig) -> None:
    """Checks that a net's arrays are those of a model's layers.

    Raises:
        EngineError: Wrong number of layers, wrong dtype or shape, or a value that is not finite.
    """
    layers = sparse_layers(model)
    if not len(net.weights) == len(net.biases) == len(layers):
        raise EngineError(
            f"voxel net has {len(net.weights)} weights and {len(net.biases)} biases, expected one of each for the "
            f"{len(layers)} sparse layers; export anew"
        )
    for i, (layer, weight, bias) in enumerate(zip(layers, net.weights, net.biases, strict=True)):
        _check_array(f"weight {i}", weight, layer.weight_shape)
        _check_array(f"bias {i}", bias, (layer.outputs,))


def _check_array(name: str, array: Floats, shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32 or array.shape != shape:
        raise EngineError(
            f"voxel net {name} is {array.dtype} of shape {array.shape}, expected float32 {shape}; "
            "it belongs to another configuration, or is damaged: export anew"
        )
    if not np.isfinite(array).all():
        raise EngineError(f"voxel net {name} holds a NaN or an infinity; the weights are damaged, export anew")


class VoxelEncoder:
    """Points to canvas in one pass: voxels, sparse layers and folding, fused in C++ for the CPU.

    Equal to :func:`voxelize` and :func:`pd_edge.sparse.encode_voxels_reference` in turn, up to float32 rounding (about
    1e-6 of the largest value). Depends neither on the order of the points nor on the number of threads, bit for bit.

    Args:
        model: The network, of which the grid and the sparse layers count here.
        net: The folded sparse layers.
        layout: "nchw" gives a canvas (1, C, H, W) of ``model.canvas_shape``, "nhwc" gives (1, H, W, C).
        threads: CPU threads; None takes two where there are two.

    Raises:
        ConfigError: An unknown layout.
        EngineError: The net does not fit the model, see :func:`check_voxel_net`, or less than one thread.
    """

    def __init__(self, model: SecondConfig, net: VoxelNet, layout: Layout = "nchw", threads: int | None = None) -> None:
        if layout not in ("nchw", "nhwc"):
            raise ConfigError(f"canvas layout {layout!r} is unknown; use 'nchw' or 'nhwc'")
        if threads is not None and threads < 1:
            raise EngineError(f"threads {threads}: give 1 or more, or leave it out for two where there are two")
        check_voxel_net(net, model)
        self._grid = model.grid
        layers = [
            (*layer[:4], np.ascontiguousarray(weight), np.ascontiguousarray(bias))
            for layer, weight, bias in zip(sparse_layers(model), net.weights, net.biases, strict=True)
        ]
        threads = threads or min(2, os.cpu_count() or 1)
        self._native = _voxels.VoxelEncoder(
            _native_grid(model.grid),
            layers,
            channels_last=layout == "nhwc",
            threads=threads,
            instructions=_voxels.instruction_sets()[0],
        )

    def encode(self, points: Floats) -> Floats:
        """Encodes a cloud.

        Args:
            points: (N, 4) float32, x y z [m] in the LiDAR frame and intensity 0..1.

        Returns:
            The canvas, float32, every value >= 0 and 0 where no site is. The array belongs to the encoder: **the next
            call overwrites it**, and only the cells that change, so copy it to keep it and never write into it.

        Raises:
            DataError: Wrong dtype or shape, or intensities that overflow the sums; the canvas stays as it was.
        """
        return self._native.encode(_check_cloud(points, self._grid))

    @property
    def seconds(self) -> dict[str, float]:
        """How long the steps of the last call took [s]: voxelize, rules, convolve, fold."""
        return self._native.seconds()
