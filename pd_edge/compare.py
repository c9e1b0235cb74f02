"""How far detectors differ on the same frames: heads, boxes, scores, yaws, directions and AP; and a gate."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pd_edge.batch import BatchResult, FrameResult, detect_frame
from pd_edge.boxes import Detections, bev_iou, wrap_angle
from pd_edge.compare_ap import Ap, loss_interval, measure_ap
from pd_edge.config import Config, parse_config
from pd_edge.decode import Heads
from pd_edge.detector import Detector
from pd_edge.errors import EngineError
from pd_edge.kitti import Dataset

STRONG = 0.3
"""Score from which on a box has to have its twin; weaker ones come and go at the model's own threshold."""
SAME_BOX = 0.5
"""Least rotated BEV IoU of twins."""

Doubles = npt.NDArray[np.float64]


class Gate(Config):
    """How far a detector may differ from the reference."""

    head: float | None = Field(
        None, gt=0, description="Largest difference of a head, as a part of the head's largest value; None: any."
    )
    matched: float = Field(ge=0, le=100, description="Least share of boxes with a twin [%].")
    score: float = Field(ge=0, le=1, description="Score difference that 95 % of the twins keep.")
    yaw: float = Field(ge=0, le=90, description="Yaw difference that 95 % of the twins keep, up to half a turn [deg].")
    flips: float = Field(ge=0, le=100, description="Largest share of twins that point the other way [%].")
    ap: float = Field(ge=0, le=100, description="Largest loss of mean 3D AP R40, moderate [points].")


GATES = {
    "float32": Gate(head=1e-3, matched=99.5, score=0.005, yaw=0.5, flips=0.5, ap=0.1),
    "16 bit": Gate(matched=98.5, score=0.02, yaw=1.5, flips=1.5, ap=0.2),
    "int8": Gate(matched=95, score=0.1, yaw=6, flips=5, ap=1.0),
}
"""What is expected of a precision, by its kind (:func:`precision_kind`).

AP is the requirement. The others are about twice what the shipped models were measured at, calibrated on 32 real frames
(``engines/results/accuracy.md``), for float32 some hundred times. The largest difference of a head is judged for
float32 alone: with fewer digits it comes from residuals far from any object, which are never decoded."""


class Difference(NamedTuple):
    """How one detector differs from the reference, over all frames."""

    name: str
    precision: str
    frames: int
    head: float
    """Largest difference of a head, as a part of the largest value that the reference has in that head and frame."""
    boxes: int
    """Boxes of either that score :data:`STRONG` or more, twins counted once."""
    matched: float
    """Share of them that have a twin [%]; NaN without boxes."""
    score_p95: float
    """95th percentile of the twins' score differences; NaN without twins, as the next three."""
    score_max: float
    yaw_p95: float
    """95th percentile of the twins' yaw differences, up to half a turn [deg]."""
    yaw_max: float
    flips: float
    """Share of twins that point the other way [%]."""
    classes: dict[str, float]
    """3D AP R40, moderate [%], of each class with :data:`~pd_edge.compare_ap.ENOUGH` objects."""
    ap: float
    """Their mean; NaN where there is none."""
    ap_loss: float
    """The reference's mean less this one's [points]; NaN where there is none."""
    ap_loss_low: float
    """Lower end of the loss' 95 % interval over frames drawn with replacement; NaN where there is none."""
    ap_loss_high: float
    """Its upper end."""

    def beyond(self, gate: Gate) -> list[str]:
        """What is beyond the gate, in words; empty where all holds. What was not measured is not beyond."""
        head = math.inf if gate.head is None else gate.head
        found = {
            f"heads differ by {self.head:.2g} of their largest value, allowed are {head:g}": self.head > head,
            f"{self.matched:.1f} % of the boxes have a twin, expected {gate.matched:g} %": self.matched < gate.matched,
            f"scores differ by {self.score_p95:.3f}, allowed are {gate.score:g}": self.score_p95 > gate.score,
            f"yaws differ by {self.yaw_p95:.1f} deg, allowed are {gate.yaw:g}": self.yaw_p95 > gate.yaw,
            f"{self.flips:.1f} % point the other way, allowed are {gate.flips:g} %": self.flips > gate.flips,
            f"AP falls by {self.ap_loss:.2f}, allowed are {gate.ap:g}{self._doubt(gate)}": self.ap_loss > gate.ap,
        }
        return [text for text, beyond in found.items() if beyond]

    def _doubt(self, gate: Gate) -> str:
        """What to say where so few frames might show such a loss by chance."""
        if not self.ap_loss_low <= gate.ap:  # decided, or no interval
            return ""
        interval = f"95 % interval {self.ap_loss_low:.2f} .. {self.ap_loss_high:.2f}"
        return f"; {self.frames} frames do not decide it ({interval}), compare on more"


class _Pairs(NamedTuple):
    """Twins of one frame, and the boxes without."""

    scores: Doubles  # (K,) absolute differences
    yaws: Doubles  # (K,) absolute differences in 0..pi
    alone: int


def precision_kind(precision: str) -> str:
    """The key of :data:`GATES` for a runtime's precision."""
    if "int8" in precision:
        return "int8"
    return "16 bit" if "16" in precision else "float32"


def gates_of(differences: Sequence[Difference], **given: float) -> list[Gate]:
    """The gate of each detector, by what it computes in.

    Args:
        differences: What :func:`compare` returned.
        given: Limits to use instead of those of :data:`GATES`.

    Raises:
        ConfigError: A limit is out of range.
    """
    gates = [GATES[precision_kind(each.precision)] for each in differences]
    return [parse_config(gate.model_dump() | given, Gate, "gate") for gate in gates]


