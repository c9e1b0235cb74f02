"""The network and its training on an NVIDIA GPU, held against the CPU."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pd_edge.config import ModelConfig, VoxelGridConfig
from pd_edge.training.batches import Batch
from pd_edge.training.checkpoint import list_checkpoints, load_checkpoint, load_tensors
from pd_edge.training.config import KITTI_THRESHOLDS, TrainConfig
from pd_edge.training.data_config import DataConfig, SourceConfig
from pd_edge.training.learner import Detecting
from pd_edge.training.loop import train
from pd_edge.training.network import Network, channels_last
from pd_edge.training.networks import network_inputs
from pd_edge.training.pointpillars import PointPillars
from pd_edge.training.second import Second
from pd_edge.training.targets import TargetAssigner, batch_targets

from .teaching import SECOND, OneScene

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use"),
]

NEARNESS = {PointPillars: 0.99, Second: 0.96}
"""Least cosine between gradients in mixed and full precision; SECOND's pass through 12 layers more (CPU: 0.978)."""


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    """TF32, the GPU's default for convolutions, has three digits; the CPU has seven."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


def one_batch(cloud: npt.NDArray[np.float32], model: ModelConfig) -> Batch:
    scene = OneScene(cloud).scene(0)
    targets = [TargetAssigner(model, KITTI_THRESHOLDS).assign(scene.boxes, scene.labels)] * 2
    return Batch(network_inputs([scene.points] * 2, model), batch_targets(targets, model))


@pytest.fixture(params=["pointpillars", "second"])
def model(request: pytest.FixtureRequest, tiny_model: PointPillars) -> Network:
    """A small network of each detector, of random weights."""
    if request.param == "pointpillars":
        return tiny_model
    torch.manual_seed(0)
    grid = VoxelGridConfig(x_max=20.8, y_min=-5.2, y_max=5.2)
    return Second(SECOND.model_copy(update={"grid": grid, "anchor_range": (0, -5.2, 20.8, 5.2)})).eval()


def step(model: Network, batch: Batch, device: str, *, amp: bool) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of one step on a device, from the same weights."""
    network = channels_last(copy.deepcopy(model).to(device).train())
    data = DataConfig(sources=(SourceConfig(root=Path("unused")),))
    learner = Detecting(network, TrainConfig(model=model.config, data=data, samples=1, amp=amp))
    losses = learner(batch.to(torch.device(device)))
    losses["total"].backward()
    gradients = {name: value.grad.cpu() for name, value in network.named_parameters() if value.grad is not None}
    return {name: part.item() for name, part in losses.items()}, gradients


def test_heads_are_those_of_the_cpu(model: Network, tiny_cloud: npt.NDArray[np.float32]) -> None:
    batch = one_batch(tiny_cloud, model.config).inputs
    with torch.no_grad():
        expected = model(batch)
        heads = copy.deepcopy(model).cuda()(batch.to(torch.device("cuda")))
    for got, want in zip(heads, expected, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-4)


def test_loss_and_gradients_are_those_of_the_cpu(tiny_model: PointPillars, tiny_cloud: npt.NDArray[np.float32]) -> None:
    assert_same_step(tiny_model, one_batch(tiny_cloud, tiny_model.config), 1e-4, 1e-3)


def test_loss_and_gradients_in_float64_are_those_of_the_cpu(
    model: Network, tiny_cloud: npt.NDArray[np.float32]
) -> None:
    """In float32, rounding switches ReLUs of SECOND: noise of 3e-6 in its weights moves a gradient by 0.02 on a CPU."""
    batch = one_batch(tiny_cloud, model.config)
    inputs = batch.inputs._replace(features=batch.inputs.features.double())
    assert_same_step(copy.deepcopy(model).double(), batch._replace(inputs=inputs), 1e-6, 1e-9)


def assert_same_step(model: Network, batch: Batch, losses: float, gradients: float) -> None:
    """Both devices' losses and gradients differ by no more than these parts of them."""
    want_losses, want = step(model, batch, "cpu", amp=False)
    got_losses, got = step(model, batch, "cuda", amp=False)
    assert got_losses == pytest.approx(want_losses, rel=losses)
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        assert (got[name] - gradient).norm() <= gradients * (gradient.norm() + 1e-3), name


def test_mixed_precision_is_near_full_precision(model: Network, tiny_cloud: npt.NDArray[np.float32]) -> None:
    batch = one_batch(tiny_cloud, model.config)
    want_losses, want = step(model, batch, "cpu", amp=False)
    got_losses, got = step(model, batch, "cuda", amp=True)
    assert got_losses == pytest.approx(want_losses, rel=0.03)
    first, second = (torch.cat([gradients[name].flatten() for name in sorted(want)]) for gradients in (want, got))
    assert torch.nn.functional.cosine_similarity(first, second, dim=0) > NEARNESS[type(model)]


@pytest.mark.parametrize(("amp", "tolerance"), [(False, 0.05), (True, 0.3)])
def test_a_run_stops_goes_on_and_leaves_weights_for_any_machine(
    tiny_model: PointPillars, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path, *, amp: bool, tolerance: float
) -> None:
    """Sums on a GPU come in any order, so that two runs differ.

    Noise of 1e-5 in the weights at the stop moves a tensor by up to 0.004 of its further way (0.09 in mixed precision),
    an optimiser begun anew by up to 0.95.
    """
    model = tiny_model.config
    config = TrainConfig(
        model=model,
        data=DataConfig(sources=(SourceConfig(root=tmp_path),)),
        samples=80,
        batch_size=2,
        workers=0,
        amp=amp,
    )
    scenes = OneScene(tiny_cloud)
    whole = load_tensors(train(config, tmp_path / "whole", scenes=scenes))
    train(config, tmp_path / "run", scenes=scenes, stop_after=40)
    before = load_checkpoint(list_checkpoints(tmp_path / "run")[-1])
    weights = train(config, tmp_path / "run", scenes=scenes)
    after = load_checkpoint(list_checkpoints(tmp_path / "run")[-1])
    assert (before.state.samples, after.state.samples) == (40, 80)
    parts = load_tensors(weights)
    assert all(tensor.device.type == "cpu" for tensor in parts.values())
    for name, tensor in whole.items():
        way = (tensor.float() - before.model[name].float()).norm()
        assert (parts[name].float() - tensor.float()).norm() <= tolerance * way + 1e-4, name
    assert torch.cuda.get_device_name() in (tmp_path / "run" / "run.json").read_text()
