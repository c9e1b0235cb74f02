"""SE-SSD's consistency: where the student's box lies on the teacher's confident one, boxes and scores should agree.

Source: Zheng et al., SE-SSD: Self-Ensembling Single-Stage Object Detector From Point Cloud (CVPR 2021), the consistency
loss with its IoU-based matching; score threshold 0.3, IoU threshold 0.7, smooth L1 that turns linear at 1/9 and the
mean over seven box parameters as in the authors' public code.

Deviations. There, student boxes over the score threshold are matched with the teacher box of the greatest rotated IoU;
here the pair is the two predictions of one anchor, which student and teacher share, and only the teacher has to be
confident, so that the student also learns to score what it overlooks. The IoU is that of nearest bird's-eye boxes. All
classes' scores of the anchor are compared, for there is more than one class. The mean is over the batch's pairs, not
frame by frame. The weight is constant instead of rising to 1 over the first quarter of the run, and 4 by default, which
brings the loss to about half of the detector's own. The teacher is the given
one, not an average of the student; SE-SSD's augmentation and ODIoU loss are no part of the comparison.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from pd_edge.config import ModelConfig
from pd_edge.decode import ANCHOR_YAWS
from pd_edge.training.batches import Batch
from pd_edge.training.losses import box_difference
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import BOX_CODE, Activations
from pd_edge.training.rivals.anchors import (
    AnchorTable,
    best_scores,
    decode_boxes,
    logit,
    nearest_bev_iou,
    rows_at,
)


class SeSsdConfig(MethodConfig):
    """SE-SSD's consistency."""

    method: Literal["se-ssd"] = Field("se-ssd", description="Name of the method.")
    weight: float = Field(4.0, ge=0, description="Factor on the method's loss, which is added to the detector's own.")
    score_threshold: float = Field(0.3, ge=0, lt=1, description="Teacher's anchors scoring less are left out.")
    iou_threshold: float = Field(0.7, ge=0, lt=1, description="Nearest-BEV IoU that the two boxes have to exceed.")
    candidates: int = Field(512, gt=0, description="Most anchors of a frame compared, the teacher's best.")
    box_weight: float = Field(1.0, ge=0, description="Weight of the boxes' consistency.")
    score_weight: float = Field(1.0, ge=0, description="Weight of the scores' consistency.")
    beta: float = Field(1 / 9, gt=0, description="Difference at which smooth L1 turns from square to linear.")


class SeSsd(Method):
    """Consistency of the two detectors' outputs at the teacher's confident anchors."""

    def __init__(self, config: SeSsdConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        self._config = config
        self._classes = len(student.classes)
        self._anchors = AnchorTable(student)

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """Mean over the matched pairs of box and score consistency.

        Returns:
            The loss; ``boxes`` and ``scores``, its parts before weighting; ``matched``, pairs per frame.
        """
        config = self._config
        index, confident = self._candidates(teacher.heads.logits)
        wanted = rows_at(teacher.heads.residuals, BOX_CODE, index)
        found = rows_at(student.heads.residuals, BOX_CODE, index)
        anchors = self._anchors(index)
        target = decode_boxes(wanted, anchors)
        with torch.no_grad():
            matched = confident & (nearest_bev_iou(decode_boxes(found, anchors), target) > config.iou_threshold)
        pairs = matched.sum().clamp(min=1)
        # Others take the teacher's own place, before decoding: an absurd size then leaves no NaN in the gradient.
        found = torch.where(matched[..., None], found, wanted)
        boxes = self._penalty(box_difference(decode_boxes(found, anchors), target)).mean(-1).sum() / pairs
        difference = self._scores(student, index) - self._scores(teacher, index)
        scores = (self._penalty(difference).sum(-1) * matched).sum() / pairs
        loss = config.box_weight * boxes + config.score_weight * scores
        per_frame = matched.sum() / len(matched)
        return Lesson(loss, {"boxes": boxes.detach(), "scores": scores.detach(), "matched": per_frame})

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's best anchors (B, K) and whether they pass the score threshold."""
        best = best_scores(logits, len(ANCHOR_YAWS) * self._classes)
        values, index = best.topk(min(self._config.candidates, best.shape[1]))
        return index, values > logit(self._config.score_threshold)

    def _scores(self, activations: Activations, index: Tensor) -> Tensor:
        return rows_at(activations.heads.logits, self._classes, index).sigmoid()

    def _penalty(self, difference: Tensor) -> Tensor:
        return smooth_l1_loss(difference, torch.zeros_like(difference), beta=self._config.beta, reduction="none")
