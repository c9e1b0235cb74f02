"""Which maps of the detector a method compares, and the adapters between the two widths."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pd_edge.config import ModelConfig
from pd_edge.training.model import Activations

Layer = Literal["stage1", "stage2", "stage3", "neck"]
"""A backbone stage's map (strides 2, 4, 8), or the map that the head reads (stride 2)."""
STAGES: tuple[Layer, ...] = ("stage1", "stage2", "stage3")


def layer_map(activations: Activations, layer: Layer) -> Tensor:
    """The layer's map, (B, C, H, W), as the network left it."""
    return activations.neck if layer == "neck" else activations.stages[STAGES.index(layer)]


def feature_map(activations: Activations, layer: Layer) -> Tensor:
    """The layer's map, (B, C, H, W) float32."""
    return layer_map(activations, layer).float()


def features_at(maps: Tensor, places: Tensor) -> Tensor:
    """Features of some places; gathered before the conversion, so that no whole map is converted.

    Args:
        maps: (B, C, H, W) of any floating type.
        places: int64 of any shape, flat over (B, H, W).

    Returns:
        (*places.shape, C) float32.
    """
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, places.flatten())
    return rows.float().view(*places.shape, -1)


def map_channels(config: ModelConfig, layer: Layer) -> int:
    """Channels of the layer's map."""
    return 3 * config.neck_channels if layer == "neck" else config.backbone_channels[STAGES.index(layer)]


def adapter(teacher: ModelConfig, student: ModelConfig, layer: Layer) -> nn.Conv2d:
    """A 1x1 convolution from the student's width of a layer to the teacher's."""
    return nn.Conv2d(map_channels(student, layer), map_channels(teacher, layer), 1)


def by_layer(layers: Sequence[Layer], name: str, values: Tensor) -> dict[str, Tensor]:
    """Diagnostics ``<layer>_<name>`` from one value (len(layers),) per layer."""
    return {f"{layer}_{name}": value for layer, value in zip(layers, values.detach().unbind(), strict=True)}
