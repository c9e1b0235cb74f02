"""SECOND's sparse encoder in PyTorch: the voxels of a batch, with all rulebooks, to the canvas of the BEV network.

The state dict's names, part of the public format::

    layers.N.conv.weight  layers.N.norm.*        sparse layer N of pd_edge.voxels.sparse_layers
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from pd_edge.config import SecondConfig
from pd_edge.errors import DataError
from pd_edge.native import _rulebooks
from pd_edge.training.network import EPSILON, MOMENTUM
from pd_edge.training.sparse_conv import Convolution, Reached, Rules, Sites, SparseConv
from pd_edge.training.spconv_backend import fastest
from pd_edge.voxels import SparseLayer, VoxelNet, grid_sizes, sparse_layers


class VoxelBatch(NamedTuple):
    """The voxels of a batch of frames, and the rulebooks of the network over them.

    A teacher and a student of one grid share a batch, whatever their channels.

    Attributes:
        features: (V, 4) float32, mean x y z [m] and intensity of each voxel, of all frames.
        keys: (V,) int64, ascending, ``((b*ny + iy)*nx + ix)*heights + iz``.
        rules: The distinct rulebooks, in the order the layers need them; submanifold layers in a row share one.
        cells: (V',) int64, the last layer's sites on the batch's canvas, ascending: ``b*H*W + iy*W + ix``; sites above
            each other share a cell.
        heights: (V',) int64, their heights iz.
        size: Number of frames B.
    """

    features: Tensor
    keys: Tensor
    rules: list[Rules]
    cells: Tensor
    heights: Tensor
    size: int

    def to(self, device: torch.device) -> "VoxelBatch":
        """The same batch on another device."""
        features, keys, cells, heights = (
            each.to(device, non_blocking=True) for each in (self.features, self.keys, self.cells, self.heights)
        )
        return VoxelBatch(features, keys, [rules.to(device) for rules in self.rules], cells, heights, self.size)


def batch_voxels(frames: Sequence[tuple[npt.NDArray[Any], ...]], model: SecondConfig) -> VoxelBatch:
    """Joins the voxels of a batch's frames as tensors, and builds the rulebooks of the network over them.

    Args:
        frames: Per frame features (V, 4) float32 and keys (V,) ``(iy*nx + ix)*heights + iz``, ascending, as the first
            two members; see :mod:`pd_edge.voxels`.
        model: The network; its grid and layers count, not its channels.

    Raises:
        DataError: The keys of a frame do not ascend, or lie beyond the grid.
    """
    size = grid_sizes(model)[0]
    cells = size[0] * size[1] * size[2]
    for number, frame in enumerate(frames):
        _check_keys(frame[1], cells, number)
    keys = [np.ascontiguousarray(frame[1], np.int64) for frame in frames]
    rules, last = build_rulebooks(keys, model)
    joined = np.concatenate([each + number * cells for number, each in enumerate(keys)])
    features = torch.from_numpy(np.concatenate([frame[0] for frame in frames]).astype(np.float32, copy=False))
    heights = last.size[0]
    return VoxelBatch(features, torch.from_numpy(joined), rules, last.keys // heights, last.keys % heights, len(frames))


def _check_keys(keys: npt.NDArray[Any], cells: int, number: int) -> None:
    if len(keys) and (keys[0] < 0 or keys[-1] >= cells or (np.diff(keys) <= 0).any()):
        raise DataError(
            f"frame {number}: voxel keys {keys[0]} .. {keys[-1]}, expected ascending ones in 0 .. {cells - 1}; "
            "voxelize the cloud with the network's own grid"
        )


def build_rulebooks(frames: Sequence[npt.NDArray[np.int64]], model: SecondConfig) -> tuple[list[Rules], Sites]:
    """The distinct rulebooks of a model's layers over the sites of a batch, and the last layer's sites.

    Built in C++, as :mod:`pd_edge.training.sparse_conv` builds them in torch, but several times as fast.

    Args:
        frames: Per frame the keys (V,) of its sites, ascending and within the model's grid; nothing checks them here.
        model: The network.
    """
    sizes = grid_sizes(model)
    books, last = _rulebooks.rulebooks(frames, sizes[0], [layer[:4] for layer in rulebook_layers(sparse_layers(model))])
    rules = [Rules(torch.from_numpy(neighbours), reached and _reached(*reached)) for neighbours, reached in books]
    return rules, Sites(torch.from_numpy(last), sizes[-1])


def _reached(
    inputs: npt.NDArray[np.int32], outputs: npt.NDArray[np.int32], places: npt.NDArray[np.int64], sizes: list[list[int]]
) -> Reached:
    return Reached(torch.from_numpy(inputs), torch.from_numpy(outputs), torch.from_numpy(places), sizes)


def rulebook_numbers(layers: Sequence[SparseLayer]) -> list[int]:
    """Which rulebook each layer uses: a submanifold layer after one of the same kernel uses the same."""
    numbers = [0]
    for before, layer in itertools.pairwise(layers):
        shared = before.submanifold and layer.submanifold and before.kernel == layer.kernel
        numbers.append(numbers[-1] + (not shared))
    return numbers


def rulebook_layers(layers: Sequence[SparseLayer]) -> list[SparseLayer]:
    """Of each distinct rulebook the first layer that uses it."""
    numbers = rulebook_numbers(layers)
    return [layers[numbers.index(number)] for number in range(numbers[-1] + 1)]


class SparseBlock(nn.Module):
    """Sparse convolution without bias, batch norm and ReLU."""

    def __init__(self, layer: SparseLayer) -> None:
        super().__init__()
        self.conv = SparseConv(layer)
        self.norm = nn.BatchNorm1d(layer.outputs, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, features: Tensor, rules: Convolution) -> Tensor:
        """Features (V, C) of the input sites to (V', C') of the output sites."""
        rows: Tensor = self.conv(features, rules)
        if self.training and len(rows) < 2:
            return self._as_in_use(rows).relu()
        return torch.relu(self.norm(rows))

    def _as_in_use(self, rows: Tensor) -> Tensor:
        """Batch norm by the running statistics: fewer than two sites have no variance, and add nothing to them."""
        norm = self.norm
        return functional.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Weight (K, inputs, outputs) and bias (outputs,) with batch norm (inference statistics) in them, float64."""
        norm = {name: tensor.detach().double().cpu() for name, tensor in self.norm.state_dict().items()}
        scale = norm["weight"] / (norm["running_var"] + self.norm.eps).sqrt()
        return self.conv.weight.detach().double().cpu() * scale, norm["bias"] - norm["running_mean"] * scale


class SparseEncoder(nn.Module):
    """SECOND's middle encoder: :class:`VoxelBatch` in, canvas out; the layers of pd_edge.voxels.sparse_layers.

    The first layer, which meets coordinates, stays in float32 under autocast: bfloat16 resolves a quarter of a metre at
    60 m, five voxels.

    On a GPU spconv convolves where it is installed (:mod:`pd_edge.training.spconv_backend`), with the same state dict.

    Source: Yan et al., SECOND (Sensors 2018), as mmdetection3d's SparseEncoder has it.
    """

    def __init__(self, model: SecondConfig) -> None:
        super().__init__()
        layers = sparse_layers(model)
        self.layers = nn.ModuleList(map(SparseBlock, layers))
        self._rulebooks = rulebook_numbers(layers)
        self._canvas_shape, self._heights = model.canvas_shape[1:], grid_sizes(model)[-1][0]

    def forward(self, batch: VoxelBatch) -> Tensor:
        """The canvas (B, C, ny/8, nx/8), channels-last in memory, zero where no site is; C = channel*heights + iz."""
        rulebooks = fastest(batch.rules, batch.features)
        first, *layers = self.layers
        with torch.autocast(batch.features.device.type, enabled=False):
            rows = first(batch.features, rulebooks[0])
        for layer, number in zip(layers, self._rulebooks[1:], strict=True):
            rows = layer(rows, rulebooks[number])
        return self._canvas(rows, batch)

    def _canvas(self, rows: Tensor, batch: VoxelBatch) -> Tensor:
        channels, ny, nx = self._canvas_shape
        device = rows.device.type
        if torch.is_autocast_enabled(device):
            rows = rows.to(torch.get_autocast_dtype(device))
        columns = rows.new_zeros((batch.size * ny * nx, rows.shape[1], self._heights))
        each = torch.arange(rows.shape[1], device=rows.device)
        columns.index_put_((batch.cells[:, None], each, batch.heights[:, None]), rows)
        return columns.view(batch.size, ny, nx, channels).permute(0, 3, 1, 2)

    def fold(self) -> VoxelNet:
        """The layers for the C++ encoder, batch norms folded in, float32."""
        blocks = [block for block in self.layers if isinstance(block, SparseBlock)]
        weights, biases = zip(*(block.fold() for block in blocks), strict=True)
        return VoxelNet(tuple(map(_float32, weights)), tuple(map(_float32, biases)))


def _float32(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)
