"""Checks of own labels against the model that is to be trained: classes, points in boxes, grid, anchors."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import iou_3d
from pd_edge.config import ClassConfig
from pd_edge.doctor_evidence import Finding
from pd_edge.label_evidence import LabelEvidence

IN_CONFIG = "training configuration"
SAME = 0.7
"""3D IoU above which two boxes of a frame are of one object."""
LARGE = 2.0
"""Footprints from this area on [m2] get the anchor limits of KITTI's cars, smaller ones those of its pedestrians."""


def check_classes(evidence: LabelEvidence) -> Finding | None:
    """Classes that the model does not know, and those of the model without objects."""
    if evidence.wanted.classes is None:
        return None
    known = [each.name for each in evidence.wanted.classes]
    counts = evidence.class_counts
    missing, strange = [name for name in known if name not in counts], [name for name in counts if name not in known]
    if not missing:
        return None
    seen = ", ".join(f"{name} ({counts[name]})" for name in strange) or "none besides"
    return Finding(
        "classes",
        f"no object of {', '.join(missing)}; unknown to the model: {seen}",
        f"objects of {', '.join(known)}",
        "a class without objects is never found",
        f"dataset.yaml: classes: {{{strange[0] if strange else 'name in the labels'}: {missing[0]}}}; or {IN_CONFIG}: "
        "model.classes",
        blocks=len(missing) == len(known),
        change={},
    )


def check_empty(evidence: LabelEvidence) -> Finding | None:
    """Boxes without a point."""
    empty = evidence.points_inside == 0
    share = float(np.mean(empty)) if len(empty) else 0.0
    if share < 0.2:
        return None
    return Finding(
        "boxes without points",
        f"{empty.sum()} of {len(empty)} boxes hold no point: {evidence.some(empty)}",
        "less than 20 %",
        "they are no targets (min_points) and do not count in figures",
        "labels: of the same clouds and time stamps? Objects that only a camera saw belong out, or to another sensor",
        blocks=share > 0.5,
        change={},
    )


def check_range(evidence: LabelEvidence) -> Finding | None:
    """Boxes beyond the grid seen from above."""
    grid, (x, y, _) = evidence.wanted.grid, evidence.centres.T
    out = ~((x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max))
    share = float(np.mean(out)) if len(out) else 0.0
    if share < 0.3:
        return None
    reach = ", ".join(f"{axis} {low:.0f}..{high:.0f}" for axis, (low, high) in zip("xy", _span(evidence), strict=True))
    return Finding(
        "range",
        f"{share:.0%} of the boxes are beyond the grid; nine of ten are in {reach} m",
        f"x {grid.x_min:g}..{grid.x_max:g}, y {grid.y_min:g}..{grid.y_max:g} m",
        "they are neither learnt nor judged",
        f"{IN_CONFIG}: model.grid: x_min, x_max, y_min, y_max (multiples of 8 cells); or leave them to --coverage full",
        blocks=share > 0.9,
        change={},
    )


def check_heights(evidence: LabelEvidence) -> Finding | None:
    """Boxes that the grid cuts off above or below."""
    grid, half = evidence.wanted.grid, evidence.boxes[:, 5] / 2
    low, high = evidence.centres[:, 2] - half, evidence.centres[:, 2] + half
    cut = _of_model(evidence) & ((low < grid.z_min - 0.25 * half) | (high > grid.z_max + 0.25 * half))
    shares = {name: float(np.mean(cut[evidence.names == name])) for name in evidence.class_counts}
    bad = [name for name, share in shares.items() if share > 0.25 and evidence.class_counts[name] >= 5]
    if not bad:
        return None
    chosen = np.isin(evidence.names, bad)
    lowest, highest = np.percentile(low[chosen], 2), np.percentile(high[chosen], 98)
    return Finding(
        "heights",
        f"boxes reach beyond the grid below or above: {', '.join(f'{shares[name]:.0%} of {name}' for name in bad)}",
        f"z {grid.z_min:g}..{grid.z_max:g} m; 96 % of these classes are in {lowest:.1f}..{highest:.1f} m",
        "points outside are left out, and objects lose their tops or their feet",
        f"{IN_CONFIG}: model.grid: {{z_min: {min(grid.z_min, round(lowest - 0.5, 1)):g}, "
        f"z_max: {max(grid.z_max, round(highest + 0.2, 1)):g}}}; or the height in the sensor profile",
        blocks=float(np.mean(cut)) > 0.5,
        change={},
    )


