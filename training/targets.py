"""Target assignment: which anchors learn which object, and what they should say. Sparse numpy, then torch.

An anchor meets only objects of its own class. Overlap is the IoU of nearest bird's-eye boxes: each box turned to the
closer axis, then compared as an axis-aligned rectangle. That overlap is a product of an x and a y part, so that each
object is compared with the rows and columns of anchors around it and the other 99.9 % are never touched.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pd_edge.config import ModelConfig
from pd_edge.decode import ANCHOR_YAWS, AnchorAxis, anchor_axes, anchors, direction_bin, encode_boxes
from pd_edge.training.config import Thresholds
from pd_edge.training.scene import OTHER, ignored_label

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
YAWS = len(ANCHOR_YAWS)
TIE = 1e-9
"""Overlaps this close are one value, so that rounding does not choose among equally good anchors."""


class FrameTargets(NamedTuple):
    """What one frame's anchors should learn; anchors in neither index list are background.

    Anchors are counted flat over the (H, W, A) of :func:`pd_edge.decode.anchors`: H and W are those of the head's maps,
    ny/2 and nx/2 of PointPillars, ny/8 and nx/8 of SECOND; A is two yaws of each class.

    Attributes:
        positives: (N,) int64, anchors that learn an object, ascending.
        labels: (N,) int64, their classes.
        residuals: (N, 7) float32, their objects' boxes, encoded; the yaw's in radians, unwrapped.
        directions: (N,) int64, direction bin of their objects' yaw.
        ignored: (I,) int64, anchors too close to an object for background, too far to learn it; ascending.
    """

    positives: Indices
    labels: Indices
    residuals: npt.NDArray[np.float32]
    directions: Indices
    ignored: Indices


class Targets(NamedTuple):
    """:class:`FrameTargets` of a batch as tensors, anchors counted flat over (B, H, W, A)."""

    positives: Tensor
    labels: Tensor
    residuals: Tensor
    directions: Tensor
    ignored: Tensor

    def to(self, device: torch.device) -> "Targets":
        """The same targets on another device."""
        return Targets(*(tensor.to(device, non_blocking=True) for tensor in self))


class _Overlaps(NamedTuple):
    """Object-anchor pairs that overlap: index of the object, flat index of the anchor, IoU."""

    object: Indices
    anchor: Indices
    iou: Floats

    def select(self, kept: npt.NDArray[Any]) -> "_Overlaps":
        """Some of the pairs, by mask or in the order of an index array."""
        return _Overlaps(self.object[kept], self.anchor[kept], self.iou[kept])


def nearest_bev_sizes(sizes: Floats, yaws: Floats) -> Floats:
    """Extents along x and y of boxes turned to the nearest axis.

    Args:
        sizes: (K, 2) length and width [m].
        yaws: (K,) [rad].
    """
    across = np.abs(np.sin(yaws)) > math.sqrt(0.5)
    return np.where(across[:, None], sizes[:, ::-1], sizes)


class TargetAssigner:
    """Assigns targets for one model; holds the anchors.

    Source: the maximum-IoU assigner of SECOND and its successors. An anchor at or over ``positive`` learns the object
    it overlaps most; under ``negative`` it is background; in between it is ignored. Each object's best anchors (all
    that tie) learn it whatever their overlap, if there is any; where two objects claim one anchor so, the one it
    overlaps more has it.

    Deviation: mmdetection3d has an object's best anchors learn it only if they overlap it by ``min_pos_iou``, which its
    KITTI configurations set to ``negative``; here any overlap is enough, as in OpenPCDet.
    """

    def __init__(self, model: ModelConfig, thresholds: Mapping[str, Thresholds]) -> None:
        self._model = model
        self._anchors = anchors(model).reshape(-1, 7)
        self._limits = [thresholds[each.name] for each in model.classes]

    def assign(self, boxes: npt.NDArray[np.float32], labels: Indices) -> FrameTargets:
        """Assigns the objects of one frame.

        Args:
            boxes: (K, 7) objects in the LiDAR frame.
            labels: (K,) their classes, or :func:`~pd_edge.training.scene.ignored_label` of these.
        """
        per_class = [self._assign_class(boxes, labels, index) for index in range(len(self._limits))]
        positives, owners, ignored = (np.concatenate(parts) for parts in zip(*per_class, strict=True))
        unsure = labels < OTHER
        if unsure.any():
            ignored = self._with_unsure(positives, ignored, boxes[unsure], ignored_label(labels[unsure]))
        order = np.argsort(positives)
        positives, owners = positives[order], owners[order]
        return FrameTargets(
            positives=positives,
            labels=labels[owners].astype(np.int64),
            residuals=encode_boxes(boxes[owners], self._anchors[positives]).astype(np.float32),
            directions=direction_bin(boxes[owners, 6], self._model.direction_offset),
            ignored=np.sort(ignored),
        )

    def _with_unsure(
        self, positives: Indices, ignored: Indices, boxes: npt.NDArray[np.float32], labels: Indices
    ) -> Indices:
        """The ignored anchors with those that boxes which are to be ignored would take from the background."""
        per_class = [self._assign_class(boxes, labels, index) for index in range(len(self._limits))]
        near = np.concatenate([anchors for taken, _, between in per_class for anchors in (taken, between)])
        return np.setdiff1d(np.union1d(ignored, near), positives)

    def _assign_class(
        self, boxes: npt.NDArray[np.float32], labels: Indices, index: int
    ) -> tuple[Indices, Indices, Indices]:
        """Positive anchors, the objects they learn, and ignored anchors, of one class."""
        of_class = np.flatnonzero(labels == index)
        pairs = self._overlaps(boxes[of_class].astype(np.float64), index)
        best = np.zeros(len(of_class))
        np.maximum.at(best, pairs.object, pairs.iou)
        forced = pairs.iou >= best[pairs.object] - TIE
        limits = self._limits[index]
        kept = forced | (pairs.iou >= limits.negative)
        pairs, forced = pairs.select(kept), forced[kept]
        # The last pair of an anchor decides it: a forced one if there is any, the greatest overlap among equals.
        order = np.lexsort((pairs.iou, forced, pairs.anchor))
        pairs, forced = pairs.select(order), forced[order]
        last = np.append(pairs.anchor[1:] != pairs.anchor[:-1], True)[: len(order)]
        positive = last & (forced | (pairs.iou >= limits.positive))
        return pairs.anchor[positive], of_class[pairs.object[positive]], pairs.anchor[last & ~positive]

    def _overlaps(self, boxes: Floats, index: int) -> _Overlaps:
        """All overlapping pairs of the boxes (K, 7) and the class's anchors."""
        cls, (along_x, along_y) = self._model.classes[index], anchor_axes(self._model)
        sizes = nearest_bev_sizes(boxes[:, 3:5], boxes[:, 6])
        anchor_sizes = np.array([cls.anchor_size[:2], cls.anchor_size[1::-1]])
        columns, shared_x = _axis_overlap(boxes[:, 0], sizes[:, 0], anchor_sizes[:, 0], along_x)
        rows, shared_y = _axis_overlap(boxes[:, 1], sizes[:, 1], anchor_sizes[:, 1], along_y)
        common = shared_y[:, :, :, None] * shared_x[:, :, None, :]  # object, yaw, row, column
        areas = sizes.prod(axis=1)[:, None] + anchor_sizes.prod(axis=1)
        which, yaw, row, column = np.nonzero(common)
        shared = common[which, yaw, row, column]
        location = rows[which, row] * along_x.number + columns[which, column]
        per_location = YAWS * len(self._limits)
        return _Overlaps(which, location * per_location + index * YAWS + yaw, shared / (areas[which, yaw] - shared))


