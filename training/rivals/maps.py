"""Which maps of the detector a method compares, and the adapters between the two widths."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pd_edge.config import ModelConfig, PointPillarsConfig
from pd_edge.errors import ConfigError
from pd_edge.training.network import Activations

Layer = Literal["stage1", "stage2", "stage3", "neck"]
"""A backbone stage's map, or the map that the head reads, which is as large as the first; SECOND has no ``stage3``."""
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
    """Channels of the layer's map.

    Raises:
        ConfigError: The detector has no such stage.
    """
    widths = config.backbone_channels
    if layer == "neck":
        return len(widths) * config.neck_channels
    if STAGES.index(layer) >= len(widths):
        raise ConfigError(
            f"{layer}: {config.detector} has {len(widths)} stages; name {', '.join(STAGES[: len(widths)])} or neck"
        )
    return widths[STAGES.index(layer)]


def check_layers(layers: Sequence[Layer], config: ModelConfig) -> None:
    """Refuses layers that the detector does not have.

    Raises:
        ConfigError: There is one; it is named.
    """
    for layer in layers:
        map_channels(config, layer)


def pillar_channels(config: ModelConfig) -> int:
    """Channels of the pillar features.

    Raises:
        ConfigError: The detector has no pillars.
    """
    if not isinstance(config, PointPillarsConfig):
        raise ConfigError(f"{config.detector} has no pillars to compare; compare maps (pointdistiller: where: stages)")
    return config.pillar_channels


def pillars_of(activations: Activations) -> Tensor:
    """The pillar features (P, C) of a detector that has them."""
    if activations.pillars is None:
        raise ConfigError("a detector without pillars has no pillar features; compare maps")
    return activations.pillars


def adapter(teacher: ModelConfig, student: ModelConfig, layer: Layer) -> nn.Conv2d:
    """A 1x1 convolution from the student's width of a layer to the teacher's."""
    return nn.Conv2d(map_channels(student, layer), map_channels(teacher, layer), 1)


def by_layer(layers: Sequence[Layer], name: str, values: Tensor) -> dict[str, Tensor]:
    """Diagnostics ``<layer>_<name>`` from one value (len(layers),) per layer."""
    return {f"{layer}_{name}": value for layer, value in zip(layers, values.detach().unbind(), strict=True)}
