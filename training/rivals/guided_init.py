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

from pd_edge.config import ModelConfig
from pd_edge.errors import ConfigError
from pd_edge.training.method import Method, NoLossConfig
from pd_edge.training.model import ConvBlock, PointPillars

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
    def initialise(self, student: PointPillars, teacher: PointPillars) -> None:
        """Overwrites all of the student's weights and batch norm statistics."""
        encoder = self._kept(teacher.pillar_net.norm, student.pillar_net.norm)
        student.pillar_net.linear.weight.copy_(teacher.pillar_net.linear.weight[encoder])
        _copy_norm(teacher.pillar_net.norm, student.pillar_net.norm, encoder)
        stages = self._copy_backbone(student, teacher, encoder)
        inputs = self._copy_neck(student, teacher, stages)
        student.head.weight.copy_(teacher.head.weight[:, inputs])
        student.head.state_dict()["bias"].copy_(teacher.head.state_dict()["bias"])

    def _copy_backbone(self, student: PointPillars, teacher: PointPillars, inputs: Tensor) -> list[Tensor]:
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

    def _copy_neck(self, student: PointPillars, teacher: PointPillars, stages: Sequence[Tensor]) -> Tensor:
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
    for name in ("backbone_layers", "classes"):
        theirs, ours = getattr(teacher, name), getattr(student, name)
        if theirs != ours:
            raise ConfigError(
                f"guided-init: the student's {name} are {ours}, the teacher's {theirs}; "
                "give the student the teacher's, or take another method"
            )
    widths = [(each.pillar_channels, *each.backbone_channels, each.neck_channels) for each in (teacher, student)]
    if any(ours > theirs for theirs, ours in zip(*widths, strict=True)):
        raise ConfigError(
            f"guided-init: the student's channels {widths[1]} (pillars, three stages, neck) exceed the teacher's "
            f"{widths[0]}; take a teacher at least as wide everywhere, or another method"
        )
