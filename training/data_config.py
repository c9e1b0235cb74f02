"""Configuration of the training data: where frames come from, how they are mixed and how they are augmented."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from pd_edge.config import Config


class SourceConfig(Config):
    """One folder to train on and its share of the training samples."""

    root: Path = Field(description="Own data, or a KITTI object folder; relative to the working directory.")
    split: str | None = Field(
        None, description="Name of a list in splits (KITTI: ImageSets), or nothing for every frame."
    )
    sensor: str = Field(
        "",
        description="Sensor profile: a shipped one's name or a YAML file; empty as in KITTI, or as own data say.",
    )
    weight: float = Field(1.0, gt=0, description="Share of the samples, relative to the other sources' weights.")

    @model_serializer(mode="wrap")
    def _without_usual_sensor(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves ``sensor`` out where it says nothing, so that runs from before it existed go on."""
        data: dict[str, Any] = dump(self)
        if not self.sensor:
            data.pop("sensor", None)
        return data


class DataConfig(Config):
    """The frames a detector is trained on."""

    sources: tuple[SourceConfig, ...] = Field((), description="Folders to train on, mixed by their weights.")
    cloud: Literal["full", "reduced"] = Field(
        "reduced",
        description="Points of KITTI folders to train on: those the left colour camera sees, as KITTI labels only "
        "these, or all; of own data always all.",
    )
    min_points: int = Field(1, ge=0, description="Boxes with fewer points are no training targets.")


class AugmentConfig(Config):
    """Random changes of a training scene. Zero switches a change off: it is skipped and draws no random numbers."""

    sampled_objects: int = Field(
        15, ge=0, description="Objects of each class in a scene, filled up from the object bank where there is room."
    )
    bank_min_points: int = Field(5, ge=1, description="Objects with fewer points stay out of the object bank.")
    bank_max_objects: int = Field(4000, ge=1, description="Most objects of one class that the bank takes of a source.")
    beam_dropout: float = Field(
        0.1, ge=0, lt=1, description="Greatest share of the laser beams to leave out; a scene draws 0 .. this."
    )
    fewer_beams: float = Field(
        0.0, ge=0, le=1, description="Probability of keeping only every second, third or fourth beam of a scene."
    )
    intensity_jitter: float = Field(
        0.1, ge=0, lt=1, description="Greatest change of the intensity: gain 1 +- this, offset +- half of this."
    )
    object_shift: float = Field(0.25, ge=0, description="Standard deviation of an object's own shift in x and y [m].")
    object_turn: float = Field(0.157, ge=0, le=math.pi, description="Greatest turn of an object on its own [rad].")
    flip: float = Field(0.5, ge=0, le=1, description="Probability of mirroring the scene in its xz plane.")
    rotation: float = Field(math.pi / 4, ge=0, le=math.pi, description="Greatest turn of the scene about z [rad].")
    scaling: float = Field(0.05, ge=0, lt=1, description="Greatest change of the scene's scale about 1.")
    translation: float = Field(0.0, ge=0, description="Standard deviation of the scene's shift along each axis [m].")

    @model_serializer(mode="wrap")
    def _without_usual_beams(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves ``fewer_beams`` out where it does nothing, so that runs from before it existed go on."""
        data: dict[str, Any] = dump(self)
        if not self.fewer_beams:
            data.pop("fewer_beams", None)
        return data
