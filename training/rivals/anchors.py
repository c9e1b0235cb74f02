"""Anchors, box decoding and overlap as tensors, for the rivals that compare the heads' outputs.

Twins of :mod:`pd_edge.decode` on the training device. They neither wait for the device nor visit the host.
"""

import math

import torch
from torch import Tensor, nn

from pd_edge.config import ModelConfig
from pd_edge.decode import anchor_axes, anchors


class AnchorTable(nn.Module):
    """A model's anchors by index; holds those of one location only, for all others are the same elsewhere."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self._along_x, self._along_y = anchor_axes(model)
        self._kinds: Tensor
        self.register_buffer("_kinds", torch.from_numpy(anchors(model)[0, 0, :, 2:].copy()), persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        """The anchors (..., 7) float32 [m, rad] at flat indices (...) int64 over (H, W, A) of one frame."""
        place, kind = _divide(index, len(self._kinds))
        row, column = _divide(place, self._along_x.number)
        x = self._along_x.start + (column + 0.5) * self._along_x.step
        y = self._along_y.start + (row + 0.5) * self._along_y.step
        return torch.cat([torch.stack([x, y], dim=-1), self._kinds[kind]], dim=-1)


def decode_boxes(residuals: Tensor, anchors: Tensor) -> Tensor:
    """Turns residuals to anchors into boxes, without the direction bin.

    Args:
        residuals: (..., 7) float32, as :func:`pd_edge.decode.encode_boxes` writes them.
        anchors: (..., 7) float32.

    Returns:
        (..., 7) float32 boxes [m, rad]; their yaw is right up to half turns and not wrapped.
    """
    diagonal = torch.hypot(anchors[..., 3:4], anchors[..., 4:5])
    centre = residuals[..., :2] * diagonal + anchors[..., :2]
    height = residuals[..., 2:3] * anchors[..., 5:6] + anchors[..., 2:3]
    sizes = residuals[..., 3:6].exp() * anchors[..., 3:6]
    return torch.cat([centre, height, sizes, residuals[..., 6:] + anchors[..., 6:]], dim=-1)


def nearest_bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (...) from above of paired boxes (..., 7), each turned to the closer axis as the target assigner does."""
    low_a, high_a = _extent(a)
    low_b, high_b = _extent(b)
    shared = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    return shared / ((high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - shared)


def best_scores(logits: Tensor, anchors: int) -> Tensor:
    """Every anchor's highest class logit, (B, H*W*A), from the head map (B, A*classes, H, W)."""
    by_place = logits.permute(0, 2, 3, 1)
    return by_place.reshape(*by_place.shape[:3], anchors, -1).amax(-1).flatten(1)


def rows_at(maps: Tensor, width: int, index: Tensor) -> Tensor:
    """A head map's values at some anchors.

    Args:
        maps: (B, A*width, H, W) of any floating type; channels-last maps are not copied.
        width: Values of an anchor.
        index: (B, K) int64 anchors, flat over (H, W, A).

    Returns:
        (B, K, width) float32.
    """
    by_place = maps.permute(0, 2, 3, 1).flatten(1, 2)
    by_anchor = by_place.reshape(*by_place.shape[:2], -1, width)
    place, kind = _divide(index, by_anchor.shape[2])
    frame = torch.arange(len(maps), device=maps.device)[:, None]
    return by_anchor[frame, place, kind].float()


def logit(probability: float) -> float:
    """The logit of a score; minus infinity for 0, infinity for 1."""
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def _extent(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest x y (..., 2) of boxes turned to the closer axis."""
    across = boxes[..., 6:].sin().abs() > math.sqrt(0.5)
    half = torch.where(across, boxes[..., [4, 3]], boxes[..., 3:5]) / 2
    return boxes[..., :2] - half, boxes[..., :2] + half


def _divide(index: Tensor, by: int) -> tuple[Tensor, Tensor]:
    return index.div(by, rounding_mode="floor"), index % by
