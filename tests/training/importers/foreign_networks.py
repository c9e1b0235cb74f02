"""Random PointPillars of the other projects: their checkpoints, and what they compute as plain functions.

Written from their definitions and apart from the importer: hard voxelization with zeros behind the points, features in
their order, anchors and boxes in their convention.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Array = npt.NDArray[np.float64]
RANGE, CELL, CAP = (0.0, -2.56, -3.0, 10.24, 2.56, 1.0), 0.16, 32
NX, NY = 64, 32
PILLARS, STAGES, NECK, LAYERS = 6, (8, 8, 12), 4, (1, 2, 0)
CLASSES = 2
HALF_PI = 1.57


class Layout(NamedTuple):
    """How a project names and arranges things."""

    vfe: str
    blocks: str
    first: int
    deblocks: str
    heads: tuple[str, str, str]


PCDET = Layout(
    "vfe.pfn_layers.0",
    "backbone_2d.blocks",
    1,
    "backbone_2d.deblocks",
    ("dense_head.conv_cls", "dense_head.conv_box", "dense_head.conv_dir_cls"),
)
MMDET = Layout(
    "voxel_encoder.pfn_layers.0",
    "backbone.blocks",
    0,
    "neck.deblocks",
    ("bbox_head.conv_cls", "bbox_head.conv_reg", "bbox_head.conv_dir_cls"),
)


def random_state(layout: Layout, features: int, *, plain: bool = False, shift: float = 0.0) -> dict[str, Tensor]:
    """A state dict in a project's names; ``shift`` moves the bias of the pillar layer's norm."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}

    def normal(name: str, *shape: int, scale: float = 1.0) -> None:
        state[name] = torch.randn(shape, generator=generator) * scale

    def norm(name: str, channels: int) -> None:
        for each, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 0.5), ("running_mean", -0.3, 0.3)):
            state[f"{name}.{each}"] = torch.empty(channels).uniform_(low, high, generator=generator)
        state[f"{name}.running_var"] = torch.empty(channels).uniform_(0.5, 1.5, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    normal(f"{layout.vfe}.linear.weight", PILLARS, features, scale=0.3)
    norm(f"{layout.vfe}.norm", PILLARS)
    state[f"{layout.vfe}.norm.bias"] += shift
    before = PILLARS
    for stage, (channels, layers) in enumerate(zip(STAGES, LAYERS, strict=True)):
        for layer in range(layers + 1):
            place = layout.first + 3 * layer
            normal(f"{layout.blocks}.{stage}.{place}.weight", channels, before, 3, 3, scale=(9 * before / 2) ** -0.5)
            norm(f"{layout.blocks}.{stage}.{place + 1}", channels)
            before = channels
        size = 2**stage
        shape = (NECK, channels) if plain and stage == 0 else (channels, NECK)
        normal(f"{layout.deblocks}.{stage}.0.weight", *shape, size, size, scale=channels**-0.5)
        norm(f"{layout.deblocks}.{stage}.1", NECK)
    for head, width in zip(layout.heads, (CLASSES, 7, 2), strict=True):
        normal(f"{head}.weight", 2 * CLASSES * width, 3 * NECK, 1, 1, scale=0.1)
        normal(f"{head}.bias", 2 * CLASSES * width, scale=0.1)
    return state


def cloud() -> npt.NDArray[np.float32]:
    """A cloud of 1,500 points in the grid, none on a border of cells; up to 31 points in a pillar."""
    rng = np.random.default_rng(5)
    cells = rng.integers(0, (NX, NY), (300, 2))
    points = np.empty((300, 5, 4))
    points[..., :2] = (cells[:, None] + rng.uniform(0.05, 0.95, (300, 5, 2))) * CELL + RANGE[:2]
    points[..., 2] = rng.uniform(-2.9, 0.9, (300, 5))
    points[..., 3] = rng.uniform(0, 1, (300, 5))
    return points.reshape(-1, 4).astype(np.float32)


def foreign_features(points: Array, centre: Array, kind: str) -> Array:
    """Features (n, F) of a pillar's points in a project's order."""
    xyz, intensity = points[:, :3], points[:, 3:]
    to_mean, to_centre = xyz - xyz.mean(0), xyz - centre
    flat = to_centre[:, :2]
    return np.hstack(
        {
            "absolute": [xyz, intensity, to_mean, to_centre],
            "relative": [intensity, to_mean, to_centre],
            "overwritten": [to_centre, intensity, to_mean, to_centre],
            "overwritten-flat": [flat, xyz[:, 2:], intensity, to_mean, flat],
        }[kind]
    )


def batch_norm(maps: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return functional.batch_norm(maps, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3).relu()


def foreign_canvas(state: dict[str, Tensor], layout: Layout, points: npt.NDArray[np.float32], kind: str) -> Tensor:
    """Hard voxelization, pillar layer over all 32 places of a pillar, and scatter."""
    canvas = torch.zeros(1, PILLARS, NY, NX)
    columns, rows = np.floor((points[:, :2] - np.array(RANGE[:2])) / CELL).astype(int).T
    for row, column in set(zip(rows.tolist(), columns.tolist(), strict=True)):
        inside = points[(rows == row) & (columns == column)].astype(np.float64)
        assert len(inside) < CAP
        centre = np.array([RANGE[0] + (column + 0.5) * CELL, RANGE[1] + (row + 0.5) * CELL, -1.0])
        given = foreign_features(inside, centre, kind)
        padded = np.zeros((CAP, given.shape[1]), np.float32)
        padded[: len(given)] = given
        encoded = torch.from_numpy(padded) @ state[f"{layout.vfe}.linear.weight"].T
        canvas[0, :, row, column] = batch_norm(encoded, state, f"{layout.vfe}.norm").amax(0)
    return canvas


def foreign_heads(state: dict[str, Tensor], layout: Layout, canvas: Tensor, *, plain: bool = False) -> list[Array]:
    """Heads as (H * W, classes, 2 anchors, width) for width of classes, boxes and directions."""
    maps, upsampled = canvas, []
    for stage, layers in enumerate(LAYERS):
        for layer in range(layers + 1):
            place = layout.first + 3 * layer
            weight = state[f"{layout.blocks}.{stage}.{place}.weight"]
            maps = functional.conv2d(maps, weight, stride=1 if layer else 2, padding=1)
            maps = batch_norm(maps, state, f"{layout.blocks}.{stage}.{place + 1}")
        weight = state[f"{layout.deblocks}.{stage}.0.weight"]
        grown = (
            functional.conv2d(maps, weight)
            if plain and stage == 0
            else functional.conv_transpose2d(maps, weight, stride=2**stage)
        )
        upsampled.append(batch_norm(grown, state, f"{layout.deblocks}.{stage}.1"))
    neck = torch.cat(upsampled, 1)
    heads = [functional.conv2d(neck, state[f"{each}.weight"], state[f"{each}.bias"]) for each in layout.heads]
    return [by_anchor(each.numpy()) for each in heads]


def by_anchor(maps: npt.NDArray[Any]) -> Array:
    """A head (1, classes * 2 * width, H, W) as (H * W, classes, 2, width)."""
    rows: Array = maps[0].transpose(1, 2, 0).reshape(maps.shape[2] * maps.shape[3], CLASSES, 2, -1).astype(np.float64)
    return rows


def foreign_boxes(
    heads: list[Array], places: tuple[Array, Array], sizes: Array, bottoms: Array, offset: float
) -> Array:
    """Boxes as both projects decode them: size and yaw in their convention, place at the geometric centre.

    Args:
        heads: As :func:`foreign_heads`.
        places: x (W,) and y (H,) of the anchors.
        sizes: (classes, 3) anchor sizes in the project's order.
        bottoms: (classes,) heights of the anchors' undersides.
        offset: Yaw at which direction bin 0 begins.
    """
    residuals, bins = heads[1], heads[2].argmax(-1)
    y, x = (each.ravel() for each in np.meshgrid(places[1], places[0], indexing="ij"))
    diagonal = np.hypot(sizes[:, 0], sizes[:, 1])[None, :, None]
    boxes = np.empty_like(residuals)
    boxes[..., 0] = residuals[..., 0] * diagonal + x[:, None, None]
    boxes[..., 1] = residuals[..., 1] * diagonal + y[:, None, None]
    boxes[..., 2] = residuals[..., 2] * sizes[:, None, 2] + (bottoms + sizes[:, 2] / 2)[:, None]
    boxes[..., 3:6] = np.exp(residuals[..., 3:6]) * sizes[:, None]
    yaw = residuals[..., 6] + np.array([0, HALF_PI])
    boxes[..., 6] = np.mod(yaw - offset, math.pi) + offset + math.pi * bins
    return boxes


def old_to_new(boxes: Array) -> Array:
    """mmdetection3d's boxes of before 1.0 in ours: width and length change places, yaw 0 was -y and grew clockwise."""
    turned = boxes.copy()
    turned[..., 3], turned[..., 4] = boxes[..., 4], boxes[..., 3]
    turned[..., 6] = -boxes[..., 6] - math.pi / 2
    return turned
