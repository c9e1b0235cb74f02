"""Voxels and the sparse layers of SECOND: a cloud to the canvas of its BEV network.

A site is a voxel, or a place of a later, coarser layer. The sites of a layer are listed by ascending key
``(iy * nx + ix) * heights + iz`` in that layer's own grid, in numpy, C++ and torch alike.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.config import SecondConfig

VOXEL_FEATURES = 4
"""Mean x y z [m] in the LiDAR frame and mean intensity 0..1 of a voxel's points."""

Floats = npt.NDArray[np.float32]
Triple = tuple[int, int, int]


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
        sizes.append(sizes[-1] if layer.submanifold else _strided_size(sizes[-1], layer))
    return sizes


def _submanifold(inputs: int, outputs: int) -> SparseLayer:
    kernel, stride, padding = (3, 3, 3), (1, 1, 1), (1, 1, 1)
    return SparseLayer(submanifold=True, kernel=kernel, stride=stride, padding=padding, inputs=inputs, outputs=outputs)


def _strided(kernel: Triple, stride: Triple, padding: Triple, inputs: int, outputs: int) -> SparseLayer:
    return SparseLayer(submanifold=False, kernel=kernel, stride=stride, padding=padding, inputs=inputs, outputs=outputs)


def _strided_size(size: Triple, layer: SparseLayer) -> Triple:
    z, y, x = (
        (cells + 2 * padding - kernel) // stride + 1
        for cells, padding, kernel, stride in zip(size, layer.padding, layer.kernel, layer.stride, strict=True)
    )
    return z, y, x
