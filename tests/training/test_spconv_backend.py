"""spconv on our rulebooks and weights against our own convolution; our encoder against one of spconv's modules."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pd_edge.config import SecondConfig
from pd_edge.training.second import student_4x_config, student_16x_config, teacher_config
from pd_edge.training.sparse_conv import Convolution, Rules, Sites, SparseConv
from pd_edge.training.spconv_backend import Pairs, fastest, obstacle
from pd_edge.training.voxel_encoder import SparseBlock, SparseEncoder, VoxelBatch, batch_voxels
from pd_edge.voxels import SparseLayer, grid_sizes, sparse_layers
from tests.training.test_sparse_conv import LAYERS, Case, case, some_mask
from tests.training.test_voxel_encoder import EMPTY, HIGH, frame

EACH_LAYER = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
EACH_SIZE = pytest.mark.parametrize(
    "size", [teacher_config, student_4x_config, student_16x_config], ids=["teacher", "4x", "16x"]
)
EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)


@pytest.fixture(autouse=True)
def _ask_anew() -> Iterator[None]:
    obstacle.cache_clear()
    yield
    obstacle.cache_clear()


@pytest.fixture
def library() -> Any:
    found = pytest.importorskip("spconv.pytorch", reason="spconv is not installed", exc_type=ImportError)
    if obstacle() is not None and os.environ.get("OMP_NUM_THREADS") != "1":
        pytest.skip("the sums of an spconv for CPUs alone are a race between threads; set OMP_NUM_THREADS=1")
    return found


@pytest.fixture
def device(request: pytest.FixtureRequest, library: Any) -> torch.device:
    """A device on which spconv has gradients: a CPU too, of all things with a wheel for CUDA."""
    if obstacle() is not None:
        pytest.skip(f"no gradients: {obstacle()}")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    return torch.device(request.param)


def single(layer: SparseLayer) -> tuple[Case, Tensor, Pairs]:
    """A layer in float32, features, and spconv's pairs."""
    each = case(some_mask(2, 0.3), layer)
    each.conv.float()
    return each, torch.randn(len(each.sites.keys), layer.inputs), Pairs.of(each.rules, len(each.sites.keys))


def small(size: Callable[[], SecondConfig]) -> SecondConfig:
    return size().model_copy(update={"grid": HIGH})


def voxels(model: SecondConfig) -> VoxelBatch:
    """Three frames, one of them empty."""
    return batch_voxels([frame(3, 400), EMPTY, frame(4, 100)], model)


def for_spconv(batch: VoxelBatch) -> VoxelBatch:
    """The batch with spconv's pairs, which on a CPU are not chosen of themselves."""
    counts = [len(batch.features), *(len(each.neighbours) for each in batch.rules)]
    rules: list[Any] = [Pairs.of(*each) for each in zip(batch.rules, counts, strict=False)]
    return batch._replace(rules=rules)


def encoder_of(model: SecondConfig) -> SparseEncoder:
    """An encoder whose batch norms have scales, shifts and statistics of their own."""
    torch.manual_seed(0)
    encoder = SparseEncoder(model)
    for each in encoder.modules():
        if isinstance(each, nn.BatchNorm1d):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias, std=0.2)
            each.momentum = 0.5
    encoder(voxels(model))
    return encoder.eval()


