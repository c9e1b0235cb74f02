"""Attention-guided and non-local distillation for detectors.

Source: Zhang & Ma, Improve Object Detection with Feature-based Knowledge Distillation (ICLR 2021), section 3. Attention
is the mean absolute activation, over channels for a place and over places for a channel; teacher's and student's added,
softened at a temperature and rescaled to a mean of one they weight the squared error of the features (AM); attention
itself is imitated (AT); and so is what a non-local block makes of the map, the relation of places (NLD).

Deviations: means under the roots instead of sums, so that no weight depends on a map's size, and therefore balances of
our own; the student's maps pass one 1x1 adapter before all three parts; the non-local block works on a pooled map and
has no weights of its own (dot products of the features themselves), so that the teacher's relations cannot be learnt
away, and the relation of all pairs of a large map is not needed.
"""

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pd_edge.config import ModelConfig
from pd_edge.training.batches import Batch
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import Activations
from pd_edge.training.rivals.maps import STAGES, Layer, adapter, feature_map


class ZhangMaConfig(MethodConfig):
    """Attention-guided and non-local distillation."""

    method: Literal["attention-nonlocal"] = Field("attention-nonlocal", description="Name of the method.")
    weight: float = Field(0.3, ge=0, description="Factor on the method's loss.")
    layers: tuple[Layer, ...] = Field(STAGES, min_length=1, description="Maps that are compared; their mean counts.")
    temperature: float = Field(
        0.5, gt=0, description="Divisor of the attention in the masks; 0.5 in the paper for one-stage detectors."
    )
    mask_weight: float = Field(1.0, ge=0, description="Weight of the masked feature distance (AM).")
    attention_weight: float = Field(1.0, ge=0, description="Weight of the attention distance (AT).")
    relation_weight: float = Field(1.0, ge=0, description="Weight of the relation distance (NLD).")
    relation_side: int = Field(16, gt=0, description="Cells along each side of the pooled map of the relations.")


class Attention(NamedTuple):
    """Mean absolute activations: ``places`` (B, H*W) over channels, ``channels`` (B, C) over places."""

    places: Tensor
    channels: Tensor


def attention(maps: Tensor) -> Attention:
    """Attention of maps (B, C, H, W) float32."""
    strength = maps.abs().flatten(2)
    return Attention(strength.mean(1), strength.mean(2))


def mask(student: Attention, teacher: Attention, temperature: float) -> Attention:
    """Weights of places and channels, each with a mean of one in every frame and without gradient."""
    parts = [(ours + theirs).detach() / temperature for ours, theirs in zip(student, teacher, strict=True)]
    return Attention(*(part.softmax(1) * part.shape[1] for part in parts))


def relations(maps: Tensor, side: int) -> Tensor:
    """What a weightless non-local block makes of the pooled map.

    Args:
        maps: (B, C, H, W) float32.
        side: Cells along each side of the pooled map.

    Returns:
        (B, side*side, C) float32: for each cell the mean of all cells' features, weighted by likeness to its own.
    """
    cells = functional.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2)
    return functional.scaled_dot_product_attention(cells, cells, cells)


def rms(difference: Tensor) -> Tensor:
    """Root of the mean square (scalar); its gradient is zero where the difference is."""
    norm: Tensor = torch.linalg.vector_norm(difference)
    return norm / math.sqrt(difference.numel())


class ZhangMa(Method):
    """The three distances of the paper on some maps of the detector."""

    def __init__(self, config: ZhangMaConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        self._config = config
        self.adapters = nn.ModuleDict({layer: adapter(teacher, student, layer) for layer in config.layers})

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The sum of the parts, each a mean over the layers."""
        layers = [self._parts(feature_map(teacher, each), self._adapted(student, each)) for each in self._config.layers]
        masked, attended, related = torch.stack(layers).mean(0).unbind()
        config = self._config
        loss = config.mask_weight * masked + config.attention_weight * attended + config.relation_weight * related
        parts = {"masked": masked, "attention": attended, "relation": related}
        return Lesson(loss, {name: part.detach() for name, part in parts.items()})

    def _adapted(self, student: Activations, layer: Layer) -> Tensor:
        adapted: Tensor = self.adapters[layer](feature_map(student, layer))
        return adapted

    def _parts(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Masked, attention and relation distance (3,) of two maps (B, C, H, W)."""
        theirs, ours = attention(teacher), attention(student)
        weights = mask(ours, theirs, self._config.temperature)
        error = (student - teacher).flatten(2)
        masked = rms(error * weights.places.sqrt()[:, None] * weights.channels.sqrt()[:, :, None])
        attended = rms(ours.places - theirs.places) + rms(ours.channels - theirs.channels)
        side = self._config.relation_side
        return torch.stack([masked, attended, rms(relations(student, side) - relations(teacher, side))])
