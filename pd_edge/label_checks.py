"""Checks of own labels for frames, units, axes, yaw and heights that are not what the layout says.

Each check gives a finding and how to mend the boxes, so that the next one judges them as they were meant.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.doctor_evidence import Finding
from pd_edge.label_evidence import TALL, LabelEvidence
from pd_edge.own_labels import Boxes

Mend = Callable[[Boxes], Boxes]
IN_LABELS = "labels"
"""Where something is to be changed, before what."""
LONG = 1.3
"""Boxes that are longer than wide, or wider than long, by this factor tell what their yaw is worth."""
FILLED = 0.8
"""Of boxes that are where they should be, at least this share holds points; 575 labelled cars of KITTI had 97 %."""
STEP = 0.3
"""Boxes may stand so high above the ground or so deep in it [m]: streets bend."""


class Suspect(NamedTuple):
    """Something that boxes may have been taken for: what it is, how to write it right, and the boxes mended."""

    said: str
    remedy: str
    mend: Mend


def check_place(evidence: LabelEvidence) -> tuple[Finding, Mend] | None:
    """Boxes in another frame or unit than their clouds."""
    suspects = (
        Suspect(
            "camera coordinates (x right, y down, z ahead)", "centre: [z, -x, -y]", _columns((2, 0, 1), (1, -1, -1))
        ),
        Suspect("x and y swapped", "centre: [y, x, z]", _columns((1, 0, 2), (1, 1, 1))),
        Suspect("y with the wrong sign", "centre: [x, -y, z]", _columns((0, 1, 2), (1, -1, 1))),
        Suspect("x with the wrong sign", "centre: [-x, y, z]", _columns((0, 1, 2), (-1, 1, 1))),
        Suspect("millimetres", "centre and size times 0.001", _scaled(0.001)),
        Suspect("centimetres", "centre and size times 0.01", _scaled(0.01)),
    )
    filled = _filled(evidence, evidence.boxes)
    if filled > FILLED or len(evidence.boxes) < 3:
        return None
    shares = [_filled(evidence, each.mend(evidence.boxes.copy())) for each in suspects]
    best = int(np.argmax(shares))
    if shares[best] < max(0.5, filled + 0.2):
        return None
    finding = Finding(
        "labels' frame",
        f"{filled:.0%} of the boxes hold points; taken as {suspects[best].said}, {shares[best]:.0%} do",
        "boxes in the frame of their clouds, in metres",
        "boxes are where no objects are, and nothing is learnt",
        f"{IN_LABELS}: {suspects[best].remedy}",
        blocks=True,
        change={},
    )
    return finding, suspects[best].mend


def check_degrees(evidence: LabelEvidence) -> tuple[Finding, Mend] | None:
    """Yaws in degrees."""
    yaw = np.abs(evidence.boxes[:, 6])
    beyond = yaw > 2 * math.pi + 0.1
    if np.mean(beyond) < 0.05 or not beyond.any():
        return None
    finding = Finding(
        "yaw unit",
        f"yaws up to {yaw.max():.0f}; {np.mean(beyond):.0%} are beyond a full turn of 6.28 rad: degrees",
        "radians",
        "headings come out at random",
        f"{IN_LABELS}: yaw: yaw * pi / 180",
        blocks=True,
        change={},
    )
    return finding, _turned(math.pi / 180, 0)


def check_heading(evidence: LabelEvidence) -> tuple[Finding, Mend] | None:
    """Length and width exchanged, and yaws counted from another axis or clockwise: boxes across their points."""
    swapped = _wide(evidence)
    quarter = Suspect("the points lie across the boxes", "yaw: yaw + pi / 2", _turned(1, math.pi / 2))
    if swapped > 0.5:
        quarter = Suspect(
            f"{swapped:.0%} of the long boxes are wider than long, and their points lie across them",
            "size: length and width exchanged",
            _exchanged,
        )
    suspects = (
        quarter,
        Suspect("the yaws run clockwise", "yaw: -yaw", _turned(-1, 0)),
        Suspect("the yaws are KITTI's rotation_y", "yaw: -yaw - pi / 2", _turned(-1, -math.pi / 2)),
    )
    gains = [_gain(evidence, each.mend) for each in suspects]
    best = int(np.argmax(gains))
    if gains[best] < 1.15:
        return None
    finding = Finding(
        "yaw",
        f"{suspects[best].said}: turned, the boxes hold {gains[best]:.1f} times the points",
        "length along the heading; yaw counter-clockwise from x",
        "boxes lie across their objects: no anchor fits, and headings are learnt wrong",
        f"{IN_LABELS}: {suspects[best].remedy}",
        blocks=True,
        change={},
    )
    return finding, suspects[best].mend


def check_bottoms(evidence: LabelEvidence) -> tuple[Finding, Mend] | None:
    """Boxes that do not stand on the ground: centres of the bottom or top, another origin."""
    known = np.isfinite(evidence.bottoms)
    if known.sum() < 3:
        return None
    gaps, heights = evidence.bottoms[known], evidence.boxes[known, 5]
    gap, share = float(np.median(gaps)), float(np.median(gaps / heights))
    if abs(gap) < STEP:
        return None
    said, remedy, mend = (
        f"bottoms are {abs(gap):.2f} m {'above' if gap > 0 else 'below'} the ground",
        f"centre: [x, y, z {-gap:+.2f}]; or the clouds' own frame, where the labels are in the vehicle's",
        _lifted(0, -gap),
    )
    for part, name, sign in ((-0.5, "bottom", "+"), (0.5, "top", "-")):
        if abs(share - part) < 0.2:
            said = f"{said}, half a box: z is that of the {name}"
            remedy, mend = f"centre: [x, y, z {sign} height / 2]", _lifted(-part, 0)
    finding = Finding(
        "box bottoms",
        f"{said} (median of {known.sum()} boxes within 30 m)",
        f"on the ground, to {STEP:g} m; z is the box's geometric centre",
        "boxes miss a part of their points, and boxes are learnt at a wrong height",
        f"{IN_LABELS}: {remedy}",
        blocks=abs(gap) > 0.5,
        change={},
    )
    return finding, mend


def check_sizes(evidence: LabelEvidence) -> tuple[Finding, Mend] | None:
    """Sizes unlike the others of their class."""
    odd = np.zeros(len(evidence.boxes), bool)
    for name in evidence.class_counts:
        rows = evidence.names == name
        sizes = evidence.boxes[rows, 3:6]
        odd[rows] = (np.abs(np.log(sizes / np.median(sizes, axis=0))) > math.log(3)).any(axis=1)
    if not odd.any():
        return None
    finding = Finding(
        "sizes",
        f"{odd.sum()} boxes are more than three times as large or small as their class's median: {evidence.some(odd)}",
        "length, width and height [m] alike within a class",
        "an anchor fits one size; slips of the mouse are learnt, too",
        f'{IN_LABELS}: correct them, or split the class, or "ignore": true',
        blocks=False,
        change={},
    )
    return finding, lambda boxes: boxes


def _filled(evidence: LabelEvidence, boxes: Boxes) -> float:
    """Share of the boxes with points that stand out from the ground, wherever the boxes stand in height."""
    tall = boxes * [1, 1, 1, 1, 1, TALL, 1]
    return float(np.mean(evidence.count(tall, evidence.upright) > 0)) if len(boxes) else 1.0


def _long(boxes: Boxes) -> npt.NDArray[np.bool_]:
    ratio = boxes[:, 3] / boxes[:, 4]
    return np.asarray(np.maximum(ratio, 1 / ratio) > LONG)


def _wide(evidence: LabelEvidence) -> float:
    """Share of the long boxes that are wider than long."""
    chosen = evidence.boxes[_long(evidence.boxes)]
    return float(np.mean(chosen[:, 3] < chosen[:, 4])) if len(chosen) else 0.0


def _gain(evidence: LabelEvidence, mend: Mend) -> float:
    """How many times the points long boxes hold when mended; of those that turn by more than 15 degrees by it."""
    boxes, other = evidence.boxes, mend(evidence.boxes.copy())
    turned = other[:, 6] - boxes[:, 6] + np.where(other[:, 3] != boxes[:, 3], math.pi / 2, 0)
    chosen = _long(boxes) & (np.abs(np.sin(turned)) > math.sin(math.radians(15)))
    tall = [1, 1, 1, 1, 1, TALL, 1]
    before, after = (np.minimum(evidence.count(each * tall, evidence.upright), 200) for each in (boxes, other))
    chosen &= np.maximum(before, after) >= 10
    if chosen.sum() < 5:
        return 0.0
    return float(after[chosen].sum() / max(before[chosen].sum(), 1))


def _columns(order: tuple[int, int, int], signs: tuple[int, int, int]) -> Mend:
    def mend(boxes: Boxes) -> Boxes:
        boxes[:, :3] = boxes[:, list(order)] * signs
        return boxes

    return mend


def _scaled(unit: float) -> Mend:
    return lambda boxes: boxes * [unit, unit, unit, unit, unit, unit, 1]


def _turned(factor: float, offset: float) -> Mend:
    return lambda boxes: boxes * [1, 1, 1, 1, 1, 1, factor] + [0, 0, 0, 0, 0, 0, offset]


def _exchanged(boxes: Boxes) -> Boxes:
    return boxes[:, [0, 1, 2, 4, 3, 5, 6]]


def _lifted(heights: float, metres: float) -> Mend:
    def mend(boxes: Boxes) -> Boxes:
        boxes[:, 2] += heights * boxes[:, 5] + metres
        return boxes

    return mend
