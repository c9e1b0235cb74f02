"""Sparse 3D convolution in plain torch, on a CPU or a GPU: rulebooks by sorted keys, then one gather and product.

A rulebook tells, for each site and each place of the kernel, which other site is there. Building one takes searches
among sorted keys; there is no table of the whole grid, which has 92 million cells. It depends on the sites alone, so
that layers over the same sites share theirs, as do a teacher and a student. What builds them here is the readable twin
of ``native/rulebooks.cpp``, which :func:`pd_edge.training.voxel_encoder.batch_voxels` uses.

A layer gathers the neighbours of some sites side by side, (n, K * C), a zero row where there is none, and multiplies
once by the weights of all places. Measured on a CPU against products per place that are then summed by site, this is as
fast in float32 and 1.7 times as fast in bfloat16; it sums in float32, and in one order, so that runs can be repeated.
The gradients of features and weights share one gather, along the rulebook the other way round.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pd_edge.voxels import SparseLayer, Triple, output_size

MEETING = 1 / 3
"""Part of a kernel's places that meet a site on a front view of KITTI: 0.1 .. 0.6, more in the coarser layers."""
CPU_BYTES, GPU_BYTES = 2**21, 2**28
"""Size of what is gathered at a time: on a CPU it stays in the cache, on a GPU few kernels do all the work."""
NOWHERE = torch.iinfo(torch.int64).max
"""A key that no site has."""