def _axis_overlap(centres: Floats, sizes: Floats, anchor_sizes: Floats, axis: AnchorAxis) -> tuple[Indices, Floats]:
    """Overlap of intervals with the anchors near them, along one axis.

    Args:
        centres: (K,) centres of the intervals [m].
        sizes: (K,) their lengths [m].
        anchor_sizes: (yaws,) lengths of the anchors [m].
        axis: Where the anchors stand.

    Returns:
        (K, W) int64 places of the anchors in each interval's window, and (K, yaws, W) shared length [m]. The window
        is no longer than the map, however large a box a teacher may see.
    """
    reach = (sizes.max(initial=0.0) + anchor_sizes.max()) / 2
    count = min(math.ceil(2 * reach / axis.step) + 2, axis.number)
    first = np.floor((centres - reach - axis.start) / axis.step).clip(0, axis.number - count).astype(np.int64)
    places = first[:, None] + np.arange(count)
    distance = np.abs(axis.start + (places + 0.5) * axis.step - centres[:, None])
    shared = (sizes[:, None, None] + anchor_sizes[:, None]) / 2 - distance[:, None, :]
    shared = np.minimum(shared, np.minimum(sizes[:, None], anchor_sizes)[:, :, None])
    return places, shared.clip(0)


def batch_targets(frames: Sequence[FrameTargets], model: ModelConfig) -> Targets:
    """Joins the targets of a batch's frames as tensors."""
    per_frame = math.prod(axis.number for axis in anchor_axes(model)) * YAWS * len(model.classes)
    moved = [
        frame._replace(positives=frame.positives + number * per_frame, ignored=frame.ignored + number * per_frame)
        for number, frame in enumerate(frames)
    ]
    return Targets(*(torch.from_numpy(np.concatenate(column)) for column in zip(*moved, strict=True)))
