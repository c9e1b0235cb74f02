"""Attention transfer: the student looks where the teacher looks.

Source: Zagoruyko & Komodakis, Paying More Attention to Attention (ICLR 2017), section 3.1, equation 2: activation-based
maps, sum over channels of the absolute value to a power, each map divided by its Euclidean norm, halved Euclidean
distance, summed over layers and here averaged over the frames of the batch. Their factor of 1000 belongs to a mean of
squares over map positions; the distance as the paper prints it lies between 0 and 0.71 a layer at any map size.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pd_edge.config import ModelConfig
from pd_edge.training.batches import Batch
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import Activations
from pd_edge.training.rivals.maps import STAGES, Layer, by_layer, check_layers, feature_map


class AttentionTransferConfig(MethodConfig):
    """Attention transfer."""

    method: Literal["attention-transfer"] = Field("attention-transfer", description="Name of the method.")
    layers: tuple[Layer, ...] = Field(STAGES, min_length=1, description="Maps whose attention is compared.")
    power: float = Field(2.0, ge=1, description="Exponent of the activations in the attention map.")


def spatial_attention(maps: Tensor, power: float) -> Tensor:
    """Attention maps of unit Euclidean norm.

    Args:
        maps: (B, C, H, W) float32.
        power: Exponent of the absolute activations.

    Returns:
        (B, H*W) float32, not negative; zero where a whole map is zero.
    """
    return functional.normalize(maps.abs().pow(power).sum(1).flatten(1), dim=1)


class AttentionTransfer(Method):
    """Distance between the normalised attention maps of student and teacher; nothing to learn beside the student."""

    def __init__(self, config: AttentionTransferConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        check_layers(config.layers, student)
        self._config = config

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The attention loss."""
        distances = torch.stack([self._distance(teacher, student, layer) for layer in self._config.layers])
        return Lesson(distances.sum() / 2, by_layer(self._config.layers, "distance", distances))

    def _distance(self, teacher: Activations, student: Activations, layer: Layer) -> Tensor:
        ours, theirs = (spatial_attention(feature_map(each, layer), self._config.power) for each in (student, teacher))
        distance: Tensor = torch.linalg.vector_norm(ours - theirs, dim=1).mean()
        return distance