@EACH_LAYER
def test_pairs_are_the_rulebook(layer: SparseLayer) -> None:
    each, features, pairs = single(layer)
    places = each.rules.neighbours.shape[1]
    counts = pairs.counts
    if layer.submanifold:
        assert not counts[places // 2 :].any()
        half = counts[: places // 2]
        counts = torch.cat([half, torch.tensor([len(features)]), half.flip(0)])
    found = torch.full_like(each.rules.neighbours, len(features))
    for place, count in enumerate(counts.tolist()):
        inputs, outputs = pairs.rows[:, place, :count]
        assert (pairs.rows[:, place, count:] == -1).all()
        assert (outputs.diff() > 0).all()
        found[outputs, place] = inputs
    assert torch.equal(found, each.rules.neighbours)


def cells_of(sites: Sites) -> Tensor:
    """The sites as spconv takes them, (V, 4) int32 b z y x."""
    return torch.stack(sites.places(), 1).int()


@EACH_LAYER
def test_pairs_are_those_of_spconv(layer: SparseLayer, library: Any) -> None:
    """The same sites and pairs of them at each place, in whatever order."""
    each, _, pairs = single(layer)
    size, kernel, stride, padding = (list(triple) for triple in (each.sites.size, *layer[1:4]))
    outputs, rows, counts = library.ops.get_indice_pairs(
        cells_of(each.sites),
        2,
        size,
        library.ConvAlgo.Native,
        kernel,
        stride,
        padding,
        [1] * 3,
        [0] * 3,
        layer.submanifold,
    )
    assert torch.equal(counts, pairs.counts)
    assert len(outputs) == len(each.outputs.keys)
    for place, count in enumerate(counts.tolist()):
        met = []
        for lists, cells in ((rows, outputs), (pairs.rows, cells_of(each.outputs))):
            places = cells[lists[1, place, :count]].tolist()
            met.append(sorted(zip(lists[0, place, :count].tolist(), places, strict=True)))
        assert met[0] == met[1]


@EACH_LAYER
def test_values(layer: SparseLayer, library: Any) -> None:
    each, features, pairs = single(layer)
    torch.testing.assert_close(each.conv(features, pairs), each.conv(features, each.rules), atol=1e-5, rtol=1e-5)


@EACH_LAYER
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_under_autocast(layer: SparseLayer, dtype: torch.dtype, library: Any) -> None:
    each, features, pairs = single(layer)
    exact = each.conv(features, each.rules)
    with torch.autocast("cpu", dtype):
        rounded = each.conv(features, pairs)
    assert rounded.dtype == dtype
    assert (rounded.float() - exact).norm() < torch.finfo(dtype).eps * exact.norm()


def test_bfloat16_keeps_its_range(library: Any) -> None:
    each, features, pairs = single(LAYERS["strided"])
    with torch.autocast("cpu", torch.bfloat16):
        usual, large = each.conv(features, pairs), each.conv(features * 2**30, pairs)
    assert torch.equal(large, usual * 2**30)


@EACH_LAYER
@EACH_DEVICE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_and_gradients(layer: SparseLayer, device: torch.device, dtype: torch.dtype) -> None:
    each, features, pairs = single(layer)
    upstream = torch.randn(len(each.outputs.keys), layer.outputs)
    expected = learnt(each.conv, features, each.rules, upstream)
    there = Pairs(pairs.rows.to(device), pairs.counts.to(device), pairs.submanifold)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        found = learnt(each.conv.to(device), features.to(device), there, upstream.to(device))
    assert [one.dtype for one in found] == [dtype, torch.float32, torch.float32]
    for one, wanted in zip(found, expected, strict=True):
        error = (one.cpu().float() - wanted).norm() / wanted.norm()
        assert error < {torch.float32: 1e-4, torch.float16: 8e-3, torch.bfloat16: 1.6e-2}[dtype]


def learnt(conv: SparseConv, features: Tensor, rules: Convolution, upstream: Tensor) -> list[Tensor]:
    """A layer's values and gradients, these outside autocast."""
    rows = features.requires_grad_()
    found = conv(rows, rules)
    with torch.autocast(rows.device.type, enabled=False):
        return [found.detach(), *torch.autograd.grad(found, [rows, conv.weight], upstream.to(found.dtype))]


@EACH_SIZE
def test_the_encoder_computes_the_same(size: Callable[[], SecondConfig], library: Any) -> None:
    model = small(size)
    encoder, batch = encoder_of(model), voxels(model)
    with torch.no_grad():
        found, expected = encoder(for_spconv(batch)), encoder(batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.count_nonzero() > 100


def by_modules(encoder: SparseEncoder, batch: VoxelBatch, model: SecondConfig, library: Any) -> Tensor:
    """The canvas by spconv's own layers with an encoder's weights, over rulebooks of their own."""
    size = grid_sizes(model)[0]
    cells = cells_of(Sites(batch.keys, size))
    tensor = library.SparseConvTensor(batch.features, cells, list(size), batch.size)
    for block, layer in zip(encoder.layers, sparse_layers(model), strict=True):
        assert isinstance(block, SparseBlock)
        kind = library.SubMConv3d if layer.submanifold else library.SparseConv3d
        options = {} if layer.submanifold else {"stride": layer.stride, "padding": layer.padding}
        conv = kind(layer.inputs, layer.outputs, layer.kernel, bias=False, algo=library.ConvAlgo.Native, **options)
        conv.weight.data = (
            block.conv.weight.detach()
            .view(*layer.kernel, layer.inputs, layer.outputs)
            .permute(4, 0, 1, 2, 3)
            .contiguous()
        )
        found = conv(tensor)
        tensor = found.replace_feature(torch.relu(block.norm(found.features)))
    canvas: Tensor = tensor.dense()
    return canvas.flatten(1, 2)


@EACH_SIZE
def test_the_encoder_is_that_of_spconvs_modules(size: Callable[[], SecondConfig], library: Any) -> None:
    model = small(size)
    encoder, batch = encoder_of(model), voxels(model)
    with torch.no_grad():
        torch.testing.assert_close(by_modules(encoder, batch, model, library), encoder(batch), atol=1e-4, rtol=1e-4)


def gradients(encoder: SparseEncoder, batch: VoxelBatch) -> dict[str, Tensor]:
    """The canvas and all gradients while training."""
    canvas = encoder.train()(batch)
    torch.manual_seed(1)
    upstream = torch.randn(canvas.shape).to(canvas)
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    found = torch.autograd.grad(canvas, parameters, upstream)
    return {"canvas": canvas.detach().cpu(), **{name: each.cpu() for name, each in zip(names, found, strict=True)}}


@EACH_SIZE
@EACH_DEVICE
def test_the_encoder_learns_the_same(size: Callable[[], SecondConfig], device: torch.device) -> None:
    model = small(size)
    encoder, batch = encoder_of(model), voxels(model)
    expected = gradients(encoder, batch)
    tolerance = 1e-4
    if device.type == "cpu":
        batch = for_spconv(batch)
    else:
        tolerance = 1e-2  # batch norms sum in another order, and a ReLU near zero may turn over
        batch = batch.to(device)
        assert all(isinstance(each, Pairs) for each in fastest(batch.rules, batch.features))
    found = gradients(encoder.to(device), batch)
    for name, wanted in expected.items():
        assert (found[name] - wanted).norm() <= tolerance * wanted.norm() + 1e-6, name


class OnGpu:
    """As much of a GPU's tensor as the choice looks at."""

    is_cuda = True

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self._count, self.dtype = count, dtype

    def __len__(self) -> int:
        return self._count


def chosen(batch: VoxelBatch, dtype: torch.dtype = torch.float32) -> set[type]:
    features: Any = OnGpu(len(batch.features), dtype)
    return set(map(type, fastest(batch.rules, features)))


def installed(monkeypatch: pytest.MonkeyPatch, *, cpu_only: bool) -> None:
    """Puts a spconv of that build in the place of any that is there."""
    parts = {name: ModuleType(name) for name in ("spconv", "spconv.pytorch", "spconv.cppconstants")}
    vars(parts["spconv"]).update(__version__="2.3.8", __path__=[])
    vars(parts["spconv.cppconstants"])["CPU_ONLY_BUILD"] = cpu_only
    for name, part in parts.items():
        monkeypatch.setitem(sys.modules, name, part)


def test_chosen_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    installed(monkeypatch, cpu_only=False)
    model = small(student_16x_config)
    batch = voxels(model)
    assert fastest(batch.rules, batch.features) is batch.rules
    assert not caplog.messages
    assert chosen(batch) == {Pairs}
    assert chosen(batch) == {Pairs}
    assert chosen(batch, torch.float64) == {Rules}
    assert chosen(batch_voxels([EMPTY], model)) == {Rules}
    assert caplog.messages == ["sparse convolutions on the GPU by spconv 2.3.8"]


@pytest.mark.parametrize("there", [False, True])
def test_not_chosen_without_one_for_cuda(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    if there:
        installed(monkeypatch, cpu_only=True)
    else:
        monkeypatch.setitem(sys.modules, "spconv", None)
    batch = voxels(small(student_16x_config))
    assert chosen(batch) == chosen(batch) == {Rules}
    (message,) = caplog.messages
    assert message.startswith("sparse convolutions on the GPU by torch: ")
    assert ("is built for CPUs alone" if there else "pip install 'pd-edge[spconv]'") in message
