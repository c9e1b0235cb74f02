"""mmdetection3d's PointPillars: its Python configuration, read and not run, and the names in its checkpoints.

From 1.0 on boxes are length, width, height and yaw counter-clockwise from +x, as ours but for their place on the
underside; residuals refer to centres. What differs:

* In legacy mode, the default, the absolute coordinates of a point are overwritten with its offset to the pillar's
  centre, which so is there twice; before 1.0 in x and y alone, and there was no offset in z.
* Direction bin 0 begins at -pi / 2 where the configuration says nothing. The second anchor's yaw is 1.57.
* Before 1.0 sizes are width, length, height, yaw 0 is -y and yaw grows clockwise. Such a checkpoint is told by its
  anchors' sizes and converted. Its boxes pointed backwards (``dir_limit_offset`` of 1) until the KITTI writer turned
  them; here they point forwards, as the labels they were trained with.
* ``Anchor3DRangeGenerator`` spreads its anchors over the range that it names, which need not be the points'.

Source: mmdetection3d 0.17 and 1.4, mmdet3d/models (pillar_encoder, second, second_fpn, anchor3d_head,
anchor_3d_generator, delta_xyzwhlr_bbox_coder, train_mixins), mmdet3d/datasets/kitti_dataset, notes on compatibility.
"""

import math
from pathlib import Path

from pd_edge.config import DecodeConfig, parse_config
from pd_edge.errors import ConfigError
from pd_edge.training.importers.checkpoint_file import ForeignCheckpoint
from pd_edge.training.importers.foreign import (
    ABSOLUTE,
    ABSOLUTE_FLAT,
    OVERWRITTEN,
    OVERWRITTEN_FLAT,
    AnchorClass,
    Described,
    Names,
    check_network,
)
from pd_edge.training.importers.mmdet3d_config import KITTI, AnchorGenerator, Head, MmdetConfig, VoxelLayer
from pd_edge.training.importers.python_config import parse_python_config, read_python_config

NAMES = Names(
    pillar_net="voxel_encoder.pfn_layers.0",
    stages="backbone.blocks",
    first=0,
    upsamplings="neck.deblocks",
    heads=("bbox_head.conv_cls", "bbox_head.conv_reg", "bbox_head.conv_dir_cls"),
)
LINEAR = f"{NAMES.pillar_net}.linear.weight"
WITHOUT_Z_OFFSET = 9
"""Columns of a pillar layer from before 1.0."""


def describe(checkpoint: ForeignCheckpoint, config: Path | None) -> tuple[Described, Names]:
    """Describes mmdetection3d's detector.

    Args:
        checkpoint: Its checkpoint, which mostly holds the configuration as text.
        config: Its Python file, which goes before that text; where there is neither, the KITTI configuration of 1.x is
            meant.

    Raises:
        ConfigError: The configuration cannot be read, lacks a value, has one that this network cannot express, or
            leaves open which coordinates are meant; it is named.
    """
    inside = checkpoint.meta.get("config", checkpoint.meta.get("cfg"))
    if config is not None:
        data, source = read_python_config(config), str(config)
    elif isinstance(inside, str):
        source = f"the configuration in {checkpoint.path.name}"
        data = parse_python_config(inside, source)
    else:
        data, source = KITTI, "mmdetection3d's KITTI configuration of PointPillars for three classes"
    # The model's own type is VoxelNet for SECOND too.
    check_network(data, "model.middle_encoder.type", "PointPillarsScatter", source)
    return _describe(parse_config(data, MmdetConfig, source), checkpoint, source), NAMES


def _describe(found: MmdetConfig, checkpoint: ForeignCheckpoint, source: str) -> Described:
    model, head = found.model, found.model.bbox_head
    voxels = model.voxel_layer if model.data_preprocessor is None else model.data_preprocessor.voxel_layer
    if voxels is None:
        raise ConfigError(f"{source}: no voxel_layer under model or model.data_preprocessor; give all of it")
    old = _has_old_axes(head.anchor_generator, checkpoint, source)
    return Described(
        source=source,
        point_range=voxels.point_cloud_range,
        voxel=voxels.voxel_size,
        classes=_classes(found, checkpoint, source, old=old),
        yaws=head.anchor_generator.rotations,
        anchor_range=_anchor_range(head.anchor_generator, voxels, source),
        direction_start=_direction_start(head, source, old=old),
        columns=_columns(checkpoint, legacy=model.voxel_encoder.legacy),
        old_axes=old,
        plain_upsampling=model.neck.use_conv_for_no_stride,
        decode=DecodeConfig(
            score_threshold=model.test_cfg.score_thr,
            top_k=model.test_cfg.nms_pre,
            nms_iou=model.test_cfg.nms_thr,
            max_boxes=model.test_cfg.max_num,
        ),
        notes=("boxes of mmdetection3d before 1.0 (width first, clockwise yaw from -y) were converted",) if old else (),
    )


