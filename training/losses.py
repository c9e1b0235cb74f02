"""The detector's loss: focal classification, smooth-L1 boxes and direction cross-entropy. All in float32.

Each part is a sum over anchors divided by the number of positive anchors in the batch.
Source: Lang et al., PointPillars (CVPR 2019), section 2.3, with the weights of PointDistiller's configuration.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pd_edge.training.config import LossConfig
from pd_edge.training.network import BOX_CODE, DIRECTION_BINS, HeadMaps
from pd_edge.training.targets import Targets


class Losses(NamedTuple):
    """Scalar tensors: the weighted total and its parts before weighting."""

    total: Tensor
    classes: Tensor
    boxes: Tensor
    directions: Tensor


def background_focal(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss, element by element, of logits that should be low."""
    return (1 - alpha) * torch.sigmoid(logits).pow(gamma) * functional.softplus(logits)


def foreground_focal(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss, element by element, of logits that should be high."""
    return alpha * torch.sigmoid(-logits).pow(gamma) * functional.softplus(-logits)


def all_anchors(maps: Tensor, width: int) -> Tensor:
    """Head map (B, A*width, H, W) as (B*H*W*A, width), one row per anchor; free in channels-last memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, width)


def focal_sum(logits: Tensor, targets: Targets, config: LossConfig) -> Tensor:
    """Focal loss over all anchors but the ignored ones: one sigmoid per class.

    Nearly every value should be low, so all are summed as background and the few others corrected afterwards.

    Args:
        logits: (anchors, classes) float32.
        targets: The batch's targets.
        config: Its ``focal_alpha`` and ``focal_gamma``.

    Source: Lin et al., Focal Loss for Dense Object Detection (ICCV 2017), equation 5.
    """
    alpha, gamma = config.focal_alpha, config.focal_gamma
    learnt = logits.index_select(0, targets.positives).gather(1, targets.labels[:, None])
    everywhere = background_focal(logits, alpha, gamma).sum()
    ignored = background_focal(logits.index_select(0, targets.ignored), alpha, gamma).sum()
    correction = foreground_focal(learnt, alpha, gamma) - background_focal(learnt, alpha, gamma)
    return everywhere - ignored + correction.sum()


def box_difference(boxes: Tensor, targets: Tensor) -> Tensor:
    """Difference (..., 7) of boxes or residuals; the yaw's is a sine, blind to half turns."""
    difference = boxes - targets
    return torch.cat([difference[..., :-1], difference[..., -1:].sin()], dim=-1)


def box_sum(residuals: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Smooth-L1 loss of (N, 7) residuals; the yaw's error is the sine of the difference, blind to half turns."""
    difference = box_difference(residuals, targets)
    return functional.smooth_l1_loss(difference, torch.zeros_like(difference), beta=beta, reduction="sum")


def detection_losses(heads: HeadMaps, targets: Targets, config: LossConfig) -> Losses:
    """The loss of a batch; call it outside autocast.

    Args:
        heads: The model's outputs, of any floating type.
        targets: The batch's targets, on the same device.
        config: Weights and shapes of the parts.
    """
    positives = targets.positives
    class_count = heads.logits.shape[1] * DIRECTION_BINS // heads.directions.shape[1]
    logits = all_anchors(heads.logits.float(), class_count)
    residuals = all_anchors(heads.residuals, BOX_CODE).index_select(0, positives).float()
    directions = all_anchors(heads.directions, DIRECTION_BINS).index_select(0, positives).float()
    count = max(len(positives), 1)
    classes = focal_sum(logits, targets, config) / count
    boxes = box_sum(residuals, targets.residuals, config.smooth_l1_beta) / count
    direction = functional.cross_entropy(directions, targets.directions, reduction="sum") / count
    total = config.class_weight * classes + config.box_weight * boxes + config.direction_weight * direction
    return Losses(total, classes, boxes, direction)
