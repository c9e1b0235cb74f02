"""Foreign weights to this project's network, so that the heads come out the same."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pd_edge.decode import ANCHOR_YAWS
from pd_edge.errors import EngineError
from pd_edge.pillars import POINT_FEATURES
from pd_edge.training.checkpoint import put_weights
from pd_edge.training.importers.checkpoint_file import ForeignCheckpoint
from pd_edge.training.importers.foreign import Described, Names, model_config
from pd_edge.training.network import BOX_CODE, DIRECTION_BINS, EPSILON
from pd_edge.training.pointpillars import PointPillars

STAGES = 3
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
INTENSITY = 3
"""Place among the point features."""
LENGTH, WIDTH, YAW = 3, 4, 6
"""Places in a box code; in the old axes the first two change places."""
Tensors = dict[str, Tensor]


class Converted(NamedTuple):
    """A foreign network as one of ours.

    Attributes:
        model: The network, in evaluation mode.
        padded: Whether a canvas channel for the padding was added (:func:`carry_padding`).
    """

    model: PointPillars
    padded: bool


class _Weights:
    """A checkpoint's tensors, each to be taken once."""

    def __init__(self, checkpoint: ForeignCheckpoint) -> None:
        self._path = checkpoint.path
        self._left = dict(checkpoint.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Tensor:
        if name not in self._left:
            raise EngineError(
                f"{self._path}: no {name} in it, but for instance {next(iter(self._left), 'nothing')}; "
                "give a PointPillars checkpoint of the project named"
            )
        return self._left.pop(name)

    def norm(self, source: str, target: str) -> Tensors:
        """A batch norm's tensors under our name."""
        counter = torch.zeros((), dtype=torch.long)
        return {
            f"{target}.{each}": self.take(f"{source}.{each}")
            if f"{source}.{each}" in self or each in NORM[:4]
            else counter
            for each in NORM
        }

    def refuse_rest(self) -> None:
        """Raises where a tensor of the network was not taken: then the network is another one."""
        rest = [name for name, value in self._left.items() if value.is_floating_point()]
        if rest:
            raise EngineError(
                f"{self._path}: {rest[0]} (and {len(rest) - 1} more) belongs to no part of a PointPillars network with "
                "one pillar layer, three stages and an anchor head; such a network cannot be imported"
            )


def convert(checkpoint: ForeignCheckpoint, names: Names, described: Described) -> Converted:
    """Builds this project's network with a foreign one's weights.

    Raises:
        ConfigError: The foreign grid cannot be expressed.
        EngineError: A weight is missing, left over or of a shape that the configuration does not explain.
    """
    weights = _Weights(checkpoint)
    state = _pillar_net(weights, names, described)
    layers = [_stage(weights, names, stage, state) for stage in range(STAGES)]
    for stage in range(STAGES):
        _upsampling(weights, names, stage, state, plain=stage == 0 and described.plain_upsampling)
    state |= _head(weights, names, described)
    weights.refuse_rest()
    padded = carry_padding(state)
    model = PointPillars(model_config(described, _channels(state, layers)))
    put_weights(model, state, str(checkpoint.path))
    return Converted(model.eval(), padded)


def _channels(state: Tensors, layers: list[int]) -> dict[str, Any]:
    """The fields of a configuration that weights tell."""
    return {
        "pillar_channels": len(state["pillar_net.linear.weight"]),
        "backbone_channels": [len(state[f"backbone.stages.{stage}.0.conv.weight"]) for stage in range(STAGES)],
        "backbone_layers": layers,
        "neck_channels": state["neck.upsamplings.0.conv.weight"].shape[1],
    }


def _pillar_net(weights: _Weights, names: Names, described: Described) -> Tensors:
    """The pillar feature net: a foreign column goes to the feature of ours that it is; two of one feature add up.

    The layer is linear, so that the weight of intensities of 0..1 is that of the foreign ones times their greatest.
    """
    foreign = weights.take(f"{names.pillar_net}.linear.weight")
    if foreign.ndim != 2 or foreign.shape[1] != len(described.columns):
        raise EngineError(
            f"{names.pillar_net}.linear.weight has shape {tuple(foreign.shape)}, but {described.source} tells of "
            f"{len(described.columns)} point features; give the configuration that the checkpoint was trained with"
        )
    weight = foreign.new_zeros((len(foreign), POINT_FEATURES))
    weight.index_add_(1, torch.tensor(described.columns), foreign)
    weight[:, INTENSITY] *= described.intensity_max
    return {
        "pillar_net.linear.weight": weight,
        **weights.norm(f"{names.pillar_net}.norm", "pillar_net.norm"),
    }


def _stage(weights: _Weights, names: Names, stage: int, state: Tensors) -> int:
    """Adds a backbone stage to ``state``; returns its layers after the first."""
    layer = 0
    while layer == 0 or f"{names.stages}.{stage}.{names.first + 3 * layer}.weight" in weights:
        place = names.first + 3 * layer
        ours = f"backbone.stages.{stage}.{layer}"
        state[f"{ours}.conv.weight"] = weights.take(f"{names.stages}.{stage}.{place}.weight")
        state |= weights.norm(f"{names.stages}.{stage}.{place + 1}", f"{ours}.norm")
        layer += 1
    return layer - 1


def _upsampling(weights: _Weights, names: Names, stage: int, state: Tensors, *, plain: bool) -> None:
    """Adds an upsampling to ``state``; a plain 1x1 convolution is a transposed one with its weight transposed."""
    weight = weights.take(f"{names.upsamplings}.{stage}.0.weight")
    state[f"neck.upsamplings.{stage}.conv.weight"] = weight.transpose(0, 1) if plain else weight
    state |= weights.norm(f"{names.upsamplings}.{stage}.1", f"neck.upsamplings.{stage}.norm")


def _head(weights: _Weights, names: Names, described: Described) -> Tensors:
    """The three convolutions of the head as one. Anchors come class by class and yaw by yaw, as ours do."""
    parts: list[list[Tensor]] = []
    sizes = (len(described.classes), BOX_CODE, DIRECTION_BINS)
    count = len(described.classes) * len(ANCHOR_YAWS)
    for head, size in zip(names.heads, sizes, strict=True):
        weight, bias = weights.take(f"{head}.weight"), weights.take(f"{head}.bias")
        if weight.shape[0] != count * size or bias.shape != weight.shape[:1]:
            raise EngineError(
                f"{head}.weight has {weight.shape[0]} outputs, expected {count * size}: {size} for each of {count} "
                f"anchors of {len(described.classes)} classes; give the configuration of this checkpoint, of a head "
                "with sigmoid scores and boxes of seven numbers"
            )
        parts.append([each.reshape(len(described.classes), len(ANCHOR_YAWS), size, -1) for each in (weight, bias)])
    if described.old_axes:
        parts = [[each.flip(1) for each in pair] for pair in parts]  # yaw 0 was across, pi / 2 along
    _turn_boxes(parts[1], described)
    weight, bias = (torch.cat([pair[i].flatten(0, 2) for pair in parts]) for i in (0, 1))
    return {"head.weight": weight[:, :, None, None], "head.bias": bias[:, 0]}


def _turn_boxes(boxes: list[Tensor], described: Described) -> None:
    """Brings the box codes to our anchors' yaws and, where the axes are old, to our axes.

    A box's yaw is residual plus anchor, up to half a turn, which the direction bin decides. Foreign anchors stand at
    1.57 instead of pi / 2: the difference goes into the bias. In the old axes, old yaw r is yaw -r - pi / 2 in ours,
    and the first two sizes are width and length.

    Source: mmdetection3d, notes on compatibility of 1.0.0rc0 and its tool that rewrites old annotations.
    """
    weight, bias = (each.clone() for each in boxes)
    yaws = described.yaws
    if described.old_axes:
        order = list(range(BOX_CODE))
        order[LENGTH], order[WIDTH] = WIDTH, LENGTH
        weight, bias = weight[:, :, order], bias[:, :, order]
        weight[:, :, YAW], bias[:, :, YAW] = -weight[:, :, YAW], -bias[:, :, YAW]
        yaws = (-yaws[1] - math.pi / 2, -yaws[0] - math.pi / 2)
    for index, (foreign, own) in enumerate(zip(yaws, ANCHOR_YAWS, strict=True)):
        bias[:, index, YAW] += math.remainder(foreign - own, math.pi)
    boxes[:] = [weight, bias]


def carry_padding(state: Tensors) -> bool:
    """Carries the padding of hard voxelization in the weights, so that no runtime has to know of it.

    A pillar of fewer than 32 points was filled up with zero points. They pass linear layer, batch norm and ReLU as
    ``floor = ReLU(norm(0))``, one constant per channel, and take part in the maximum: the foreign canvas is
    ``max(floor, ReLU(x))`` where a pillar is and 0 elsewhere. That equals ``ReLU(x - floor) + floor * occupied``. So
    ``floor`` is taken off the norm's bias, and one more channel says ``occupied``; the first convolution, linear in the
    canvas, gets that channel's weight: its other weights times ``floor``. The heads stay the same, in every runtime.

    The channel's value is the largest floor, which widens no INT8 range of the canvas. A pillar of 32 points or more
    had no padding and lost the points beyond; ours has the floor in every occupied pillar and drops no point.

    Args:
        state: The network's tensors, with no room for the channel yet; changed.

    Returns:
        Whether a channel was added; none is needed where every floor is 0.
    """
    norm = {each: state[f"pillar_net.norm.{each}"].double() for each in NORM[:4]}
    zero = norm["bias"] - norm["running_mean"] * norm["weight"] / (norm["running_var"] + EPSILON).sqrt()
    floor = zero.clamp(min=0)
    if not floor.any():
        return False
    value = floor.max()
    extra = {"weight": 1.0, "bias": float(value), "running_mean": 0.0, "running_var": 1.0}
    norm["bias"] -= floor
    for each, number in extra.items():
        joined = torch.cat([norm[each], torch.tensor([number], dtype=torch.float64)])
        state[f"pillar_net.norm.{each}"] = joined.float()
    linear = state["pillar_net.linear.weight"]
    state["pillar_net.linear.weight"] = torch.cat([linear, linear.new_zeros((1, POINT_FEATURES))])
    first = state["backbone.stages.0.0.conv.weight"]
    column = (first.double() * floor[:, None, None]).sum(1, keepdim=True) / value
    state["backbone.stages.0.0.conv.weight"] = torch.cat([first, column.float()], dim=1)
    return True
