"""Local graphs of pillars: nearest neighbours, graph convolution, and the difference of a teacher's and a student's.

The plain form gathers K neighbours per centre, concatenates ``[x_j ; x_i]``, convolves, normalises over all N*K edges
and subtracts: tensors of N*K*2C values, several times over. Here nothing of that size exists beyond one chunk:

- ``W [x_j ; x_i] = W1 x_j + W2 x_i``, so each row is projected once and gathered afterwards;
- with both parts centred, batch norm's variance over the edges needs, per row, how often it is a neighbour and, per
  centre, the sum of its neighbours;
- the loss is a scalar, so that its gradient is known, up to a factor, when its value is: one pass over the edges
  computes both, and the gradient through batch norm is again a correction per row and per centre.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

EPSILON, MOMENTUM = 1e-5, 0.1
"""Of the batch norm of the graph features, as released."""
CANDIDATES = 8
"""Columns per group in the search for the nearest; the fastest of 4, 8, 16 and 24 for 12,000 columns and K = 128."""
CPU_EDGE_BYTES, CPU_DISTANCE_BYTES, GPU_BYTES = 2**22, 2**23, 2**28
"""Size of a chunk's largest tensor: on a CPU edges stay in the cache, on a GPU few kernels do all the work."""


class Group(NamedTuple):
    """Chosen rows, their weights and their neighbours, of one frame or of a batch.

    Attributes:
        centres: (N,) int64, the chosen rows.
        neighbours: (N, K) int64, for each centre its nearest rows, itself among them.
        weights: (N,), the centres' weights.
    """

    centres: Tensor
    neighbours: Tensor
    weights: Tensor


class Moments(NamedTuple):
    """Mean and variance (of the population, not Bessel-corrected) of each channel, (C,) each."""

    mean: Tensor
    variance: Tensor


class GraphConv(nn.Module):
    """The parameters of one dynamic graph convolution: 1x1 convolution of ``[x_j ; x_i]``, batch norm, ReLU.

    Source: Wang et al., Dynamic Graph CNN (TOG 2019), with PointDistiller's order and its batch norm's settings.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, width, bias=False)
        self.norm = nn.BatchNorm1d(width, eps=EPSILON, momentum=MOMENTUM)
        nn.init.kaiming_normal_(self.linear.weight, mode="fan_out", nonlinearity="relu")

    def project(self, features: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        """What each row (P, C) adds as a neighbour, (P, width), and each centre (N,) as the centre, (N, width)."""
        as_neighbour, as_centre = self.linear.weight.chunk(2, dim=1)
        return features @ as_neighbour.T, features.index_select(0, centres) @ as_centre.T

    def count_in(self, moments: Moments, edges: int) -> None:
        """Takes a batch's moments into the running statistics, as batch norm does."""
        unbiased = moments.variance * (edges / max(edges - 1, 1))
        running = dict(self.norm.named_buffers())
        for name, found in (("running_mean", moments.mean), ("running_var", unbiased)):
            running[name].lerp_(found.to(running[name].dtype), MOMENTUM)
        running["num_batches_tracked"] += 1


