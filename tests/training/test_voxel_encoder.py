"""SECOND's sparse encoder: against dense convolutions with masks, batching, folding, batches with little in them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_convert

from pd_edge.config import SecondConfig, VoxelGridConfig
from pd_edge.errors import DataError
from pd_edge.training.voxel_encoder import SparseBlock, SparseEncoder, VoxelBatch, batch_voxels, rulebook_numbers
from pd_edge.voxels import grid_sizes, sparse_layers

GRID = VoxelGridConfig(x_max=1.6, y_min=-0.8, y_max=0.8, z_min=-1.5, z_max=0.9)
"""32 x 32 x 24 voxels: 4 x 4 cells of the canvas, one height left."""
HIGH = GRID.model_copy(update={"z_max": 2.5})
"""With two heights left, as on KITTI."""
Frame = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def config(grid: VoxelGridConfig = HIGH, scale: int = 1) -> SecondConfig:
    one, two, three = 2 * scale, 3 * scale, 4 * scale
    return SecondConfig(
        grid=grid,
        sparse_channels=(one, two, three, three),
        folded_channels=5 * scale,
        backbone_channels=(8, 16),
        neck_channels=16,
    )


def frame(seed: int, count: int = 60, grid: VoxelGridConfig = HIGH) -> Frame:
    """A frame's voxels, in a random walk's clusters, so that they have neighbours."""
    rng = np.random.default_rng(seed)
    size = np.array([grid.ny, grid.nx, grid.nz])
    places = (rng.integers(0, size) + np.cumsum(rng.integers(-1, 2, (count, 3)), axis=0)) % size
    keys = np.unique((places[:, 0] * grid.nx + places[:, 1]) * (grid.nz + 1) + places[:, 2])
    return rng.normal(size=(len(keys), 4)).astype(np.float32), keys


EMPTY: Frame = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def batch(*frames: Frame, model: SecondConfig | None = None) -> VoxelBatch:
    found = batch_voxels(frames, model or config())
    return found._replace(features=found.features.double())


def used_encoder(model: SecondConfig | None = None) -> SparseEncoder:
    """An encoder whose batch norms have scales, shifts and statistics of their own; in float64."""
    torch.manual_seed(0)
    encoder = SparseEncoder(model or config()).double()
    for each in encoder.modules():
        if isinstance(each, nn.BatchNorm1d):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias, std=0.2)
            each.momentum = 0.5
    for seed in range(3):
        encoder(batch(frame(seed), frame(seed + 9), model=model))
    return encoder.eval()


def dense(encoder: SparseEncoder, frames: Sequence[Frame], model: SecondConfig) -> Tensor:
    """The canvas by dense convolutions, whose outputs are kept where a sparse layer has sites."""
    heights, ny, nx = grid_sizes(model)[0]
    maps = torch.zeros((len(frames), ny * nx * heights, 4), dtype=torch.float64)
    mask = torch.zeros((len(frames), ny * nx * heights, 1), dtype=torch.float64)
    for number, (features, keys) in enumerate(frames):
        maps[number, keys] = torch.from_numpy(features).double()
        mask[number, keys] = 1
    maps, mask = (each.view(len(frames), ny, nx, heights, -1).permute(0, 4, 3, 1, 2) for each in (maps, mask))
    for block, layer in zip(encoder.layers, sparse_layers(model), strict=True):
        assert isinstance(block, SparseBlock)
        kernel = block.conv.weight.view(*layer.kernel, layer.inputs, layer.outputs).permute(4, 3, 0, 1, 2)
        if not layer.submanifold:
            reach = functional.conv3d(mask, torch.ones(1, 1, *layer.kernel).double(), None, layer.stride, layer.padding)
            mask = (reach > 0.5).double()
        found = functional.conv3d(maps, kernel, None, layer.stride, layer.padding)
        at = mask[:, 0] > 0.5
        rows = torch.relu(block.norm(found.permute(0, 2, 3, 4, 1)[at]))
        maps = torch.zeros_like(found).permute(0, 2, 3, 4, 1).index_put((at,), rows).permute(0, 4, 1, 2, 3)
    return maps.flatten(1, 2)


@pytest.mark.parametrize("grid", [GRID, HIGH], ids=["one height left", "two"])
@pytest.mark.parametrize("training", [False, True])
def test_equals_dense_convolutions_with_masks(grid: VoxelGridConfig, training: bool) -> None:
    torch.manual_seed(0)
    model = config(grid)
    frames = [frame(seed, grid=grid) for seed in range(3)]
    encoder = SparseEncoder(model).double().train(training)
    found, expected = encoder(batch(*frames, model=model)), dense(encoder, frames, model)
    assert found.shape == (3, *model.canvas_shape[1:])
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)
    assert found.count_nonzero() > 20
    upstream = torch.randn_like(found)
    results = [torch.autograd.grad(some, list(encoder.parameters()), upstream) for some in (found, expected)]
    for gradient, wanted in zip(*results, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-7, rtol=1e-7)


def test_frames_of_a_batch_do_not_mix() -> None:
    encoder = used_encoder()
    frames = [frame(3), EMPTY, frame(4)]
    together = encoder(batch(*frames))
    assert not together[1].any()
    torch.testing.assert_close(encoder(batch(*frames[::-1])), together.flip(0))
    for one, alone in zip(frames, together, strict=True):
        torch.testing.assert_close(encoder(batch(one))[0], alone)


def test_layers_of_a_stage_share_a_rulebook() -> None:
    assert rulebook_numbers(sparse_layers(config())) == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]
    assert len(batch(frame(0)).rules) == 8


def test_folded_weights_compute_the_same() -> None:
    encoder = used_encoder()
    net = encoder.fold()
    assert all(each.dtype == np.float32 and each.flags.c_contiguous for each in (*net.weights, *net.biases))
    folded = SparseEncoder(config()).double().eval()
    for block, weight, bias in zip(folded.layers, net.weights, net.biases, strict=True):
        assert isinstance(block, SparseBlock)
        block.conv.weight.data = torch.from_numpy(weight).double()
        block.norm.bias.data = torch.from_numpy(bias).double()
        block.norm.eps = 0.0
    torch.testing.assert_close(folded(batch(frame(5))), encoder(batch(frame(5))), atol=1e-5, rtol=1e-5)


def test_state_dict_names() -> None:
    names = list(SparseEncoder(config()).state_dict())
    assert len(names) == 12 * 6
    assert names[:6] == [
        "layers.0.conv.weight",
        *(f"layers.0.norm.{each}" for each in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ]


def test_teacher_and_students_take_the_same_batch() -> None:
    voxels = batch_voxels([frame(6), frame(7)], config())
    sizes = []
    for scale in (4, 2, 1):
        model = config(scale=scale)
        canvas = SparseEncoder(model)(voxels)
        assert canvas.shape == (2, *model.canvas_shape[1:])
        sizes.append(canvas.shape[1])
    assert sizes == [40, 20, 10]


def test_gradients_reach_every_parameter() -> None:
    encoder = SparseEncoder(config()).double()
    torch.autograd.backward(encoder(batch(frame(0), frame(1))).square().sum())
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("frames", [[EMPTY, EMPTY], [EMPTY, frame(0, 1)]], ids=["no voxel", "one voxel"])
def test_training_on_next_to_nothing_keeps_the_statistics(frames: list[Frame]) -> None:
    encoder = used_encoder().train()
    before = {name: each.clone() for name, each in encoder.state_dict().items()}
    canvas = encoder(batch(*frames))
    torch.autograd.backward(canvas.sum())
    assert bool(canvas.isfinite().all())
    for name in ("layers.0.norm.running_mean", "layers.1.norm.running_var"):
        assert torch.equal(encoder.state_dict()[name], before[name])


def test_autocast_gives_the_canvas_in_bfloat16() -> None:
    encoder = used_encoder().float()
    voxels = batch_voxels([frame(8)], config())
    exact = encoder(voxels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(voxels)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.03 * exact.norm()


def test_coordinates_keep_their_precision_under_autocast() -> None:
    encoder, rows = used_encoder().float(), []
    encoder.layers[0].register_forward_hook(lambda _, __, output: rows.append(output))
    voxels = batch_voxels([frame(8)], config())
    encoder(voxels)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(voxels)
    assert torch.equal(*rows)


def test_a_loader_hands_a_batch_on_as_it_is() -> None:
    voxels = batch_voxels([frame(8)], config())
    received = default_convert(voxels)  # type: ignore[no-untyped-call]
    encoder = used_encoder().float()
    assert torch.equal(encoder(received.to(torch.device("cpu"))), encoder(voxels))


@pytest.mark.parametrize("keys", [[3, 2], [5, 5], [-1, 4], [0, 10**8]])
def test_wrong_keys_are_refused(keys: list[int]) -> None:
    frames = [frame(0), (np.zeros((2, 4), np.float32), np.array(keys))]
    with pytest.raises(DataError, match=r"frame 1: voxel keys .* expected ascending"):
        batch_voxels(frames, config())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
def test_gpu_equals_cpu() -> None:
    device = torch.device("cuda")
    encoder = used_encoder()
    voxels = batch(frame(0), frame(1))
    expected = encoder(voxels)
    torch.testing.assert_close(encoder.to(device)(voxels.to(device)).cpu(), expected)
