"""Teacher-guided initialisation: the student starts from a part of the teacher's channels instead of random weights.

Source: Yang et al., Towards Efficient 3D Object Detection with Knowledge Distillation (SparseKD, NeurIPS 2022), teacher
guided initialisation; ``first`` is what the authors' released configurations use, ``scale`` their choice by
batch norm scale (network slimming). The channels kept of a layer are the next layer's inputs, through the neck's
concatenation up to the head. Nothing is rescaled for the inputs that are gone; training adapts that within steps.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from pd_edge.config import ModelConfig, SecondConfig, folded_heights
from pd_edge.errors import ConfigError
from pd_edge.training.method import Method, NoLossConfig
from pd_edge.training.network import ConvBlock, Network
from pd_edge.training.pointpillars import PointPillars
from pd_edge.training.second import Second
from pd_edge.training.voxel_encoder import SparseBlock, SparseEncoder
from pd_edge.voxels import VOXEL_FEATURES

Norm = nn.BatchNorm1d | nn.BatchNorm2d


class GuidedInitConfig(NoLossConfig):
    """Teacher-guided initialisation. There is no loss."""

    method: Literal["guided-init"] = Field("guided-init", description="Name of the method.")
    channels: Literal["first", "scale"] = Field(
        "first", description="Channels kept of each layer: its first, or those with the largest batch norm scale."
    )


class GuidedInit(Method):
    """Copies a sub-network of the teacher into the student before training; no loss.

    Raises:
        ConfigError: The student is wider than the teacher somewhere, or has other layers or classes.
    """

    compares = False

    def __init__(self, config: GuidedInitConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        self._by_scale = config.channels == "scale"
        _check_nested(teacher, student)

    @torch.no_grad()
    def initialise(self, student: Network, teacher: Network) -> None:
        """Overwrites all of the student's weights and batch norm statistics."""
        stages = self._copy_backbone(student, teacher, self._copy_encoder(student, teacher))
        inputs = self._copy_neck(student, teacher, stages)
        student.head.weight.copy_(teacher.head.weight[:, inputs])
        student.head.state_dict()["bias"].copy_(teacher.head.state_dict()["bias"])

    def _copy_encoder(self, student: Network, teacher: Network) -> Tensor:
        """Copies the encoder; returns the channels kept of the canvas."""
        if isinstance(student, Second) and isinstance(teacher, Second):
            kept = self._copy_sparse_layers(student.encoder, teacher.encoder)
            heights = folded_heights(student.config.grid.nz)  # channel c of height z is c * heights + z on the canvas
            return (kept[:, None] * heights + torch.arange(heights, device=kept.device)).flatten()
        ours, theirs = (cast("PointPillars", model).pillar_net for model in (student, teacher))
        kept = self._kept(theirs.norm, ours.norm)
        ours.linear.weight.copy_(theirs.linear.weight[kept])
        _copy_norm(theirs.norm, ours.norm, kept)
        return kept

    def _copy_sparse_layers(self, student: SparseEncoder, teacher: SparseEncoder) -> Tensor:
        """Copies the sparse layers; returns the channels kept of the last."""
        inputs = torch.arange(VOXEL_FEATURES, device=next(teacher.parameters()).device)
        for ours, theirs in zip(*(cast("list[SparseBlock]", each.layers) for each in (student, teacher)), strict=True):
            outputs = self._kept(theirs.norm, ours.norm)
            ours.conv.weight.copy_(theirs.conv.weight[:, inputs][:, :, outputs])
            _copy_norm(theirs.norm, ours.norm, outputs)
            inputs = outputs
        return inputs

    def _copy_backbone(self, student: Network, teacher: Network, inputs: Tensor) -> list[Tensor]:
        """Copies the stages; returns the channels kept of each stage's map."""
        kept = []
        for ours, theirs in zip(student.backbone.stages, teacher.backbone.stages, strict=True):
            for block, source in zip(_blocks(ours), _blocks(theirs), strict=True):
                outputs = self._kept(source.norm, block.norm)
                block.conv.weight.copy_(source.conv.weight[outputs][:, inputs])
                _copy_norm(source.norm, block.norm, outputs)
                inputs = outputs
            kept.append(inputs)
        return kept

    def _copy_neck(self, student: Network, teacher: Network, stages: Sequence[Tensor]) -> Tensor:
        """Copies the upsamplings; returns the channels kept of the concatenated map."""
        kept = []
        for place, inputs in enumerate(stages):
            block, source = (cast("ConvBlock", model.neck.upsamplings[place]) for model in (student, teacher))
            outputs = self._kept(source.norm, block.norm)
            block.conv.weight.copy_(source.conv.weight[inputs][:, outputs])  # transposed: inputs come first
            _copy_norm(source.norm, block.norm, outputs)
            kept.append(outputs + place * teacher.config.neck_channels)
        return torch.cat(kept)

    def _kept(self, source: Norm, copy: Norm) -> Tensor:
        """The teacher's channels that the student keeps, ascending."""
        if self._by_scale:
            return source.weight.abs().topk(copy.num_features).indices.sort().values
        return torch.arange(copy.num_features, device=source.weight.device)


def _blocks(stage: nn.Module) -> list[ConvBlock]:
    return cast("list[ConvBlock]", list(stage.children()))


def _copy_norm(source: Norm, copy: Norm, kept: Tensor) -> None:
    tensors = source.state_dict()
    for name, tensor in copy.state_dict().items():
        tensor.copy_(tensors[name][kept] if tensor.ndim else tensors[name])


def _check_nested(teacher: ModelConfig, student: ModelConfig) -> None:
    for name in ("detector", "backbone_layers", "classes"):
        theirs, ours = getattr(teacher, name), getattr(student, name)
        if theirs != ours:
            raise ConfigError(
                f"guided-init: the student's {name} are {ours}, the teacher's {theirs}; "
                "give the student the teacher's, or take another method"
            )
    widths = [_widths(each) for each in (teacher, student)]
    if any(ours > theirs for theirs, ours in zip(*widths, strict=True)):
        raise ConfigError(
            f"guided-init: the student's channels {widths[1]} (encoder, stages, neck) exceed the teacher's "
            f"{widths[0]}; take a teacher at least as wide everywhere, or another method"
        )


def _widths(model: ModelConfig) -> tuple[int, ...]:
    """Channels of the encoder's layers, of the stages and of the neck."""
    bev = (*model.backbone_channels, model.neck_channels)
    if isinstance(model, SecondConfig):
        return (*model.sparse_channels, model.folded_channels, *bev)
    return (model.pillar_channels, *bev)
