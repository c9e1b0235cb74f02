"""Feature overhaul: the teacher's positive responses are imitated, its negative ones only have to be negative enough.

Source: Heo et al., A Comprehensive Overhaul of Feature Distillation (ICCV 2019), section 3: margin ReLU with each
channel's expected negative response as margin, from the teacher's batch norm; student transform of 1x1 convolution and
batch norm; partial L2 distance; each layer counts half of the next, as in the authors' code.

Deviations: the detector hands out maps after their ReLU. Where the teacher's is zero, its response was somewhere below
zero, and the target is the margin, the mean of what it can have been; the paper keeps responses between margin and
zero. The student's transform reads its map after the ReLU. The distance is a mean over elements, not a sum, so that the
weight does not depend on the map's size.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pd_edge.config import ModelConfig
from pd_edge.training.batches import Batch
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import Activations, Network
from pd_edge.training.rivals.maps import STAGES, Layer, by_layer, feature_map, map_channels


class OverhaulConfig(MethodConfig):
    """Feature overhaul."""

    method: Literal["overhaul"] = Field("overhaul", description="Name of the method.")
    layers: tuple[Layer, ...] = Field(
        STAGES, min_length=1, description="Maps that are imitated; each counts half of the next."
    )


def negative_mean(norm: nn.BatchNorm2d) -> Tensor:
    """Expected value of a batch norm's outputs below zero, taking each channel as normal around its bias.

    Args:
        norm: A batch norm with weight and bias.

    Returns:
        (C,) float32, negative.
    """
    mean, deviation = norm.bias.detach().double(), norm.weight.detach().double().abs().clamp(min=1e-6)
    ratio = mean / deviation
    log_density = -ratio.square() / 2 - math.log(2 * math.pi) / 2
    expected: Tensor = mean - deviation * (log_density - torch.special.log_ndtr(-ratio)).exp()
    return expected.float()


def partial_distance(student: Tensor, target: Tensor) -> Tensor:
    """Mean squared error (scalar) in which a student below a target that is not positive has no error.

    Args:
        student: (B, C, H, W) float32.
        target: (B, C, H, W) float32.
    """
    error = student - target
    return torch.where(target > 0, error, error.relu()).square().mean()


class Overhaul(Method):
    """Partial distance of transformed student maps to the teacher's margin-rectified ones."""

    def __init__(self, config: OverhaulConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        self._layers = config.layers
        self.transforms = nn.ModuleDict()
        for layer in config.layers:
            width = map_channels(teacher, layer)
            conv = nn.Conv2d(map_channels(student, layer), width, 1, bias=False)
            self.transforms[layer] = nn.Sequential(conv, nn.BatchNorm2d(width))
            self.register_buffer(f"{layer}_margin", torch.zeros(width))

    def initialise(self, student: Network, teacher: Network) -> None:
        """Takes the margins from the teacher's batch norms; leaves the student as it is."""
        for layer in self._layers:
            self.get_buffer(f"{layer}_margin").copy_(
                torch.cat([negative_mean(each) for each in _norms(teacher, layer)])
            )

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The overhaul loss."""
        distances = torch.stack([self._distance(teacher, student, layer) for layer in self._layers])
        last = len(self._layers) - 1
        loss = sum((distances[place] / 2 ** (last - place) for place in range(last)), start=distances[last])
        return Lesson(loss, by_layer(self._layers, "distance", distances))

    def _distance(self, teacher: Activations, student: Activations, layer: Layer) -> Tensor:
        theirs = feature_map(teacher, layer)
        target = torch.where(theirs > 0, theirs, self.get_buffer(f"{layer}_margin")[:, None, None])
        return partial_distance(self.transforms[layer](feature_map(student, layer)), target)


def _norms(model: Network, layer: Layer) -> list[nn.BatchNorm2d]:
    """The batch norms right before the ReLU that makes a layer's map, in the order of its channels."""
    neck, stages = model.neck.upsamplings, model.backbone.stages
    blocks = neck if layer == "neck" else [stages[STAGES.index(layer)][-1]]  # type: ignore[index]
    return [block.get_submodule("norm") for block in blocks]  # type: ignore[misc]
