"""Average precision of a network as it is in memory, on the device where it stands."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch

from pd_edge.batch import detect_batch
from pd_edge.config import DetectorConfig, GridConfig
from pd_edge.detector import Detector
from pd_edge.encoders import EncoderNet
from pd_edge.kitti import DONT_CARE, Dataset, Frame, boxes_to_lidar, dont_care
from pd_edge.runtimes.torch import ModuleRuntime
from pd_edge.sensors import KITTI, SensorProfile, load_profile, mount_of
from pd_edge.training.data import open_source
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.network import Network


class InMemory(NamedTuple):
    """A network that stands in no folder, as the detector wants to know it."""

    name: str
    config: DetectorConfig
    encoder_net: EncoderNet


class Revised(ABC):
    """A data set whose frames are another's, each changed by :meth:`revise`."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.ids = dataset.ids

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Frame]:
        return map(self.frame, range(len(self)))

    def frame(self, index: int) -> Frame:
        """The changed frame."""
        return self.revise(self._dataset.frame(index))

    @abstractmethod
    def revise(self, frame: Frame) -> Frame:
        """A frame as it is to be."""


class WithinGrid(Revised):
    """A data set whose objects beyond a detector's grid are DontCare: it is not asked for what it cannot see."""

    def __init__(self, dataset: Dataset, grid: GridConfig, sensor: SensorProfile = KITTI) -> None:
        super().__init__(dataset)
        self._grid = grid
        self._to_model = mount_of(sensor).to_model

    def revise(self, frame: Frame) -> Frame:
        """The frame with its labels judged by the place of their centre."""
        if frame.labels is None or frame.calibration is None or frame.around:  # of own data, each detector judges
            return frame
        solid = [label for label in frame.labels if label.name != DONT_CARE]
        centres = boxes_to_lidar(solid, frame.calibration)[:, :3]
        x, y = (centres @ self._to_model[:2, :3].T + self._to_model[:2, 3]).T
        grid = self._grid
        inside = (x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max)
        judged = [label if seen else dont_care(label) for label, seen in zip(solid, inside, strict=True)]
        return frame._replace(labels=judged + [label for label in frame.labels if label.name == DONT_CARE])


def validate(model: Network, config: DetectorConfig, source: SourceConfig) -> dict[str, dict[str, float]]:
    """Average precision R40 [%], moderate, by metric ("3d", "bev") and class, and "mean" over the classes.

    Objects beyond the grid count neither way. The network runs in float32 on a GPU where there is one, else on the CPU.

    Raises:
        DataError: A frame cannot be read or has no labels: every frame has to count.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runtime = ModuleRuntime(model.to(device).eval())
    profile = load_profile(source.sensor)
    dataset = WithinGrid(open_source(source), config.model.grid, profile)
    network = InMemory("network", config, model.fold_encoder())
    found = detect_batch(Detector(network, runtime, profile.only_mount()), dataset)
    evaluation = found.complete_evaluation()
    return {
        metric: {name: evaluation.result(name, metric, "moderate").ap for name in evaluation.classes}
        | {"mean": evaluation.mean(metric, "moderate")}
        for metric in ("3d", "bev")
    }
