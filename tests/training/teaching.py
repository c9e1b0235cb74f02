"""A scene and teachers for runs that are short."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pd_edge.config import DetectorConfig, SecondConfig, VoxelGridConfig, dump_config
from pd_edge.training.checkpoint import save_tensors
from pd_edge.training.network import Network
from pd_edge.training.scene import Scene

SECOND = SecondConfig(
    grid=VoxelGridConfig(x_max=12.8, y_min=-3.2, y_max=3.2),
    sparse_channels=(8, 8, 16, 16),
    folded_channels=16,
    backbone_channels=(16, 32),
    backbone_layers=(1, 1),
    neck_channels=16,
    anchor_range=(0, -3.2, 12.8, 3.2),
)
"""A small SECOND of all its stages."""


class OneScene:
    """The same car and pedestrian for every sample; ``car`` and ``pedestrian`` are their places x y [m]."""

    def __init__(
        self,
        cloud: npt.NDArray[np.float32],
        car: tuple[float, float] = (8.0, 1.0),
        pedestrian: tuple[float, float] = (14.0, -3.0),
    ) -> None:
        boxes = np.array([[*car, -1.0, 3.9, 1.6, 1.56, 0.3], [*pedestrian, 0.2, 0.8, 0.6, 1.73, 0.0]], np.float32)
        self._scene = Scene(cloud, boxes, np.array([0, 1]))

    def scene(self, sample_number: int) -> Scene:
        return self._scene


def write_teacher(model: Network, folder: Path) -> Path:
    """A network's weights with its configuration beside them; it sees objects everywhere."""
    model.head.state_dict()["bias"][: model.head_channels[0]] = 0.1
    save_tensors(model.state_dict(), folder / "model.safetensors")
    dump_config(DetectorConfig(model=model.config), folder / "config.yaml")
    return folder
