"""Data sets made of another's frames, each changed on its way."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from pd_edge.config import GridConfig
from pd_edge.kitti import DONT_CARE, Dataset, Frame, boxes_to_lidar, dont_care
from pd_edge.sensors import KITTI, SensorProfile, mount_of


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
