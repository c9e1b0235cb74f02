"""Rival methods that compare features: against literal formulas, at equality, and on the way down."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pd_edge.config import GridConfig, ModelConfig, PointPillarsConfig
from pd_edge.training.batches import Batch
from pd_edge.training.method import Lesson, Method, MethodConfig
from pd_edge.training.network import Activations, HeadMaps
from pd_edge.training.pointpillars import PillarBatch, PointPillars
from pd_edge.training.rivals.attention import AttentionTransfer, AttentionTransferConfig, spatial_attention
from pd_edge.training.rivals.contrastive import Contrastive, ContrastiveConfig, info_nce
from pd_edge.training.rivals.fitnets import FitNets, FitNetsConfig
from pd_edge.training.rivals.maps import features_at, pillar_channels, pillars_of
from pd_edge.training.rivals.overhaul import Overhaul, OverhaulConfig, negative_mean, partial_distance
from pd_edge.training.rivals.rdd import (
    RDD,
    RDDConfig,
    balanced_mask,
    feature_disparity,
    regions_around,
    score_divergence,
    score_peaks,
)
from pd_edge.training.rivals.similarity import Similarity, SimilarityConfig, similarities
from pd_edge.training.rivals.zhang_ma import Attention, ZhangMa, ZhangMaConfig, attention, mask, relations
from pd_edge.training.targets import Targets

GRID = GridConfig(x_max=56 * 0.16, y_min=-20 * 0.16, y_max=20 * 0.16)
"""40 x 56 cells: the stages' maps are 20 x 28, 10 x 14 and, odd, 5 x 7."""
TEACHER = PointPillarsConfig(
    grid=GRID, pillar_channels=6, backbone_channels=(4, 6, 8), backbone_layers=(1, 1, 1), neck_channels=4
)
STUDENT = TEACHER.model_copy(update={"pillar_channels": 3, "backbone_channels": (2, 3, 4), "neck_channels": 2})
FRAMES, PILLARS = 2, 60
METHODS: dict[type[MethodConfig], type[Method]] = {
    FitNetsConfig: FitNets,
    AttentionTransferConfig: AttentionTransfer,
    SimilarityConfig: Similarity,
    ContrastiveConfig: Contrastive,
    OverhaulConfig: Overhaul,
    ZhangMaConfig: ZhangMa,
    RDDConfig: RDD,
}
ZERO_WHEN_EQUAL = [FitNetsConfig, AttentionTransferConfig, SimilarityConfig, ZhangMaConfig, RDDConfig]


