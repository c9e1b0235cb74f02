"""Checks of a sensor's points: fields, intensity, range, density and how they are sent; see :mod:`pd_edge.doctor`."""

from typing import Any

import numpy as np

from pd_edge.doctor_evidence import IN_PROFILE, Evidence, Finding
from pd_edge.doctor_reference import VIEW, figures
from pd_edge.errors import DataError
from pd_edge.pillars import point_cells
from pd_edge.sensors import corrected, in_metres, mount_of

LARGE_MESSAGE = 500_000
"""Best-effort messages above this were lost in our measurements (ros_nodes/README.md) [bytes]."""


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
    try:
        values = np.concatenate([each[:, 3] for each in evidence.clouds()])
    except DataError:
        return None
    p95, known = float(np.percentile(values, 95)), evidence.reference.intensity_p95
    change: dict[str, Any] = {}
    if values.min() == values.max():
        said = f"all intensities are {values[0]:g}"
        remedy = f"{IN_PROFILE}: intensity_field: NAME of the field that has them"
    elif p95 < known.low / 3:
        top = float(evidence.own[:, 3].max())
        middle = float(np.percentile(evidence.own[:, 3], 95))
        said = f"95 % of the intensities are below {p95:.3f} of 1"
        change = {"intensity_max": None, "intensity_curve": _curve(middle, top, known.middle)}
        points = ", ".join(f"[{a:g}, {b:g}]" for a, b in change["intensity_curve"])
        remedy = f"{IN_PROFILE}: intensity_curve: [{points}]"
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
    found = [figures(mount.points(each), evidence.grid) for each in metres]
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
    curve = ((0.0, 0.0), (high, 1.0))
    mendable = low >= 0 and high > 0
    return Finding(
        "intensity",
        f"intensities {low:g}..{high:g}",
        "0..1, 0..255 or 0..65535, or as the profile says",
        f"every such cloud is refused ({why})",
        f"{IN_PROFILE}: intensity_max: {high:g}, the sensor's greatest"
        if mendable
        else "sensor driver: no negative ones",
        blocks=True,
        change={"intensity_max": None, "intensity_curve": curve} if mendable else {},
    )


def _curve(middle: float, top: float, wanted: float) -> tuple[tuple[float, float], ...]:
    """A curve from 0 over (middle, wanted) to (top, 1)."""
    if 0 < middle < top:
        return (0.0, 0.0), (round(middle, 4), round(wanted, 3)), (round(top, 4), 1.0)
    return (0.0, 0.0), (round(top, 4), 1.0)
