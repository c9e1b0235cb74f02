"""PointPillars in PyTorch: pillar feature net and canvas before the BEV network, and the three sizes trained here.

Names in the state dict before those of :mod:`pd_edge.training.network`::

    pillar_net.linear.weight  pillar_net.norm.*                        points of a pillar -> pillar feature

Source: Lang et al., PointPillars (CVPR 2019), with the channel counts of PointDistiller's teacher and students.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pd_edge.config import GridConfig, PointPillarsConfig
from pd_edge.pillars import POINT_FEATURES, PillarNet, Pillars
from pd_edge.training.network import EPSILON, MOMENTUM, Encoded, Network


class PillarBatch(NamedTuple):
    """The pillars of a batch of frames.

    Attributes:
        features: (M, 10) float32, the decorated points of all frames; see :mod:`pd_edge.pillars`.
        pillar: (M,) int64, each point's pillar, an index into ``cells``.
        cells: (P,) int64, each pillar's place in the batch's canvas: ``b*ny*nx + iy*nx + ix``.
        size: Number of frames B.
    """

    features: Tensor
    pillar: Tensor
    cells: Tensor
    size: int

    def to(self, device: torch.device) -> "PillarBatch":
        """The same batch on another device."""
        move = [tensor.to(device, non_blocking=True) for tensor in self[:3]]
        return PillarBatch(move[0], move[1], move[2], self.size)


def batch_pillars(frames: Sequence[Pillars], grid: GridConfig) -> PillarBatch:
    """Joins the pillars of a batch's frames as tensors."""
    first_pillar = np.cumsum([0, *(len(frame.cells) for frame in frames)])
    pillar = [frame.pillar + first for frame, first in zip(frames, first_pillar[:-1], strict=True)]
    cells = [frame.cells.astype(np.int64) + number * grid.ny * grid.nx for number, frame in enumerate(frames)]
    return PillarBatch(
        features=torch.from_numpy(np.concatenate([frame.features for frame in frames])),
        pillar=torch.from_numpy(np.concatenate(pillar).astype(np.int64)),
        cells=torch.from_numpy(np.concatenate(cells)),
        size=len(frames),
    )


def teacher_config() -> PointPillarsConfig:
    """The full-size detector (pointpillars-teacher)."""
    return PointPillarsConfig(pillar_channels=64, backbone_channels=(64, 128, 256), neck_channels=128)


def student_4x_config() -> PointPillarsConfig:
    """Half the teacher's channels, a quarter of its work (pointpillars-4x)."""
    return PointPillarsConfig(pillar_channels=32, backbone_channels=(32, 64, 128), neck_channels=64)


def student_16x_config() -> PointPillarsConfig:
    """A quarter of the teacher's channels, a sixteenth of its work (pointpillars-16x)."""
    return PointPillarsConfig(pillar_channels=16, backbone_channels=(16, 32, 64), neck_channels=32)


class PillarFeatureNet(nn.Module):
    """Points to pillar features: linear, batch norm, maximum over the pillar's points, ReLU.

    ReLU is monotonic, so that taking it after the maximum equals taking it before, with fewer values to touch. The
    arithmetic stays in float32 under autocast: bfloat16 resolves a quarter of a metre at 60 m.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(POINT_FEATURES, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, batch: PillarBatch) -> Tensor:
        """Encodes each pillar; returns (P, C) float32."""
        with torch.autocast(batch.features.device.type, enabled=False):
            encoded: Tensor = self.norm(self.linear(batch.features))
            lowest = encoded.new_full((len(batch.cells), encoded.shape[1]), -math.inf)
            owner = batch.pillar[:, None].expand_as(encoded)
            return lowest.scatter_reduce(0, owner, encoded, "amax").relu()

    def fold(self) -> PillarNet:
        """Linear layer and batch norm (inference statistics) as one weight (10, C) and bias (C,), float32."""
        norm = {name: tensor.double() for name, tensor in self.norm.state_dict().items()}
        scale = norm["weight"] / (norm["running_var"] + self.norm.eps).sqrt()
        weight = self.linear.weight.double().T * scale
        bias = norm["bias"] - norm["running_mean"] * scale
        return PillarNet(_float32(weight), _float32(bias))


class PointPillars(Network):
    """The detector: :class:`PillarBatch` in, :class:`~pd_edge.training.network.HeadMaps` out."""

    config: PointPillarsConfig

    def __init__(self, config: PointPillarsConfig) -> None:
        super().__init__(config)
        self.pillar_net = PillarFeatureNet(config.pillar_channels)
        self.add_bev_parts()

    def encode(self, inputs: PillarBatch) -> Encoded:
        """Pillar features, and the canvas that they are placed on."""
        pillars = self.pillar_net(inputs)
        return Encoded(self.canvas(pillars, inputs), pillars)

    def canvas(self, encoded: Tensor, batch: PillarBatch) -> Tensor:
        """Places pillar features (P, C) on the canvas (B, C, ny, nx), channels-last in memory, zero elsewhere."""
        grid = self.config.grid
        device = encoded.device.type
        if torch.is_autocast_enabled(device):
            encoded = encoded.to(torch.get_autocast_dtype(device))
        rows = encoded.new_zeros((batch.size * grid.ny * grid.nx, encoded.shape[1]))
        rows = rows.index_copy(0, batch.cells, encoded)
        return rows.view(batch.size, grid.ny, grid.nx, -1).permute(0, 3, 1, 2)

    def fold_encoder(self) -> PillarNet:
        """The pillar feature net for the C++ encoder, batch norm folded in; see :meth:`PillarFeatureNet.fold`."""
        return self.pillar_net.fold()


def _float32(tensor: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
