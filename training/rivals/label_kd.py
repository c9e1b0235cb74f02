"""Label KD: what the teacher sees and the ground truth lacks becomes an object to learn.

Source: Yang et al., Towards Efficient 3D Object Detection with Knowledge Distillation (SparseKD, NeurIPS 2022), label
KD: the teacher's boxes scoring more than 0.6 join the ground truth before targets are assigned.

Deviations. A box that overlaps an object of the ground truth is left out, and an anchor that learns a true object keeps
it; the authors' code joins both lists and lets their order decide. The teacher's boxes go through suppression first,
which their CenterPoint does without. The default threshold is 0.4: anchor heads trained with the focal loss score
lower, and over 0.6 this project's teacher saw nothing in eight simulated frames that their ground truth lacks.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from pd_edge.boxes import bev_iou, nms_bev
from pd_edge.config import ModelConfig
from pd_edge.decode import anchors, decode_boxes
from pd_edge.errors import ConfigError
from pd_edge.training.batches import Batch
from pd_edge.training.config import KITTI_THRESHOLDS, Thresholds
from pd_edge.training.method import Lesson, Method, NoLossConfig
from pd_edge.training.network import BOX_CODE, DIRECTION_BINS, Activations, HeadMaps
from pd_edge.training.rivals.anchors import logit, rows_at
from pd_edge.training.targets import TargetAssigner, Targets, batch_targets

Boxes = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
GRAIN = 0.01
"""Boxes recovered from the anchors of one object differ by rounding; on this grid [m, rad] they are one."""


class LabelKdConfig(NoLossConfig):
    """Label KD. There is no loss beside the detector's own."""

    method: Literal["label-kd"] = Field("label-kd", description="Name of the method.")
    score_threshold: float = Field(0.4, ge=0, lt=1, description="Teacher's boxes scoring less are no objects.")
    top_k: int = Field(100, gt=0, description="Best anchors kept per class and frame before suppression.")
    nms_iou: float = Field(0.01, ge=0, le=1, description="Rotated BEV IoU above which the weaker box is suppressed.")
    overlap: float = Field(
        0.1, ge=0, lt=1, description="A box whose BEV IoU with a true object of any class exceeds this is that object."
    )
    thresholds: dict[str, Thresholds] = Field(
        KITTI_THRESHOLDS, description="Anchor assignment of the added objects, by class name; as the run's own."
    )


class _Found(NamedTuple):
    """One frame's boxes (K, 7) and labels (K,)."""

    boxes: Boxes
    labels: Labels


class LabelKd(Method):
    """Adds the teacher's objects to the targets. Only a few hundred anchors' values visit the host.

    Raises:
        ConfigError: The thresholds are for other classes than the model's.
    """

    def __init__(self, config: LabelKdConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        names = [each.name for each in student.classes]
        if sorted(names) != sorted(config.thresholds):
            raise ConfigError(
                f"label-kd: thresholds are for {sorted(config.thresholds)}, the model's classes are {sorted(names)}; "
                "give one entry per class"
            )
        self._config, self._model = config, student
        self._assigner = TargetAssigner(student, config.thresholds)
        self._anchors = anchors(student).reshape(-1, BOX_CODE)
        self._added = torch.zeros(())

    def targets(self, teacher: Activations, batch: Batch) -> Targets:
        """The ground truth's targets and those of what only the teacher sees, on the device of the former."""
        found = self.detections(teacher.heads)
        truth = Targets(*(tensor.cpu() for tensor in batch.targets))
        known = self.objects(truth, len(found))
        new = [self._unknown(frame, boxes) for frame, boxes in zip(found, known, strict=True)]
        count = sum(len(frame.labels) for frame in new)
        self._added = torch.tensor(count / len(new))
        if not count:
            return batch.targets
        extra = batch_targets([self._assigner.assign(*frame) for frame in new], self._model)
        return merge_targets(truth, extra).to(batch.targets.positives.device)

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """No loss; ``added`` is the number of objects per frame that the last call of :meth:`targets` added."""
        return Lesson(student.neck.new_zeros((), dtype=torch.float32), {"added": self._added})

    def detections(self, heads: HeadMaps) -> list[_Found]:
        """Each frame's boxes over the score threshold after suppression; as :func:`pd_edge.decode.decode`."""
        classes = len(self._model.classes)
        logits = heads.logits.permute(0, 2, 3, 1).reshape(len(heads.logits), -1, classes)
        values, index = logits.topk(min(self._config.top_k, logits.shape[1]), dim=1)
        index = index.transpose(1, 2).flatten(1)
        residuals, directions = (
            rows_at(heads.residuals, BOX_CODE, index),
            rows_at(heads.directions, DIRECTION_BINS, index),
        )
        columns = (values.transpose(1, 2).flatten(1).float(), index, residuals, directions.argmax(-1))
        frames = zip(*(column.detach().cpu().numpy() for column in columns), strict=True)
        labels = np.repeat(np.arange(classes), values.shape[1])
        return [self._suppressed(labels, *frame) for frame in frames]

    def _suppressed(self, labels: Labels, logits: Boxes, index: Labels, residuals: Boxes, bins: Labels) -> _Found:
        passing = logits >= logit(self._config.score_threshold)
        labels, logits = labels[passing], logits[passing]
        offset = self._model.direction_offset
        boxes = decode_boxes(residuals[passing], bins[passing], self._anchors[index[passing]], offset)
        rows = [np.flatnonzero(labels == label) for label in range(len(self._model.classes))]
        kept = np.concatenate([of[nms_bev(boxes[of], logits[of], self._config.nms_iou)] for of in rows])
        return _Found(boxes[kept], labels[kept])

    def objects(self, targets: Targets, frames: int) -> list[Boxes]:
        """Each frame's true objects (K, 7), recovered from what its positive anchors learn; targets on the host."""
        frame, anchor = np.divmod(targets.positives.numpy(), len(self._anchors))
        boxes = decode_boxes(
            targets.residuals.numpy(),
            targets.directions.numpy(),
            self._anchors[anchor],
            self._model.direction_offset,
        )
        boxes = np.round(boxes / GRAIN) * np.float32(GRAIN)
        return [np.unique(boxes[frame == number], axis=0) for number in range(frames)]

    def _unknown(self, found: _Found, known: Boxes) -> _Found:
        if not len(known) or not len(found.boxes):
            return found
        new = bev_iou(found.boxes, known).max(axis=1) <= self._config.overlap
        return _Found(found.boxes[new], found.labels[new])


def merge_targets(truth: Targets, extra: Targets) -> Targets:
    """Joins two sets of targets of one batch; where both have a say about an anchor, learning wins, then the truth.

    Args:
        truth: The ground truth's.
        extra: Those of further objects.

    Returns:
        Targets whose positives and ignored anchors are ascending, unique and have none in common.
    """
    free = ~torch.isin(extra.positives, truth.positives)
    positives, labels, residuals, directions = (
        torch.cat([ours, theirs[free]]) for ours, theirs in zip(truth[:4], extra[:4], strict=True)
    )
    order = positives.argsort()
    ignored = torch.cat([truth.ignored, extra.ignored[~torch.isin(extra.ignored, truth.ignored)]]).sort().values
    ignored = ignored[~torch.isin(ignored, positives)]
    return Targets(positives[order], labels[order], residuals[order], directions[order], ignored)
