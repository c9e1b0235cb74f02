"""What another project's configuration says of a PointPillars detector, in this project's terms.

A foreign configuration is read into strict models of only what matters, so that a value this network cannot express is
refused by its own name: a centre head, a fourth stage, another stride.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ConfigDict

from pd_edge.config import Config, DecodeConfig, PointPillarsConfig, parse_config, stage_strides
from pd_edge.errors import ConfigError

TOLERANCE = 1e-4
"""Lengths [m] and angles [rad] that differ less are one: configurations write 0.78539 for pi / 4."""
PointRange = tuple[float, float, float, float, float, float]
Vector = tuple[float, float, float]


class Foreign(Config):
    """Base of the models of foreign configurations: what they do not name is of no account here."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class AnchorClass(NamedTuple):
    """A class and its anchor.

    Attributes:
        name: Class name.
        size: Length, width, height [m].
        bottom: Height of the anchor's underside in the LiDAR frame [m].
        positive: Overlap at which an anchor learns an object, for a student's configuration.
        negative: Overlap below which it is background.
    """

    name: str
    size: Vector
    bottom: float
    positive: float = 0.5
    negative: float = 0.35


class Names(NamedTuple):
    """Where a project's state dict keeps the parts: prefixes of names.

    Attributes:
        pillar_net: Its one layer: ``linear`` and ``norm`` follow.
        stages: Sequences of convolution, batch norm and ReLU, one for each stage.
        first: Index of the first convolution in such a sequence.
        upsamplings: Sequences of a transposed convolution, batch norm and ReLU.
        heads: Convolutions of classes, boxes and directions.
    """

    pillar_net: str
    stages: str
    first: int
    upsamplings: str
    heads: tuple[str, str, str]


class Described(NamedTuple):
    """A foreign detector.

    Attributes:
        source: Where this was read, for errors.
        point_range: x y z x y z [m] in the LiDAR frame.
        voxel: Extents of a pillar [m].
        classes: In the order of the class channels and of the anchors.
        yaws: Yaw of the two anchors of a class in the foreign convention [rad].
        anchor_range: Places x y x y [m] of the outermost anchors.
        direction_start: Yaw at which direction bin 0 begins, in this project's convention [rad].
        columns: For each point feature of the foreign network, which of this project's ten it is.
        old_axes: Yaw 0 is -y and grows clockwise, sizes are width, length, height: mmdetection3d before 1.0.
        plain_upsampling: The first upsampling is a plain convolution.
        decode: Thresholds.
        notes: What the user should know of this detector.
        intensity_max: Greatest intensity of the points that it was trained with; models here are given 0..1.
    """

    source: str
    point_range: PointRange
    voxel: Vector
    classes: tuple[AnchorClass, ...]
    yaws: tuple[float, float]
    anchor_range: tuple[float, float, float, float]
    direction_start: float
    columns: tuple[int, ...]
    old_axes: bool
    plain_upsampling: bool
    decode: DecodeConfig
    notes: tuple[str, ...] = ()
    intensity_max: float = 1.0


# Which of our ten features (x y z intensity, offset to the mean, offset to the centre) a foreign column is.
ABSOLUTE = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
RELATIVE = (3, 4, 5, 6, 7, 8, 9)
"""Without absolute coordinates."""
OVERWRITTEN = (7, 8, 9, 3, 4, 5, 6, 7, 8, 9)
"""Absolute coordinates overwritten with the offset to the centre, which so comes twice."""
ABSOLUTE_FLAT, OVERWRITTEN_FLAT = (0, 1, 2, 3, 4, 5, 6, 7, 8), (7, 8, 2, 3, 4, 5, 6, 7, 8)
"""The same with an offset to the centre in x and y alone."""


def check_network(data: Mapping[str, Any], place: str, expected: str, source: str) -> None:
    """Refuses another network by its name, before each of its values is one more error.

    Args:
        data: A foreign configuration, unchecked.
        place: Where it names the network, with dots between; where nothing is there, nothing is refused.
        expected: The name of PointPillars.
        source: Where the configuration was read, for the error.

    Raises:
        ConfigError: The name is another.
    """
    found: Any = data
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, str) and found != expected:
        raise ConfigError(
            f"{source}: {place} is {found!r}, expected {expected!r}; only checkpoints of PointPillars can be imported, "
            "not those of SECOND or of other networks"
        )


def model_config(described: Described, channels: dict[str, Any]) -> PointPillarsConfig:
    """The configuration of a network like the foreign one.

    Args:
        described: The foreign detector.
        channels: The fields of :class:`PointPillarsConfig` that its weights tell.

    Raises:
        ConfigError: Pillars that are not square or not as high as the range, or a grid that cannot be halved thrice.
    """
    low, high, (across, along, up) = described.point_range[:3], described.point_range[3:], described.voxel
    if abs(across - along) > TOLERANCE or abs(up - (high[2] - low[2])) > TOLERANCE:
        raise ConfigError(
            f"{described.source}: voxels of {across} x {along} x {up} m; expected square pillars as high as the range, "
            f"{high[2] - low[2]:g} m"
        )
    data = {
        "grid": {
            **{f"{axis}_min": value for axis, value in zip("xyz", low, strict=True)},
            **{f"{axis}_max": value for axis, value in zip("xyz", high, strict=True)},
            "cell": across,
        },
        "classes": [
            {"name": each.name, "anchor_size": each.size, "anchor_z": round(each.bottom + each.size[2] / 2, 6)}
            for each in described.classes
        ],
        "direction_offset": _known_angle(described.direction_start),
        **channels,
    }
    model = parse_config(data, PointPillarsConfig, described.source)
    if all(abs(a - b) < TOLERANCE for a, b in zip(described.anchor_range, _location_centres(model), strict=True)):
        return model
    return parse_config({**data, "anchor_range": described.anchor_range}, PointPillarsConfig, described.source)


def _location_centres(model: PointPillarsConfig) -> tuple[float, float, float, float]:
    """Where the outermost anchors stand that are not spread."""
    half = stage_strides(model)[0] * model.grid.cell / 2
    grid = model.grid
    return grid.x_min + half, grid.y_min + half, grid.x_max - half, grid.y_max - half


def _known_angle(angle: float) -> float:
    """The angle in [-pi, pi), as a multiple of pi / 4 where it is one."""
    wrapped = (angle + math.pi) % (2 * math.pi) - math.pi
    nearest = round(wrapped / (math.pi / 4)) * (math.pi / 4)
    return nearest if abs(wrapped - nearest) < TOLERANCE else wrapped
