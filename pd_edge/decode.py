"""From head outputs to detections: anchors, box coder, score threshold, top-k and rotated suppression."""

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Detections, FloatT, nms_bev, wrap_angle
from pd_edge.config import DecodeConfig, DetectorConfig, ModelConfig, stage_strides
from pd_edge.errors import DataError, EngineError

ANCHOR_YAWS = (0.0, math.pi / 2)


class Heads(NamedTuple):
    """What the network's head puts out for one cloud.

    There are A anchors at each location, a = class * 2 + yaw; H and W are those of the backbone's first map.

    Attributes:
        logits: (1, A * classes, H, W) float32, channel a * classes + c.
        residuals: (1, A * 7, H, W) float32, channel a * 7 + k, as :func:`encode_boxes` orders them.
        directions: (1, A * 2, H, W) float32 logits, channel a * 2 + bin.
    """

    logits: npt.NDArray[np.float32]
    residuals: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32]


class _Candidates(NamedTuple):
    """Anchors that may become detections, by class and then best first."""

    anchor: npt.NDArray[np.int64]  # (K,) position in the head's memory: a * H * W + row * W + column
    labels: npt.NDArray[np.int64]  # (K,)
    logits: npt.NDArray[np.float32]  # (K,)


class AnchorAxis(NamedTuple):
    """Where the anchors stand along x or y: place i is ``start + (i + 0.5) * step``.

    Attributes:
        start: Half a step before the first [m].
        step: Distance from one to the next [m].
        number: How many there are.
    """

    start: float
    step: float
    number: int

    @property
    def places(self) -> npt.NDArray[np.float64]:
        """(number,) float64, ascending [m]."""
        return self.start + (np.arange(self.number, dtype=np.float64) + 0.5) * self.step


def anchor_axes(model: ModelConfig) -> tuple[AnchorAxis, AnchorAxis]:
    """Where the anchors stand along x, and along y.

    Source: centres of the head's locations as in mmdetection3d's aligned anchor generator; between the outermost of
    ``model.anchor_range`` as in OpenPCDet's (``align_center: False``) and in mmdetection3d's plain one, where the
    anchors at the edges of the range are half a location off its centre.
    """
    grid = model.grid
    stride = stage_strides(model)[0]
    step = stride * grid.cell
    width, height = grid.nx // stride, grid.ny // stride
    if model.anchor_range is None:
        return AnchorAxis(grid.x_min, step, width), AnchorAxis(grid.y_min, step, height)
    x_first, y_first, x_last, y_last = model.anchor_range
    return _spread(x_first, x_last, width), _spread(y_first, y_last, height)


def _spread(first: float, last: float, count: int) -> AnchorAxis:
    step = (last - first) / (count - 1)
    return AnchorAxis(first - step / 2, step, count)


def anchors(model: ModelConfig) -> npt.NDArray[np.float32]:
    """Lays out the anchors of a model.

    Returns:
        (H, W, A, 7) float32 boxes in the LiDAR frame [m, rad], H and W as the head's maps, A = 2 per class: yaw 0,
        then pi / 2. :func:`anchor_axes` tells where they stand.

    Source: PointPillars, sections 2.2 and 3.
    """
    along_x, along_y = anchor_axes(model)
    boxes = np.empty((along_y.number, along_x.number, len(model.classes), len(ANCHOR_YAWS), 7), np.float32)
    boxes[..., 0] = along_x.places[:, None, None]
    boxes[..., 1] = along_y.places[:, None, None, None]
    boxes[..., 2] = np.array([kind.anchor_z for kind in model.classes])[:, None]
    boxes[..., 3:6] = np.array([kind.anchor_size for kind in model.classes])[:, None]
    boxes[..., 6] = ANCHOR_YAWS
    return boxes.reshape(along_y.number, along_x.number, -1, 7)


