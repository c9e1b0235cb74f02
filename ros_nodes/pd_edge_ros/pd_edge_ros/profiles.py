"""Sensor profiles: how a sensor is mounted and how it scales intensity, against the KITTI sensor that models know."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pd_edge.clouds import Cloud
from pd_edge.config import Config, load_config
from pd_edge.errors import ConfigError

MODEL_HEIGHT = 1.73
"""Height of KITTI's sensor above the ground [m], which the models are trained for.

Source: Geiger et al., Vision meets Robotics: The KITTI Dataset (IJRR 2013), figure 3."""
PACKAGE = "pd_edge_ros"
Matrix = npt.NDArray[np.float64]


class SensorProfile(Config):
    """A sensor and its mount."""

    name: str = Field(min_length=1, description="The sensor.")
    height: float = Field(gt=0, le=10, description="Of the sensor's origin above the ground [m].")
    pitch: float = Field(0.0, ge=-45, le=45, description="Tilt about the cloud's y axis, nose down positive [degrees].")
    yaw: float = Field(0.0, ge=-180, le=180, description="Turn of the cloud's x axis to the left of ahead [degrees].")
    intensity_max: float | None = Field(
        None, gt=0, description="Greatest intensity; null: recognised per cloud as 1, 255 or 65535."
    )
    intensity_field: str | None = Field(
        None, description="Field to take the intensity from; null: the first of the usual names that is there."
    )


KITTI = SensorProfile(name="KITTI's HDL-64E", height=MODEL_HEIGHT)
"""What holds where no profile is named."""


class Mount(NamedTuple):
    """The pose of a cloud's frame in the frame that the model knows, whose x is ahead and level, 1.73 m up."""

    to_model: Matrix
    """(4, 4), cloud to model [m]."""
    to_cloud: Matrix
    """(4, 4), model to cloud [m]."""

    @property
    def needless(self) -> bool:
        """Whether the two frames are the same."""
        return bool((self.to_model == np.eye(4)).all())

    def points(self, cloud: Cloud) -> Cloud:
        """A cloud (N, 4) in the model's frame [m]; the array itself where nothing is to be done."""
        if self.needless:
            return cloud
        moved = np.empty_like(cloud)
        moved[:, :3] = cloud[:, :3] @ self.to_model[:3, :3].T.astype(np.float32)
        moved[:, :3] += self.to_model[:3, 3].astype(np.float32)
        moved[:, 3] = cloud[:, 3]
        return moved


def mount_of(profile: SensorProfile, height: float = 0.0) -> Mount:
    """The mount that a profile describes; ``height`` [m], where above 0, takes the place of the profile's."""
    pitch, yaw = math.radians(profile.pitch), math.radians(profile.yaw)
    about_y = np.array(
        [[math.cos(pitch), 0, math.sin(pitch)], [0, 1, 0], [-math.sin(pitch), 0, math.cos(pitch)]],
    )
    about_z = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    to_model = np.eye(4)
    to_model[:3, :3] = about_z @ about_y
    to_model[2, 3] = (height or profile.height) - MODEL_HEIGHT
    to_cloud = np.eye(4)
    to_cloud[:3, :3] = to_model[:3, :3].T
    to_cloud[:3, 3] = -to_cloud[:3, :3] @ to_model[:3, 3]
    return Mount(to_model, to_cloud)


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
    """The profiles in the package's ``config/sensors``, by name."""
    return {path.stem: path for path in sorted((config_folder() / "sensors").glob("*.yaml"))}


def config_folder() -> Path:
    """The package's ``config``: beside the code in a checkout, else where the package is installed."""
    beside = Path(__file__).resolve().parent.parent / "config"
    if (beside / "sensors").is_dir():
        return beside
    from ament_index_python.packages import get_package_share_directory  # noqa: PLC0415 - a checkout needs no ROS

    return Path(get_package_share_directory(PACKAGE)) / "config"
