"""Sensor profiles: how a sensor is mounted and how it writes points, against the KITTI sensor that models know.

A profile is applied in two steps, for file, bag and topic alike. What is wrong or particular about the numbers (names
of fields, unit, axes, scale of the intensity) is mended first; that gives the cloud's own frame, in metres. Then the
:class:`Mount` brings points to the model's frame, and boxes back into the cloud's.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pd_edge.boxes import Detections
from pd_edge.clouds import CheckedCloud, Cloud, check_points
from pd_edge.config import Config, load_config
from pd_edge.errors import ConfigError

MODEL_HEIGHT = 1.73
"""Height of KITTI's sensor above the ground [m], which the models are trained for.

Source: Geiger et al., Vision meets Robotics: The KITTI Dataset (IJRR 2013), figure 3."""
PROFILES = Path(__file__).resolve().parent / "sensor_profiles"
Axis = Literal["x", "-x", "y", "-y", "z", "-z"]
Matrix = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]


class SensorProfile(Config):
    """A sensor, its mount, and how it writes points."""

    name: str = Field(min_length=1, description="The sensor.")
    height: float = Field(ge=-10, le=10, description="Of the cloud's origin above the ground [m].")
    roll: float = Field(0.0, ge=-180, le=180, description="Tilt about the x axis, right side down positive [degrees].")
    pitch: float = Field(0.0, ge=-45, le=45, description="Tilt about the cloud's y axis, nose down positive [degrees].")
    yaw: float = Field(0.0, ge=-180, le=180, description="Turn of the cloud's x axis to the left of ahead [degrees].")
    unit: float = Field(1.0, gt=0, le=1000, description="One unit of the coordinates [m]; millimetres: 0.001.")
    axes: tuple[Axis, Axis, Axis] = Field(
        ("x", "y", "z"), description="Which of the coordinates as written are the cloud's x, y and z."
    )
    coordinate_fields: tuple[str, str, str] = Field(
        ("x", "y", "z"), description="Names of the coordinates' fields; capitals do not matter."
    )
    intensity_field: str | None = Field(
        None, description="Field to take the intensity from; null: the first of the usual names that is there."
    )
    intensity_max: float | None = Field(
        None, gt=0, description="Greatest intensity; null: recognised per cloud as 1, 255 or 65535."
    )
    intensity_curve: tuple[tuple[float, float], ...] = Field(
        (), description="Pairs of an intensity as written and what it is to be, 0..1; straight lines between them."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SensorProfile":
        if len({axis[-1] for axis in self.axes}) < 3:
            raise ValueError(f"axes {list(self.axes)} name one twice; expected each of x, y and z once, as [y, x, z]")
        if not self.intensity_curve:
            return self
        written, wanted = zip(*self.intensity_curve, strict=True)
        if self.intensity_max is not None:
            raise ValueError("intensity_curve and intensity_max: give one, a curve ends at the greatest intensity")
        if len(written) < 2 or written[0] != 0 or any(a >= b for a, b in pairwise(written)):
            raise ValueError(f"intensity_curve at {list(written)}; expected two or more, ascending from 0")
        if min(wanted) < 0 or max(wanted) > 1:
            raise ValueError(f"intensity_curve gives {min(wanted):g}..{max(wanted):g}; models know 0..1")
        return self

    def only_intensity(self) -> "SensorProfile":
        """The same intensity on KITTI's mount, for points that are in the model's frame already."""
        return KITTI.model_copy(update={key: getattr(self, key) for key in _INTENSITY})

    def only_mount(self) -> "SensorProfile":
        """The same mount with KITTI's points, for points whose numbers :func:`corrected` has mended."""
        return KITTI.model_copy(update={key: getattr(self, key) for key in _MOUNT})


_INTENSITY = ("name", "intensity_max", "intensity_curve")
_MOUNT = ("name", "height", "roll", "pitch", "yaw")
KITTI = SensorProfile(name="KITTI's HDL-64E", height=MODEL_HEIGHT)
"""What holds where no profile is named."""