def encode_boxes(boxes: npt.NDArray[FloatT], anchors: npt.NDArray[FloatT]) -> npt.NDArray[FloatT]:
    """Writes boxes as residuals to anchors; :func:`decode_boxes` is the inverse.

    Args:
        boxes: (..., 7) boxes, sizes above 0.
        anchors: (..., 7) anchors, of a shape that broadcasts with ``boxes``.

    Returns:
        (..., 7) of the same dtype: x, y offset over the anchor's diagonal, z offset over its height, logarithms of
        the length, width and height ratios, yaw difference [rad], not wrapped (the loss takes its sine).

    Raises:
        DataError: A size is not above 0.

    Source: PointPillars, section 2.4 (SECOND, section 3.2).
    """
    if not (boxes[..., 3:6] > 0).all():
        raise DataError(f"box sizes must be above 0 m, the smallest is {boxes[..., 3:6].min()}; leave such boxes out")
    residuals = np.empty(np.broadcast_shapes(boxes.shape, anchors.shape), np.result_type(boxes, anchors))
    diagonal = np.hypot(anchors[..., 3], anchors[..., 4])
    residuals[..., :2] = (boxes[..., :2] - anchors[..., :2]) / diagonal[..., None]
    residuals[..., 2] = (boxes[..., 2] - anchors[..., 2]) / anchors[..., 5]
    residuals[..., 3:6] = np.log(boxes[..., 3:6] / anchors[..., 3:6])
    residuals[..., 6] = boxes[..., 6] - anchors[..., 6]
    return residuals


def direction_bin(yaw: npt.NDArray[FloatT], direction_offset: float) -> npt.NDArray[np.int64]:
    """The direction class of a yaw [rad]: 0 in the half circle after ``direction_offset`` [rad], else 1."""
    turned = np.mod(yaw.astype(np.float64) - direction_offset, 2 * math.pi)
    return (turned >= math.pi).astype(np.int64)


def decode_boxes(
    residuals: npt.NDArray[FloatT],
    direction_bins: npt.NDArray[np.int64],
    anchors: npt.NDArray[FloatT],
    direction_offset: float,
) -> npt.NDArray[FloatT]:
    """Turns residuals to anchors into boxes.

    The yaw residual fixes the yaw up to half a turn, the direction bin says which half; a yaw on the border between
    the bins may come out half a turn off.

    Args:
        residuals: (..., 7) as :func:`encode_boxes` writes them.
        direction_bins: (...) 0 or 1.
        anchors: (..., 7) anchors, of a shape that broadcasts with ``residuals``.
        direction_offset: Yaw at which bin 0 begins [rad].

    Returns:
        (..., 7) boxes of the same dtype, yaw in [-pi, pi). An absurd residual gives an
        infinity.
    """
    boxes = np.empty(np.broadcast_shapes(residuals.shape, anchors.shape), np.result_type(residuals, anchors))
    diagonal = np.hypot(anchors[..., 3], anchors[..., 4])
    with np.errstate(over="ignore"):
        boxes[..., :2] = residuals[..., :2] * diagonal[..., None] + anchors[..., :2]
        boxes[..., 2] = residuals[..., 2] * anchors[..., 5] + anchors[..., 2]
        boxes[..., 3:6] = np.exp(residuals[..., 3:6]) * anchors[..., 3:6]
    yaw = residuals[..., 6].astype(np.float64) + anchors[..., 6]
    yaw = np.mod(yaw - direction_offset, math.pi) + direction_offset + math.pi * direction_bins
    boxes[..., 6] = wrap_angle(yaw.astype(boxes.dtype))
    return boxes


