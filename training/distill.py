"""PointDistiller: the student learns the teacher's local graphs, of the pillars that matter, weighted by how much.

Source: Zhang et al., PointDistiller (CVPR 2023, arXiv 2205.11098), section 3, and its released code.
Deviations: ``mode: paper`` writes its own importance, because the point count in the paper's softmax puts all weight
on a handful of pillars (:func:`paper_weights`); it chooses and weighs frame by frame.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pd_edge.config import GridConfig, ModelConfig, PointPillarsConfig, stage_strides
from pd_edge.errors import ConfigError
from pd_edge.training.batches import Batch
from pd_edge.training.local_graph import GraphConv, Group, find_neighbours, graph_difference
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import Activations, Network
from pd_edge.training.pointpillars import PillarBatch
from pd_edge.training.rivals.guided_init import GuidedInit, GuidedInitConfig
from pd_edge.training.rivals.maps import pillar_channels, pillars_of

RELEASED_PILLARS, RELEASED_BATCH = 6000, 6
RELEASED_TEMPERATURE, RELEASED_COUNT_CAP = 1e-2, 32
"""Literals of the released detector file: pillars of a whole batch of six, tau, and points in a hard voxel."""


class PointDistillerConfig(MethodConfig):
    """Which pillars are compared, how, and with what weights."""

    method: Literal["pointdistiller"] = Field("pointdistiller", description="Local distillation with reweighting.")
    mode: Literal["paper", "released-code"] = Field(
        "paper",
        description="paper: chosen and weighted per frame. released-code: 6000 pillars per six frames, over the batch, "
        "weighted by softmax(min(points, 32) / 0.01), whatever else is left at its default; of PointPillars alone.",
    )
    parts: Literal["full", "local", "reweighting"] = Field(
        "full",
        description="full; local: every chosen pillar weighs the same; reweighting: features in place of graphs.",
    )
    where: Literal["pillars", "stages"] = Field(
        "pillars", description="What is compared: pillar features, or the backbone's maps, cell by cell."
    )
    pillars: int = Field(1000, gt=0, description="Pillars (map cells) compared per frame, N; all where fewer exist.")
    neighbours: int = Field(128, gt=0, description="Neighbours of each, K, itself included; all where fewer exist.")
    tau: float = Field(
        0.3, gt=0, description="Temperature of the weights; from 0.275 on a tenth of the pillars count, whatever comes."
    )
    graphs: Literal["trained", "unscaled", "teacher-fixed"] = Field(
        "trained",
        description="trained: both graph convolutions, as published, which lets the loss shrink with their scale; "
        "unscaled: their batch norms keep scale 1 and shift 0; teacher-fixed: the teacher's stays as it was drawn.",
    )
    width: int = Field(32, gt=0, description="Channels of the graph features.")
    space: Literal["features", "metric"] = Field(
        "features", description="Where neighbours are near: in the teacher's features, or on the ground."
    )
    start: Literal["random", "teacher"] = Field(
        "random", description="The student's first weights: random, or the teacher's as method guided-init takes them."
    )
    chunk: int | None = Field(
        None, gt=0, description="Pillars whose neighbours are in memory at once; by default as suits the device."
    )

    @model_validator(mode="after")
    def _all_fields_act(self) -> "PointDistillerConfig":
        for name in self._idle_fields():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                choice = f"mode {self.mode!r}" if self.mode == "released-code" else f"parts {self.parts!r}"
                raise ValueError(
                    f"{name} {value!r} does not act with {choice}; leave it out, or use mode 'paper' and parts 'full'"
                )
        return self

    def _idle_fields(self) -> list[str]:
        """The fields that the others leave nothing to do."""
        if self.mode == "released-code":
            return ["parts", "where", "pillars", "neighbours", "tau", "graphs", "width", "space"]
        return {"full": [], "local": ["tau"], "reweighting": ["neighbours", "graphs", "width", "space"]}[self.parts]


class Diagnostics(NamedTuple):
    """What the weights and graphs of a batch look like; means over the frames (released-code: the batch as one).

    Attributes:
        selected: Chosen pillars.
        effective: Effective number of them, ``1 / sum(phi^2)``.
        effective_share: The same as a share of the chosen.
        entropy: Entropy of phi [nat]; its maximum is the logarithm of ``selected``.
        neighbour_distance: Mean distance to a neighbour, in feature units or metres; 0 where none are looked for.
    """

    selected: Tensor
    effective: Tensor
    effective_share: Tensor
    entropy: Tensor
    neighbour_distance: Tensor


class Rows(NamedTuple):
    """What is compared: pillars, or the cells of a map, frame after frame.

    Attributes:
        teacher: (P, C_t) features.
        student: (P, C_s) features.
        importance: (P,), not negative: points of a pillar, or the teacher's greatest channel of a cell.
        positions: (P, 2) on the ground [m].
        sizes: Rows of each frame, which add up to P.
    """

    teacher: Tensor
    student: Tensor
    importance: Tensor
    positions: Tensor
    sizes: Sequence[int]

    @classmethod
    def of_pillars(cls, teacher: Activations, student: Activations, batch: Batch, grid: GridConfig) -> "Rows":
        """The batch's pillars, as important as they have points."""
        _, pillar, cells, size = cast("PillarBatch", batch.inputs)
        cell = cells % (grid.ny * grid.nx)
        return cls(
            pillars_of(teacher).detach(),
            pillars_of(student),
            torch.bincount(pillar, minlength=len(cells)).float(),
            torch.stack([cell % grid.nx, cell // grid.nx], dim=1) * grid.cell,
            torch.bincount(cells // (grid.ny * grid.nx), minlength=size).tolist(),
        )

    @classmethod
    def of_maps(cls, teacher: Tensor, student: Tensor, cell: float) -> "Rows":
        """The cells of two BEV maps (B, C_t, H, W) and (B, C_s, H, W), as important as their highest teacher channel.

        Args:
            teacher: The teacher's map, not negative.
            student: The student's.
            cell: Side of a cell [m].
        """
        frames, _, height, width = teacher.shape
        rows = teacher.detach().permute(0, 2, 3, 1).flatten(0, 2).float()
        place = torch.arange(frames * height * width, device=teacher.device) % (height * width)
        return cls(
            rows,
            student.permute(0, 2, 3, 1).flatten(0, 2).float(),
            rows.amax(1),
            torch.stack([place % width, place // width], dim=1) * cell,
            [height * width] * frames,
        )


def paper_weights(importance: Tensor, tau: float) -> Tensor:
    """Weights phi of a frame's chosen pillars, ``softmax(s / tau)`` with ``s = log(1 + m) / log(1 + max m)``.

    s is within 0..1, so that no weight exceeds another by more than the factor ``r = exp(1 / tau)``. Of such weights
    the effective number ``1 / sum(phi^2)`` is at least the share ``4 r / (1 + r)^2 = 1 / cosh(1 / (2 tau))^2`` of them
    (Polya and Szego's inverse of Cauchy-Schwarz): 13% at tau 0.3, a tenth from tau 0.275 on, whatever the counts.
    On real KITTI frames it is 83% of the 1000 fullest pillars (median of 64 frames; 12% at tau 0.1).

    Args:
        importance: (N,) m, not negative: points of each pillar, or a map's greatest channel.
        tau: Temperature.

    Source: PointDistiller, section 3.3, for the softmax; the logarithm is this project's, since counts are heavy-tailed
    and the difference of two of them over the paper's tau of 0.01 leaves one pillar.
    """
    level = torch.log1p(importance)
    return torch.softmax(level / level.amax().clamp_min(1e-6) / tau, dim=0)


def least_effective_share(tau: float) -> float:
    """The share of the chosen pillars that count at least, see :func:`paper_weights`."""
    return 1 / math.cosh(1 / (2 * tau)) ** 2


def released_weights(counts: Tensor) -> Tensor:
    """Weights phi (N,) as the released code computes them: nearly all of it on the pillars of 32 points or more."""
    return torch.softmax(counts.clamp(max=RELEASED_COUNT_CAP) / RELEASED_TEMPERATURE, dim=0)


class Choice(NamedTuple):
    """The chosen rows of a frame, or of the batch.

    Attributes:
        first: Where the rows among which neighbours are looked for begin.
        size: How many there are.
        chosen: (N,) int64, rows counted from ``first``.
        phi: (N,) weights, sum 1.
    """

    first: int
    size: int
    chosen: Tensor
    phi: Tensor


class LocalDistillation(nn.Module):
    """PointDistiller's loss; owns both graph convolutions, which are trained with the student and left behind.

    ``loss = 2 * mean(N * phi_i * (G_T,i - G_S,i)^2)``, the mean over the chosen pillars i of all frames, their K
    neighbours and all channels. ``parts: local`` sets ``N * phi_i`` to 1; ``parts: reweighting`` puts the features in
    the place of the graphs, the student's brought to the teacher's width by one linear layer where they differ. Both
    are of one scale with the full loss.
    """

    def __init__(self, config: PointDistillerConfig, teacher_channels: int, student_channels: int) -> None:
        super().__init__()
        self.config = config
        if config.parts == "reweighting":
            same = teacher_channels == student_channels
            self.adapter = nn.Identity() if same else nn.Linear(student_channels, teacher_channels)
        else:
            self.teacher_graph = GraphConv(teacher_channels, config.width)
            self.student_graph = GraphConv(student_channels, config.width)
            if config.graphs == "teacher-fixed":
                self.teacher_graph.requires_grad_(requires_grad=False)
            elif config.graphs == "unscaled":
                for graph in (self.teacher_graph, self.student_graph):
                    graph.norm.requires_grad_(requires_grad=False)

    def forward(self, rows: Rows) -> tuple[Tensor, Diagnostics]:
        """The loss, scalar float32, and what it was made of."""
        choices = self.choose(rows)
        if self.config.parts == "reweighting":
            return self._features(rows, choices)
        with torch.no_grad():
            found = [self._neighbours(rows, choice) for choice in choices]
        groups = [
            Group(choice.first + choice.chosen, choice.first + neighbours, self._factor(choice))
            for choice, (neighbours, _) in zip(choices, found, strict=True)
        ]
        graphs = (self.teacher_graph, self.student_graph)
        loss = graph_difference(graphs, (rows.teacher, rows.student), groups, self.config.chunk)
        distance = torch.stack([squared.sqrt().mean() for _, squared in found]).mean()
        return 2 * loss, diagnose(choices, distance)

    @torch.no_grad()
    def choose(self, rows: Rows) -> list[Choice]:
        """The most important rows, of each frame (paper) or of the batch, and their weights."""
        if self.config.mode == "released-code":
            wanted = RELEASED_PILLARS * len(rows.sizes) // RELEASED_BATCH
            capped = rows.importance.clamp(max=RELEASED_COUNT_CAP)
            top = capped.topk(min(wanted, len(capped)), sorted=False)
            return [Choice(0, len(capped), top.indices, released_weights(top.values))]
        choices, first = [], 0
        for size in rows.sizes:
            if size:
                top = rows.importance[first : first + size].topk(min(self.config.pillars, size), sorted=False)
                choices.append(Choice(first, size, top.indices, paper_weights(top.values, self.config.tau)))
            first += size
        return choices

    def _neighbours(self, rows: Rows, choice: Choice) -> tuple[Tensor, Tensor]:
        points = rows.positions if self.config.space == "metric" else rows.teacher
        there = points[choice.first : choice.first + choice.size]
        return find_neighbours(there, choice.chosen, self.config.neighbours, self.config.chunk)

    def _factor(self, choice: Choice) -> Tensor:
        """The loss's ``N * phi`` (N,)."""
        return torch.ones_like(choice.phi) if self.config.parts == "local" else len(choice.phi) * choice.phi

    def _features(self, rows: Rows, choices: Sequence[Choice]) -> tuple[Tensor, Diagnostics]:
        chosen = torch.cat([choice.first + choice.chosen for choice in choices])
        student = self.adapter(rows.student.index_select(0, chosen))
        squares = (rows.teacher.index_select(0, chosen) - student).square().mean(1)
        factor = torch.cat([self._factor(choice) for choice in choices])
        return 2 * (factor * squares).mean(), diagnose(choices, squares.new_zeros(()))


def diagnose(choices: Sequence[Choice], distance: Tensor) -> Diagnostics:
    """The diagnostics of some choices; the distance is handed through."""
    sizes = distance.new_tensor([len(choice.phi) for choice in choices])
    effective = torch.stack([1 / choice.phi.square().sum() for choice in choices])
    entropy = torch.stack([torch.special.entr(choice.phi).sum() for choice in choices])
    return Diagnostics(sizes.mean(), effective.mean(), (effective / sizes).mean(), entropy.mean(), distance)


class PointDistiller(Method):
    """PointDistiller on a detector's pillar features, or on the maps of its backbone (the sum over the stages).

    Raises:
        ConfigError: What is to be compared is not what the detector has.
    """

    def __init__(self, config: PointDistillerConfig, teacher: ModelConfig, student: ModelConfig) -> None:
        super().__init__()
        if config.mode == "released-code" and not isinstance(student, PointPillarsConfig):
            raise ConfigError(
                "mode 'released-code' compares pillars by their points, which PointPillars alone has, not "
                f"{student.detector}; use mode 'paper' with where: stages"
            )
        self._grid, self._on_maps = student.grid, config.where == "stages"
        self._cells = [stride * student.grid.cell for stride in stage_strides(student)]
        if self._on_maps:
            pairs = list(zip(teacher.backbone_channels, student.backbone_channels, strict=True))
        else:
            pairs = [(pillar_channels(teacher), pillar_channels(student))]
        self.losses = nn.ModuleList(LocalDistillation(config, *channels) for channels in pairs)
        self._start = GuidedInit(GuidedInitConfig(), teacher, student) if config.start == "teacher" else Method()

    def initialise(self, student: Network, teacher: Network) -> None:
        """Leaves the student as it is, or starts it from the teacher's channels."""
        self._start.initialise(student, teacher)

    def forward(self, teacher: Activations, student: Activations, batch: Batch) -> Lesson:
        """The loss of a batch, and the diagnostics, one set per stage where maps are compared."""
        with torch.autocast(student.neck.device.type, enabled=False):
            found = [loss(rows) for loss, rows in zip(self.losses, self._rows(teacher, student, batch), strict=True)]
        total = torch.stack([loss for loss, _ in found]).sum()
        named: dict[str, Tensor] = {}
        for stage, (_, diagnostics) in enumerate(found):
            prefix = f"stage{stage}/" if self._on_maps else ""
            named |= {prefix + name: value for name, value in diagnostics._asdict().items()}
        return Lesson(total, named)

    def _rows(self, teacher: Activations, student: Activations, batch: Batch) -> list[Rows]:
        if not self._on_maps:
            return [Rows.of_pillars(teacher, student, batch, self._grid)]
        stages = zip(teacher.stages, student.stages, self._cells, strict=True)
        return [Rows.of_maps(theirs, ours, cell) for theirs, ours, cell in stages]
