"""Checks of a sensor's points: fields, intensity, range, density and how they are sent; see :mod:`pd_edge.doctor`."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import INTENSITY_SCALES
from pd_edge.config import GridConfig
from pd_edge.doctor_evidence import IN_PROFILE, Evidence, Finding
from pd_edge.doctor_reference import VIEW, Spread, figures
from pd_edge.errors import DataError
from pd_edge.pillars import point_cells
from pd_edge.sensors import corrected, in_metres, mount_of

LARGE_MESSAGE = 500_000
"""Best-effort messages above this were lost in our measurements (ros_nodes/README.md) [bytes]."""

_OTHER_FIELD = f"{IN_PROFILE}: intensity_field: NAME of the field that has them"


def check_fields(evidence: Evidence) -> Finding | None:
    """Clouds without intensity."""
    if evidence.sample.intensity:
        return None
    fields = ", ".join(evidence.sample.fields)
    return Finding(
        "fields",
        f"no intensity among the fields {fields}",
        "a field such as intensity or reflectivity",
        "zeros stand for it; objects score less, and dark ones are missed",
        f"{IN_PROFILE}: intensity_field: NAME, if one of them is the intensity",
        blocks=False,
        change={},
    )


def check_missing(evidence: Evidence) -> Finding | None:
    """Points that are no measurements."""
    if evidence.sample.removed < 0.5:
        return None
    return Finding(
        "missing points",
        f"{evidence.sample.removed:.0%} of the points are NaN, infinite or at the origin",
        "less than half",
        "they are left out; too few may be left to detect anything in",
        "sensor driver: range limits and return mode",
        blocks=evidence.sample.removed > 0.95,
        change={},
    )


def check_intensity_range(evidence: Evidence) -> Finding | None:
    """Intensities that fit no known range, or that are recognised from cloud to cloud only."""
    values, profile = evidence.own[:, 3], evidence.profile
    low, high = float(values.min()), float(values.max())
    try:
        scales = {corrected(each, "cloud", profile).intensity_scale for each in evidence.sample.clouds}
    except DataError as error:
        return _unusable_intensity(low, high, str(error))
    if profile.intensity_max is not None or profile.intensity_curve or scales == {1.0}:
        return None
    change = {"intensity_max": max(scales)}
    return Finding(
        "intensity",
        f"intensities {low:g}..{high:g}",
        "0..1, or a profile that says the greatest",
        "the scale is recognised in each cloud for itself; a cloud of dark points alone would be taken for another",
        f"{IN_PROFILE}: intensity_max: {change['intensity_max']:g}",
        blocks=len(scales) > 1,
        change=change,
    )


def check_intensity(evidence: Evidence) -> Finding | None:
    """Intensities unlike those of the training data."""
    if not evidence.sample.intensity:
        return None
    try:
        values = np.concatenate([each[:, 3] for each in evidence.clouds()])
    except DataError:
        return None
    p95, known = float(np.percentile(values, 95)), evidence.reference.intensity_p95
    change: dict[str, Any] = {}
    if values.min() == values.max():
        said, remedy = f"all intensities are {values[0]:g}", _OTHER_FIELD
    elif p95 == 0:  # a scale of nothing is nothing
        said, remedy = "95 % of the intensities are 0", _OTHER_FIELD
    elif p95 < known.low / 3:
        said = f"95 % of the intensities are below {p95:.3f} of 1"
        change = _brighter(evidence.own[:, 3], known)
        remedy = f"{IN_PROFILE}: {_as_yaml(change)}"
    else:
        return None
    expected = f"95 % below {known.low:.2f} to {known.high:.2f}, as in the training data"
    meaning = "everything looks dark to the model, and objects score less"
    return Finding("intensity scale", said, expected, meaning, remedy, blocks=False, change=change)


def check_grid(evidence: Evidence) -> Finding | None:
    """Clouds that hardly overlap with the grid."""
    grid, cells = evidence.grid, point_cells(evidence.level, evidence.grid)
    share = float(np.mean(cells >= 0))
    if share > 0.1:
        return None
    low, high = np.percentile(evidence.level[:, :3], [5, 95], axis=0)
    ranges = ", ".join(f"{axis} {a:.1f}..{b:.1f}" for axis, a, b in zip("xyz", low, high, strict=True))
    return Finding(
        "range",
        f"{share:.1%} of the points are in the model's grid; nine of ten are in {ranges} m",
        f"x {grid.x_min:g}..{grid.x_max:g}, y {grid.y_min:g}..{grid.y_max:g}, z {grid.z_min:g}..{grid.z_max:g} m",
        "there is little to detect objects in",
        f"{IN_PROFILE}: yaw and height; clouds in the sensor's own frame; or a model of another grid",
        blocks=share < 0.02,
        change={},
    )


def check_density(evidence: Evidence) -> Finding | None:
    """Clouds that are much sparser than the training data."""
    reference = evidence.reference
    profile, mount = evidence.profile, mount_of(evidence.profile)
    metres = (in_metres(each, profile).astype(np.float32) for each in evidence.sample.clouds)
    # In the grid that the table was measured in, which need not be the model's.
    found = [figures(mount.points(each), GridConfig()) for each in metres]
    known = [each for each in found if each is not None]
    if not known:
        return None
    pillars, per_pillar = (float(np.median([each[key] for each in known])) for key in ("pillars", "points_per_pillar"))
    if pillars > 0.5 * reference.pillars.low and per_pillar > 0.5 * reference.points_per_pillar.low:
        return None
    return Finding(
        "density",
        f"{pillars:.0f} pillars ahead with {per_pillar:.1f} points each (within {VIEW:.0f} degrees)",
        f"{reference.pillars.low:.0f}..{reference.pillars.high:.0f} pillars with "
        f"{reference.points_per_pillar.low:.1f}..{reference.points_per_pillar.high:.1f} points: the training data",
        "a sensor of fewer beams or a cropped cloud: far and small objects are missed",
        "a model trained for the sensor; a driver that does not thin the cloud out",
        blocks=False,
        change={},
    )


def check_qos(evidence: Evidence) -> Finding | None:
    """Large clouds that are published best effort."""
    sample = evidence.sample
    if sample.reliability != "best_effort" or sample.message_bytes < LARGE_MESSAGE:
        return None
    return Finding(
        "QoS",
        f"clouds of {sample.message_bytes / 1e6:.1f} MB, published best effort",
        "reliable, for clouds of more than 0.5 MB",
        "a message travels in many datagrams and is lost with one of them: the node may receive nothing",
        "sensor driver: reliability: reliable; the node then follows (reliability: auto)",
        blocks=False,
        change={},
    )


def _unusable_intensity(low: float, high: float, why: str) -> Finding:
    """Intensities that the detector refuses."""
    mendable = low >= 0 and high > 0
    change = {"intensity_max": float(math.ceil(high)), "intensity_curve": ()} if mendable else {}
    remedy = f"{IN_PROFILE}: intensity_max: {math.ceil(high)}, or the sensor's greatest"
    return Finding(
        "intensity",
        f"intensities {low:g}..{high:g}",
        "0..1, 0..255 or 0..65535, or as the profile says",
        f"every such cloud is refused ({why})",
        remedy if mendable else "sensor driver: no intensities below 0",
        blocks=True,
        change=change,
    )


def _brighter(values: npt.NDArray[np.float32], known: Spread) -> dict[str, Any]:
    """A scale that makes intensities as bright as the training data's; a curve where no usual one does."""
    p95 = float(np.percentile(values, 95))
    scale = next(each for each in (1.0, *INTENSITY_SCALES, math.inf) if values.max() <= each)
    if known.low / 3 <= p95 / scale:
        return {"intensity_max": scale, "intensity_curve": ()}
    top = scale if math.isfinite(scale) else float(np.ceil(values.max()))
    return {"intensity_max": None, "intensity_curve": ((0.0, 0.0), (float(f"{p95:.3g}"), known.middle), (top, 1.0))}


def _as_yaml(change: dict[str, Any]) -> str:
    """The scale or curve as a line of a profile."""
    if not change["intensity_curve"]:
        return f"intensity_max: {change['intensity_max']:g}"
    return f"intensity_curve: [{', '.join(f'[{a:g}, {b:g}]' for a, b in change['intensity_curve'])}]"
