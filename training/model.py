"""PointPillars in PyTorch: pillar feature net, canvas, backbone, neck and head, and the three sizes trained here.

The state dict is a public format (checkpoints, the deployed bundle and importers rely on it). Its names are::

    pillar_net.linear.weight  pillar_net.norm.*                        points of a pillar -> pillar feature
    backbone.stages.S.L.conv.weight  backbone.stages.S.L.norm.*        stage S, layer L; layer 0 has stride 2
    neck.upsamplings.S.conv.weight  neck.upsamplings.S.norm.*          transposed convolution of stage S's map
    head.weight  head.bias                                             class, box and direction channels, in this order

Source: Lang et al., PointPillars (CVPR 2019), with the channel counts of PointDistiller's teacher and students.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pd_edge.config import ModelConfig, PointPillarsConfig
from pd_edge.decode import ANCHOR_YAWS
from pd_edge.pillars import POINT_FEATURES, PillarNet

BOX_CODE = 7
DIRECTION_BINS = 2
PRIOR = 0.01
"""Score of every anchor before training, so that the background does not swamp the first steps (focal loss)."""
EPSILON, MOMENTUM = 1e-3, 0.01


class PillarBatch(NamedTuple):
    """The pillars of a batch of frames.

    Attributes:
        features: (M, 10) float32, the decorated points of all frames; see :mod:`pd_edge.pillars`.
        pillar: (M,) int64, each point's pillar, an index into ``cells``.
        cells: (P,) int64, each pillar's place in the batch's canvas: ``b*ny*nx + iy*nx + ix``.
        size: Number of frames B.
    """

    features: Tensor
    pillar: Tensor
    cells: Tensor
    size: int

    def to(self, device: torch.device) -> "PillarBatch":
        """The same batch on another device."""
        move = [tensor.to(device, non_blocking=True) for tensor in self[:3]]
        return PillarBatch(move[0], move[1], move[2], self.size)


class HeadMaps(NamedTuple):
    """Head outputs over the (H, W) = (ny/2, nx/2) feature map, with A anchors per location (class*2 + yaw index).

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
        pillars: (P, C) float32, output of the pillar feature net, not negative; rows as in ``PillarBatch.cells``.
        stages: Backbone maps (B, C_s, ny/2**(s+1), nx/2**(s+1)) of stages s = 0, 1, 2, after their ReLU.
        neck: (B, 3*neck_channels, ny/2, nx/2), the map that the head reads, after its ReLU.
        heads: The outputs.
    """

    pillars: Tensor
    stages: list[Tensor]
    neck: Tensor
    heads: HeadMaps


def teacher_config() -> ModelConfig:
    """The full-size detector (pointpillars-teacher)."""
    return PointPillarsConfig(pillar_channels=64, backbone_channels=(64, 128, 256), neck_channels=128)


def student_4x_config() -> ModelConfig:
    """Half the teacher's channels, a quarter of its work (pointpillars-4x)."""
    return PointPillarsConfig(pillar_channels=32, backbone_channels=(32, 64, 128), neck_channels=64)


def student_16x_config() -> ModelConfig:
    """A quarter of the teacher's channels, a sixteenth of its work (pointpillars-16x)."""
    return PointPillarsConfig(pillar_channels=16, backbone_channels=(16, 32, 64), neck_channels=32)


