"""Configuration of a detector: frozen, strict, with units in the field docs, and its YAML reading and writing."""

import difflib
import itertools
import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, get_args, get_origin

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    field_validator,
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

_Count = Annotated[int, Field(gt=0)]
_More = Annotated[int, Field(ge=0)]


LEAST_HEIGHTS, MOST_HEIGHTS = 24, 62
"""Voxels above each other: fewer leave none after SECOND's sparse stages; with the one more that it counts, a column of
more does not fit into a 64-bit mask."""


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


class VoxelGridConfig(GridConfig):
    """A grid whose pillars are cut into voxels; a voxel's height index is found as its other two are."""

    x_max: float = Field(70.4, description="Far edge [m], exclusive.")
    y_min: float = Field(-40.0, description="Right edge [m].")
    y_max: float = Field(40.0, description="Left edge [m], exclusive.")
    cell: float = Field(0.05, gt=0, description="Side of a voxel on the ground [m].")
    height: float = Field(0.1, gt=0, description="Height of a voxel [m].")

    @model_validator(mode="after")
    def _whole_heights(self) -> "VoxelGridConfig":
        heights = (self.z_max - self.z_min) / self.height
        if not 1 <= round(heights) <= MOST_HEIGHTS or abs(heights - round(heights)) > 1e-6:
            raise ValueError(
                f"z range {self.z_min} .. {self.z_max} m is {heights:g} voxels of {self.height} m; "
                f"make it a whole number of them, at most {MOST_HEIGHTS}"
            )
        return self

    @property
    def nz(self) -> int:
        """Number of voxels above each other."""
        return round((self.z_max - self.z_min) / self.height)

    @property
    def z_scale(self) -> np.float32:
        """Voxels per metre of height."""
        return np.float32(1.0 / self.height)

    @property
    def z_offset(self) -> np.float32:
        """Voxels from z = 0 down to the lowest height."""
        return np.float32(-self.z_min / self.height)


class AnchorModelConfig(Config):
    """What all detectors here have in common: a grid, classes, and anchors over a map of the ground."""

    grid: GridConfig = GridConfig()
    classes: tuple[ClassConfig, ...] = Field(KITTI_CLASSES, min_length=1, description="Classes, in label order.")
    direction_offset: float = Field(
        math.pi / 4, description="Yaw at which the two direction bins meet [rad]; bin 0 is the half circle after it."
    )

    anchor_range: tuple[float, float, float, float] | None = Field(
        None,
        description="Places x y x y [m] of the outermost anchors, all others evenly between them, as some detectors "
        "were trained; null, or left out of PointPillars: an anchor at the centre of each of the head's locations.",
    )

    @field_validator("anchor_range")
    @classmethod
    def _anchors_ascend(
        cls, anchor_range: tuple[float, float, float, float] | None
    ) -> tuple[float, float, float, float] | None:
        if anchor_range is not None:
            x_first, y_first, x_last, y_last = anchor_range
            if not (x_first < x_last and y_first < y_last):
                raise ValueError(f"anchor_range {anchor_range} m must lead from low x y to high x y")
        return anchor_range


