"""From scenes to the batches the loop trains on. All of it runs in the data loading process."""

from collections.abc import Generator
from typing import NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from pd_edge.errors import DataError
from pd_edge.training.config import TrainConfig
from pd_edge.training.interrupt import outlive_signals
from pd_edge.training.networks import Inputs, network_inputs
from pd_edge.training.scene import Scene
from pd_edge.training.targets import TargetAssigner, Targets, batch_targets


class Scenes(Protocol):
    """Training scenes by sample number: the same number gives the same scene, in any process and at any time."""

    def scene(self, sample_number: int) -> Scene:
        """The scene of a sample number (0 or greater, without end)."""
        ...


class Batch(NamedTuple):
    """Input and targets of one step."""

    inputs: Inputs
    targets: Targets

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(self.inputs.to(device), self.targets.to(device))


class Share(NamedTuple):
    """Which of the processes that train together this one is."""

    rank: int = 0
    size: int = 1


class StepBatches(Dataset["Batch | DataError"]):
    """The batch of every step: step ``s`` of process ``r`` of ``R`` has B samples from number ``(s*R + r)*B`` on."""

    def __init__(self, scenes: Scenes, config: TrainConfig, share: Share) -> None:
        self._scenes, self._share = scenes, share
        self._model, self._size = config.model, config.batch_size
        self._assigner = TargetAssigner(config.model, config.thresholds)

    def __getitem__(self, step: int) -> "Batch | DataError":
        """The batch of a step, or why there is none: torch would bury a worker's exception in its traceback."""
        try:
            return self._batch(step)
        except DataError as error:
            return error

    def _batch(self, step: int) -> Batch:
        first = (step * self._share.size + self._share.rank) * self._size
        scenes = [self._scenes.scene(number) for number in range(first, first + self._size)]
        inputs = network_inputs([scene.points for scene in scenes], self._model)
        if len(inputs.features) < 2:
            raise DataError(
                f"samples {first} .. {first + self._size - 1}: {len(inputs.features)} points or voxels inside "
                "the grid, a step needs 2; check that the clouds are in metres and in the LiDAR frame (x forward)"
            )
        targets = [self._assigner.assign(scene.boxes, scene.labels) for scene in scenes]
        return Batch(inputs, batch_targets(targets, self._model))


def load_batches(
    scenes: Scenes, config: TrainConfig, share: Share, steps: range, *, pin: bool
) -> Generator[Batch, None, None]:
    """Loads the batches of some steps, in their order, ahead of their use where there are workers.

    Close it where it is left early: its workers outlive signals, and a process that ends by a defect waits for them.

    Args:
        scenes: The training scenes.
        config: The run's configuration.
        share: Which of the processes this one is.
        steps: The steps.
        pin: Put the batches into page-locked memory, for a GPU.

    Raises:
        DataError: A scene cannot be read, or none of a batch's points is inside the grid.
    """
    loader = DataLoader(
        StepBatches(scenes, config, share),
        batch_size=None,
        sampler=steps,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        pin_memory=pin,
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),  # so that opening a loader draws nothing from the run's own random state
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch
