"""Configuration of a detector: frozen, strict, with units in the field docs, and its YAML reading and writing."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from pd_edge.errors import ConfigError
from pd_edge.files import write_bytes

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


class GridConfig(Config):
    """The detection volume and its division into pillars, in the LiDAR frame (x forward, y left, z up).

    The cell of a point is ``floor(x * scale + x_offset)``, one float32 multiplication and one float32 addition, in
    every runtime; see :mod:`pd_edge.pillars`.
    """

    x_min: float = Field(0.0, description="Near edge [m].")
    x_max: float = Field(69.12, description="Far edge [m], exclusive.")
    y_min: float = Field(-39.68, description="Right edge [m].")
    y_max: float = Field(39.68, description="Left edge [m], exclusive.")
    z_min: float = Field(-3.0, description="Lowest height [m].")
    z_max: float = Field(1.0, description="Greatest height [m], exclusive.")
    cell: float = Field(0.16, gt=0, description="Side of a pillar [m].")

    @model_validator(mode="after")
    def _whole_cells(self) -> "GridConfig":
        for axis, low, high in (("x", self.x_min, self.x_max), ("y", self.y_min, self.y_max)):
            cells = (high - low) / self.cell
            if cells < 1 or abs(cells - round(cells)) > 1e-6:
                raise ValueError(
                    f"{axis} range {low} .. {high} m is {cells:g} cells of {self.cell} m; "
                    "make it a whole, positive number of cells"
                )
        if self.z_max <= self.z_min:
            raise ValueError(f"z_max {self.z_max} m must be above z_min {self.z_min} m")
        return self

    @property
    def nx(self) -> int:
        """Number of cells along x (canvas width)."""
        return round((self.x_max - self.x_min) / self.cell)

    @property
    def ny(self) -> int:
        """Number of cells along y (canvas height)."""
        return round((self.y_max - self.y_min) / self.cell)

    @property
    def scale(self) -> np.float32:
        """Cells per metre."""
        return np.float32(1.0 / self.cell)

    @property
    def x_offset(self) -> np.float32:
        """Cells from x = 0 back to the near edge."""
        return np.float32(-self.x_min / self.cell)

    @property
    def y_offset(self) -> np.float32:
        """Cells from y = 0 back to the right edge."""
        return np.float32(-self.y_min / self.cell)


class ClassConfig(Config):
    """One object class and its anchor."""

    name: str = Field(min_length=1, description="Class name as labels write it.")
    anchor_size: tuple[float, float, float] = Field(description="Anchor length, width, height [m].")
    anchor_z: float = Field(description="Height of the anchor's geometric centre in the LiDAR frame [m].")


# Source: PointDistiller's PointPillars configuration; the configs there give the anchors' bottom (-1.78, -0.6, -0.6 m),
# the centres here are half the anchor's height above it.
KITTI_CLASSES = (
    ClassConfig(name="Car", anchor_size=(3.9, 1.6, 1.56), anchor_z=-1.0),
    ClassConfig(name="Pedestrian", anchor_size=(0.8, 0.6, 1.73), anchor_z=0.265),
    ClassConfig(name="Cyclist", anchor_size=(1.76, 0.6, 1.73), anchor_z=0.265),
)


class ModelConfig(Config):
    """A PointPillars network: its grid, classes and channel counts."""

    grid: GridConfig = GridConfig()
    classes: tuple[ClassConfig, ...] = Field(KITTI_CLASSES, min_length=1, description="Classes, in label order.")
    pillar_channels: int = Field(gt=0, description="Channels of the pillar feature net and of the canvas.")
    backbone_channels: tuple[int, int, int] = Field(description="Channels of the three backbone stages.")
    backbone_layers: tuple[int, int, int] = Field((3, 5, 5), description="Layers after each stage's stride-2 one.")
    neck_channels: int = Field(gt=0, description="Channels of each of the three upsampled maps.")
    direction_offset: float = Field(
        math.pi / 4, description="Yaw at which the two direction bins meet [rad]; bin 0 is the half circle after it."
    )
    anchor_range: tuple[float, float, float, float] | None = Field(
        None,
        description="Places x y x y [m] of the outermost anchors, all others evenly between them, as some detectors "
        "were trained; left out, an anchor stands at the centre of each of the head's locations.",
    )

    @property
    def canvas_shape(self) -> tuple[int, int, int, int]:
        """Shape of the canvas of one frame: (1, C, ny, nx)."""
        return 1, self.pillar_channels, self.grid.ny, self.grid.nx

    @model_validator(mode="after")
    def _divisible(self) -> "ModelConfig":
        for axis, cells in (("x", self.grid.nx), ("y", self.grid.ny)):
            if cells % 8:
                raise ValueError(f"{cells} cells along {axis} cannot be halved three times; use a multiple of 8")
        return self

    @model_validator(mode="after")
    def _anchors_ascend(self) -> "ModelConfig":
        if self.anchor_range is not None:
            x_first, y_first, x_last, y_last = self.anchor_range
            if not (x_first < x_last and y_first < y_last):
                raise ValueError(f"anchor_range {self.anchor_range} m must lead from low x y to high x y")
        return self

    @model_serializer(mode="wrap")
    def _without_usual_anchors(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves ``anchor_range`` out where it says nothing, so that files written before it existed stay the same."""
        data: dict[str, Any] = dump(self)
        if self.anchor_range is None:
            data.pop("anchor_range", None)
        return data


