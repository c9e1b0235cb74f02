"""The trained network that a command exports: a shipped model, a model folder, a run or a checkpoint."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pd_edge.bundle import SHIPPED, shipped_models
from pd_edge.config import DetectorConfig
from pd_edge.engines.calibration_frames import spread_clouds, training_clouds
from pd_edge.engines.quantize import Calibration, calibrate
from pd_edge.kitti import open_dataset
from pd_edge.sensors import KITTI, SensorProfile
from pd_edge.training.checkpoint import find_weights, load_model
from pd_edge.training.network import Network


@dataclass(frozen=True)
class Source:
    """A trained network and where it is from.

    Attributes:
        path: Folder or weights file.
        model: The network on the CPU, in evaluation mode.
        config: Its configuration.
        weights_sha256: Hash of the weights' file.
    """

    path: Path
    model: Network
    config: DetectorConfig
    weights_sha256: str

    @property
    def name(self) -> str:
        """The folder's or the file's name."""
        return self.path.resolve().stem if self.path.is_file() else self.path.resolve().name

    def calibrate(
        self,
        data: Path | None,
        frames: int,
        percentile: float,
        advance: Callable[[int, int], None] | None = None,
        sensor: SensorProfile = KITTI,
    ) -> Calibration:
        """INT8 ranges from frames of a folder, or from some of its training frames where ``data`` is None.

        The profile ``sensor`` is that of ``data``; training frames have their own.

        Raises:
            DataError: The frames cannot be read, are not here, or have no point in the grid.
        """
        clouds = (
            training_clouds(self.path, frames)
            if data is None
            else spread_clouds(open_dataset(data, sensor=sensor), frames, sensor)
        )
        return calibrate(self.model, self.config, clouds, percentile, advance)


def open_source(name_or_path: str | Path) -> Source:
    """Opens a shipped model by its name, or the weights that a path means.

    Raises:
        ConfigError: No configuration stands beside the weights, or it is wrong.
        EngineError: There are no weights, or they do not fit the configuration.
    """
    path = SHIPPED / name_or_path if str(name_or_path) in shipped_models() else Path(name_or_path)
    model, config = load_model(path)
    return Source(path, model, config, hashlib.sha256(find_weights(path).read_bytes()).hexdigest())