class Sites(NamedTuple):
    """The sites of a layer, of all frames of a batch.

    Attributes:
        keys: (V,) int64, ascending, ``((b * ny + iy) * nx + ix) * heights + iz``.
        size: (heights, ny, nx) of the grid.
    """

    keys: Tensor
    size: Triple

    def places(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frame b, iz, iy and ix of each site, (V,) int64 each."""
        heights, ny, nx = self.size
        column = self.keys // heights
        row = column // nx
        return row // ny, self.keys % heights, row % ny, column % nx


class Reached(NamedTuple):
    """A strided rulebook from the inputs' side, its inputs in groups that meet the same places of the kernel.

    With stride 2 an input meets 1, 2, 4 or 8 of 27 places, by where it lies between the outputs.

    Attributes:
        inputs: (V,) int32, input rows, group by group; fewer where a kernel is shorter than its stride.
        outputs: Per group, (n, P) flat, int32: output row that has the input at each of its places; V' if none has.
        places: The groups' places, one after another, int64; each of the kernel's once.
        sizes: [n, P] of each group.
    """

    inputs: Tensor
    outputs: Tensor
    places: Tensor
    sizes: list[list[int]]

    def to(self, device: torch.device) -> "Reached":
        """The same on another device."""
        inputs, outputs, places = (each.to(device, non_blocking=True) for each in self[:3])
        return Reached(inputs, outputs, places, self.sizes)

    def groups(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each group the inputs (n,), the outputs (n, P) and the places (P,)."""
        counts, places = (list(each) for each in zip(*self.sizes, strict=True))
        outputs = torch.split(self.outputs, [count * size for count, size in self.sizes])
        parts = (torch.split(self.inputs, counts), outputs, torch.split(self.places, places))
        for size, inputs, outs, places_met in zip(self.sizes, *parts, strict=True):
            yield inputs, outs.view(size), places_met


class Convolution(Protocol):
    """A rulebook in a form that features can be convolved by."""

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """Features (V, C) of the input sites and a weight (K, C, C') of the same type to (V', C') of that type."""


class Rules(NamedTuple):
    """A rulebook from V input sites to V' output sites. Rows are int32: it travels from process to process.

    Attributes:
        neighbours: (V', K) int32, input row at each place of the kernel, in the order z, y, x; V where there is none.
        reached: The same from the inputs' side; None in a submanifold layer, where left of me is who has me right.
    """

    neighbours: Tensor
    reached: Reached | None

    def to(self, device: torch.device) -> "Rules":
        """The same rulebook on another device."""
        reached = None if self.reached is None else self.reached.to(device)
        return Rules(self.neighbours.to(device, non_blocking=True), reached)

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """See :class:`Convolution`."""
        return _SparseConv.apply(features, weight, self)  # type: ignore[no-any-return, no-untyped-call]

    def backwards(self) -> Iterator[tuple[Tensor | slice, Tensor, Tensor]]:
        """The way of gradients: input rows, the output rows (n, P) that they reach, and the P places they do it at."""
        if self.reached is not None:
            yield from self.reached.groups()
            return
        places = torch.arange(self.neighbours.shape[1], device=self.neighbours.device)
        yield slice(None), self.neighbours, places.flip(0)


def submanifold_rules(sites: Sites, kernel: Triple) -> Rules:
    """The rulebook of a layer whose output sites are its input sites.

    Args:
        sites: The sites.
        kernel: Odd size (z, y, x) of the kernel, which is centred.
    """
    count = len(sites.keys)
    places = kernel[0] * kernel[1] * kernel[2]
    columns = sites.keys.new_full((places, count + 1), count, dtype=torch.int32)
    own = torch.arange(count, dtype=torch.int32, device=sites.keys.device)
    columns[places // 2, :-1] = own
    for place, there in _first_half(sites, kernel):
        columns[place, :-1] = there
        columns[places - 1 - place].index_copy_(0, there, own)  # all who meet none write into the last, unused cell
    return Rules(columns[:, :-1].T.contiguous(), None)


def _first_half(sites: Sites, kernel: Triple) -> Iterator[tuple[int, Tensor]]:
    """Each place before the centre, in the keys' order y, x, z, and who is there, (V,); V where there is none.

    One search finds the lowest site that a kernel's column may meet; the others of the column follow it.
    """
    (heights, _, nx), keys = sites.size, sites.keys
    _, z, y, x = sites.places()
    z_reach, y_reach, x_reach = (cells // 2 for cells in kernel)
    ended = torch.cat([keys, keys.new_full((1,), NOWHERE)])
    for dy, dx in itertools.product(range(-y_reach, 1), range(-x_reach, x_reach + 1)):
        step = (dy * nx + dx) * heights
        inside = (y + dy >= 0) & (x + dx >= 0) & (x + dx < nx)
        at = torch.searchsorted(keys, keys + (step - z_reach))
        for dz in range(-z_reach, z_reach + 1):
            if (dy, dx, dz) >= (0, 0, 0):
                return
            same = ended.index_select(0, at) == keys + (step + dz)  # or, over a column's end, a site of the next
            there = torch.where(same & inside & (z + dz >= 0) & (z + dz < heights), at, len(keys))
            yield ((dz + z_reach) * kernel[1] + dy + y_reach) * kernel[2] + dx + x_reach, there
            at = at + same


def strided_rules(sites: Sites, layer: SparseLayer) -> tuple[Sites, Rules]:
    """The output sites of a strided layer, each with an input site under its kernel, and its rulebook."""
    size = output_size(sites.size, layer)
    groups = list(_groups(sites, layer, size))
    found, outputs = torch.unique(torch.cat([keys.flatten() for _, _, keys in groups]), return_inverse=True)
    found = found[found < NOWHERE]  # which is the last, so that its row is the number of the others
    reached = Reached(
        inputs=torch.cat([rows for rows, _, _ in groups]).int(),
        outputs=outputs.int(),
        places=torch.cat([places for _, places, _ in groups]),
        sizes=[list(keys.shape) for _, _, keys in groups],
    )
    neighbours = reached.inputs.new_full((len(found) + 1, layer.weight_shape[0]), len(sites.keys))
    for inputs, outs, places in reached.groups():
        neighbours[outs, places] = inputs[:, None]
    return Sites(found, size), Rules(neighbours[:-1], reached)


def _groups(sites: Sites, layer: SparseLayer, size: Triple) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Input rows (n,) that meet the same places (P,) of the kernel, and the keys of the outputs there, (n, P)."""
    frame, *axes = sites.places()
    ahead = [place + padding for place, padding in zip(axes, layer.padding, strict=True)]
    last = [each.div(stride, rounding_mode="floor") for each, stride in zip(ahead, layer.stride, strict=True)]
    rests = [each - one * stride for each, one, stride in zip(ahead, last, layer.stride, strict=True)]
    kernel = torch.arange(layer.weight_shape[0], device=frame.device).view(layer.kernel)
    for rest in itertools.product(*map(range, layer.stride)):
        rows = ((rests[0] == rest[0]) & (rests[1] == rest[1]) & (rests[2] == rest[2])).nonzero().squeeze(1)
        places = kernel[tuple(slice(first, None, stride) for first, stride in zip(rest, layer.stride, strict=True))]
        if not places.numel():
            continue  # a kernel shorter than its stride passes these by
        z, y, x = (
            _outputs_along(axis, each.index_select(0, rows), places.shape[axis], size[axis])
            for axis, each in enumerate(last)
        )
        keys = ((frame.index_select(0, rows).view(-1, 1, 1, 1) * size[1] + y) * size[2] + x) * size[0] + z
        yield rows, places.flatten(), keys.masked_fill((z < 0) | (y < 0) | (x < 0), NOWHERE).flatten(1)


def _outputs_along(axis: int, last: Tensor, count: int, cells: int) -> Tensor:
    """The outputs on one axis z y x that reach (n,) sites, from the last down: (n, ...), -1 beyond the border."""
    outputs = last[:, None] - torch.arange(count, device=last.device)
    shape = [len(last), 1, 1, 1]
    shape[1 + axis] = count
    return outputs.masked_fill(outputs >= cells, -1).view(shape)


class SparseConv(nn.Module):
    """A sparse convolution without bias; its rulebook comes with the features.

    Like torch's, it is a cross-correlation: ``weight[k]``, (K, inputs, outputs), is what the neighbour at place ``k``
    is multiplied by.
    """

    def __init__(self, layer: SparseLayer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.weight_shape))
        # He initialisation, but only over the places that meet a site: with all 27, values would shrink layer by layer.
        nn.init.normal_(self.weight, std=(2 / (MEETING * math.prod(layer.weight_shape[:2]))) ** 0.5)

    def forward(self, features: Tensor, rules: Convolution) -> Tensor:
        """Features (V, inputs) of the input sites to (V', outputs) of the output sites, in autocast's type if any."""
        weight: Tensor = self.weight
        device = features.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            features, weight = features.to(dtype), weight.to(dtype)
        return rules.convolve(features, weight)


class _SparseConv(torch.autograd.Function):
    """Keeps features, weight and rulebook for the way back, and nothing that was gathered."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, rules: Rules) -> Tensor:
        """Multiplies the neighbours of a chunk of output sites at a time."""
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        matrix = weight.flatten(0, 1)
        result = features.new_empty((len(rules.neighbours), matrix.shape[1]))
        for some, gathered in _gather(_ended(features), rules.neighbours):
            torch.mm(gathered, matrix, out=result[some])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Both gradients from one gather of the outputs' gradients."""
        features, weight = ctx.saved_tensors
        by_features, by_weight = torch.zeros_like(features), torch.zeros_like(weight)
        by_output = _ended(by_output.to(features.dtype))
        for inputs, outputs, places in ctx.rules.backwards():
            matrix, rows = weight[places].transpose(1, 2).flatten(0, 1), features[inputs]
            by_matrix = matrix.new_zeros(matrix.T.shape, dtype=torch.promote_types(matrix.dtype, torch.float32))
            by_chunk = matrix.new_empty(by_matrix.shape)
            by_rows = torch.empty_like(rows)
            for some, gathered in _gather(by_output, outputs):
                torch.mm(gathered, matrix, out=by_rows[some])
                by_matrix += torch.mm(rows[some].T, gathered, out=by_chunk)  # out: not for autocast
            by_features[inputs] = by_rows
            by_weight[places] = by_matrix.view(len(by_matrix), len(places), -1).transpose(0, 1).to(weight.dtype)
        return by_features if ctx.needs_input_grad[0] else None, by_weight, None


def _ended(rows: Tensor) -> Tensor:
    """Rows, and one of zeros for sites that are not there."""
    return torch.cat([rows, rows.new_zeros((1, rows.shape[1]))])


def _gather(rows: Tensor, table: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of a table (N, P) of rows (V, C): which of it, and the rows side by side, (n, P * C)."""
    width = table.shape[1] * rows.shape[1]
    chunk = max((GPU_BYTES if rows.is_cuda else CPU_BYTES) // (width * rows.element_size()), 1)
    for first in range(0, len(table), chunk):
        some = slice(first, first + chunk)
        yield some, rows.index_select(0, table[some].flatten()).view(-1, width)