def _has_old_axes(generator: AnchorGenerator, checkpoint: ForeignCheckpoint, source: str) -> bool:
    """Whether boxes are those of before 1.0: an anchor at yaw 0 is then longer along y; for squares the version."""
    across = any(size[1] > size[0] for size in generator.sizes)
    along = any(size[0] > size[1] for size in generator.sizes)
    version = str(checkpoint.meta.get("mmdet3d_version", "1" if "mmengine_version" in checkpoint.meta else ""))
    told = version.startswith("0.") if version else None
    told = told if across == along else across if told in (None, across) else None
    if told is None or (across and along):
        raise ConfigError(
            f"{source}: anchor sizes {generator.sizes} of version {version or 'unknown'} leave open whether length or "
            "width comes first (1.0 turned them); give the configuration that the checkpoint was trained with"
        )
    return told


def _classes(found: MmdetConfig, checkpoint: ForeignCheckpoint, source: str, *, old: bool) -> tuple[AnchorClass, ...]:
    generator, train = found.model.bbox_head.anchor_generator, found.model.train_cfg
    names = found.class_names or _names_in(checkpoint) or ()
    assigner = train.assigner if train is not None else None
    limits = assigner if isinstance(assigner, tuple) else (assigner,) * len(names)
    if not names or not len(names) == len(generator.sizes) == len(generator.ranges) == len(limits):
        raise ConfigError(
            f"{source}: classes {names}, {len(generator.sizes)} anchor sizes, {len(generator.ranges)} ranges and "
            f"{len(limits)} assigners; expected as many of each: give a configuration with class_names"
        )
    return tuple(
        AnchorClass(
            name,
            (size[1], size[0], size[2]) if old else size,
            place[2],
            *((limit.pos_iou_thr, limit.neg_iou_thr) if limit is not None else ()),
        )
        for name, size, place, limit in zip(names, generator.sizes, generator.ranges, limits, strict=True)
    )


def _names_in(checkpoint: ForeignCheckpoint) -> tuple[str, ...] | None:
    """The class names that a checkpoint tells."""
    meta = checkpoint.meta
    inner = meta.get("dataset_meta")
    found = meta.get("CLASSES") or (inner.get("classes", inner.get("CLASSES")) if isinstance(inner, dict) else None)
    return tuple(map(str, found)) if isinstance(found, list | tuple) else None


def _anchor_range(generator: AnchorGenerator, voxels: VoxelLayer, source: str) -> tuple[float, float, float, float]:
    """Places of the outermost anchors: the range's edges, or half a location within where they are aligned."""
    places = {(each[0], each[1], each[3], each[4]) for each in generator.ranges}
    if len(places) > 1 or any(each[2] != each[5] for each in generator.ranges):
        raise ConfigError(
            f"{source}: anchor ranges {generator.ranges} differ in x or y, or have a height; not supported"
        )
    x_first, y_first, x_last, y_last = places.pop()
    if generator.type == "Anchor3DRangeGenerator":
        return x_first, y_first, x_last, y_last
    low, high, cell = voxels.point_cloud_range[:2], voxels.point_cloud_range[3:5], voxels.voxel_size[0]
    columns, rows = (round((b - a) / cell) // 2 for a, b in zip(low, high, strict=True))
    half_x, half_y = (x_last - x_first) / columns / 2, (y_last - y_first) / rows / 2
    return x_first + half_x, y_first + half_y, x_last - half_x, y_last - half_y


def _direction_start(head: Head, source: str, *, old: bool) -> float:
    """Yaw at which direction bin 0 begins, as it was trained.

    In the old axes bin 0 is the half circle from ``dir_offset`` on; as old yaw r is -r - pi / 2 in ours, it is the half
    circle before -dir_offset - pi / 2.
    """
    limit = head.dir_limit_offset or 0.0
    if limit != 0 and not (old and limit == 1):
        raise ConfigError(f"{source}: dir_limit_offset {limit} is not supported; expected 0 (before 1.0 also 1)")
    if old:
        return -(head.dir_offset or 0.0) - 1.5 * math.pi
    return -math.pi / 2 if head.dir_offset is None else head.dir_offset


def _columns(checkpoint: ForeignCheckpoint, *, legacy: bool) -> tuple[int, ...]:
    """The point features; their number tells whether there is an offset in z."""
    linear = checkpoint.tensors.get(LINEAR)
    if linear is not None and linear.shape[-1] == WITHOUT_Z_OFFSET:
        return OVERWRITTEN_FLAT if legacy else ABSOLUTE_FLAT
    return OVERWRITTEN if legacy else ABSOLUTE
