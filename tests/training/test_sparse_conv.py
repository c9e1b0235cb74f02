"""Sparse convolution against torch's dense one, masked to the sites: values and gradients."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pd_edge.native import _rulebooks
from pd_edge.training import sparse_conv
from pd_edge.training.sparse_conv import Rules, Sites, SparseConv, strided_rules, submanifold_rules
from pd_edge.voxels import SparseLayer, Triple

SIZE = (7, 6, 8)
"""Heights, ny, nx."""
SUBMANIFOLD = SparseLayer(submanifold=True, kernel=(3, 3, 3), stride=(1, 1, 1), padding=(1, 1, 1), inputs=3, outputs=5)
STRIDED = SUBMANIFOLD._replace(submanifold=False, stride=(2, 2, 2))
LAYERS = {
    "submanifold": SUBMANIFOLD,
    "flat kernel": SUBMANIFOLD._replace(kernel=(1, 3, 5), padding=(0, 1, 2)),
    "strided": STRIDED,
    "strided, no padding of heights": STRIDED._replace(padding=(0, 1, 1)),
    "kernel shorter than the stride": STRIDED._replace(kernel=(1, 3, 1), padding=(0, 1, 0)),
    "heights alone": STRIDED._replace(kernel=(3, 1, 1), stride=(2, 1, 1), padding=(0, 0, 0)),
}
TALL = {
    **{name: layer for name, layer in LAYERS.items() if layer.kernel[0] == 3},
    "tall kernel, shorter than the stride": STRIDED._replace(kernel=(3, 3, 1), padding=(0, 1, 0)),
}
"""Those that rulebooks are built for in C++."""
EACH_LAYER = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


class Case(NamedTuple):
    """A layer at work on given sites."""

    sites: Sites
    outputs: Sites
    rules: Rules
    conv: SparseConv
    layer: SparseLayer


def sites_of(mask: Tensor) -> Sites:
    """The sites of a mask (B, heights, ny, nx)."""
    keys = mask.permute(0, 2, 3, 1).flatten().nonzero().squeeze(1)
    heights, ny, nx = mask.shape[1:]
    return Sites(keys, (heights, ny, nx))


def some_mask(frames: int, part: float, size: Triple = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand((frames, *size), generator=generator) < part


def case(mask: Tensor, layer: SparseLayer) -> Case:
    torch.manual_seed(0)
    sites = sites_of(mask)
    if layer.submanifold:
        outputs, rules = sites, submanifold_rules(sites, layer.kernel)
    else:
        outputs, rules = strided_rules(sites, layer)
    return Case(sites, outputs, rules, SparseConv(layer).double(), layer)


def dense_of(rows: Tensor, sites: Sites, frames: int) -> Tensor:
    """Rows (V, C) on their grid, (B, C, heights, ny, nx)."""
    heights, ny, nx = sites.size
    grid = rows.new_zeros((frames * ny * nx * heights, rows.shape[1])).index_copy(0, sites.keys, rows)
    return grid.view(frames, ny, nx, heights, -1).permute(0, 4, 3, 1, 2)


def rows_of(grid: Tensor, sites: Sites) -> Tensor:
    """The inverse of :func:`dense_of`, at the sites."""
    return grid.permute(0, 3, 4, 2, 1).flatten(0, 3)[sites.keys]


def reference(features: Tensor, weight: Tensor, each: Case, frames: int) -> Tensor:
    """The layer as a dense convolution, at its output sites."""
    kernel = weight.view(*each.layer.kernel, *weight.shape[1:]).permute(4, 3, 0, 1, 2)
    grid = dense_of(features, each.sites, frames)
    return rows_of(functional.conv3d(grid, kernel, None, each.layer.stride, each.layer.padding), each.outputs)


def check(mask: Tensor, layer: SparseLayer) -> None:
    """Holds a layer's values and gradients against the dense convolution's."""
    each = case(mask, layer)
    features = torch.randn(len(each.sites.keys), layer.inputs, dtype=torch.float64, requires_grad=True)
    found = each.conv(features, each.rules)
    expected = reference(features, each.conv.weight, each, len(mask))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    upstream = torch.randn_like(found)
    results = [torch.autograd.grad(some, [features, each.conv.weight], upstream) for some in (found, expected)]
    for gradient, wanted in zip(*results, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-10, rtol=1e-10)


@EACH_LAYER
@pytest.mark.parametrize(("frames", "part"), [(1, 0.1), (2, 0.4), (3, 0.15), (1, 1.0)])
def test_equals_the_dense_convolution(layer: SparseLayer, frames: int, part: float) -> None:
    check(some_mask(frames, part), layer)


@EACH_LAYER
def test_single_sites_at_every_border(layer: SparseLayer) -> None:
    for place in itertools.product(*((0, 1, cells - 2, cells - 1) for cells in SIZE)):
        mask = torch.zeros((2, *SIZE), dtype=torch.bool)
        mask[(1, *place)] = True
        check(mask, layer)


@given(sites=st.sets(st.integers(0, 2 * 5 * 4 * 3 - 1), max_size=40), layer=st.sampled_from(list(LAYERS.values())))
def test_any_sites(sites: set[int], layer: SparseLayer) -> None:
    mask = torch.zeros(2 * 5 * 4 * 3, dtype=torch.bool)
    mask[list(sites)] = True
    check(mask.view(2, 5, 4, 3), layer)


@EACH_LAYER
def test_no_sites(layer: SparseLayer) -> None:
    each = case(torch.zeros((2, *SIZE), dtype=torch.bool), layer)
    features = torch.zeros(0, layer.inputs, dtype=torch.float64, requires_grad=True)
    found = each.conv(features, each.rules)
    assert found.shape == (0, layer.outputs)
    torch.autograd.backward(found.sum())
    assert not each.conv.weight.grad.any()  # type: ignore[union-attr]


def test_the_finest_grid_needs_no_table() -> None:
    """Sites at both ends of 92 million cells a frame, in the last of four frames."""
    size = (41, 1600, 1408)
    cells = 41 * 1600 * 1408
    sites = Sites(torch.tensor([0, 1, 41, 4 * cells - 42, 4 * cells - 41]), size)
    rules = submanifold_rules(sites, (3, 3, 3))
    met = [sorted(row[row < 5].tolist()) for row in rules.neighbours]
    assert met == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [3], [4]]  # the last two: above one column, below the next
    outputs, _ = strided_rules(sites, STRIDED)
    assert outputs.size == (21, 800, 704)
    assert outputs.keys[-1] == 4 * 21 * 800 * 704 - 1


def check_native(mask: Tensor, layer: SparseLayer) -> None:
    """Holds the rulebook that C++ builds against that of torch, number by number, and the sites."""
    each = case(mask, layer)
    frames = [sites_of(one[None]).keys.numpy() for one in mask]
    (book,), last = _rulebooks.rulebooks(frames, each.sites.size, [layer[:4]])
    neighbours, reached = book
    assert np.array_equal(neighbours, each.rules.neighbours)
    assert np.array_equal(last, each.outputs.keys)
    if each.rules.reached is None:
        assert reached is None
        return
    assert reached is not None
    inputs, outputs, places, sizes = reached
    expected = each.rules.reached
    assert sizes == expected.sizes
    for found, wanted in ((inputs, expected.inputs), (outputs, expected.outputs), (places, expected.places)):
        assert torch.equal(torch.from_numpy(found), wanted)


@pytest.mark.parametrize("layer", TALL.values(), ids=TALL)
@pytest.mark.parametrize(("frames", "part"), [(1, 0.1), (2, 0.4), (3, 0.15), (1, 1.0), (2, 0.0)])
def test_native_rulebooks_are_the_same(layer: SparseLayer, frames: int, part: float) -> None:
    check_native(some_mask(frames, part), layer)
    check_native(some_mask(frames, part, (5, 30, 40)), layer)


@given(sites=st.sets(st.integers(0, 2 * 5 * 4 * 3 - 1), max_size=40), layer=st.sampled_from(list(TALL.values())))
def test_native_rulebooks_of_any_sites(sites: set[int], layer: SparseLayer) -> None:
    mask = torch.zeros(2 * 5 * 4 * 3, dtype=torch.bool)
    mask[list(sites)] = True
    check_native(mask.view(2, 5, 4, 3), layer)


def test_a_low_kernel_is_refused_in_cpp() -> None:
    with pytest.raises(ValueError, match="a kernel is 3 high"):
        _rulebooks.rulebooks([], SIZE, [LAYERS["flat kernel"][:4]])


@EACH_LAYER
def test_gradients_are_those_of_the_values(layer: SparseLayer) -> None:
    each = case(some_mask(2, 0.1, (4, 4, 4)), layer)
    features = torch.randn(len(each.sites.keys), layer.inputs, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *_: each.conv(features, each.rules), (features, each.conv.weight), fast_mode=True)


@EACH_LAYER
def test_chunks_change_no_result(layer: SparseLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_conv, "CPU_BYTES", 5000)
    check(some_mask(2, 0.3), layer)


@EACH_LAYER
def test_single_precision_is_within_1e_5(layer: SparseLayer) -> None:
    each = case(some_mask(2, 0.3), layer)
    conv = each.conv.float()
    features = torch.randn(len(each.sites.keys), layer.inputs)
    expected = reference(features, conv.weight, each, 2)
    torch.testing.assert_close(conv(features, each.rules), expected, atol=1e-5, rtol=1e-5)


@EACH_LAYER
def test_autocast_computes_in_bfloat16(layer: SparseLayer) -> None:
    each = case(some_mask(2, 0.3), layer)
    conv = each.conv.float()
    features = torch.randn(len(each.sites.keys), layer.inputs, requires_grad=True)
    exact = conv(features, each.rules)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = conv(features, each.rules)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)
    results = [torch.autograd.grad(some.square().sum(), [features, conv.weight]) for some in (exact, rounded)]
    for wanted, gradient in zip(*results, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - wanted).norm() < 0.03 * wanted.norm()


@EACH_LAYER
def test_autocast_on_the_way_back_alone_changes_nothing(layer: SparseLayer) -> None:
    each = case(some_mask(2, 0.3), layer)
    conv = each.conv.float()
    found = conv(torch.randn(len(each.sites.keys), layer.inputs), each.rules).square().sum()
    (exact,) = torch.autograd.grad(found, [conv.weight], retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (gradient,) = torch.autograd.grad(found, [conv.weight])
    assert torch.equal(gradient, exact)


def test_initial_values_keep_their_size() -> None:
    """Through four layers over sites that meet a third of the places, and ReLUs."""
    torch.manual_seed(0)
    sites = sites_of(some_mask(1, 0.36, (12, 16, 16)))
    rules = submanifold_rules(sites, (3, 3, 3))
    rows = torch.randn(len(sites.keys), 16).relu() * 2**0.5
    for _ in range(4):
        rows = SparseConv(SUBMANIFOLD._replace(inputs=16, outputs=16))(rows, rules).relu()
    assert 0.4 < rows.square().mean() < 2.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
@EACH_LAYER
def test_gpu_equals_cpu(layer: SparseLayer) -> None:
    each = case(some_mask(3, 0.3), layer)
    features = torch.randn(len(each.sites.keys), layer.inputs, dtype=torch.float64)
    results = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        rows, conv = features.to(device).requires_grad_(), each.conv.to(device)
        found = conv(rows, each.rules.to(device))
        gradients = torch.autograd.grad(found.square().sum(), [rows, conv.weight])
        results.append([some.cpu() for some in (found, *gradients)])
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu)
    on_gpu = sites_of(some_mask(3, 0.3).cuda())
    rules = submanifold_rules(on_gpu, layer.kernel) if layer.submanifold else strided_rules(on_gpu, layer)[1]
    assert torch.equal(rules.neighbours.cpu(), each.rules.neighbours)
