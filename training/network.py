"""What the detectors have in common: a canvas goes through a backbone, a neck and an anchor head.

The state dict is a public format (checkpoints, the deployed bundle and importers rely on it). After those of the
detector's own encoder, its names are::

    backbone.stages.S.L.conv.weight  backbone.stages.S.L.norm.*        stage S, layer L; layer 0 has the stage's stride
    neck.upsamplings.S.conv.weight  neck.upsamplings.S.norm.*          transposed convolution of stage S's map
    head.weight  head.bias                                             class, box and direction channels, in this order

Source: Lang et al., PointPillars (CVPR 2019), and Yan et al., SECOND (Sensors 2018), which share this part.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pd_edge.config import ModelConfig
from pd_edge.decode import ANCHOR_YAWS
from pd_edge.encoders import EncoderNet

BOX_CODE = 7
DIRECTION_BINS = 2
PRIOR = 0.01
"""Score of every anchor before training, so that the background does not swamp the first steps (focal loss)."""
EPSILON, MOMENTUM = 1e-3, 0.01


class HeadMaps(NamedTuple):
    """Head outputs over the first stage's (H, W) map, with A anchors per location (class*2 + yaw index).

    Attributes:
        logits: (B, A*classes, H, W), class scores before the sigmoid, channel ``a*classes + class``.
        residuals: (B, A*7, H, W), encoded boxes, channel ``a*7 + k``.
        directions: (B, A*2, H, W), direction scores before the softmax, channel ``a*2 + bin``.
    """

    logits: Tensor
    residuals: Tensor
    directions: Tensor


class Activations(NamedTuple):
    """What the detector computes on its way to the heads, for distillation to compare.

    Attributes:
        pillars: (P, C) float32, output of the pillar feature net, not negative; rows as in ``PillarBatch.cells``. None
            of a detector without pillars.
        stages: The backbone's maps (B, C_s, H_s, W_s), after their ReLU; strides as
            :func:`pd_edge.config.stage_strides` tells.
        neck: (B, stages*neck_channels, H, W), the map that the head reads, after its ReLU.
        heads: The outputs.
    """

    pillars: Tensor | None
    stages: list[Tensor]
    neck: Tensor
    heads: HeadMaps


class Encoded(NamedTuple):
    """What a detector's encoder makes of a batch.

    Attributes:
        canvas: (B, C, H, W), channels-last in memory, zero where nothing is.
        pillars: As :class:`Activations` has them.
    """

    canvas: Tensor
    pillars: Tensor | None = None


class ConvBlock(nn.Module):
    """Convolution (plain or transposed) without bias, batch norm and ReLU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        return torch.relu(self.norm(self.conv(maps)))


class Backbone(nn.Module):
    """Stages of 3x3 convolutions; the first layer of each has the stage's stride."""

    def __init__(self, inputs: int, channels: Sequence[int], layers: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        before = [inputs, *channels[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvBlock(nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)),
                *(ConvBlock(nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)) for _ in range(count)),
            )
            for c_in, c_out, count, stride in zip(before, channels, layers, strides, strict=True)
        )

    def forward(self, canvas: Tensor) -> list[Tensor]:
        """Canvas (B, C, H, W) to the maps of the stages."""
        maps = [canvas]
        for stage in self.stages:
            maps = [*maps, stage(maps[-1])]
        return maps[1:]


class Neck(nn.Module):
    """Brings the stages' maps to the size of the first and one width, and concatenates them."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.upsamplings = nn.ModuleList(
            ConvBlock(nn.ConvTranspose2d(c_in, channels, 2**stage, stride=2**stage, bias=False))
            for stage, c_in in enumerate(inputs)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the stages to (B, stages*channels, H, W)."""
        return torch.cat([upsample(each) for upsample, each in zip(self.upsamplings, maps, strict=True)], dim=1)


class Network(nn.Module):
    """A detector: an encoder of its own, which a subclass adds first, then :meth:`add_bev_parts`.

    One 1x1 convolution makes all head channels, so that the widest map is read once; the split is free.
    """

    backbone: Backbone
    neck: Neck
    head: nn.Conv2d

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        anchors = len(ANCHOR_YAWS) * len(config.classes)
        self.head_channels = [anchors * size for size in (len(config.classes), BOX_CODE, DIRECTION_BINS)]

    def add_bev_parts(self) -> None:
        """Adds backbone, neck and head, and draws their weights."""
        config = self.config
        inputs, widths = config.canvas_shape[1], config.backbone_channels
        self.backbone = Backbone(inputs, widths, config.backbone_layers, config.backbone_strides)
        self.neck = Neck(widths, config.neck_channels)
        self.head = nn.Conv2d(len(widths) * config.neck_channels, sum(self.head_channels), 1)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation of the convolutions, small head weights, and the focal prior as class bias."""
        for module in (*self.backbone.modules(), *self.neck.modules()):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        bias = torch.zeros_like(self.head.bias)  # type: ignore[arg-type]
        bias[: self.head_channels[0]] = -math.log((1 - PRIOR) / PRIOR)
        self.head.bias = nn.Parameter(bias)

    @abstractmethod
    def encode(self, inputs: Any) -> Encoded:
        """The canvas of a batch, of the detector's own kind of inputs."""

    @abstractmethod
    def fold_encoder(self) -> EncoderNet:
        """The encoder for the C++ twin, batch norms (inference statistics) folded in."""

    def forward(self, inputs: Any) -> HeadMaps:
        """The head outputs for a batch."""
        return self.activations(inputs).heads

    def activations(self, inputs: Any) -> Activations:
        """The head outputs for a batch, and what led to them."""
        encoded = self.encode(inputs)
        stages = self.backbone(encoded.canvas)
        neck = self.neck(stages)
        return Activations(encoded.pillars, stages, neck, self._split(self.head(neck)))

    def dense(self, canvas: Tensor) -> HeadMaps:
        """Canvas (B, C, H, W) to head outputs: the part that is exported to the runtimes."""
        return self._split(self.head(self.neck(self.backbone(canvas))))

    def _split(self, maps: Tensor) -> HeadMaps:
        logits, residuals, directions = torch.split(maps, self.head_channels, dim=1)
        return HeadMaps(logits, residuals, directions)


NetworkT = TypeVar("NetworkT", bound=Network)


def channels_last(model: NetworkT) -> NetworkT:
    """Lays the model's weights out channels-last, as its maps are: the faster order for convolutions."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def fold_norms(model: NetworkT) -> NetworkT:
    """Folds the batch norm (inference statistics) of every convolution into its weights; changes the model, returns it.

    What remains computes the same in fewer passes over the maps, and is no longer a state dict of the public format.
    """
    for block in model.modules():
        if isinstance(block, ConvBlock):
            transposed = isinstance(block.conv, nn.ConvTranspose2d)
            block.conv = fuse_conv_bn_eval(block.conv, block.norm, transpose=transposed)
            block.norm = nn.Identity()  # type: ignore[assignment]
    return model
