"""PP-logit: the student copies the teacher's outputs at the few positions where the teacher sees something.

Source: Yang et al., Towards Efficient 3D Object Detection with Knowledge Distillation (SparseKD, NeurIPS 2022), pivotal
position logit distillation: squared error of scores, weighted by a mask over positions and divided by the mask's sum.
The mask is the paper's confidence mask (teacher's score over a threshold) within its rank mask (the K best positions),
with the authors' soft form (times the teacher's score); factors 10 (scores) and 0.2 (boxes) are from their public code.

Deviations. A position here has several anchors: the scores of all of them are compared, and the boxes of those that
are confident themselves, with a mask made alike (the authors' code compares boxes where the ground truth is). The
defaults of the score threshold, 0.1, and of K, 500, are this project's.
"""

from typing import Literal, NamedTuple

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
from pd_edge.training.rivals.anchors import logit, rows_at


class PpLogitConfig(MethodConfig):
    """Pivotal-position logit distillation."""

    method: Literal["pp-logit"] = Field("pp-logit", description="Name of the method.")
    positions: int = Field(500, gt=0, description="Most pivotal positions of a frame, the teacher's best.")
    score_threshold: float = Field(0.1, ge=0, lt=1, description="Positions and anchors scoring less do not count.")
    soft: bool = Field(default=True, description="Weight positions and anchors by the teacher's score, else all alike.")
    class_weight: float = Field(10.0, ge=0, description="Weight of the scores' squared error.")
    box_weight: float = Field(0.2, ge=0, description="Weight of the boxes' smooth L1.")
    beta: float = Field(1 / 9, gt=0, description="Residual at which smooth L1 turns from square to linear.")


class _Pivotal(NamedTuple):
    """Pivotal positions ``places`` (B, K) int64, flat over (H, W), and their ``weight`` (B, K), 0 where fewer count."""

    places: Tensor
    weight: Tensor


class PpLogit(Method):
    """Scores and boxes at the teacher's pivotal positions."""

    def __init__(self, config: PpLogitConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        self._config = config
        self._classes = len(student.classes)
        self._per_place = len(ANCHOR_YAWS) * self._classes

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """Weighted means of the scores' and the boxes' errors.

        Returns:
            The loss; ``classes`` and ``boxes``, its parts before weighting; ``pivotal``, positions per frame.
        """
        config = self._config
        pivotal = self._pivotal(teacher.heads.logits)
        wanted, found = (self._scores(each, pivotal) for each in (teacher, student))
        classes = _mean((found - wanted).square().sum((-2, -1)), pivotal.weight)
        boxes = _mean(self._box_errors(teacher, student, pivotal), self._anchor_weights(wanted))
        loss = config.class_weight * classes + config.box_weight * boxes
        count = (pivotal.weight > 0).sum() / len(pivotal.weight)
        return Lesson(loss, {"classes": classes.detach(), "boxes": boxes.detach(), "pivotal": count})

    def _pivotal(self, logits: Tensor) -> _Pivotal:
        best = logits.amax(1).flatten(1)
        values, places = best.topk(min(self._config.positions, best.shape[1]))
        passing = values > logit(self._config.score_threshold)
        return _Pivotal(places, self._weight(values.float().sigmoid(), passing))

    def _weight(self, scores: Tensor, passing: Tensor) -> Tensor:
        return scores * passing if self._config.soft else passing.float()

    def _scores(self, activations: Activations, pivotal: _Pivotal) -> Tensor:
        """Scores (B, K, A, classes) at the pivotal positions."""
        logits = activations.heads.logits
        scores = rows_at(logits, logits.shape[1], pivotal.places).sigmoid()
        return scores.reshape(*pivotal.places.shape, self._per_place, self._classes)

    def _anchor_weights(self, scores: Tensor) -> Tensor:
        """Weights (B, K, A) of the teacher's anchors at the pivotal positions."""
        best = scores.amax(-1)
        return self._weight(best, best > self._config.score_threshold)

    def _box_errors(self, teacher: Activations, student: Activations, pivotal: _Pivotal) -> Tensor:
        """Smooth L1 (B, K, A) of the encoded boxes, summed over their parameters."""
        maps = [each.heads.residuals for each in (teacher, student)]
        rows = [rows_at(each, each.shape[1], pivotal.places) for each in maps]
        wanted, found = (each.reshape(*each.shape[:2], self._per_place, BOX_CODE) for each in rows)
        difference = box_difference(found, wanted)
        zero = torch.zeros_like(difference)
        return smooth_l1_loss(difference, zero, beta=self._config.beta, reduction="none").sum(-1)


def _mean(errors: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean; 0 where nothing has weight."""
    return (errors * weights).sum() / weights.sum().clamp(min=1e-6)
