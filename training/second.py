"""SECOND in PyTorch: sparse 3D convolutions over voxels before the BEV network, and the three sizes trained here.

Names in the state dict before those of :mod:`pd_edge.training.network`::

    encoder.layers.L.conv.weight  encoder.layers.L.norm.*              sparse layer L, of pd_edge.voxels.sparse_layers

Source: Yan et al., SECOND (Sensors 2018), as mmdetection3d configures it; PointDistiller's students have half and a
quarter of the teacher's channels.
"""

from pd_edge.config import SecondConfig
from pd_edge.training.network import Encoded, Network
from pd_edge.training.voxel_encoder import SparseEncoder, VoxelBatch
from pd_edge.voxels import VoxelNet


def teacher_config() -> SecondConfig:
    """The full-size detector (second-teacher)."""
    return SecondConfig(
        sparse_channels=(16, 32, 64, 64), folded_channels=128, backbone_channels=(128, 256), neck_channels=256
    )


def student_4x_config() -> SecondConfig:
    """Half the teacher's channels, a quarter of its work (second-4x)."""
    return SecondConfig(
        sparse_channels=(8, 16, 32, 32), folded_channels=64, backbone_channels=(64, 128), neck_channels=128
    )


def student_16x_config() -> SecondConfig:
    """A quarter of the teacher's channels, a sixteenth of its work (second-16x)."""
    return SecondConfig(
        sparse_channels=(4, 8, 16, 16), folded_channels=32, backbone_channels=(32, 64), neck_channels=64
    )


class Second(Network):
    """The detector: :class:`VoxelBatch` in, :class:`~pd_edge.training.network.HeadMaps` out."""

    config: SecondConfig

    def __init__(self, config: SecondConfig) -> None:
        super().__init__(config)
        self.encoder = SparseEncoder(config)
        self.add_bev_parts()

    def encode(self, inputs: VoxelBatch) -> Encoded:
        """The canvas that the sparse layers fold into."""
        return Encoded(self.encoder(inputs))

    def fold_encoder(self) -> VoxelNet:
        """The sparse layers for the C++ encoder, batch norms folded in."""
        return self.encoder.fold()