def random_activations(model: ModelConfig, seed: int, shapes: list[tuple[int, int]] | None = None) -> Activations:
    """Activations after a ReLU, half of them zero; leaves that take gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def rectified(*shape: int) -> Tensor:
        return normal(*shape).relu().requires_grad_()

    shapes = shapes or [(GRID.ny // 2**stage, GRID.nx // 2**stage) for stage in (1, 2, 3)]
    stages = [rectified(FRAMES, c, *shape) for c, shape in zip(model.backbone_channels, shapes, strict=True)]
    heads = HeadMaps(*((normal(FRAMES, channels, *shapes[0]) - 1).requires_grad_() for channels in (18, 42, 12)))
    pillars = rectified(PILLARS, pillar_channels(model))
    return Activations(pillars, stages, rectified(FRAMES, 3 * model.neck_channels, *shapes[0]), heads)


def random_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(FRAMES * GRID.ny * GRID.nx, generator=generator)[:PILLARS].sort().values
    anchors = FRAMES * (GRID.ny // 2) * (GRID.nx // 2) * 6
    positives = torch.randperm(anchors, generator=generator)[:40].sort().values
    none = torch.zeros(0, dtype=torch.int64)
    targets = Targets(positives, torch.zeros(40, dtype=torch.int64), torch.zeros(40, 7), none, none)
    return Batch(PillarBatch(torch.zeros(PILLARS, 10), torch.arange(PILLARS), cells, FRAMES), targets)


def detached(activations: Activations) -> Activations:
    return Activations(
        pillars_of(activations).detach().clone(),
        [each.detach().clone() for each in activations.stages],
        activations.neck.detach().clone(),
        HeadMaps(*(each.detach().clone() for each in activations.heads)),
    )


def leaves(activations: Activations) -> list[Tensor]:
    return [pillars_of(activations), *activations.stages, activations.neck, *activations.heads]


def make(config: MethodConfig, teacher: ModelConfig = TEACHER, student: ModelConfig = STUDENT) -> Method:
    torch.manual_seed(0)
    return METHODS[type(config)](config, teacher, student)


def make_identity(method: Method) -> None:
    """Lets the adapters of two equal widths change nothing."""
    for module in method.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.bias is not None
            nn.init.zeros_(module.bias)
            module.weight.data = torch.eye(*module.weight.shape[:2]).view_as(module.weight)


def loss_of(config: MethodConfig, batch: Batch | None = None) -> Tensor:
    teacher, student = detached(random_activations(TEACHER, 1)), random_activations(STUDENT, 2)
    lesson: Lesson = make(config)(teacher, student, batch or random_batch())
    return lesson.loss.detach()


@pytest.mark.parametrize("kind", METHODS)
def test_gradient_reaches_student_and_adapters_but_not_the_teacher(kind: type[MethodConfig]) -> None:
    method, teacher, student = make(kind()), detached(random_activations(TEACHER, 1)), random_activations(STUDENT, 2)
    lesson = method(teacher, student, random_batch())
    assert lesson.loss.dtype == torch.float32
    assert lesson.loss.shape == ()
    assert all(value.shape == () and not value.requires_grad for value in lesson.diagnostics.values())
    lesson.loss.backward()
    assert any(leaf.grad is not None and leaf.grad.abs().max() > 0 for leaf in leaves(student))
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in method.parameters())
    assert all(leaf.grad is None for leaf in leaves(teacher))


@pytest.mark.parametrize("kind", ZERO_WHEN_EQUAL)
def test_no_loss_and_finite_gradient_where_the_features_are_equal(kind: type[MethodConfig]) -> None:
    method, student = make(kind(), TEACHER, TEACHER), random_activations(TEACHER, 1)
    make_identity(method)
    loss = method(detached(student), student, random_batch()).loss
    assert abs(loss.item()) < 1e-6
    loss.backward()
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves(student))
    other = method(detached(random_activations(TEACHER, 2)), student, random_batch()).loss
    assert other.item() > 1e-4


def test_contrast_is_least_where_the_features_are_equal() -> None:
    teacher = detached(random_activations(TEACHER, 1))
    teacher = teacher._replace(pillars=torch.randn(PILLARS, 6, generator=torch.Generator().manual_seed(0)))
    method = make(ContrastiveConfig(layer="pillars"), TEACHER, TEACHER)
    make_identity(method)
    equal = method(teacher, teacher, random_batch())
    shuffled = teacher._replace(pillars=pillars_of(teacher).roll(1, 0))
    assert equal.diagnostics["found"] == 1
    assert equal.loss < method(teacher, shuffled, random_batch()).loss / 3


@pytest.mark.parametrize(
    "kind", [FitNetsConfig, AttentionTransferConfig, SimilarityConfig, OverhaulConfig, ZhangMaConfig, RDDConfig]
)
def test_maps_of_any_size(kind: type[MethodConfig]) -> None:
    shapes = [(13, 9), (7, 5), (3, 2)]
    teacher, student = (random_activations(model, 1, shapes) for model in (TEACHER, STUDENT))
    batch = random_batch()
    batch = batch._replace(targets=batch.targets._replace(positives=torch.tensor([5, FRAMES * 13 * 9 * 6 - 1])))
    loss = make(kind())(detached(teacher), student, batch).loss
    assert math.isfinite(loss.item())
    assert loss.item() > 0


@pytest.mark.parametrize("kind", METHODS)
def test_maps_of_half_precision_and_channels_last(kind: type[MethodConfig]) -> None:
    def coarse(activations: Activations) -> Activations:
        maps = [each.detach().bfloat16().to(memory_format=torch.channels_last) for each in leaves(activations)[1:]]
        return Activations(pillars_of(activations).detach(), maps[:3], maps[3], HeadMaps(*maps[4:]))

    method, teacher, student = make(kind()), random_activations(TEACHER, 1), random_activations(STUDENT, 2)
    plain = method(teacher, student, random_batch()).loss
    found = method(coarse(teacher), coarse(student), random_batch()).loss
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain, rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", METHODS)
def test_some_steps_lower_the_loss(kind: type[MethodConfig]) -> None:
    method, teacher, student = make(kind()), detached(random_activations(TEACHER, 1)), random_activations(STUDENT, 2)
    optimiser = torch.optim.Adam([*leaves(student), *method.parameters()], 0.02)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        losses.append(method(teacher, student, random_batch()).loss)
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]


FIELDS: list[tuple[type[MethodConfig], dict[str, object]]] = [
    (FitNetsConfig, {"layer": "neck"}),
    (AttentionTransferConfig, {"layers": ("stage3", "neck")}),
    (AttentionTransferConfig, {"power": 1.0}),
    (SimilarityConfig, {"layers": ("stage1",)}),
    (SimilarityConfig, {"patches": 3}),
    (ContrastiveConfig, {"layer": "pillars"}),
    (ContrastiveConfig, {"layer": "stage3"}),
    (ContrastiveConfig, {"samples": 20}),
    (ContrastiveConfig, {"dimension": 7}),
    (ContrastiveConfig, {"temperature": 0.5}),
    (OverhaulConfig, {"layers": ("stage3", "neck")}),
    (ZhangMaConfig, {"layers": ("neck",)}),
    (ZhangMaConfig, {"temperature": 0.1}),
    (ZhangMaConfig, {"mask_weight": 2.0}),
    (ZhangMaConfig, {"attention_weight": 2.0}),
    (ZhangMaConfig, {"relation_weight": 2.0}),
    (ZhangMaConfig, {"relation_side": 4}),
    (RDDConfig, {"proposals": 3}),
    (RDDConfig, {"side": 3}),
    (RDDConfig, {"selected": 0.2}),
    (RDDConfig, {"feature_weight": 2.0}),
    (RDDConfig, {"logit_weight": 2.0}),
]


@pytest.mark.parametrize(("kind", "changed"), FIELDS, ids=str)
def test_every_field_changes_the_loss(kind: type[MethodConfig], changed: dict[str, object]) -> None:
    assert abs(loss_of(kind()) - loss_of(kind.model_validate(changed))) > 1e-6


def test_the_list_of_fields_is_complete() -> None:
    """The loop reads ``weight``, the table of methods reads ``method``."""
    tried = {(kind, name) for kind, changed in FIELDS for name in changed}
    assert tried == {(kind, name) for kind in METHODS for name in kind.model_fields} - {
        (kind, name) for kind in METHODS for name in ("method", "weight")
    }


def places(maps: Tensor) -> Iterator[tuple[int, int, int]]:
    frames, _, height, width = maps.shape
    return ((b, y, x) for b in range(frames) for y in range(height) for x in range(width))


def test_features_at_places() -> None:
    maps = torch.randn(2, 3, 4, 5)
    expected = torch.stack([maps[b, :, y, x] for b, y, x in places(maps)])
    wanted = torch.tensor([[39, 0], [17, 22]])
    torch.testing.assert_close(features_at(maps, wanted), expected[wanted])


def test_fitnets_formula() -> None:
    method, teacher, student = make(FitNetsConfig()), random_activations(TEACHER, 1), random_activations(STUDENT, 2)
    assert isinstance(method, FitNets)
    weight, bias = method.regressor.weight[:, :, 0, 0], method.regressor.bias
    guided = torch.einsum("oc,bchw->bohw", weight, student.stages[1]) + bias[:, None, None]  # type: ignore[index]
    expected = (guided - teacher.stages[1]).square().sum() / 2 / teacher.stages[1].numel()
    torch.testing.assert_close(method(teacher, student, random_batch()).loss, expected)


def test_attention_transfer_formula() -> None:
    torch.testing.assert_close(
        spatial_attention(torch.tensor([[[[1.0, 0.0]], [[1.0, 2.0]]]]), 2), torch.tensor([[2.0, 4.0]]) / math.sqrt(20)
    )
    teacher, student = random_activations(TEACHER, 1), random_activations(STUDENT, 2)
    expected = torch.zeros(())
    for theirs, ours in zip(teacher.stages, student.stages, strict=True):
        for frame in range(FRAMES):
            q_t, q_s = ((each[frame] ** 2).sum(0) for each in (theirs, ours))
            expected = expected + (q_t / q_t.norm() - q_s / q_s.norm()).norm() / 2 / FRAMES
    found = make(AttentionTransferConfig())(teacher, student, random_batch()).loss
    torch.testing.assert_close(found, expected)


def test_similarity_formula() -> None:
    maps = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2).expand(1, 2, 2, 2)  # patches (k, k), k = 1 .. 4
    row = torch.tensor([1.0, 2.0, 3.0, 4.0]) / math.sqrt(30)  # every row of the Gram matrix 2 k l, at unit norm
    torch.testing.assert_close(similarities(maps, 2), row.expand(4, 4))
    teacher, student = random_activations(TEACHER, 1), random_activations(STUDENT, 2)
    b = FRAMES * 8 * 8
    grams = [similarities(each.stages[2], 8) for each in (teacher, student)]
    expected = torch.linalg.matrix_norm(grams[0] - grams[1]).square() / b**2
    torch.testing.assert_close(make(SimilarityConfig())(teacher, student, random_batch()).loss, expected)


def test_contrast_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.functional.normalize(torch.randn(4, 3, generator=generator), dim=1) for _ in range(2))
    cells = torch.tensor([7, 8, 8, 9])  # the two of cell 8 are no negatives of each other
    expected = 0.0
    for i in range(4):
        for one, other in ((ours, theirs), (theirs, ours)):
            against = [j for j in range(4) if j == i or cells[j] != cells[i]]
            likeness = {j: math.exp(float(one[i] @ other[j]) / 0.3) for j in against}
            expected -= math.log(likeness[i] / sum(likeness.values())) / 8
    assert info_nce(ours, theirs, cells, 0.3)[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("layer", "stride"), [("neck", 2), ("stage1", 2), ("stage2", 4), ("stage3", 8)])
def test_contrast_reads_the_pillars_own_places(layer: str, stride: int) -> None:
    """Maps that hold their own coordinates give every sampled pillar its frame, row and column."""
    height, width = GRID.ny // stride, GRID.nx // stride
    maps = torch.stack(torch.meshgrid(*map(torch.arange, (FRAMES, height, width)), indexing="ij"), 1).float()
    activations = Activations(torch.zeros(PILLARS, 6), [maps] * 3, maps, random_activations(TEACHER, 1).heads)
    cells = random_batch().inputs.cells
    method = make(ContrastiveConfig.model_validate({"layer": layer}))
    assert isinstance(method, Contrastive)
    found = features_at(maps, method._places(cells, activations))
    expected = [(c // 2240, c % 2240 // 56 // stride, c % 56 // stride) for c in cells.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected).float())


def test_contrast_samples_evenly_and_no_more_than_there_are() -> None:
    method = make(ContrastiveConfig(samples=4))
    assert isinstance(method, Contrastive)
    assert method._sample(torch.zeros(10)).tolist() == [0, 2, 5, 7]
    assert method._sample(torch.zeros(3)).tolist() == [0, 1, 2]


def test_margin_is_the_mean_negative_response() -> None:
    norm = nn.BatchNorm2d(4)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, -2.0, 0.5, 1e-9]), torch.tensor([0.0, 1.0, -3.0, -0.7])
    drawn = norm.bias + norm.weight * torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([each[each < 0].mean() for each in drawn.unbind(1)])
    torch.testing.assert_close(negative_mean(norm), expected.detach(), rtol=0.01, atol=0)
    assert negative_mean(norm)[0].item() == pytest.approx(-math.sqrt(2 / math.pi))


def test_partial_distance_spares_a_student_below_a_negative_target() -> None:
    target = torch.tensor([2.0, 2.0, -1.0, -1.0])
    student = torch.tensor([1.0, 5.0, -3.0, 0.5])
    assert partial_distance(student, target).item() == pytest.approx((1 + 9 + 0 + 2.25) / 4)
    assert partial_distance(target, target).item() == 0


def test_overhaul_formula_with_the_teachers_margins() -> None:
    torch.manual_seed(0)
    network = PointPillars(TEACHER)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    config = OverhaulConfig(layers=("stage2", "neck"))
    method, teacher, student = make(config), random_activations(TEACHER, 1), random_activations(STUDENT, 2)
    assert isinstance(method, Overhaul)
    method.initialise(PointPillars(STUDENT), network)
    neck = torch.cat([negative_mean(each.norm) for each in network.neck.upsamplings])  # type: ignore[arg-type]
    margins = [negative_mean(network.backbone.stages[1][-1].norm), neck]  # type: ignore[index]
    expected = torch.zeros(())
    for name, share, margin, theirs, ours in (
        ("stage2", 0.5, margins[0], teacher.stages[1], student.stages[1]),
        ("neck", 1.0, margins[1], teacher.neck, student.neck),
    ):
        assert margin.max() < 0
        transformed = method.transforms[name](ours)
        target = theirs + (theirs == 0) * margin[:, None, None]
        counts = (transformed > target) | (target > 0)
        expected = expected + share * (counts * (transformed - target) ** 2).mean()
    torch.testing.assert_close(method(teacher, student, random_batch()).loss, expected)


def test_attention_and_mask_formulas() -> None:
    maps = torch.tensor([[[[1.0, -3.0]], [[0.0, 1.0]]]])
    found = attention(maps)
    torch.testing.assert_close(found, Attention(torch.tensor([[0.5, 2.0]]), torch.tensor([[2.0, 0.5]])))
    weights = mask(found, Attention(torch.tensor([[0.5, 1.0]]), torch.tensor([[1.0, 1.0]])), 0.5)
    e = [math.exp(2.0), math.exp(6.0)]
    torch.testing.assert_close(weights.places, torch.tensor([[2 * each / sum(e) for each in e]]))
    e = [math.exp(6.0), math.exp(3.0)]
    torch.testing.assert_close(weights.channels, torch.tensor([[2 * each / sum(e) for each in e]]))


def test_relation_formula() -> None:
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    cells = maps.flatten(2).transpose(1, 2)
    weights = (torch.einsum("bic,bjc->bij", cells, cells) / math.sqrt(3)).softmax(2)
    torch.testing.assert_close(relations(maps, 4), torch.einsum("bij,bjc->bic", weights, cells))


def test_attention_nonlocal_formula() -> None:
    config = ZhangMaConfig(layers=("stage3",), mask_weight=2, attention_weight=3, relation_weight=5, relation_side=2)
    method, student = make(config, TEACHER, TEACHER), random_activations(TEACHER, 2)
    teacher = detached(random_activations(TEACHER, 1))
    make_identity(method)
    a_t, a_s = teacher.stages[2], student.stages[2].detach()
    at, attended = attention(a_t), attention(a_s)
    weights = mask(attended, at, 0.5)
    weighted = weights.places.view(FRAMES, 1, 5, 7) * weights.channels[:, :, None, None]
    masked = ((a_t - a_s) ** 2 * weighted).mean().sqrt()
    distances = [((x - y) ** 2).mean().sqrt() for x, y in zip(at, attended, strict=True)]
    related = (relations(a_t, 2) - relations(a_s, 2)).square().mean().sqrt()
    expected = 2 * masked + 3 * (distances[0] + distances[1]) + 5 * related
    torch.testing.assert_close(method(teacher, student, random_batch()).loss.detach(), expected)


def test_score_peaks_are_local_maxima_best_first() -> None:
    logits = torch.full((1, 2, 4, 5), -5.0)
    logits[0, 0, 1, 1], logits[0, 0, 1, 2], logits[0, 1, 3, 4] = 1.0, 0.5, 3.0  # the second is beside a higher one
    assert score_peaks(logits, 2).tolist() == [[19, 6]]
    assert score_peaks(logits, 100).shape == (1, 20)


def test_regions_around_a_corner() -> None:
    regions = regions_around(torch.tensor([[6], [19]]), 4, 5, 3)  # frame 0: row 1, column 1; frame 1: the last cell
    assert regions.places[0].tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    assert regions.inside[0].tolist() == [1] * 9
    assert regions.inside[1].tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0]
    kept = regions.places[1][regions.inside[1] > 0]
    assert kept.tolist() == [20 + 13, 20 + 14, 20 + 18, 20 + 19]


def test_balanced_mask_gives_objects_and_background_half_each() -> None:
    objects = torch.tensor([[1.0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    inside = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    expected = [[1 / 2, 1 / 6, 1 / 6, 1 / 6, 0], [1 / 4] * 4 + [0], [1 / 5] * 5]
    torch.testing.assert_close(balanced_mask(objects, inside), torch.tensor(expected))


def test_rdd_divergences_are_those_of_the_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(3, 4, 5, generator=generator) for _ in range(2))
    variance = (ours.flatten(0, 1).var(0, correction=0).mean() + theirs.flatten(0, 1).var(0, correction=0).mean()) / 2
    normals = [torch.distributions.Normal(each, variance.sqrt()) for each in (theirs, ours)]
    expected = torch.distributions.kl_divergence(*normals).mean(2)
    torch.testing.assert_close(feature_disparity(ours, theirs), expected)
    coins = [torch.distributions.Bernoulli(logits=each) for each in (theirs, ours)]
    torch.testing.assert_close(score_divergence(ours, theirs), torch.distributions.kl_divergence(*coins).sum(2))


def test_rdd_learns_only_in_the_most_disparate_region() -> None:
    student = random_activations(TEACHER, 1)
    method = make(RDDConfig(proposals=2, side=3, selected=0.25, logit_weight=0), TEACHER, TEACHER)
    make_identity(method)
    teacher = detached(student)
    peaks = {0: [(5, 5), (15, 20)], 1: [(3, 9), (12, 12)]}
    for frame, centres in peaks.items():
        for row, column in centres:
            teacher.heads.logits[frame, 0, row, column] = 10
            student.heads.logits.data[frame, 0, row, column] = 10
    student.neck.data[1, :, 12, 12] += 3  # the one place where they differ, and inside a region
    method(teacher, student, random_batch()).loss.backward()
    assert student.neck.grad is not None
    assert [tuple(each) for each in student.neck.grad.abs().amax(1).nonzero().tolist()] == [(1, 12, 12)]
