"""SECOND's sparse encoder in numpy: the readable twin of the C++ behind :class:`pd_edge.voxels.VoxelEncoder`."""

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pd_edge.config import SecondConfig
from pd_edge.voxels import (
    Floats,
    Keys,
    SparseLayer,
    Triple,
    VoxelNet,
    Voxels,
    check_voxel_net,
    grid_sizes,
    output_size,
    sparse_layers,
)

Rows = npt.NDArray[np.int64]
Rules = list[tuple[Rows, Rows]]
"""For each place of a kernel, in the order z, y, x: rows of input sites, and the row of the output site that each is
multiplied for. No output occurs twice at a place."""


def sparse_sites(keys: Keys, size: Triple, layer: SparseLayer) -> Keys:
    """Finds the sites that come out of a layer.

    Args:
        keys: (V,) int64, ascending, the sites that go in.
        size: (heights, ny, nx) of the layer's input.
        layer: The layer.

    Returns:
        (W,) int64, ascending: the input's for a submanifold layer, else every place with a neighbour among them.
    """
    if layer.submanifold:
        return keys
    reached = [outputs for _, outputs in _reached(keys, size, layer)]
    return np.unique(np.concatenate(reached))


def sparse_rules(keys: Keys, sites: Keys, size: Triple, layer: SparseLayer) -> Rules:
    """Finds what a layer multiplies at each place of its kernel.

    Args:
        keys: (V,) int64, ascending, the sites that go in.
        sites: (W,) int64, ascending, the sites that come out; see :func:`sparse_sites`.
        size: (heights, ny, nx) of the layer's input.
        layer: The layer.
    """
    rules = []
    for rows, outputs in _reached(keys, size, layer):
        place = np.searchsorted(sites, outputs)
        found = place < len(sites)
        found[found] = sites[place[found]] == outputs[found]
        rules.append((rows[found], place[found]))
    return rules


def _reached(keys: Keys, size: Triple, layer: SparseLayer) -> Iterator[tuple[Rows, Keys]]:
    """For each place of the kernel: the rows that reach an output through it, and the keys of these outputs.

    Site ``i`` reaches output ``o`` through place ``k`` where ``i = o * stride - padding + k``.
    """
    heights, ny, nx = output_size(size, layer)
    column, z = np.divmod(keys, size[0])
    inputs = np.stack([z, *np.divmod(column, size[2])])
    stride, padding = np.array([layer.stride]).T, np.array([layer.padding]).T
    for place in itertools.product(*map(range, layer.kernel)):
        output, rest = np.divmod(inputs + padding - np.array([place]).T, stride)
        inside = (rest == 0) & (output >= 0) & (output < np.array([[heights], [ny], [nx]]))
        rows = np.flatnonzero(inside.all(axis=0))
        oz, oy, ox = output[:, rows]
        yield rows, (oy * nx + ox) * heights + oz


def convolve_reference(features: Floats, weight: Floats, bias: Floats, rules: Rules, count: int) -> Floats:
    """Runs a layer on sites: gather, multiply, add; then bias and ReLU.

    Args:
        features: (V, inputs) float32, of the sites that go in.
        weight: (K, inputs, outputs) float32.
        bias: (outputs,) float32.
        rules: What is multiplied at each of the K places.
        count: W, the number of sites that come out.

    Returns:
        (W, outputs) float32, not negative.
    """
    sums = np.tile(bias, (count, 1))
    for place, (inputs, outputs) in zip(weight, rules, strict=True):
        sums[outputs] += features[inputs] @ place  # no output occurs twice
    return np.maximum(sums, np.float32(0))


def encode_voxels_reference(voxels: Voxels, net: VoxelNet, model: SecondConfig) -> Floats:
    """Runs the sparse layers and folds the heights that are left into channels.

    Returns:
        ``model.canvas_shape`` float32, 0 where no site is; channel ``c * heights + iz`` is the value ``c`` of height
        ``iz``.

    Raises:
        EngineError: The net does not fit the model.

    Source: the order of channels is that of spconv's ``dense()`` viewed as (N, C * D, H, W).
    """
    check_voxel_net(net, model)
    features, keys = voxels.features, voxels.keys
    sizes = grid_sizes(model)
    for layer, size, weight, bias in zip(sparse_layers(model), sizes, net.weights, net.biases, strict=False):
        sites = sparse_sites(keys, size, layer)
        rules = sparse_rules(keys, sites, size, layer)
        features, keys = convolve_reference(features, weight, bias, rules, len(sites)), sites
    heights, ny, nx = sizes[-1]
    canvas = np.zeros((features.shape[1], heights, ny * nx), np.float32)
    column, z = np.divmod(keys, heights)
    canvas[:, z, column] = features.T
    return canvas.reshape(model.canvas_shape)
