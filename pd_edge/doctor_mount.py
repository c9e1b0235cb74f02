"""Checks of a sensor's frame, unit, axes, tilt and height; see :mod:`pd_edge.doctor`."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import Cloud
from pd_edge.config import ModelConfig
from pd_edge.doctor_evidence import IN_PROFILE, Evidence, Finding
from pd_edge.ground import find_ground
from pd_edge.sensors import MODEL_HEIGHT, SensorProfile

TILT, BAD_TILT = 4.0, 6.0
"""Differences from the profile that are said, and that keep boxes away [degrees]; streets alone give up to 4."""
HEIGHT, BAD_HEIGHT = 0.35, 0.5
"""The same for the height above the ground [m]."""
WORLD_FRAMES = ("map", "odom", "world", "earth")


def check_frame(evidence: Evidence) -> Finding | None:
    """Clouds in a frame that stands still in the world."""
    frame = evidence.sample.frame_id.strip("/")
    if frame not in WORLD_FRAMES:
        return None
    return Finding(
        "frame",
        f"frame_id {frame}, which stands still in the world",
        "the sensor's own frame",
        "the grid is around the frame's origin, which the vehicle leaves behind",
        "topic: the driver's own cloud, not one that was transformed or accumulated",
        blocks=True,
        change={},
    )


def check_unit(evidence: Evidence) -> Finding | None:
    """Centimetres and millimetres."""
    # From the middle of the points, not the origin: far away from it is another mistake.
    reach = np.linalg.norm(evidence.own[:, :3] - np.median(evidence.own[:, :3], axis=0), axis=1)
    median, usual = float(np.median(reach)), evidence.reference.median_range.middle
    names = {1.0: "metres", 0.01: "centimetres", 0.001: "millimetres"}
    unit = min(names, key=lambda each: abs(math.log(max(median, 1e-6) * each / usual)))
    if unit == 1:
        return None
    change = {"unit": evidence.profile.unit * unit}
    return Finding(
        "unit",
        f"half of the points are farther than {median:.0f} from their middle: these are {names[unit]}",
        f"metres, half of the points within about {usual:.0f} m",
        "hardly a point lies in the grid",
        f"{IN_PROFILE}: unit: {change['unit']:g}",
        blocks=True,
        change=change,
    )


def check_up(evidence: Evidence) -> Finding | None:
    """Clouds that stand on their heads or lie on their sides."""
    ground = evidence.ground
    if ground is not None and ground.normal @ evidence.up > 0:
        return None
    if ground is not None:
        roll = 180 - (-evidence.profile.roll) % 360
        change: dict[str, Any] = {"roll": roll}
        remedy = f"{IN_PROFILE}: roll: {roll:g} (where only z has the wrong sign: axes: [x, y, -z])"
        said = "the ground is above the sensor: the cloud is upside down"
    else:
        towards = _other_up(evidence)
        if towards is None:
            return None
        change = {"axes": _standing_up(evidence.profile, towards), "roll": 0.0, "pitch": 0.0}
        remedy = f"{IN_PROFILE}: axes: [{', '.join(change['axes'])}]"
        said = f"up is {towards}, as in frames of cameras"
    return Finding("up", said, "z up", "no object stands as models know it", remedy, blocks=True, change=change)


def check_ahead(evidence: Evidence) -> Finding | None:
    """Clouds whose x axis does not point ahead: x and y swapped, or a turned sensor."""
    angle, sure = _ahead(evidence.level)
    if abs(angle) < 35:
        return None
    profile = evidence.profile
    turned = (profile.yaw - angle + 180) % 360 - 180
    change: dict[str, Any] = {"yaw": round(turned / 90) * 90.0 if sure else turned}
    said, remedy = f"ahead is {angle:.0f} degrees to the left of x", f"{IN_PROFILE}: yaw: {change['yaw']:g}"
    if 60 < angle < 120 and profile.roll == profile.yaw == 0:
        first, second, third = profile.axes
        said = "x and y swapped, or the sensor turned to the right by 90 degrees: the street runs along y"
        remedy = (
            f"{IN_PROFILE}: axes: [{second}, {first}, {third}]; or yaw: {change['yaw']:g}, where what is on the left "
            "then shows on the left (a cloud alone does not tell them apart)"
        )
        change = {"axes": (second, first, third)}
    meaning = "the grid looks aside" if sure else "boxes are of what is beside the vehicle, and what is ahead is missed"
    return Finding("axes", said, "x ahead, y left", meaning, remedy, blocks=sure, change=change)


def check_ground(evidence: Evidence) -> Finding | None:
    """Clouds in which no ground is found, so that height and tilt cannot be checked."""
    if evidence.ground is not None:
        return None
    return Finding(
        "ground",
        "no plane with next to nothing below it within 30 m",
        "the ground",
        "height and tilt were not checked",
        f"{IN_PROFILE}: height, roll and pitch, measured on the vehicle",
        blocks=False,
        change={},
    )


def check_tilt(evidence: Evidence) -> Finding | None:
    """Roll and pitch that differ from the profile's."""
    ground, profile, clouds = evidence.ground, evidence.profile, evidence.sample.clouds
    if ground is None:
        return None
    roll, pitch = math.degrees(ground.roll), math.degrees(ground.pitch)
    off = math.degrees(math.acos(np.clip(ground.normal @ evidence.up, -1, 1)))
    if off < TILT or abs(pitch) > 45:
        return None
    change = {"roll": round(roll, 1), "pitch": round(pitch, 1)}
    return Finding(
        "tilt",
        f"the ground is tilted by {off:.1f} degrees: roll {roll:.1f}, pitch {pitch:.1f}",
        f"roll {profile.roll:g}, pitch {profile.pitch:g}, as in the profile",
        f"what is 30 m away is {30 * math.sin(math.radians(off)):.1f} m too high or too low"
        + ("; one cloud takes in the street's own slope, so give a folder or a bag" if len(clouds) == 1 else ""),
        f"{IN_PROFILE}: roll: {change['roll']:g} and pitch: {change['pitch']:g} (nose down is positive)",
        blocks=off > BAD_TILT,
        change=change,
    )


