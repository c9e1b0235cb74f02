"""OpenPCDet's PointPillars: its YAML configuration and the names in its checkpoints.

Boxes are those of this project: geometric centre, length, width, height, yaw counter-clockwise from +x. What differs:

* Anchors are spread from edge to edge of the range (``align_center: False``): at the edges they stand 16 cm off the
  centres of the head's locations. ``anchor_range`` says so, and decoding and training heed it.
* The second anchor's yaw is 1.57, not pi / 2, and direction bins meet at 0.78539.
* ``anchor_bottom_heights`` are undersides; residuals refer to centres, as ours.
* Suppression there is one for all classes; here each class has its own, with the same threshold.

Source: OpenPCDet, pcdet/models (pillar_vfe, base_bev_backbone, anchor_head_single, anchor_generator, box_coder_utils)
and tools/cfgs/kitti_models/pointpillar.yaml.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pd_edge.config import DecodeConfig, parse_config, read_yaml
from pd_edge.errors import ConfigError
from pd_edge.training.importers.checkpoint_file import ForeignCheckpoint
from pd_edge.training.importers.foreign import (
    ABSOLUTE,
    RELATIVE,
    AnchorClass,
    Described,
    Foreign,
    Names,
    PointRange,
    Vector,
    check_network,
)

NAMES = Names(
    pillar_net="vfe.pfn_layers.0",
    stages="backbone_2d.blocks",
    first=1,  # a padding layer comes before the first convolution
    upsamplings="backbone_2d.deblocks",
    heads=("dense_head.conv_cls", "dense_head.conv_box", "dense_head.conv_dir_cls"),
)
BASE = "_BASE_CONFIG_"
VOXELS = "transform_points_to_voxels"
_ONE_SUPPRESSION = "suppression works within each class; OpenPCDet's works over all classes at once"


class Vfe(Foreign):
    """``MODEL.VFE``."""

    NAME: Literal["PillarVFE"]
    WITH_DISTANCE: Literal[False] = Field(default=False, description="Distance from the sensor as a feature.")
    USE_ABSLOTE_XYZ: bool = Field(description="Absolute coordinates among the features (the name is OpenPCDet's).")
    USE_NORM: Literal[True] = Field(default=True, description="Batch norm behind the linear layer.")


class ToBev(Foreign):
    """``MODEL.MAP_TO_BEV``."""

    NAME: Literal["PointPillarScatter"]


class Backbone(Foreign):
    """``MODEL.BACKBONE_2D``."""

    NAME: Literal["BaseBEVBackbone"]
    LAYER_STRIDES: tuple[Literal[2], Literal[2], Literal[2]]
    UPSAMPLE_STRIDES: tuple[Literal[1], Literal[2], Literal[4]]
    USE_CONV_FOR_NO_STRIDE: bool = Field(default=False, description="The first upsampling is a plain convolution.")


class Anchor(Foreign):
    """An entry of ``ANCHOR_GENERATOR_CONFIG``."""

    class_name: str
    anchor_sizes: tuple[Vector]
    anchor_rotations: tuple[float, float]
    anchor_bottom_heights: tuple[float]
    align_center: bool = Field(default=False, description="Anchors at the centres of the head's locations.")
    feature_map_stride: Literal[2]
    matched_threshold: float
    unmatched_threshold: float


class CoderOptions(Foreign):
    """``TARGET_ASSIGNER_CONFIG.BOX_CODER_CONFIG``."""

    encode_angle_by_sincos: Literal[False] = False


class Assigner(Foreign):
    """``TARGET_ASSIGNER_CONFIG``."""

    BOX_CODER: Literal["ResidualCoder"]
    BOX_CODER_CONFIG: CoderOptions = CoderOptions()


class Head(Foreign):
    """``MODEL.DENSE_HEAD``."""

    NAME: Literal["AnchorHeadSingle"]
    CLASS_AGNOSTIC: Literal[False] = False
    USE_DIRECTION_CLASSIFIER: Literal[True]
    DIR_OFFSET: float
    DIR_LIMIT_OFFSET: float = Field(0.0, ge=0, le=0)
    NUM_DIR_BINS: Literal[2]
    ANCHOR_GENERATOR_CONFIG: tuple[Anchor, ...] = Field(min_length=1)
    TARGET_ASSIGNER_CONFIG: Assigner


class Suppression(Foreign):
    """``POST_PROCESSING.NMS_CONFIG``."""

    MULTI_CLASSES_NMS: bool = Field(default=False, description="Suppression within each class, as ours.")
    NMS_THRESH: float
    NMS_PRE_MAXSIZE: int
    NMS_POST_MAXSIZE: int


class PostProcessing(Foreign):
    """``MODEL.POST_PROCESSING``."""

    SCORE_THRESH: float
    NMS_CONFIG: Suppression


class Model(Foreign):
    """``MODEL``."""

    NAME: Literal["PointPillar"]
    VFE: Vfe
    MAP_TO_BEV: ToBev
    BACKBONE_2D: Backbone
    DENSE_HEAD: Head
    POST_PROCESSING: PostProcessing


class Processor(Foreign):
    """An entry of ``DATA_CONFIG.DATA_PROCESSOR``."""

    NAME: str
    VOXEL_SIZE: Vector | None = None


class Data(Foreign):
    """``DATA_CONFIG``."""

    POINT_CLOUD_RANGE: PointRange
    DATA_PROCESSOR: tuple[Processor, ...]


class PcdetConfig(Foreign):
    """The parts of OpenPCDet's configuration that a detector's outputs depend on."""

    CLASS_NAMES: tuple[str, ...]
    DATA_CONFIG: Data
    MODEL: Model


def _kitti_anchor(name: str, size: Vector, bottom: float, limits: tuple[float, float]) -> dict[str, Any]:
    return {
        "class_name": name,
        "anchor_sizes": [size],
        "anchor_rotations": [0, 1.57],
        "anchor_bottom_heights": [bottom],
        "feature_map_stride": 2,
        "matched_threshold": limits[0],
        "unmatched_threshold": limits[1],
    }


KITTI: dict[str, Any] = {
    "CLASS_NAMES": ["Car", "Pedestrian", "Cyclist"],
    "DATA_CONFIG": {
        "POINT_CLOUD_RANGE": [0, -39.68, -3, 69.12, 39.68, 1],
        "DATA_PROCESSOR": [{"NAME": VOXELS, "VOXEL_SIZE": [0.16, 0.16, 4]}],
    },
    "MODEL": {
        "NAME": "PointPillar",
        "VFE": {"NAME": "PillarVFE", "USE_ABSLOTE_XYZ": True},
        "MAP_TO_BEV": {"NAME": "PointPillarScatter"},
        "BACKBONE_2D": {"NAME": "BaseBEVBackbone", "LAYER_STRIDES": [2, 2, 2], "UPSAMPLE_STRIDES": [1, 2, 4]},
        "DENSE_HEAD": {
            "NAME": "AnchorHeadSingle",
            "USE_DIRECTION_CLASSIFIER": True,
            "DIR_OFFSET": 0.78539,
            "NUM_DIR_BINS": 2,
            "ANCHOR_GENERATOR_CONFIG": [
                _kitti_anchor("Car", (3.9, 1.6, 1.56), -1.78, (0.6, 0.45)),
                _kitti_anchor("Pedestrian", (0.8, 0.6, 1.73), -0.6, (0.5, 0.35)),
                _kitti_anchor("Cyclist", (1.76, 0.6, 1.73), -0.6, (0.5, 0.35)),
            ],
            "TARGET_ASSIGNER_CONFIG": {"BOX_CODER": "ResidualCoder"},
        },
        "POST_PROCESSING": {
            "SCORE_THRESH": 0.1,
            "NMS_CONFIG": {"NMS_THRESH": 0.01, "NMS_PRE_MAXSIZE": 4096, "NMS_POST_MAXSIZE": 500},
        },
    },
}
"""What counts in OpenPCDet's kitti_models/pointpillar.yaml."""


