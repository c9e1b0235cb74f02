"""The torch model: shapes, the pillar net against numpy, folding, channels-last, and the three sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pd_edge.config import GridConfig, PointPillarsConfig
from pd_edge.pillars import encode_reference, pillarize, scatter_reference
from pd_edge.training.distillation import parse_run
from pd_edge.training.network import channels_last, fold_norms
from pd_edge.training.pointpillars import (
    PillarBatch,
    PointPillars,
    batch_pillars,
    student_4x_config,
    student_16x_config,
    teacher_config,
)

GRID = GridConfig(x_min=0, x_max=10.24, y_min=-5.12, y_max=5.12)
CONFIG = PointPillarsConfig(
    grid=GRID, pillar_channels=6, backbone_channels=(8, 12, 16), backbone_layers=(1, 1, 1), neck_channels=10
)
CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"
SIZES = {
    "pointpillars-teacher": (teacher_config, 4.8e6),
    "pointpillars-4x": (student_4x_config, 1.2e6),
    "pointpillars-16x": (student_16x_config, 0.3e6),
}


def cloud(seed: int, count: int = 400) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    rng = np.random.default_rng(seed)
    return rng.uniform((-0.5, -5.5, -3.2, 0), (10.5, 5.5, 1.2, 1), (count, 4)).astype(np.float32)


def batch(*seeds: int) -> PillarBatch:
    return batch_pillars([pillarize(cloud(seed), GRID) for seed in seeds], GRID)


def used_model() -> PointPillars:
    """A model whose batch norm statistics are not the initial ones."""
    torch.manual_seed(0)
    model = PointPillars(CONFIG)
    for seed in range(3):
        model(batch(seed, seed + 10))
    return model.eval()


def test_shapes_and_state_dict_names() -> None:
    model = PointPillars(CONFIG)
    heads = model(batch(0, 1))
    assert [tuple(each.shape) for each in heads] == [(2, 18, 32, 32), (2, 42, 32, 32), (2, 12, 32, 32)]
    names = set(model.state_dict())
    for name in (
        "pillar_net.linear.weight",
        "pillar_net.norm.running_var",
        "backbone.stages.2.1.conv.weight",
        "neck.upsamplings.0.norm.weight",
        "head.weight",
        "head.bias",
    ):
        assert name in names


def test_prior_of_every_class_is_one_percent() -> None:
    logits = used_model()(batch(0)).logits
    assert torch.sigmoid(logits).mean().item() == pytest.approx(0.01, rel=0.1)


def test_pillar_net_and_canvas_match_the_numpy_reference() -> None:
    model = used_model()
    pillars = pillarize(cloud(5), GRID)
    with torch.no_grad():
        frame = batch_pillars([pillars], GRID)
        encoded = model.pillar_net(frame)
        canvas = model.canvas(encoded, frame)
    expected = encode_reference(pillars, model.fold_encoder())
    np.testing.assert_allclose(encoded.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(canvas.numpy(), scatter_reference(expected, pillars.cells, GRID), atol=1e-5)
    assert canvas.is_contiguous(memory_format=torch.channels_last)


def test_frames_of_a_batch_do_not_mix() -> None:
    model = used_model()
    with torch.no_grad():
        together = model(batch(3, 4))
        for index, seed in enumerate((3, 4)):
            for joint, alone in zip(together, model(batch(seed)), strict=True):
                torch.testing.assert_close(joint[index], alone[0], atol=1e-5, rtol=1e-4)


def test_order_of_the_points_does_not_matter() -> None:
    model = used_model()
    points = cloud(6)
    shuffled = np.random.default_rng(0).permutation(points)
    with torch.no_grad():
        first, second = (model(batch_pillars([pillarize(each, GRID)], GRID)) for each in (points, shuffled))
    torch.testing.assert_close(first.logits, second.logits)


def test_dense_is_the_part_after_the_canvas() -> None:
    model = used_model()
    frame = batch(7)
    with torch.no_grad():
        canvas = model.canvas(model.pillar_net(frame), frame)
        for whole, part in zip(model(frame), model.dense(canvas), strict=True):
            assert torch.equal(whole, part)


def test_channels_last_changes_no_result() -> None:
    model = used_model()
    with torch.no_grad():
        before = model(batch(8)).residuals
        torch.testing.assert_close(channels_last(model)(batch(8)).residuals, before, atol=1e-5, rtol=1e-4)


def test_folded_norms_change_no_result() -> None:
    plain, folded = used_model().double(), fold_norms(used_model().double())
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in folded.modules())
    pillars = batch(1, 2)
    pillars = pillars._replace(features=pillars.features.double())
    for expected, found in zip(plain(pillars), folded(pillars), strict=True):
        torch.testing.assert_close(found, expected)


def test_pillar_net_stays_in_float32_under_autocast() -> None:
    model = used_model()
    with torch.no_grad():
        exact = model.pillar_net(batch(9))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.pillar_net(batch(9)), exact)
            heads = model(batch(9))
    assert heads.logits.dtype == torch.bfloat16


def test_gradients_reach_every_parameter() -> None:
    model = PointPillars(CONFIG)
    sum(each.square().sum() for each in model(batch(0, 1))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("name", SIZES)
def test_shipped_configurations_are_the_three_sizes(name: str) -> None:
    config, parameters = SIZES[name]
    model = PointPillars(config())
    assert sum(each.numel() for each in model.parameters()) == pytest.approx(parameters, rel=0.05)
    path = CONFIGS / f"{name}.yaml"
    assert parse_run(path).model == config()
    assert yaml.safe_load(path.read_text())["data"]["sources"]