def check_height(evidence: Evidence) -> Finding | None:
    """A height above the ground that differs from the profile's."""
    ground, profile = evidence.ground, evidence.profile
    if ground is None or abs(ground.height - profile.height) < HEIGHT or abs(ground.height) > 10:
        return None
    change, off = {"height": round(ground.height, 2)}, ground.height - profile.height
    return Finding(
        "height",
        f"the ground is {ground.height:.2f} m below the cloud's origin",
        f"{profile.height:g} m, as in the profile",
        f"objects are {abs(off):.2f} m {'lower' if off > 0 else 'higher'} than where models look for them",
        f"{IN_PROFILE}: height: {change['height']:g}",
        blocks=abs(off) > BAD_HEIGHT,
        change=change,
    )


def check_model(model: ModelConfig, name: str) -> Finding | None:
    """A model whose anchors do not stand on a ground where KITTI's sensor has it, as one that was trained elsewhere.

    No check of :data:`pd_edge.doctor.CHECKS`: what it finds no sensor profile of a cloud is wrong for.
    """
    lowest = min(each.anchor_z - each.anchor_size[2] / 2 for each in model.classes)
    if abs(lowest + MODEL_HEIGHT) <= BAD_HEIGHT:
        return None
    return Finding(
        "model",
        f"the lowest anchors of {name} stand at z = {lowest:.2f} m",
        f"about {-MODEL_HEIGHT:g} m: profiles bring clouds to a sensor {MODEL_HEIGHT:g} m up, as in KITTI",
        "where the model was trained with its ground up there, heights that are proposed here are wrong for it",
        f"{IN_PROFILE}: height: the sensor's own {MODEL_HEIGHT + lowest:+.2f} m, if that brings more boxes",
        blocks=False,
        change={},
    )


def _other_up(evidence: Evidence) -> str | None:
    """The axis that points up where the ground is found along another one than the profile's."""
    taken = int(np.argmax(np.abs(evidence.up)))
    grounds = [(axis, find_ground(evidence.own, axis)) for axis in range(3) if axis != taken]
    fit = [(each.inliers, axis, each) for axis, each in grounds if each is not None]
    if not fit:
        return None
    _, axis, ground = max(fit)
    return ("-" if ground.normal[axis] < 0 else "") + "xyz"[axis]


def _standing_up(profile: SensorProfile, towards: str) -> tuple[str, ...]:
    """Axes, as written, that make ``towards`` of the cloud's own frame its z; right-handed if they were."""
    wanted = {"y": ("z", "x", "y"), "-y": ("z", "-x", "-y"), "x": ("y", "z", "x"), "-x": ("y", "-z", "-x")}[towards]
    written = dict(zip("xyz", profile.axes, strict=True))
    flipped = {axis: ("" if axis[0] == "-" else "-") + axis[-1] for axis in profile.axes}
    return tuple(flipped[written[each[-1]]] if each[0] == "-" else str(written[each]) for each in wanted)


def _ahead(points: Cloud) -> tuple[float, bool]:
    """Where ahead is, left of x [degrees], and whether that is certain: of a full turn only the street tells."""
    azimuth = np.degrees(np.arctan2(points[:, 1], points[:, 0]))
    counts, _ = np.histogram(azimuth, 36, (-180, 180))
    seen = counts > 0.1 * len(points) / 36
    if seen.mean() < 0.7:
        turns = np.exp(1j * np.radians(np.arange(-175, 180, 10)[seen]))
        return float(np.degrees(np.angle(turns.sum()))), True
    return (90.0, False) if _along_over_across(points) < 0.55 else (0.0, False)


def _along_over_across(points: Cloud) -> float:
    """How much more the world stretches along x than along y; about 1 at junctions and in the open.

    The ground's reach along and across, times how sharply what is tall lines up beside the way and before it.
    """
    ground = find_ground(points)
    if ground is None:
        return 1.0
    above = points[:, :3] @ ground.normal + ground.height
    reach = np.hypot(points[:, 0], points[:, 1])
    flat = np.unique(np.floor(points[(np.abs(above) < 0.25) & (reach > 8) & (reach < 40), :2]), axis=0) + 0.5
    slope = np.degrees(np.arctan2(np.abs(flat[:, 1]), np.abs(flat[:, 0])))
    tall = np.unique(np.floor(2 * points[(above > 1) & (reach > 3) & (reach < 40), :2]), axis=0)
    if len(flat) < 50 or len(tall) < 50:
        return 1.0
    beside, before = (_sharpness(tall[:, axis]) for axis in (1, 0))
    return float((1 + np.sum(slope < 30)) / (1 + np.sum(slope > 60)) * beside / before)


def _sharpness(cells: npt.NDArray[np.float32]) -> float:
    counts = np.unique(cells, return_counts=True)[1].astype(np.float64)
    return float((counts**2).sum() / counts.sum())