def check_duplicates(evidence: LabelEvidence) -> Finding | None:
    """Objects that were labelled twice."""
    twice = np.zeros(len(evidence.boxes), bool)
    for place in range(len(evidence.frames)):
        rows = np.nonzero(evidence.frame == place)[0]
        same = np.triu(iou_3d(evidence.boxes[rows], evidence.boxes[rows]) > SAME, 1)
        twice[rows[same.any(axis=0)]] = True
    if not twice.any():
        return None
    return Finding(
        "duplicates",
        f"{twice.sum()} boxes lie on another one: {evidence.some(twice)}",
        "one box for each object",
        "of two boxes one always counts as missed",
        "labels: take one of them out",
        blocks=False,
        change={},
    )


def check_anchors(evidence: LabelEvidence) -> Finding | None:
    """Anchors that hardly overlap with the labels of their class."""
    bad = [(had, fit) for had, fit in _pairs(evidence) if _overlap(had, fit) < 0.5 or _off(had, fit) > 1]
    if not bad:
        return None
    (had, fit), names = bad[0], ", ".join(had.name for had, _ in bad)
    return Finding(
        "anchors",
        f"{had.name} is {_size(fit)} m with its centre at z {fit.anchor_z:g} (medians)",
        f"anchors near the labels; the configuration has {_size(had)} m at {had.anchor_z:g}",
        f"few or no anchors match, so that little is learnt ({names})",
        f"{IN_CONFIG}: model.classes as suggested below",
        blocks=False,
        change={},
    )


def suggested(evidence: LabelEvidence) -> list[ClassConfig]:
    """Classes with anchors as the labels have them (medians); those of the model where it is given, else all."""
    wanted = evidence.wanted.classes
    names = [each.name for each in wanted] if wanted is not None else list(evidence.class_counts)
    return [_fitted(evidence, name) for name in names if name in evidence.class_counts]


def anchor_lines(classes: list[ClassConfig]) -> Iterator[str]:
    """Lines of a training configuration to paste: classes with anchors, and their thresholds."""
    yield "model:"
    yield "  classes:"
    for each in classes:
        size = ", ".join(f"{value:g}" for value in each.anchor_size)
        yield f"    - {{name: {each.name}, anchor_size: [{size}], anchor_z: {each.anchor_z:g}}}"
    yield "thresholds:"
    for each in classes:
        positive, negative = (0.6, 0.45) if each.anchor_size[0] * each.anchor_size[1] > LARGE else (0.5, 0.35)
        yield f"  {each.name}: {{positive: {positive:g}, negative: {negative:g}}}"


def _fitted(evidence: LabelEvidence, name: str) -> ClassConfig:
    rows = evidence.names == name
    length, width, height = np.median(evidence.boxes[rows, 3:6], axis=0).round(2).tolist()
    z = float(np.median(evidence.centres[rows, 2]).round(2))
    return ClassConfig(name=name, anchor_size=(length, width, height), anchor_z=z)


def _pairs(evidence: LabelEvidence) -> list[tuple[ClassConfig, ClassConfig]]:
    """Each class of the model that has objects, with what fits its labels."""
    fitting = {each.name: each for each in suggested(evidence)}
    return [(each, fitting[each.name]) for each in evidence.wanted.classes or () if each.name in fitting]


def _overlap(one: ClassConfig, other: ClassConfig) -> float:
    """IoU of two footprints in the same place."""
    (a, b, _), (c, d, _) = one.anchor_size, other.anchor_size
    shared = min(a, c) * min(b, d)
    return shared / (a * b + c * d - shared)


def _off(one: ClassConfig, other: ClassConfig) -> float:
    """How far apart in height they are, in heights of the first."""
    return abs(one.anchor_z - other.anchor_z) / one.anchor_size[2]


def _size(each: ClassConfig) -> str:
    return " x ".join(f"{value:g}" for value in each.anchor_size)


def _of_model(evidence: LabelEvidence) -> npt.NDArray[np.bool_]:
    """(K,) whether a box is of a class of the model; all where none is given."""
    if evidence.wanted.classes is None:
        return np.ones(len(evidence.names), bool)
    return np.isin(evidence.names, [each.name for each in evidence.wanted.classes])


def _span(evidence: LabelEvidence) -> npt.NDArray[np.float64]:
    """(2, 2) between what x and y nine of ten boxes are [m]."""
    return np.asarray(np.percentile(evidence.centres[:, :2], [5, 95], axis=0).T)