class Mount(NamedTuple):
    """The pose of a cloud's frame in the frame that the model knows, whose x is ahead and level, 1.73 m up."""

    to_model: Matrix
    """(4, 4), cloud to model [m]."""
    to_cloud: Matrix
    """(4, 4), model to cloud [m]."""
    to_written: Matrix
    """(4, 4), model to the axes that points are written in [m], which a message's ``frame_id`` means: as ``to_cloud``
    where a profile leaves the axes as they are; a mirror image where it mirrors them."""

    @property
    def needless(self) -> bool:
        """Whether the two frames are the same."""
        return bool((self.to_model == np.eye(4)).all())

    @property
    def pose_of_boxes(self) -> Matrix | None:
        """``to_written`` for boxes under a cloud's header; None where they stay as the model has them."""
        return None if (self.to_written == np.eye(4)).all() else self.to_written

    @property
    def inverse(self) -> "Mount":
        """The same pose seen from the other frame: it takes points to the cloud's frame, and boxes to the model's."""
        return Mount(self.to_cloud, self.to_model, self.to_model)

    def points(self, cloud: Cloud) -> Cloud:
        """A cloud (N, 4) in the model's frame [m]; the array itself where nothing is to be done."""
        if self.needless:
            return cloud
        moved = np.empty_like(cloud)
        moved[:, :3] = cloud[:, :3] @ self.to_model[:3, :3].T.astype(np.float32)
        moved[:, :3] += self.to_model[:3, 3].astype(np.float32)
        moved[:, 3] = cloud[:, 3]
        return moved

    def boxes(self, found: Detections) -> Detections:
        """Detections in the cloud's frame; a box's yaw is that of its heading seen along the cloud's z axis."""
        if self.needless:
            return found
        boxes = found.boxes.astype(np.float64)
        heading = np.column_stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))])
        turned = heading @ self.to_cloud[:3, :3].T
        boxes[:, :3] = boxes[:, :3] @ self.to_cloud[:3, :3].T + self.to_cloud[:3, 3]
        boxes[:, 6] = np.arctan2(turned[:, 1], turned[:, 0])
        return found._replace(boxes=boxes.astype(np.float32))


def mount_of(profile: SensorProfile, height: float = 0.0) -> Mount:
    """The mount that a profile describes; ``height`` [m], where above 0, takes the place of the profile's.

    A point of the cloud is turned about x by the roll, about y by the pitch and about z by the yaw, in this order.
    """
    roll, pitch, yaw = (math.radians(angle) for angle in (profile.roll, profile.pitch, profile.yaw))
    about_x = np.array([[1, 0, 0], [0, math.cos(roll), -math.sin(roll)], [0, math.sin(roll), math.cos(roll)]])
    about_y = np.array(
        [[math.cos(pitch), 0, math.sin(pitch)], [0, 1, 0], [-math.sin(pitch), 0, math.cos(pitch)]],
    )
    about_z = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    to_model = np.eye(4)
    to_model[:3, :3] = about_z @ about_y @ about_x
    to_model[2, 3] = (height or profile.height) - MODEL_HEIGHT
    to_cloud = np.eye(4)
    to_cloud[:3, :3] = to_model[:3, :3].T
    to_cloud[:3, 3] = -to_cloud[:3, :3] @ to_model[:3, 3]
    written = np.eye(4)
    written[:3, :3] = _axes_matrix(profile).T
    return Mount(to_model, to_cloud, written @ to_cloud)


def _axes_matrix(profile: SensorProfile) -> Matrix:
    """(3, 3), coordinates as written to the cloud's own, but for the unit."""
    matrix = np.zeros((3, 3))
    for place, axis in enumerate(profile.axes):
        matrix[place, "xyz".index(axis[-1])] = -1 if axis[0] == "-" else 1
    return matrix


def in_metres(points: Floats, profile: SensorProfile) -> Floats:
    """Points (N, 4) with unit and axes as a profile says; the array itself where nothing is to be done.

    Axes may mirror a cloud, which no mount can: boxes are in the frame that comes of this. In messages they are brought
    back to the axes as written (:attr:`Mount.to_written`).
    """
    if profile.unit == 1 and profile.axes == KITTI.axes:
        return points
    mended = points.copy()
    for place, axis in enumerate(profile.axes):
        mended[:, place] = points[:, "xyz".index(axis[-1])] * (-profile.unit if axis[0] == "-" else profile.unit)
    return mended


def corrected(points: Floats, source: str, profile: SensorProfile) -> CheckedCloud:
    """A cloud with unit, axes and intensity as a profile says, in its own frame, fit for use.

    Args:
        points: (N, 4) float32 or float64 as the sensor writes them.
        source: Where they come from, for errors.
        profile: The sensor.

    Raises:
        DataError: As :func:`pd_edge.clouds.check_points`; intensities beyond a curve's last pair, too.
    """
    curve = np.array(profile.intensity_curve)
    greatest = float(curve[-1, 0]) if len(curve) else profile.intensity_max
    mendable = getattr(points, "ndim", 0) == 2 and points.shape[1] == 4
    cloud = check_points(in_metres(points, profile) if mendable else points, source, greatest)
    if not len(curve):
        return cloud
    bent = cloud.points.copy()
    bent[:, 3] = np.interp(bent[:, 3], curve[:, 0] / curve[-1, 0], curve[:, 1])
    return cloud._replace(points=bent)


def load_profile(name_or_path: str) -> SensorProfile:
    """A shipped profile by name, any other by its YAML file; KITTI's for an empty name.

    Raises:
        ConfigError: There is no such profile, or it is wrong.
    """
    if not name_or_path:
        return KITTI
    shipped = shipped_profiles()
    path = shipped.get(name_or_path, Path(name_or_path))
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"sensor: no profile {name_or_path!r}; shipped are {', '.join(shipped)}, or give a YAML file")
    return load_config(path, SensorProfile)


def shipped_profiles() -> dict[str, Path]:
    """The profiles of this package, by name."""
    return {path.stem: path for path in sorted(PROFILES.glob("*.yaml"))}