class PointPillarsConfig(AnchorModelConfig):
    """A PointPillars network: its grid, classes and channel counts."""

    detector: Literal["pointpillars"] = Field("pointpillars", description="Which detector it is.")
    pillar_channels: int = Field(gt=0, description="Channels of the pillar feature net and of the canvas.")
    backbone_channels: tuple[_Count, _Count, _Count] = Field(description="Channels of the three backbone stages.")
    backbone_layers: tuple[_More, _More, _More] = Field(
        (3, 5, 5), description="Layers after each stage's stride-2 one."
    )
    neck_channels: int = Field(gt=0, description="Channels of each of the three upsampled maps.")

    backbone_strides: ClassVar[tuple[int, ...]] = (2, 2, 2)
    """Strides of the stages' first layers."""
    canvas_stride: ClassVar[int] = 1
    """Cells of the grid to a cell of the canvas, along x and y."""

    @property
    def canvas_shape(self) -> tuple[int, int, int, int]:
        """Shape of the canvas of one frame: (1, C, ny, nx)."""
        return 1, self.pillar_channels, self.grid.ny, self.grid.nx

    @model_validator(mode="after")
    def _divisible(self) -> "PointPillarsConfig":
        _check_halved(self.grid, 3)
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keeps the order of fields, and leaves out what says nothing and came later.

        So files written before stay the same, and what is known by a hash of its configuration is still found.
        """
        data: dict[str, Any] = dump(self)
        data.pop("detector", None)
        for name in ("direction_offset", "anchor_range"):
            if name in data:
                data[name] = data.pop(name)
        if self.anchor_range is None:
            data.pop("anchor_range", None)
        return data


def _edges(data: dict[str, Any]) -> tuple[float, float, float, float]:
    """The edges x y x y [m] of a grid; ``data`` are the fields before."""
    grid: GridConfig = data["grid"]
    return grid.x_min, grid.y_min, grid.x_max, grid.y_max


class SecondConfig(AnchorModelConfig):
    """A SECOND network: voxels, sparse 3D convolutions down to an eighth of the grid, and a BEV network on these.

    Source: Yan et al., SECOND (Sensors 2018), as mmdetection3d configures it for three classes of KITTI: its anchors
    are spread over the whole range, the outermost on the edges.
    """

    detector: Literal["second"] = Field("second", description="Which detector it is.")
    grid: VoxelGridConfig = VoxelGridConfig()
    sparse_channels: tuple[_Count, _Count, _Count, _Count] = Field(description="Channels of the four sparse stages.")
    folded_channels: int = Field(gt=0, description="Channels of each height of the last sparse layer.")
    backbone_channels: tuple[_Count, _Count] = Field(description="Channels of the two BEV stages.")
    backbone_layers: tuple[_More, _More] = Field((5, 5), description="Layers after each BEV stage's first one.")
    neck_channels: int = Field(gt=0, description="Channels of each of the two upsampled maps.")
    anchor_range: tuple[float, float, float, float] | None = Field(
        default_factory=_edges,
        description="Places x y x y [m] of the outermost anchors, all others evenly between; the grid's edges by "
        "default. null: an anchor at the centre of each of the head's locations.",
    )

    backbone_strides: ClassVar[tuple[int, ...]] = (1, 2)
    """Strides of the stages' first layers."""
    canvas_stride: ClassVar[int] = 8
    """Cells of the grid to a cell of the canvas, along x and y."""

    @property
    def canvas_shape(self) -> tuple[int, int, int, int]:
        """Shape of the canvas of one frame: (1, C, ny/8, nx/8), C the folded channels times the heights left."""
        heights = folded_heights(self.grid.nz)
        ny, nx = self.grid.ny // self.canvas_stride, self.grid.nx // self.canvas_stride
        return 1, self.folded_channels * heights, ny, nx

    @model_validator(mode="after")
    def _divisible(self) -> "SecondConfig":
        _check_halved(self.grid, 4)
        if folded_heights(self.grid.nz) < 1:
            raise ValueError(
                f"{self.grid.nz} voxels above each other leave none after the sparse stages; "
                f"use {LEAST_HEIGHTS} or more"
            )
        return self


def _detector_of(data: Any) -> Any:
    """Which detector a configuration, plain or read, is of; one that does not say is of the first there was."""
    return data.get("detector", "pointpillars") if isinstance(data, dict) else getattr(data, "detector", None)


ModelConfig: TypeAlias = Annotated[
    Annotated[PointPillarsConfig, Tag("pointpillars")] | Annotated[SecondConfig, Tag("second")],
    Discriminator(_detector_of),
]
"""The network of any detector; its field ``detector`` tells which."""


def stage_strides(model: ModelConfig) -> list[int]:
    """Cells of the grid to a cell of each backbone stage's map; the head's maps have the first stage's."""
    return [model.canvas_stride * stride for stride in itertools.accumulate(model.backbone_strides, operator.mul)]