class PillarFeatureNet(nn.Module):
    """Points to pillar features: linear, batch norm, maximum over the pillar's points, ReLU.

    ReLU is monotonic, so that taking it after the maximum equals taking it before, with fewer values to touch. The
    arithmetic stays in float32 under autocast: bfloat16 resolves a quarter of a metre at 60 m.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(POINT_FEATURES, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, batch: PillarBatch) -> Tensor:
        """Encodes each pillar; returns (P, C) float32."""
        with torch.autocast(batch.features.device.type, enabled=False):
            encoded: Tensor = self.norm(self.linear(batch.features))
            lowest = encoded.new_full((len(batch.cells), encoded.shape[1]), -math.inf)
            owner = batch.pillar[:, None].expand_as(encoded)
            return lowest.scatter_reduce(0, owner, encoded, "amax").relu()

    def fold(self) -> PillarNet:
        """Linear layer and batch norm (inference statistics) as one weight (10, C) and bias (C,), float32."""
        norm = {name: tensor.double() for name, tensor in self.norm.state_dict().items()}
        scale = norm["weight"] / (norm["running_var"] + self.norm.eps).sqrt()
        weight = self.linear.weight.double().T * scale
        bias = norm["bias"] - norm["running_mean"] * scale
        return PillarNet(_float32(weight), _float32(bias))


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
    """Three stages of 3x3 convolutions, each of which halves the resolution in its first layer."""

    def __init__(self, inputs: int, channels: Sequence[int], layers: Sequence[int]) -> None:
        super().__init__()
        before = [inputs, *channels[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvBlock(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)),
                *(ConvBlock(nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)) for _ in range(count)),
            )
            for c_in, c_out, count in zip(before, channels, layers, strict=True)
        )

    def forward(self, canvas: Tensor) -> list[Tensor]:
        """Canvas (B, C, ny, nx) to the maps of the stages, at strides 2, 4 and 8."""
        maps = [canvas]
        for stage in self.stages:
            maps = [*maps, stage(maps[-1])]
        return maps[1:]


class Neck(nn.Module):
    """Brings the stages' maps to stride 2 and one width, and concatenates them."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.upsamplings = nn.ModuleList(
            ConvBlock(nn.ConvTranspose2d(c_in, channels, 2**stage, stride=2**stage, bias=False))
            for stage, c_in in enumerate(inputs)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the stages to (B, 3*channels, ny/2, nx/2)."""
        return torch.cat([upsample(each) for upsample, each in zip(self.upsamplings, maps, strict=True)], dim=1)


class PointPillars(nn.Module):
    """The detector: :class:`PillarBatch` in, :class:`HeadMaps` out.

    One 1x1 convolution makes all head channels, so that the widest map is read once; the split is free.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        anchors = len(ANCHOR_YAWS) * len(config.classes)
        self.head_channels = [anchors * size for size in (len(config.classes), BOX_CODE, DIRECTION_BINS)]
        self.pillar_net = PillarFeatureNet(config.pillar_channels)
        self.backbone = Backbone(config.pillar_channels, config.backbone_channels, config.backbone_layers)
        self.neck = Neck(config.backbone_channels, config.neck_channels)
        self.head = nn.Conv2d(3 * config.neck_channels, sum(self.head_channels), 1)
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

    def forward(self, batch: PillarBatch) -> HeadMaps:
        """The head outputs for a batch of pillars."""
        return self.activations(batch).heads

    def activations(self, batch: PillarBatch) -> Activations:
        """The head outputs for a batch of pillars, and what led to them."""
        pillars = self.pillar_net(batch)
        stages = self.backbone(self.canvas(pillars, batch))
        neck = self.neck(stages)
        return Activations(pillars, stages, neck, self._split(self.head(neck)))

    def canvas(self, encoded: Tensor, batch: PillarBatch) -> Tensor:
        """Places pillar features (P, C) on the canvas (B, C, ny, nx), channels-last in memory, zero elsewhere."""
        grid = self.config.grid
        device = encoded.device.type
        if torch.is_autocast_enabled(device):
            encoded = encoded.to(torch.get_autocast_dtype(device))
        rows = encoded.new_zeros((batch.size * grid.ny * grid.nx, encoded.shape[1]))
        rows = rows.index_copy(0, batch.cells, encoded)
        return rows.view(batch.size, grid.ny, grid.nx, -1).permute(0, 3, 1, 2)

    def dense(self, canvas: Tensor) -> HeadMaps:
        """Canvas (B, C, ny, nx) to head outputs: the part that is exported to the runtimes."""
        return self._split(self.head(self.neck(self.backbone(canvas))))

    def _split(self, maps: Tensor) -> HeadMaps:
        logits, residuals, directions = torch.split(maps, self.head_channels, dim=1)
        return HeadMaps(logits, residuals, directions)

    def fold_pillar_net(self) -> PillarNet:
        """The pillar feature net for the C++ encoder, batch norm folded in; see :meth:`PillarFeatureNet.fold`."""
        return self.pillar_net.fold()


def channels_last(model: PointPillars) -> PointPillars:
    """Lays the model's weights out channels-last, as its maps are: the faster order for convolutions."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def fold_norms(model: PointPillars) -> PointPillars:
    """Folds the batch norm (inference statistics) of every convolution into its weights; changes the model, returns it.

    What remains computes the same in fewer passes over the maps, and is no longer a state dict of the public format.
    """
    for block in model.modules():
        if isinstance(block, ConvBlock):
            transposed = isinstance(block.conv, nn.ConvTranspose2d)
            block.conv = fuse_conv_bn_eval(block.conv, block.norm, transpose=transposed)
            block.norm = nn.Identity()  # type: ignore[assignment]
    return model


def _float32(tensor: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