class DecodeConfig(Config):
    """From head outputs to detections."""

    score_threshold: float = Field(0.1, ge=0, le=1, description="Boxes scoring less are left out.")
    top_k: int = Field(100, gt=0, description="Best anchors kept per class before non-maximum suppression.")
    nms_iou: float = Field(0.01, ge=0, le=1, description="Rotated BEV IoU above which the weaker box is suppressed.")
    max_boxes: int = Field(50, gt=0, description="Most detections in one frame.")


class DetectorConfig(Config):
    """Everything the runtime has to know about a trained detector, apart from its weights."""

    model: ModelConfig
    decode: DecodeConfig = DecodeConfig()


def load_config(path: Path, kind: type[ConfigT]) -> ConfigT:
    """Reads a YAML file as a configuration of the given kind.

    Raises:
        ConfigError: The file is missing, is not YAML, or has an unknown, missing or wrong key (all are named).
    """
    return parse_config(read_yaml(path), kind, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of named values, unchecked.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds no names.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds {data!r:.80}, expected names with values, as `samples: 1000`")
    return data


def parse_config(data: Any, kind: type[ConfigT], source: str) -> ConfigT:
    """Checks plain data against a configuration kind; ``source`` names the data in the error.

    Raises:
        ConfigError: A key is unknown, missing or wrong.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(_problem(each, kind) for each in error.errors())
        raise ConfigError(f"{source}: {problems}") from error


def _problem(error: "ErrorDetails", kind: type[BaseModel]) -> str:
    """One of pydantic's errors in words; an unknown key with the known one that it resembles."""
    *place, name = error["loc"] or ("the file",)
    where = ".".join(map(str, error["loc"])) or "the file"
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']} (got {error['input']!r:.80})"
    known = _keys_at(kind, place)
    close = difflib.get_close_matches(str(name), known, 1)
    advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}" if known else "take it out"
    return f"{where}: unknown key; {advice}"


def _keys_at(kind: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The keys that a configuration knows at a place; none where the place leads through a list or table."""
    for step in place:
        field = kind.model_fields.get(str(step))
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)


def dump_config(config: Config, path: Path) -> None:
    """Writes a configuration, with every default resolved, as YAML; a killed run leaves no half file.

    Raises:
        DataError: The file cannot be written.
    """
    write_bytes(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
