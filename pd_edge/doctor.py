"""Why there are no boxes: what a sensor's clouds are like against what models know, with the line of config to change.

Each check of :data:`CHECKS` is a function from :class:`Evidence` to a :class:`Finding` or nothing. They go through the
clouds in an order in which each can rely on the ones before: what a finding proposes is applied before the next check.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import Cloud
from pd_edge.config import GridConfig
from pd_edge.doctor_reference import VIEW, Reference, figures
from pd_edge.errors import DataError
from pd_edge.ground import Ground, find_ground
from pd_edge.pillars import point_cells
from pd_edge.sensors import KITTI, SensorProfile, corrected, in_metres, mount_of

TILT, BAD_TILT = 4.0, 6.0
"""Differences from the profile that are said, and that keep boxes away [degrees]; streets alone give up to 4."""
HEIGHT, BAD_HEIGHT = 0.35, 0.5
"""The same for the height above the ground [m]."""
WORLD_FRAMES = ("map", "odom", "world", "earth")
LARGE_MESSAGE = 500_000
"""Best-effort messages above this were lost in our measurements (ros_nodes/README.md) [bytes]."""
IN_PROFILE = "sensor profile"


class Finding(NamedTuple):
    """Something that is not as models know it.

    Attributes:
        name: Of the check.
        measured: What was found.
        expected: What models know.
        meaning: What follows.
        remedy: The line of config or the command that mends it.
        blocks: Whether it keeps boxes away.
        change: The same as values of a sensor profile; empty where none would mend it.
    """

    name: str
    measured: str
    expected: str
    meaning: str
    remedy: str
    blocks: bool
    change: dict[str, Any]


class Sample(NamedTuple):
    """Some clouds of a sensor, as it writes them.

    Attributes:
        clouds: (N, 4) float32 each, N > 0, all finite: coordinates and intensity as written.
        removed: Share of the points that were NaN, infinite or at the origin.
        intensity: Whether there is a field of intensities; zeros stand for it where not.
        fields: Names of the fields; empty where the format has none.
        frame_id: Frame that messages name; empty for files.
        message_bytes: Size of a message; 0 for files.
        reliability: ``best_effort`` or ``reliable`` as published or recorded; empty where unknown.
    """

    clouds: list[Cloud]
    removed: float = 0.0
    intensity: bool = True
    fields: tuple[str, ...] = ()
    frame_id: str = ""
    message_bytes: int = 0
    reliability: str = ""


class Evidence:
    """What checks look at: clouds under a sensor profile.

    Args:
        sample: The clouds.
        profile: The sensor profile, with what earlier checks proposed.
        grid: The model's grid.
        reference: Figures of the training data.

    Attributes:
        own: All clouds in one, (N, 4) in their own frame [m], intensity as written.
        level: The same in the model's frame.
    """

    def __init__(self, sample: Sample, profile: SensorProfile, grid: GridConfig, reference: Reference) -> None:
        self.sample, self.profile, self.grid, self.reference = sample, profile, grid, reference
        self.own: Cloud = in_metres(np.concatenate(sample.clouds), profile).astype(np.float32)
        self.level = mount_of(profile).points(self.own)

    @cached_property
    def up(self) -> npt.NDArray[np.float64]:
        """(3,) what the profile takes for up, in the clouds' own frame."""
        return mount_of(self.profile).to_model[2, :3]

    @cached_property
    def ground(self) -> Ground | None:
        """The ground, within 35 degrees of where the profile has it, or of the opposite."""
        return find_ground(self.own, int(np.argmax(np.abs(self.up))))

    def clouds(self) -> list[Cloud]:
        """The clouds as the detector has them: in the model's frame [m], intensity 0..1.

        Raises:
            DataError: Their intensities fit no range.
        """
        mount = mount_of(self.profile)
        return [mount.points(corrected(each, "cloud", self.profile).points) for each in self.sample.clouds]


Check = Callable[[Evidence], Finding | None]


def diagnose(
    sample: Sample, profile: SensorProfile, grid: GridConfig, reference: Reference
) -> tuple[list[Finding], SensorProfile]:
    """Goes through all checks.

    Args:
        sample: The clouds.
        profile: The sensor profile that is in use.
        grid: The model's grid.
        reference: Figures of the training data.

    Returns:
        What was found, and the profile with all changes proposed.
    """
    findings = []
    evidence = Evidence(sample, profile, grid, reference)
    for check in CHECKS:
        finding = check(evidence)
        if finding is None:
            continue
        findings.append(finding)
        if finding.change:
            profile = profile.model_copy(update=finding.change)
            evidence = Evidence(sample, profile, grid, reference)
    return findings, profile


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
    change = {"height": round(ground.height, 2)}
    return Finding(
        "height",
        f"the ground is {ground.height:.2f} m below the cloud's origin",
        f"{profile.height:g} m, as in the profile",
        f"objects are {ground.height - profile.height:+.2f} m lower than where models look for them",
        f"{IN_PROFILE}: height: {change['height']:g}",
        blocks=abs(ground.height - profile.height) > BAD_HEIGHT,
        change=change,
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
    intensity_aside = [np.column_stack([each[:, :3], np.zeros(len(each))]) for each in evidence.sample.clouds]
    mount = mount_of(evidence.profile)
    found = [
        figures(mount.points(in_metres(each, evidence.profile).astype(np.float32)), evidence.grid)
        for each in intensity_aside
    ]
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


CHECKS: tuple[Check, ...] = (
    check_fields,
    check_missing,
    check_frame,
    check_unit,
    check_up,
    check_ahead,
    check_ground,
    check_tilt,
    check_height,
    check_intensity_range,
    check_intensity,
    check_grid,
    check_density,
    check_qos,
)
"""In the order in which they can rely on each other."""


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


def is_kitti(profile: SensorProfile) -> bool:
    """Whether a profile changes nothing."""
    return profile.model_copy(update={"name": KITTI.name}) == KITTI
