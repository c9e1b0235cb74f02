"""Losses against dense, literal formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pd_edge.training.config import LossConfig
from pd_edge.training.losses import (
    all_anchors,
    background_focal,
    box_sum,
    detection_losses,
    focal_sum,
    foreground_focal,
)
from pd_edge.training.network import HeadMaps
from pd_edge.training.targets import Targets

CONFIG = LossConfig()
B, A, H, W, CLASSES = 2, 6, 3, 4, 3
ANCHORS = B * H * W * A


def random_case(seed: int) -> tuple[HeadMaps, Targets]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    heads = HeadMaps(*(normal(B, A * width, H, W).requires_grad_() for width in (CLASSES, 7, 2)))
    order = torch.randperm(ANCHORS, generator=generator)
    positives, ignored = order[:5].sort().values, order[5:14].sort().values
    labels = torch.randint(CLASSES, (5,), generator=generator)
    return heads, Targets(positives, labels, normal(5, 7), torch.randint(2, (5,), generator=generator), ignored)


def dense_total(heads: HeadMaps, targets: Targets) -> Tensor:
    """The loss anchor by anchor, as the papers write it."""
    total = torch.zeros(())
    positive = {int(anchor): place for place, anchor in enumerate(targets.positives)}
    for anchor in range(ANCHORS):
        b, h, w, a = anchor // (H * W * A), anchor // (W * A) % H, anchor // A % W, anchor % A
        if anchor in targets.ignored.tolist():
            continue
        place = positive.get(anchor)
        for label in range(CLASSES):
            p = torch.sigmoid(heads.logits[b, a * CLASSES + label, h, w])
            hit = place is not None and int(targets.labels[place]) == label
            p_t, alpha = (p, 0.25) if hit else (1 - p, 0.75)
            total = total - alpha * (1 - p_t) ** 2 * torch.log(p_t)
        if place is None:
            continue
        for k in range(7):
            error = heads.residuals[b, a * 7 + k, h, w] - targets.residuals[place, k]
            error = (torch.sin(error) if k == 6 else error).abs()
            total = total + 2 * (error**2 / 2 * 9 if error < 1 / 9 else error - 1 / 18)
        scores = torch.stack([heads.directions[b, a * 2 + each, h, w] for each in range(2)])
        total = total - 0.2 * torch.log_softmax(scores, 0)[targets.directions[place]]
    return total / len(positive)


@pytest.mark.parametrize("seed", range(3))
def test_total_equals_the_dense_formula(seed: int) -> None:
    heads, targets = random_case(seed)
    expected = dense_total(heads, targets)
    found = detection_losses(heads, targets, CONFIG).total
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(found, heads), torch.autograd.grad(expected, heads), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_channels_last_and_bfloat16_heads() -> None:
    heads, targets = random_case(0)
    plain = detection_losses(heads, targets, CONFIG)
    coarse = HeadMaps(*(each.detach().bfloat16().to(memory_format=torch.channels_last) for each in heads))
    found = detection_losses(coarse, targets, CONFIG)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, plain.total, rtol=0.02, atol=0)


def test_no_positives_is_finite_and_background_only() -> None:
    heads, targets = random_case(0)
    none = torch.zeros(0, dtype=torch.int64)
    losses = detection_losses(heads, Targets(none, none, torch.zeros(0, 7), none, targets.ignored), CONFIG)
    assert float(losses.boxes.detach()) == 0
    assert float(losses.directions.detach()) == 0
    assert math.isfinite(losses.total.item())


def test_ignored_anchors_get_no_gradient() -> None:
    heads, targets = random_case(1)
    focal_sum(all_anchors(heads.logits, CLASSES), targets, CONFIG).backward()  # type: ignore[no-untyped-call]
    assert heads.logits.grad is not None
    assert all_anchors(heads.logits.grad, CLASSES)[targets.ignored].abs().max() < 1e-7
    assert all_anchors(heads.logits.grad, CLASSES)[targets.positives].abs().min() > 0


@settings(deadline=None)
@given(yaw=st.floats(-3, 3), turns=st.integers(-2, 2))
def test_yaw_error_is_blind_to_half_turns(yaw: float, turns: int) -> None:
    targets = torch.tensor([[0.0, 0, 0, 0, 0, 0, yaw]])
    turned = targets + torch.tensor([0.0, 0, 0, 0, 0, 0, math.pi * turns])
    assert float(box_sum(turned, targets, 1 / 9)) == pytest.approx(0, abs=1e-5)


@given(logit=st.floats(-30, 30))
def test_focal_halves_mirror_each_other(logit: float) -> None:
    x = torch.tensor(logit, dtype=torch.float64)
    assert float(background_focal(x, 0.25, 2)) == pytest.approx(3 * float(foreground_focal(-x, 0.25, 2)))


def test_weights_scale_their_parts() -> None:
    heads, targets = random_case(2)
    losses = detection_losses(heads, targets, LossConfig(class_weight=3, box_weight=5, direction_weight=7))
    expected = 3 * losses.classes + 5 * losses.boxes + 7 * losses.directions
    torch.testing.assert_close(losses.total, expected)