def folded_heights(nz: int) -> int:
    """Heights that are left of ``nz`` voxels above each other (and one more, as in the source) after the sparse layers.

    Two strided layers with padding, two without; see :func:`pd_edge.voxels.sparse_layers`.
    """
    heights = nz + 1
    for padding in (1, 1, 0, 0):
        heights = (heights + 2 * padding - 3) // 2 + 1
    return heights


def _check_halved(grid: GridConfig, times: int) -> None:
    for axis, cells in (("x", grid.nx), ("y", grid.ny)):
        if cells % 2**times:
            raise ValueError(f"{cells} cells along {axis} cannot be halved {times} times; use a multiple of {2**times}")


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
        told = [each for each in error.errors() if each["type"] != "default_factory_not_called"]  # follows from others
        problems = "; ".join(_problem(each, kind) for each in told)
        raise ConfigError(f"{source}: {problems}") from error


def _problem(error: "ErrorDetails", kind: type[BaseModel]) -> str:
    """One of pydantic's errors in words; an unknown key with the known one that it resembles."""
    place, known, elsewhere = _look_up(kind, error["loc"])
    where = ".".join(place) or "the file"
    if error["type"] == "union_tag_invalid":
        return f"{where}: {error['ctx']['tag']!r} is unknown; use one of {error['ctx']['expected_tags']}"
    if error["type"] == "union_tag_not_found":
        tag = error["ctx"]["discriminator"].replace(f"{_detector_of.__name__}()", "'detector'")
        return f"{where}: expected names with values, {tag} one of the names (got {error['input']!r:.80})"
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']} (got {error['input']!r:.80})"
    close = difflib.get_close_matches(place[-1], known, 1)
    advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}" if known else "take it out"
    if place[-1] in elsewhere:
        advice = f"it goes with {elsewhere[place[-1]]}" + (f"; or {advice}" if close else "")
    return f"{where}: unknown key; {advice}"


def _look_up(kind: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[str], dict[str, str]]:
    """A place that pydantic names, as a file has it; the keys that are known there; and those known to others.

    Where one of several configurations may stand, pydantic puts its tag between two keys; each key that only others
    have comes with the line that asks for them, as ``detector: second``. No keys are known where the place leads
    through a list or table.
    """
    place: list[str] = []
    known: list[str] = []
    elsewhere: dict[str, str] = {}
    beside: dict[str, str] = {}
    there: Any = kind
    for step in map(str, loc):
        members = _members(there)
        if step in members:
            there, beside = members[step][1], _owners(members)
            continue
        place.append(step)
        elsewhere, beside = beside, {}
        fields = there.model_fields if isinstance(there, type) and issubclass(there, BaseModel) else {}
        known = list(fields)
        there = fields[step].annotation if step in fields else None
    return place, known, elsewhere


def _members(union: Any) -> dict[str, tuple[str, type[BaseModel]]]:
    """The configurations of a union by tag, the one value that one of their fields may have; with that field's name."""
    members = [get_args(each)[0] if get_origin(each) is Annotated else each for each in get_args(union)]
    configs = [each for each in members if isinstance(each, type) and issubclass(each, BaseModel)]
    return {
        str(field.default): (name, each)
        for each in configs
        for name, field in each.model_fields.items()
        if get_origin(field.annotation) is Literal and get_args(field.annotation) == (field.default,)
    }


def _owners(members: dict[str, tuple[str, type[BaseModel]]]) -> dict[str, str]:
    """Each key of a union's configurations with the line that asks for one that has it, and all values it may have."""
    tags: dict[str, list[str]] = {}
    for tag, (_, each) in members.items():
        for key in each.model_fields:
            tags.setdefault(key, []).append(tag)
    (name,) = {name for name, _ in members.values()}
    return {key: f"{name}: {' or '.join(having)}" for key, having in tags.items()}


def dump_config(config: Config, path: Path) -> None:
    """Writes a configuration, with every default resolved, as YAML; a killed run leaves no half file.

    Raises:
        DataError: The file cannot be written.
    """
    write_bytes(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
