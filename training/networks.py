"""Which network a configuration stands for, and what it is fed."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pd_edge.config import ModelConfig, SecondConfig
from pd_edge.pillars import pillarize
from pd_edge.training.network import Network
from pd_edge.training.pointpillars import PillarBatch, PointPillars, batch_pillars
from pd_edge.training.second import Second
from pd_edge.training.voxel_encoder import VoxelBatch, batch_voxels
from pd_edge.voxels import voxelize

Inputs: TypeAlias = PillarBatch | VoxelBatch
"""A batch of clouds as a network takes it."""


def build_network(model: ModelConfig) -> Network:
    """The network of a configuration, with initial weights."""
    return Second(model) if isinstance(model, SecondConfig) else PointPillars(model)


def network_inputs(clouds: Sequence[npt.NDArray[np.float32]], model: ModelConfig) -> Inputs:
    """The clouds (N, 4) float32 of a batch as the network of a configuration takes them."""
    if isinstance(model, SecondConfig):
        return batch_voxels([voxelize(cloud, model.grid) for cloud in clouds], model)
    return batch_pillars([pillarize(cloud, model.grid) for cloud in clouds], model.grid)