def find_neighbours(points: Tensor, centres: Tensor, count: int, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The nearest rows of some rows, in no order; no matrix of all distances is in memory.

    Args:
        points: (P, D) coordinates.
        centres: (N,) int64, the rows whose neighbours are asked for. A row is a neighbour of itself.
        count: Neighbours K; all P rows where there are fewer.
        chunk: Centres whose distances are in memory at once; by default as suits the device.

    Returns:
        Rows (N, K) int64, and their squared distances (N, K).
    """
    points = points - points.mean(0)  # distances come from |y|^2 - 2xy, and small lengths lose fewer digits
    lengths = points.square().sum(1, keepdim=True)
    padding = (0, 0, 0, -len(points) % CANDIDATES)
    others = torch.cat([functional.pad(-2 * points, padding), functional.pad(lengths, padding, value=torch.inf)], dim=1)
    ours = torch.cat([points, torch.ones_like(lengths)], dim=1)  # one product gives all of |y|^2 - 2xy
    squared = points.new_empty((len(centres), min(count, len(points))))
    rows = torch.empty_like(squared, dtype=torch.int64)
    chunk = chunk or _fitting(points, len(others), CPU_DISTANCE_BYTES)
    for first in range(0, len(centres), chunk):
        some = slice(first, first + chunk)
        squared[some], rows[some] = smallest(ours.index_select(0, centres[some]) @ others.T, squared.shape[1])
    return rows, (squared + lengths.index_select(0, centres)).clamp_(min=0)


def smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The smallest values of each row and their columns, in no order, as ``topk`` but faster on long rows.

    The ``count`` groups of columns with the smallest minima hold the ``count`` smallest values, whichever groups the
    columns are dealt into: one value beyond them would have a smaller or equal one in each of these groups.

    Args:
        values: (N, M), M a multiple of ``CANDIDATES``, which is the size of the groups.
        count: How many, at most M.

    Returns:
        Values and columns, (N, count) each.
    """
    groups = values.shape[1] // CANDIDATES
    if count >= groups:
        found = values.topk(count, dim=1, largest=False, sorted=False)
        return found.values, found.indices
    dealt = values.view(-1, CANDIDATES, groups)
    best = dealt.amin(1).topk(count, dim=1, largest=False, sorted=False).indices
    candidates = dealt.gather(2, best[:, None].expand(-1, CANDIDATES, -1)).flatten(1)
    found = candidates.topk(count, dim=1, largest=False, sorted=False)
    return found.values, best.gather(1, found.indices % count) + found.indices // count * groups


def graph_difference(
    graphs: tuple[GraphConv, GraphConv],
    features: tuple[Tensor, Tensor],
    groups: Sequence[Group],
    chunk: int | None = None,
) -> Tensor:
    """The mean of ``weight_i * (G_T,ikc - G_S,ikc)^2`` over all centres i, their neighbours k and channels c.

    In training mode batch norm uses the statistics of all edges (i, k), and counts them into its running ones.

    Args:
        graphs: The teacher's and the student's graph convolution, of one width.
        features: The teacher's (P, C_t) and the student's (P, C_s), of one dtype.
        groups: Centres and neighbours; all groups together are one batch.
        chunk: Centres whose neighbours are in memory at once; by default as suits the device.
    """
    centres = torch.cat([group.centres for group in groups])
    projected = [graph.project(each, centres) for graph, each in zip(graphs, features, strict=True)]
    as_neighbour, as_centre = (torch.cat(parts, dim=1) for parts in zip(*projected, strict=True))
    norms = [graph.norm for graph in graphs]
    scale, shift, mean, variance = (
        torch.cat([getattr(norm, name) for norm in norms]) for name in ("weight", "bias", "running_mean", "running_var")
    )
    fixed = None if graphs[0].training else Moments(mean, variance)
    values = max(group.neighbours.shape[1] for group in groups) * as_neighbour.shape[1]
    edges = Edges(groups, chunk or _fitting(as_neighbour, values, CPU_EDGE_BYTES))
    loss, *found = _GraphDifference.apply(  # type: ignore[no-untyped-call]
        as_neighbour, as_centre, scale, shift, edges, fixed
    )
    if fixed is None:
        for graph, *moments in zip(graphs, *(each.chunk(2) for each in found), strict=True):
            graph.count_in(Moments(*moments), edges.count)
    return loss  # type: ignore[no-any-return]


class Edges:
    """The edges from centres to neighbours, in chunks of centres.

    Attributes:
        groups: The groups, whose centres are counted through.
        count: Number of edges.
    """

    def __init__(self, groups: Sequence[Group], chunk: int) -> None:
        self.groups, self._chunk = groups, chunk
        self.count = sum(group.neighbours.numel() for group in groups)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunks: which centres (of all groups' together), their neighbours (n, K) and their weights (n,)."""
        first = 0
        for group in self.groups:
            chunks = (torch.split(each, self._chunk) for each in (group.neighbours, group.weights))
            for neighbours, weights in zip(*chunks, strict=True):
                yield slice(first, first + len(neighbours)), neighbours, weights
                first += len(neighbours)

    def fan_out(self, like: Tensor) -> Tensor:
        """How many neighbours each centre has, (N, 1)."""
        return torch.cat([like.new_full((len(each.centres), 1), each.neighbours.shape[1]) for each in self.groups])

    def fan_in(self, rows: Tensor) -> Tensor:
        """How often each of the rows (P, C) is a neighbour, (P, 1)."""
        degree = rows.new_zeros(len(rows))
        for group in self.groups:
            index = group.neighbours.flatten()
            degree.index_add_(0, index, rows.new_ones(1).expand(len(index)))
        return degree[:, None]

    def gather(self, rows: Tensor) -> Tensor:
        """Each centre's sum over its neighbours' rows: (P, C) to (N, C)."""
        return torch.cat([functional.embedding_bag(group.neighbours, rows, mode="sum") for group in self.groups])

    def scatter(self, rows: Tensor, size: int) -> Tensor:
        """Each row's sum over the centres it is a neighbour of, (N, C) to (size, C): :meth:`gather` transposed."""
        found = rows.new_zeros((size, rows.shape[1]))
        for some, neighbours, _ in self:
            spread = rows[some, None].expand(-1, neighbours.shape[1], -1)
            found.index_add_(0, neighbours.flatten(), spread.reshape(-1, rows.shape[1]))
        return found


class _Pass(NamedTuple):
    """What one pass over the edges gives: the loss, and its gradient summed per row (P, 2w) and per centre (N, 2w)."""

    loss: Tensor
    rows: Tensor
    centres: Tensor


def _pass(as_neighbour: Tensor, as_centre: Tensor, edges: Edges) -> _Pass:
    """The loss where an edge's value before the ReLU is its row's plus its centre's, and its gradient by that value."""
    width = as_neighbour.shape[1] // 2
    by_row, by_centre = torch.zeros_like(as_neighbour), torch.empty_like(as_centre)
    loss = as_neighbour.new_zeros((), dtype=torch.float64)
    for some, neighbours, weights in edges:
        index = neighbours.flatten()
        values = as_neighbour.index_select(0, index).view(*neighbours.shape, 2, width)
        values.add_(as_centre[some].view(-1, 1, 2, width)).relu_()
        difference = values[:, :, 0] - values[:, :, 1]
        weighted = difference * (weights / (edges.count * width))[:, None, None]
        loss += torch.dot(weighted.flatten(), difference.flatten())
        values.sign_().mul_(weighted[:, :, None])
        by_centre[some] = values.sum(1).flatten(1)
        by_row.index_add_(0, index, values.view(-1, 2 * width))
    for gradient in (by_row, by_centre):
        gradient[:, :width] *= 2
        gradient[:, width:] *= -2
    return _Pass(loss, by_row, by_centre)


class _Centred(NamedTuple):
    """What stands before batch norm, relative to its mean: an edge's value is its row's plus its centre's.

    Attributes:
        rows: (P, 2w).
        centres: (N, 2w).
        fan_in: (P, 1), how often a row is a neighbour.
        fan_out: (N, 1), how many neighbours a centre has.
        around: (N, 2w), the sum of the values of a centre's edges.
        moments: Of all edges (float64), or those given.
    """

    rows: Tensor
    centres: Tensor
    fan_in: Tensor
    fan_out: Tensor
    around: Tensor
    moments: Moments


def _centre(as_neighbour: Tensor, as_centre: Tensor, edges: Edges, fixed: Moments | None) -> _Centred:
    fan_in, fan_out = edges.fan_in(as_neighbour), edges.fan_out(as_centre)
    row_mean, centre_mean = (
        (fan * part).sum(0, dtype=torch.float64) / edges.count if fixed is None else fixed.mean / 2
        for fan, part in ((fan_in, as_neighbour), (fan_out, as_centre))
    )
    rows, centres = as_neighbour - row_mean.to(as_neighbour.dtype), as_centre - centre_mean.to(as_centre.dtype)
    around = edges.gather(rows) + fan_out * centres
    if fixed is not None:
        return _Centred(rows, centres, fan_in, fan_out, around, fixed)
    squares = (fan_in * rows.square()).sum(0, dtype=torch.float64)
    squares += (centres * (2 * around - fan_out * centres)).sum(0, dtype=torch.float64)
    return _Centred(rows, centres, fan_in, fan_out, around, Moments(row_mean + centre_mean, squares / edges.count))


class _GraphDifference(torch.autograd.Function):
    """Batch norm, ReLU and weighted mean square of two projected graphs that lie side by side, 2w channels."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        as_neighbour: Tensor,
        as_centre: Tensor,
        scale: Tensor,
        shift: Tensor,
        edges: Edges,
        fixed: Moments | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and the moments used. Gradients are computed here too, and only scaled on the way back."""
        rows, centres, fan_in, fan_out, around, moments = _centre(as_neighbour, as_centre, edges, fixed)
        spread = (moments.variance + EPSILON).rsqrt().to(rows.dtype)
        gain = scale * spread
        loss, by_row, by_centre = _pass(rows * gain, centres * gain + shift, edges)
        by_shift = by_centre.sum(0)
        by_scale = spread * ((rows * by_row).sum(0) + (centres * by_centre).sum(0))
        if fixed is None:  # the mean and the variance depend on every edge
            by_mean, along = by_shift / edges.count, spread * by_scale / edges.count
            by_row -= fan_in * by_mean + (edges.scatter(centres, len(rows)) + fan_in * rows) * along
            by_centre -= fan_out * by_mean + around * along
        ctx.save_for_backward(by_row * gain, by_centre * gain, by_scale, by_shift)
        ctx.mark_non_differentiable(*moments)
        return loss.to(rows.dtype), *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the kept gradients."""
        return *(by_loss * each for each in ctx.saved_tensors), None, None


def _fitting(like: Tensor, values_per_centre: int, cpu_bytes: int) -> int:
    """Centres per chunk, so that the chunk's largest tensor has the size that suits the device."""
    size = GPU_BYTES if like.is_cuda else cpu_bytes
    return max(size // (values_per_centre * like.element_size()), 1)
