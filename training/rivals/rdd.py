"""Representation disparity-aware distillation: regions in which the student differs most from its teacher.

Source: Li et al., Representation Disparity-aware Distillation for 3D Object Detection (ICCV 2023), figure 3.

Built are its steps: region pairs at the proposals of both networks, cut from the same place of both; the disparity of
each pair; selection of the pairs with the greatest; a mask that balances objects and background in a pair; distillation
of features and of logits inside the selected pairs.

The formulas are our own: the paper derives its from the information bottleneck, and these are not reproduced. A pair's
disparity is the Kullback-Leibler divergence of two normal distributions with the features as means and one variance,
the mean of both networks' (taken without gradient): a squared distance over twice that variance, near the Mahalanobis
distance by which the same group's IDa-Det (ECCV 2022) chooses its pairs. Class scores are compared as Bernoulli
distributions. Regions are squares around score peaks, not the proposals' boxes; object cells are those with a positive
anchor.
"""

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pd_edge.config import ModelConfig
from pd_edge.training.batches import Batch
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import DIRECTION_BINS, Activations
from pd_edge.training.rivals.maps import adapter, features_at


class RDDConfig(MethodConfig):
    """Representation disparity-aware distillation."""

    method: Literal["rdd"] = Field("rdd", description="Name of the method.")
    proposals: int = Field(64, gt=0, description="Score peaks taken of each network in each frame.")
    side: int = Field(7, gt=0, description="Side of a region [cells of the head's map].")
    selected: float = Field(0.5, gt=0, le=1, description="Share of the batch's region pairs, by greatest disparity.")
    feature_weight: float = Field(1.0, ge=0, description="Weight of the disparity of the features.")
    logit_weight: float = Field(5.0, ge=0, description="Weight of the divergence of the class scores.")


class Regions(NamedTuple):
    """Squares of K cells: ``places`` (R, K) int64 flat over (B, H, W), ``inside`` (R, K) float32, 0 beyond the map."""

    places: Tensor
    inside: Tensor


def score_peaks(logits: Tensor, count: int) -> Tensor:
    """The places (B, count) int64, flat over (H, W), whose score tops its eight neighbours', best first.

    Args:
        logits: Class scores (B, A*classes, H, W), their greatest counts.
        count: Places per frame; all of them on a smaller map, and lesser places after the last peak.
    """
    scores = logits.detach().float().amax(1)
    highest = functional.max_pool2d(scores[:, None], 3, stride=1, padding=1)[:, 0]
    peaks = scores.masked_fill(scores < highest, -torch.inf).flatten(1)
    return peaks.topk(min(count, peaks.shape[1])).indices


def regions_around(centres: Tensor, height: int, width: int, side: int) -> Regions:
    """Squares around places (B, n) int64, flat over (H, W), of a map."""
    reach = torch.arange(side, device=centres.device) - side // 2
    row = (centres // width)[:, :, None, None] + reach[:, None]
    column = (centres % width)[:, :, None, None] + reach
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    frame = torch.arange(len(centres), device=centres.device)[:, None, None, None]
    places = (frame * height + row.clamp(0, height - 1)) * width + column.clamp(0, width - 1)
    return Regions(places.flatten(0, 1).flatten(1), inside.flatten(0, 1).flatten(1).float())


def balanced_mask(objects: Tensor, inside: Tensor) -> Tensor:
    """Weights (R, K) of a region's cells: objects and background share alike, one alone has all; rows sum to one.

    Args:
        objects: (R, K) float32, 1 at cells of an object.
        inside: (R, K) float32, 1 at cells of the map; at least one in each row.
    """
    objects = objects * inside
    background = inside - objects
    shares = [part / part.sum(1, keepdim=True).clamp(min=1) for part in (objects, background)]
    return functional.normalize(shares[0] + shares[1], p=1, dim=1)


def feature_disparity(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of two features of a place, each the mean of a normal distribution of their common variance.

    Args:
        student: (R, K, C) float32, in the teacher's width.
        teacher: (R, K, C) float32.

    Returns:
        (R, K) float32, averaged over channels.
    """
    # One variance for all channels: a channel the teacher hardly uses would outweigh the others. The student's part
    # keeps the loss near one while the student's features are still of another size.
    ours, theirs = (each.detach().flatten(0, 1).var(0, correction=0).mean() for each in (student, teacher))
    return (student - teacher).square().mean(2) / (ours + theirs).clamp(min=1e-6)


def score_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence (R, K) of the scores' Bernoulli distributions, summed over the last axis of the logits (R, K, S)."""
    truth = torch.sigmoid(teacher)
    crosses = [
        functional.binary_cross_entropy_with_logits(each, truth, reduction="none") for each in (student, teacher)
    ]
    return (crosses[0] - crosses[1]).sum(2)


class RDD(Method):
    """Features and class scores in the regions where student and teacher differ most."""

    def __init__(self, config: RDDConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        self._config = config
        self.adapter = adapter(teacher, student, "neck")

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The loss of the selected regions."""
        regions = self._regions(teacher, student)
        weights = balanced_mask(self._objects(teacher, batch)[regions.places], regions.inside)
        adapted = functional.linear(
            features_at(student.neck, regions.places), self.adapter.weight.flatten(1), self.adapter.bias
        )
        disparity = (feature_disparity(adapted, features_at(teacher.neck, regions.places)) * weights).sum(1)
        features, selected = disparity.topk(math.ceil(self._config.selected * len(disparity)))
        places = regions.places[selected]
        scores = [features_at(each.heads.logits, places) for each in (student, teacher)]
        logits = (score_divergence(scores[0], scores[1]) * weights[selected]).sum(1)
        loss = self._config.feature_weight * features.mean() + self._config.logit_weight * logits.mean()
        diagnostics = {"disparity": disparity.mean(), "selected": features.mean(), "logits": logits.mean()}
        return Lesson(loss, {name: value.detach() for name, value in diagnostics.items()})

    def _regions(self, teacher: Activations, student: Activations) -> Regions:
        height, width = teacher.neck.shape[2:]
        centres = [score_peaks(each.heads.logits, self._config.proposals) for each in (teacher, student)]
        return regions_around(torch.cat(centres, dim=1), height, width, self._config.side)

    def _objects(self, activations: Activations, batch: Batch) -> Tensor:
        """(B*H*W,) float32, 1 at places with an anchor that learns an object."""
        directions = activations.heads.directions
        places = directions.new_zeros(directions[:, 0].numel(), dtype=torch.float32)
        return places.index_fill(0, batch.targets.positives // (directions.shape[1] // DIRECTION_BINS), 1.0)
