"""The node's configuration, which its ROS parameters are generated from."""

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from pd_edge.boxes import SHOWN_SCORE
from pd_edge.config import Config, parse_config
from pd_edge.errors import ConfigError

CHANGEABLE = frozenset({"score_threshold", "classes", "class_thresholds", "marker_threshold"})
"""Parameters that can be set while the detector runs."""
_THRESHOLD = re.compile(r"\s*(?P<name>[^:,]*[^:,\s])\s*:\s*(?P<score>[0-9.eE+-]+)\s*")


class NodeConfig(Config):
    """The parameters of the node: strict, immutable; an empty text leaves a choice to what it says."""

    model: str = Field("pointpillars-4x", min_length=1, description="A shipped model, a model folder or engine folder.")
    runtime: str = Field("", description="openvino, onnxruntime, torch ...; empty: openvino, or the engine's own.")
    precision: Literal["", "fp32", "bf16"] = Field("", description="Of the network; empty: the model's own.")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of the network; 0: the runtime's choice.")
    coverage: Literal["front", "full"] = Field(
        "front", description="front: the model's grid; full: all around the sensor, the model on four sectors."
    )
    score_threshold: float = Field(0.1, ge=0, le=1, description="Boxes scoring less are left out.")
    classes: str = Field("", description="Classes to publish, as 'Car, Cyclist'; empty: all of the model's.")
    class_thresholds: str = Field("", description="Thresholds of single classes, as 'Car: 0.5, Cyclist: 0.3'.")
    reliability: Literal["auto", "best_effort", "reliable"] = Field(
        "auto", description="Of the subscription; auto: reliable where all publishers are, else best effort."
    )
    sensor: str = Field("", description="A sensor profile's name or YAML file; empty: mounted and scaled as in KITTI.")
    sensor_height: float = Field(0.0, ge=0, le=10, description="Height above the ground [m]; 0: the profile's.")
    max_age: float = Field(0.0, ge=0, le=3600, description="Clouds older than this are refused [s]; 0: none is.")
    min_range: float = Field(0.0, ge=0, le=1000, description="Points nearer than this are left out [m].")
    max_range: float = Field(0.0, ge=0, le=1000, description="Points farther than this are left out [m]; 0: none.")
    ego_box: tuple[float, float, float, float, float, float] = Field(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        description="Own vehicle, left out: x_min x_max y_min y_max z_min z_max in the cloud's frame [m].",
    )
    target_frame: str = Field("", description="Frame of the boxes, through tf2; empty: that of the cloud.")
    marker_threshold: float = Field(SHOWN_SCORE, ge=0, le=1, description="Boxes scoring less have no markers.")
    marker_lifetime: float = Field(0.5, ge=0, le=3600, description="Viewers forget the boxes after this [s]; 0: never.")
    diagnostics_period: float = Field(1.0, ge=0.1, le=60, description="Time between diagnostics [s].")

    @model_validator(mode="after")
    def _consistent(self) -> "NodeConfig":
        if 0 < self.max_range <= self.min_range:
            raise ValueError(f"max_range {self.max_range:g} m must be above min_range {self.min_range:g} m, or 0")
        for axis, low, high in zip("xyz", self.ego_box[::2], self.ego_box[1::2], strict=True):
            if low > high:
                raise ValueError(f"ego_box: {axis}_min {low:g} m is above {axis}_max {high:g} m")
        _thresholds(self.class_thresholds)
        return self

    def thresholds(self, known: tuple[str, ...]) -> dict[str, float]:
        """The least score of each class that is published.

        Args:
            known: The model's classes.

        Raises:
            ConfigError: A class is named that the model does not know.
        """
        chosen = tuple(filter(None, map(str.strip, self.classes.split(",")))) or known
        single = _thresholds(self.class_thresholds)
        for parameter, names in (("classes", chosen), ("class_thresholds", single)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ConfigError(f"{parameter}: {', '.join(unknown)}; the model knows {', '.join(known)}")
        return {name: single.get(name, self.score_threshold) for name in chosen}


def changed(config: NodeConfig, values: Mapping[str, object], *, running: bool) -> NodeConfig:
    """The configuration with other values.

    Args:
        config: What holds now.
        values: New values by name.
        running: Whether the engine is loaded, so that only :data:`CHANGEABLE` can change.

    Raises:
        ConfigError: A value is wrong, or cannot change now.
    """
    new = parse_config({**config.model_dump(), **values}, NodeConfig, "parameters")
    fixed = [name for name in values if name not in CHANGEABLE and getattr(new, name) != getattr(config, name)]
    if running and fixed:
        raise ConfigError(
            f"{', '.join(fixed)} cannot change while the engine is loaded; start the node with the new value, or clean "
            f"the lifecycle node up first. {', '.join(sorted(CHANGEABLE))} can change at any time"
        )
    return new


def _thresholds(text: str) -> dict[str, float]:
    """The thresholds of single classes.

    Raises:
        ValueError: The text is of another form, or a threshold is not in 0..1.
    """
    found = {}
    for part in filter(str.strip, text.split(",")):
        match = _THRESHOLD.fullmatch(part)
        score = _number(match["score"]) if match else None
        if match is None or score is None or not 0 <= score <= 1:
            raise ValueError(f"class_thresholds: {part.strip()!r}; expected a class and a score in 0..1, as 'Car: 0.5'")
        found[match["name"]] = score
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