def compare(
    detectors: Mapping[str, Detector],
    dataset: Dataset,
    most: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> list[Difference]:
    """Runs detectors on the same frames and compares each with the first.

    Args:
        detectors: Two or more by name, of the same classes and grid; the first is the reference.
        dataset: The frames; cut to the camera's view where they have labels.
        most: How many frames to take, from the first; all when left out.
        advance: Called with the frames done and the frames wanted.

    Returns:
        A difference for each detector, the reference's own first.

    Raises:
        EngineError: Fewer than two detectors, or their heads have different shapes.
        DataError: A frame cannot be used.
    """
    if len(detectors) < 2:
        raise EngineError(f"{len(detectors)} detectors to compare; give two or more")
    wanted = len(dataset) if most is None else min(most, len(dataset))
    records = [_Record(name, detector) for name, detector in detectors.items()]
    for index in range(wanted):
        frame = dataset.frame(index)
        for record in records:
            record.add(detect_frame(record.detector, frame, dataset.ids[index]), records[0])
        if advance is not None:
            advance(index + 1, wanted)
    figures = [record.ap() for record in records]
    return [record.difference(ap, figures[0]) for record, ap in zip(records, figures, strict=True)]


def head_difference(found: Heads | None, expected: Heads | None) -> float:
    """Largest difference of any head, as a part of the largest value that is expected in that head.

    Raises:
        EngineError: The heads have different shapes.
    """
    if found is None or expected is None:  # a cloud without points has no heads
        return 0.0
    worst = 0.0
    for name, f, e in zip(Heads._fields, found, expected, strict=True):
        if f.shape != e.shape:
            raise EngineError(
                f"head {name} has shapes {f.shape} and {e.shape}; compare detectors of one grid and classes"
            )
        worst = max(worst, float(np.abs(f - e).max()) / max(float(np.abs(e).max()), 1e-6))
    return worst


def twins(found: Detections, expected: Detections) -> list[tuple[int, int]]:
    """Pairs of boxes of one class that overlap most, each box once.

    Returns:
        Rows of ``found`` and ``expected``, best overlap first.
    """
    overlap = bev_iou(found.boxes, expected.boxes)
    overlap[found.labels[:, None] != expected.labels] = 0
    rows, columns = np.nonzero(overlap >= SAME_BOX)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    pairs: list[tuple[int, int]] = []
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row in free_rows and column in free_columns:
            pairs.append((row, column))
            free_rows.discard(row)
            free_columns.discard(column)
    return pairs


def _compare_boxes(found: Detections, expected: Detections) -> _Pairs:
    """Differences of twins of which one is strong, and how many strong boxes have none."""
    pairs = twins(found, expected)
    both = np.array(pairs, np.int64).reshape(-1, 2)
    scores = np.stack([found.scores[both[:, 0]], expected.scores[both[:, 1]]]).astype(np.float64)
    strong = scores.max(axis=0) >= STRONG
    turned = found.boxes[both[:, 0], 6].astype(np.float64) - expected.boxes[both[:, 1], 6]
    alone = int(np.count_nonzero(np.delete(found.scores, both[:, 0]) >= STRONG))
    alone += int(np.count_nonzero(np.delete(expected.scores, both[:, 1]) >= STRONG))
    return _Pairs(np.abs(scores[0] - scores[1])[strong], np.abs(wrap_angle(turned))[strong], alone)


class _Record:
    """What one detector gave, and how it differs from the reference so far."""

    def __init__(self, name: str, detector: Detector) -> None:
        self.name = name
        self.detector = detector
        self.frames: list[FrameResult] = []
        self._head = 0.0
        self._pairs: list[_Pairs] = []

    def add(self, frame: FrameResult, reference: "_Record") -> None:
        """Takes a frame's result; the reference has to have taken its own already."""
        self.frames.append(frame)
        expected = reference.frames[-1].detections
        self._head = max(self._head, head_difference(self.detector.heads, reference.detector.heads))
        self._pairs.append(_compare_boxes(frame.detections, expected))

    def ap(self) -> Ap:
        """AP on all frames."""
        runtime, classes = self.detector.runtime, self.detector.classes
        return measure_ap(
            BatchResult(self.name, runtime.name, runtime.precision, classes, tuple(self.frames), failures=())
        )

    def difference(self, ap: Ap, reference: Ap) -> Difference:
        """The summary over all frames, given this detector's AP and the reference's."""
        scores = np.concatenate([np.empty(0), *(each.scores for each in self._pairs)])
        yaws = np.concatenate([np.empty(0), *(each.yaws for each in self._pairs)])
        boxes = len(scores) + sum(each.alone for each in self._pairs)
        score_p95, score_max = _percentiles(scores)
        yaw_p95, yaw_max = _percentiles(np.degrees(np.minimum(yaws, math.pi - yaws)))
        low, high = loss_interval(ap, reference)
        return Difference(
            name=self.name,
            precision=self.detector.runtime.precision,
            frames=len(self.frames),
            head=self._head,
            boxes=boxes,
            matched=100 * len(scores) / boxes if boxes else math.nan,
            score_p95=score_p95,
            score_max=score_max,
            yaw_p95=yaw_p95,
            yaw_max=yaw_max,
            flips=100 * float(np.mean(yaws > math.pi / 2)) if len(yaws) else math.nan,
            classes=ap.classes,
            ap=ap.mean,
            ap_loss=reference.mean - ap.mean,
            ap_loss_low=low,
            ap_loss_high=high,
        )


def _percentiles(values: Doubles) -> tuple[float, float]:
    """95th percentile and maximum; NaN without values."""
    if not len(values):
        return math.nan, math.nan
    return float(np.percentile(values, 95)), float(values.max())
