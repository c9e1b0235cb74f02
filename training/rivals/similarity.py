"""Similarity-preserving distillation: what is alike for the teacher is alike for the student.

Source: Tung & Mori, Similarity-Preserving Knowledge Distillation (ICCV 2019), section 3: Gram matrix of the batch's
activations, rows of unit norm, squared Frobenius distance over the square of the number of samples.

Deviation: a detector's batch holds a few frames, and a Gram matrix of four samples says little. Each map is averaged
over a coarse grid of patches instead, and every patch of every frame is one sample: the Gram matrix relates places
within and across frames. 8 x 8 patches of 4 frames are 256 samples, a batch as classifiers are trained with.
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
from pd_edge.training.rivals.maps import Layer, by_layer, check_layers, feature_map


class SimilarityConfig(MethodConfig):
    """Similarity-preserving distillation."""

    method: Literal["similarity"] = Field("similarity", description="Name of the method.")
    weight: float = Field(1000.0, ge=0, description="Factor on the method's loss.")
    layers: tuple[Layer, ...] = Field(("stage3",), min_length=1, description="Maps whose patches are compared.")
    patches: int = Field(8, gt=0, description="Patches along each side of a map.")


def similarities(maps: Tensor, patches: int) -> Tensor:
    """Gram matrix of a batch's patches, rows of unit norm.

    Args:
        maps: (B, C, H, W) float32.
        patches: Patches p along each side; they overlap by a cell where a side is no multiple of p.

    Returns:
        (B*p*p, B*p*p) float32.
    """
    samples = functional.adaptive_avg_pool2d(maps, patches).permute(0, 2, 3, 1).flatten(0, 2)
    return functional.normalize(samples @ samples.T, dim=1)


class Similarity(Method):
    """Distance between the Gram matrices of student and teacher; nothing to learn beside the student."""

    def __init__(self, config: SimilarityConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        check_layers(config.layers, student)
        self._config = config

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The similarity loss."""
        losses = torch.stack([self._distance(teacher, student, layer) for layer in self._config.layers])
        return Lesson(losses.sum(), by_layer(self._config.layers, "rms_difference", losses.detach().sqrt()))

    def _distance(self, teacher: Activations, student: Activations, layer: Layer) -> Tensor:
        ours, theirs = (similarities(feature_map(each, layer), self._config.patches) for each in (student, teacher))
        return functional.mse_loss(ours, theirs)