class Decoder:
    """Decodes the heads of one model; keeps the anchors, so make one and use it for every frame.

    Args:
        config: The detector; its ``decode`` part sets threshold, top-k, suppression and the number of boxes.
    """

    def __init__(self, config: DetectorConfig) -> None:
        model = config.model
        boxes = anchors(model)
        height, width, per_location, _ = boxes.shape
        classes = len(model.classes)
        self._settings = config.decode
        self._direction_offset = model.direction_offset
        self._anchors = np.ascontiguousarray(boxes.transpose(2, 0, 1, 3)).reshape(-1, 7)
        self._per_location, self._classes = per_location, classes
        values = (classes, 7, 2)
        self._shapes = [(1, per_location * count, height, width) for count in values]

    def decode(self, heads: Heads) -> Detections:
        """Decodes one frame.

        Every anchor can score for every class. Per class: logits below the threshold's logit (in float32) go,
        the ``top_k`` best remain, then rotated suppression. Of all classes the ``max_boxes`` best are returned. Equal
        scores rank by class, then by place in the head, so the result is always the same.

        Raises:
            EngineError: A head has a wrong shape or dtype, or holds a NaN or an infinity among all logits or in the
                residuals and directions of a candidate, or residuals give a box of infinite size; the head is named.
        """
        for name, head, shape in zip(Heads._fields, heads, self._shapes, strict=True):
            _check_shape(name, head, shape)
        _check_finite("logits", heads.logits)
        candidates = self._candidates(heads.logits)
        boxes = self._boxes(heads, candidates.anchor)
        scores = _sigmoid(candidates.logits)
        kept = _suppress(boxes, scores, candidates.labels, self._settings)
        best = kept[np.argsort(-candidates.logits[kept], kind="stable")][: self._settings.max_boxes]
        return Detections(boxes[best], candidates.labels[best], scores[best])

    def _candidates(self, logits: npt.NDArray[np.float32]) -> _Candidates:
        flat, plane = logits.ravel(), logits.shape[2] * logits.shape[3]
        passing = np.flatnonzero(flat >= _logit(self._settings.score_threshold))
        channel, place = np.divmod(passing, plane)
        location, labels = np.divmod(channel, self._classes)
        anchor, values = location * plane + place, flat[passing]
        rows = (np.flatnonzero(labels == label) for label in range(self._classes))
        best = np.concatenate([_best(each, values, self._settings.top_k) for each in rows])
        return _Candidates(anchor[best], labels[best], values[best])

    def _boxes(self, heads: Heads, anchor: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Decodes the boxes (K, 7) of the given anchors only."""
        a, place = np.divmod(anchor, len(self._anchors) // self._per_location)
        residuals = heads.residuals.reshape(self._per_location, 7, -1)[a, :, place]
        directions = heads.directions.reshape(self._per_location, 2, -1)[a, :, place]
        # Of these heads the rest is not used, and to look through it would take half of the decoder's time.
        _check_finite("residuals", residuals)
        _check_finite("directions", directions)
        bins = np.argmax(directions, axis=1)
        boxes = decode_boxes(residuals, bins, self._anchors[anchor], self._direction_offset)
        broken = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
        if len(broken):
            raise EngineError(
                f"residuals {residuals[broken[0]].tolist()} decode to a box that is not finite; "
                "the weights or the runtime's precision are at fault"
            )
        return boxes.astype(np.float32, copy=False)


def decode(heads: Heads, config: DetectorConfig) -> Detections:
    """Decodes one frame; see :meth:`Decoder.decode`. The decoder of a configuration is kept for the next call."""
    return _decoder(config).decode(heads)


@functools.lru_cache(maxsize=4)
def _decoder(config: DetectorConfig) -> Decoder:
    return Decoder(config)


def _check_shape(name: str, head: npt.NDArray[np.float32], shape: tuple[int, ...]) -> None:
    if head.shape != shape or head.dtype != np.float32:
        raise EngineError(
            f"head {name} is {head.dtype} of shape {head.shape}, expected float32 {shape}; "
            "the network was exported for another grid or other classes"
        )


def _check_finite(name: str, values: npt.NDArray[np.float32]) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise EngineError(
            f"head {name} holds {values.size - np.count_nonzero(finite)} NaN or infinite values of {values.size}; "
            "the weights or the runtime's precision are at fault"
        )


def _best(rows: npt.NDArray[np.int64], logits: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.int64]:
    """The ``top_k`` of some rows with the largest logits: largest first, equal ones in order."""
    if len(rows) > top_k:  # spares sorting all; those that equal the last of the best remain until they are sorted
        rows = rows[logits[rows] >= np.partition(logits[rows], -top_k)[-top_k]]
    return rows[np.argsort(-logits[rows], kind="stable")][:top_k]


def _suppress(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    settings: DecodeConfig,
) -> npt.NDArray[np.int64]:
    """Rows kept by suppression within each class, by class and then best first."""
    kept = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kept.append(rows[nms_bev(boxes[rows], scores[rows], settings.nms_iou)])
    return np.concatenate(kept)


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def _logit(probability: float) -> np.float32:
    if probability in (0.0, 1.0):
        return np.float32(math.copysign(math.inf, probability - 0.5))
    return np.float32(math.log(probability / (1 - probability)))
