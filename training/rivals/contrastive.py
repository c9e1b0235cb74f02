"""Contrastive representation distillation: a place's student embedding finds the teacher's of the same place.

Source: Tian et al., Contrastive Representation Distillation (ICLR 2020), section 3.1, and InfoNCE (van den Oord et al.
2018) as its objective. Deviations: a sample is an occupied place of a map instead of an image; the negatives are the
other sampled places of the batch instead of a memory bank, so that the critic is a softmax over them and not the
binary noise-contrastive estimate; each direction (student to teacher, teacher to student) is one softmax.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pd_edge.config import ModelConfig
from pd_edge.training.batches import Batch
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import Activations
from pd_edge.training.rivals.maps import Layer, features_at, layer_map, map_channels, pillar_channels, pillars_of


class ContrastiveConfig(MethodConfig):
    """Contrastive representation distillation with negatives from the batch."""

    method: Literal["crd"] = Field("crd", description="Name of the method.")
    weight: float = Field(0.2, ge=0, description="Factor on the method's loss.")
    layer: Layer | Literal["pillars"] = Field("neck", description="Features that are embedded: of pillars or of a map.")
    samples: int = Field(1024, gt=1, description="Occupied places compared in a batch, all frames together.")
    dimension: int = Field(128, gt=0, description="Size of the embeddings; 128 in the paper's code.")
    temperature: float = Field(0.07, gt=0, description="Divisor of the cosines in the softmax; 0.07 in the code.")


def info_nce(student: Tensor, teacher: Tensor, places: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean of the two softmax losses that pair each student embedding with the teacher's of the same row.

    Args:
        student: (N, D) float32, of unit norm.
        teacher: (N, D) float32, of unit norm.
        places: (N,) int64; rows of one place are no negatives of each other.
        temperature: Divisor of the cosines.

    Returns:
        Scalar loss, and scalar share of the student's rows whose nearest teacher row is their own.
    """
    own = torch.arange(len(places), device=places.device)
    alike = (places[:, None] == places) & (own[:, None] != own)
    scores = (student @ teacher.T / temperature).masked_fill(alike, -torch.inf)
    loss = (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
    return loss, (scores.detach().argmax(1) == own).float().mean()


class Contrastive(Method):
    """InfoNCE between linear embeddings of student and teacher features at sampled pillars or map cells."""

    def __init__(self, config: ContrastiveConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        self._config, self._canvas = config, teacher.canvas_shape[2:]
        self.student_embedding = nn.Linear(self._channels(student), config.dimension)
        self.teacher_embedding = nn.Linear(self._channels(teacher), config.dimension)

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The contrastive loss."""
        sampled = self._sample(batch.inputs.cells)
        places = self._places(batch.inputs.cells[sampled], teacher)
        ours = self.student_embedding(self._features(student, sampled, places))
        theirs = self.teacher_embedding(self._features(teacher, sampled, places))
        ours, theirs = functional.normalize(ours, dim=1), functional.normalize(theirs, dim=1)
        loss, found = info_nce(ours, theirs, places, self._config.temperature)
        return Lesson(loss, {"found": found})

    def _channels(self, model: ModelConfig) -> int:
        layer = self._config.layer
        return pillar_channels(model) if layer == "pillars" else map_channels(model, layer)

    def _sample(self, cells: Tensor) -> Tensor:
        """Evenly spaced pillars (N,): cells are in order of place, and without chance a resumed run stays the same."""
        count = min(self._config.samples, len(cells))
        return torch.arange(count, device=cells.device) * len(cells) // count

    def _places(self, cells: Tensor, activations: Activations) -> Tensor:
        """The layer's place that each canvas cell (N,) lies in: flat over (B, H, W), or the cell itself for pillars."""
        if self._config.layer == "pillars":
            return cells
        height, width = layer_map(activations, self._config.layer).shape[2:]
        ny, nx = self._canvas
        frame, row, column = cells // (ny * nx), cells // nx % ny, cells % nx
        return (frame * height + row // (ny // height)) * width + column // (nx // width)

    def _features(self, activations: Activations, sampled: Tensor, places: Tensor) -> Tensor:
        """The layer's features (N, C) float32 at the sampled pillars (N,), which lie in ``places`` (N,)."""
        if self._config.layer == "pillars":
            return pillars_of(activations).index_select(0, sampled)
        return features_at(layer_map(activations, self._config.layer), places)