def describe(_: ForeignCheckpoint, config: Path | None) -> tuple[Described, Names]:
    """Describes OpenPCDet's detector.

    Args:
        _: Its checkpoint, which says nothing but weights.
        config: Its YAML file; None for kitti_models/pointpillar.yaml.

    Raises:
        ConfigError: The file cannot be read, lacks a value, or has one that this network cannot express; it is named.
    """
    data = KITTI if config is None else _read(config)
    source = "OpenPCDet's kitti_models/pointpillar.yaml" if config is None else str(config)
    return _describe(parse_config(data, PcdetConfig, source), source), NAMES


def _describe(found: PcdetConfig, source: str) -> Described:
    head, data = found.MODEL.DENSE_HEAD, found.DATA_CONFIG
    anchors = head.ANCHOR_GENERATOR_CONFIG
    first = anchors[0]
    if tuple(each.class_name for each in anchors) != found.CLASS_NAMES:
        raise ConfigError(f"{source}: CLASS_NAMES and ANCHOR_GENERATOR_CONFIG name other classes or another order")
    if any(
        (each.anchor_rotations, each.align_center) != (first.anchor_rotations, first.align_center) for each in anchors
    ):
        raise ConfigError(f"{source}: anchor_rotations or align_center differ between classes, which is not supported")
    voxel = next((each.VOXEL_SIZE for each in data.DATA_PROCESSOR if each.NAME == VOXELS), None)
    if voxel is None:
        raise ConfigError(f"{source}: no VOXEL_SIZE in DATA_PROCESSOR under {VOXELS}; give the complete configuration")
    low, high = data.POINT_CLOUD_RANGE[:3], data.POINT_CLOUD_RANGE[3:]
    inset = voxel[0] if first.align_center else 0.0
    nms = found.MODEL.POST_PROCESSING.NMS_CONFIG
    return Described(
        source=source,
        point_range=data.POINT_CLOUD_RANGE,
        voxel=voxel,
        classes=tuple(
            AnchorClass(
                each.class_name,
                each.anchor_sizes[0],
                each.anchor_bottom_heights[0],
                each.matched_threshold,
                each.unmatched_threshold,
            )
            for each in anchors
        ),
        yaws=first.anchor_rotations,
        anchor_range=(low[0] + inset, low[1] + inset, high[0] - inset, high[1] - inset),
        direction_start=head.DIR_OFFSET,
        columns=ABSOLUTE if found.MODEL.VFE.USE_ABSLOTE_XYZ else RELATIVE,
        old_axes=False,
        plain_upsampling=found.MODEL.BACKBONE_2D.USE_CONV_FOR_NO_STRIDE,
        decode=DecodeConfig(
            score_threshold=found.MODEL.POST_PROCESSING.SCORE_THRESH,
            top_k=nms.NMS_PRE_MAXSIZE,
            nms_iou=nms.NMS_THRESH,
            max_boxes=nms.NMS_POST_MAXSIZE,
        ),
        notes=() if nms.MULTI_CLASSES_NMS else (_ONE_SUPPRESSION,),
    )


def _read(path: Path) -> dict[str, Any]:
    """The YAML file, its ``DATA_CONFIG`` completed from the one it is based on, where that file can be found."""
    data = read_yaml(path)
    check_network(data, "MODEL.NAME", "PointPillar", str(path))
    section = data.get("DATA_CONFIG")
    if not isinstance(section, dict) or BASE not in section:
        return data
    name = str(section[BASE])
    base = next((each / name for each in path.resolve().parents if (each / name).is_file()), None)
    if base is not None:
        return {**data, "DATA_CONFIG": {**read_yaml(base), **section}}
    missing = [key for key in Data.model_fields if key not in section]
    if missing:
        raise ConfigError(
            f"{path}: DATA_CONFIG is based on {name}, which is in no folder above it, and has no {', '.join(missing)}; "
            "keep the file in the project's tools folder, or write them into it"
        )
    return data
