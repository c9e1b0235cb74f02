"""What of mmdetection3d's configuration counts, and its values for KITTI.

Classes are named after the sections; a section's fields are those of its text. Defaults are mmdetection3d's.
"""

from typing import Any, Literal

from pydantic import Field

from pd_edge.training.importers.foreign import Foreign, PointRange, Vector
from pd_edge.training.network import EPSILON


class Norm(Foreign):
    """A ``norm_cfg``."""

    eps: float = Field(EPSILON, ge=EPSILON, le=EPSILON)


class VoxelLayer(Foreign):
    """``voxel_layer``."""

    point_cloud_range: PointRange
    voxel_size: Vector


class Preprocessor(Foreign):
    """``data_preprocessor``, from 1.1 on."""

    voxel_layer: VoxelLayer


class VoxelEncoder(Foreign):
    """``voxel_encoder``."""

    type: Literal["PillarFeatureNet"]
    with_distance: Literal[False] = False
    with_cluster_center: Literal[True] = True
    with_voxel_center: Literal[True] = True
    legacy: bool = Field(default=True, description="Absolute coordinates are overwritten.")
    mode: Literal["max"] = "max"
    norm_cfg: Norm = Norm()


class MiddleEncoder(Foreign):
    """``middle_encoder``."""

    type: Literal["PointPillarsScatter"]


class Backbone(Foreign):
    """``backbone``."""

    type: Literal["SECOND"]
    layer_strides: tuple[Literal[2], Literal[2], Literal[2]] = (2, 2, 2)
    norm_cfg: Norm = Norm()


class Neck(Foreign):
    """``neck``."""

    type: Literal["SECONDFPN"]
    upsample_strides: tuple[Literal[1], Literal[2], Literal[4]] = (1, 2, 4)
    use_conv_for_no_stride: bool = False
    norm_cfg: Norm = Norm()


class AnchorGenerator(Foreign):
    """``bbox_head.anchor_generator``."""

    type: Literal["Anchor3DRangeGenerator", "AlignedAnchor3DRangeGenerator"]
    ranges: tuple[PointRange, ...] = Field(min_length=1)
    sizes: tuple[Vector, ...]
    rotations: tuple[float, float]
    scales: tuple[Literal[1]] = (1,)
    size_per_range: Literal[True] = True
    align_corner: Literal[False] = False
    custom_values: tuple[()] = ()


class Coder(Foreign):
    """``bbox_head.bbox_coder``."""

    type: Literal["DeltaXYZWLHRBBoxCoder"]


class ClassLoss(Foreign):
    """``bbox_head.loss_cls``."""

    use_sigmoid: Literal[True]


class Head(Foreign):
    """``bbox_head``."""

    type: Literal["Anchor3DHead"]
    use_direction_classifier: Literal[True] = True
    anchor_generator: AnchorGenerator
    bbox_coder: Coder
    loss_cls: ClassLoss
    dir_offset: float | None = Field(None, description="0 before 1.0 and -pi / 2 since, where left out.")
    dir_limit_offset: float | None = Field(None, description="1 before 1.0 and 0 since, where left out.")


class Assigner(Foreign):
    """An assigner of one class."""

    pos_iou_thr: float
    neg_iou_thr: float


class TrainCfg(Foreign):
    """``train_cfg``."""

    assigner: tuple[Assigner, ...] | Assigner | None = None


class TestCfg(Foreign):
    """``test_cfg``."""

    nms_thr: float
    score_thr: float
    nms_pre: int
    max_num: int


class Model(Foreign):
    """``model``."""

    type: Literal["VoxelNet"]
    data_preprocessor: Preprocessor | None = None
    voxel_layer: VoxelLayer | None = None
    voxel_encoder: VoxelEncoder
    middle_encoder: MiddleEncoder
    backbone: Backbone
    neck: Neck
    bbox_head: Head
    train_cfg: TrainCfg | None = None
    test_cfg: TestCfg


class MmdetConfig(Foreign):
    """The parts of mmdetection3d's configuration that a detector's outputs depend on."""

    model: Model
    class_names: tuple[str, ...] | None = None


KITTI: dict[str, Any] = {
    "class_names": ["Pedestrian", "Cyclist", "Car"],
    "model": {
        "type": "VoxelNet",
        "voxel_layer": {"point_cloud_range": [0, -39.68, -3, 69.12, 39.68, 1], "voxel_size": [0.16, 0.16, 4]},
        "voxel_encoder": {"type": "PillarFeatureNet"},
        "middle_encoder": {"type": "PointPillarsScatter"},
        "backbone": {"type": "SECOND"},
        "neck": {"type": "SECONDFPN"},
        "bbox_head": {
            "type": "Anchor3DHead",
            "anchor_generator": {
                "type": "AlignedAnchor3DRangeGenerator",
                "ranges": [[0, -39.68, bottom, 69.12, 39.68, bottom] for bottom in (-0.6, -0.6, -1.78)],
                "sizes": [[0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [3.9, 1.6, 1.56]],
                "rotations": [0, 1.57],
            },
            "bbox_coder": {"type": "DeltaXYZWLHRBBoxCoder"},
            "loss_cls": {"use_sigmoid": True},
        },
        "train_cfg": {
            "assigner": [
                {"pos_iou_thr": positive, "neg_iou_thr": negative}
                for positive, negative in ((0.5, 0.35), (0.5, 0.35), (0.6, 0.45))
            ]
        },
        "test_cfg": {"nms_thr": 0.01, "score_thr": 0.1, "nms_pre": 100, "max_num": 50},
    },
}
"""What counts in mmdetection3d 1.x's pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py."""
