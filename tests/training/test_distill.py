"""PointDistiller's loss against a plain twin that gathers, concatenates, convolves, normalises and subtracts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from pd_edge.pillars import pillarize
from pd_edge.training.batches import Batch
from pd_edge.training.distill import (
    Diagnostics,
    LocalDistillation,
    PointDistiller,
    PointDistillerConfig,
    Rows,
    least_effective_share,
    paper_weights,
    released_weights,
)
from pd_edge.training.local_graph import GraphConv, find_neighbours
from pd_edge.training.network import Activations
from pd_edge.training.pointpillars import PointPillars, batch_pillars
from pd_edge.training.targets import Targets

TEACHER, STUDENT = 8, 5
FRAMES = (40, 0, 3, 55)
"""Rows per frame: enough, none at all, fewer than centres and neighbours, enough."""


def some_rows(seed: int = 0, sizes: Sequence[int] = FRAMES, dtype: torch.dtype = torch.float64) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)

    def normal(width: int) -> Tensor:
        return torch.randn(count, width, generator=generator, dtype=dtype)

    # No ties: which of equally important pillars, or equally near neighbours, are taken is open.
    importance = 1 + torch.randperm(count, generator=generator).to(dtype)
    return Rows(normal(TEACHER).abs(), normal(STUDENT).requires_grad_(), importance, 9 * normal(2), list(sizes))


def config(**fields: Any) -> PointDistillerConfig:
    graph = {} if fields.get("parts") == "reweighting" else {"neighbours": 6, "width": 7}
    return PointDistillerConfig(**{"pillars": 20, **graph, **fields})


def local_distillation(fields: PointDistillerConfig, seed: int = 0) -> LocalDistillation:
    torch.manual_seed(seed)
    module = LocalDistillation(fields, TEACHER, STUDENT).double()
    for each in module.modules():
        if isinstance(each, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(each.weight, 0.5, 1.5)
            torch.nn.init.normal_(each.bias)
    return module


def twin(module: LocalDistillation, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss as the paper writes it, and the running statistics that torch's own batch norm leaves."""
    fields, first = module.config, 0
    spans, chosen, weights, neighbours = [], [], [], []
    for size in rows.sizes:
        spans.append(slice(first, first + size))
        first += size
    for span in spans:
        there = torch.arange(first)[span]
        centres = sorted(there.tolist(), key=lambda row: -float(rows.importance[row]))[: fields.pillars]
        if not centres:
            continue
        score = (1 + rows.importance[centres]).log() / (1 + rows.importance[centres]).log().max()
        chosen.append(centres)
        weights.append(len(centres) * torch.softmax(score / fields.tau, 0))
        points = rows.teacher if fields.space == "features" else rows.positions
        distance = torch.cdist(points[centres], points[there])
        neighbours.append(there[distance.argsort(1)[:, : fields.neighbours]])
    if fields.parts == "local":
        weights = [torch.ones_like(each) for each in weights]
    return twin_graphs(module, rows, chosen, neighbours, weights)


def twin_graphs(
    module: LocalDistillation, rows: Rows, chosen: list[list[int]], neighbours: list[Tensor], weights: list[Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """All edges in one long list, each with its concatenated features."""
    centre = torch.cat([torch.tensor(c).repeat_interleave(n.shape[1]) for c, n in zip(chosen, neighbours, strict=True)])
    weight = torch.cat([w.repeat_interleave(n.shape[1]) for w, n in zip(weights, neighbours, strict=True)])
    neighbour = torch.cat([each.flatten() for each in neighbours])
    running: dict[str, Tensor] = {}
    graphs = []
    for name, features in (("teacher_graph", rows.teacher), ("student_graph", rows.student)):
        graph: GraphConv = getattr(module, name)
        edges = torch.cat([features[neighbour], features[centre]], 1) @ graph.linear.weight.T
        mean, variance = torch.zeros_like(edges[0]), torch.ones_like(edges[0])
        norm = graph.norm
        edges = functional.batch_norm(edges, mean, variance, norm.weight, norm.bias, training=True, momentum=0.1)
        graphs.append(edges.relu())
        running |= {f"{name}.norm.running_mean": mean, f"{name}.norm.running_var": variance}
    return 2 * (weight[:, None] * (graphs[0] - graphs[1]) ** 2).mean(), running


def told(name: str) -> Callable[[str], str]:
    """Names what differs in the message of a failed comparison."""
    return lambda message: f"{name}: {message}"


def gradients(loss: Tensor, module: LocalDistillation, rows: Rows) -> dict[str, Tensor]:
    named = dict(module.named_parameters()) | {"student features": rows.student}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"parts": "local"},
        {"space": "metric"},
        {"neighbours": 1, "tau": 0.05},
        {"pillars": 1},
        {"chunk": 1},
        {"chunk": 3},
        {"pillars": 100, "neighbours": 100},
    ],
    ids=str,
)
def test_value_gradients_and_statistics_are_those_of_the_plain_form(fields: dict[str, Any]) -> None:
    module, rows = local_distillation(config(**fields)), some_rows()
    loss, _ = module(rows)
    expected, running = twin(module, rows)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    found, wanted = gradients(loss, module, rows), gradients(expected, module, rows)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-8, atol=1e-11, msg=told(name))
    for name, value in running.items():
        torch.testing.assert_close(module.get_buffer(name), value, rtol=1e-9, atol=1e-12)
    assert module.get_buffer("student_graph.norm.num_batches_tracked") == 1


def cast(rows: Rows, dtype: torch.dtype, device: str = "cpu") -> Rows:
    teacher, student, importance, positions = (each.detach().to(device, dtype) for each in rows[:4])
    return Rows(teacher, student.requires_grad_(), importance, positions, rows.sizes)


def test_single_precision_keeps_five_digits() -> None:
    module = local_distillation(config(pillars=300, neighbours=40)).float()
    single = cast(some_rows(1, (700, 500)), torch.float32)
    loss, _ = module(single)
    assert loss.dtype == torch.float32
    # Rounding may swap the 40th neighbour for the 41st, so that the twin takes over the choice.
    choices = module.choose(single)
    chosen = [(choice.first + choice.chosen).tolist() for choice in choices]
    neighbours = [choice.first + module._neighbours(single, choice)[0] for choice in choices]
    exact, rows = local_distillation(config(pillars=300, neighbours=40)), cast(single, torch.float64)
    exact.load_state_dict(module.state_dict())
    weights = [module._factor(choice).double() for choice in choices]
    expected, running = twin_graphs(exact, rows, chosen, neighbours, weights)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    found, wanted = gradients(loss, module, single), gradients(expected, exact, rows)
    for name, gradient in found.items():
        assert (gradient - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name
    for name, value in running.items():
        torch.testing.assert_close(module.get_buffer(name).double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training: bool) -> None:
    module = local_distillation(config(width=2, pillars=3, neighbours=3)).train(training)
    rows = some_rows(2, (6, 5))
    parameters = dict(module.named_parameters())

    def loss(student: Tensor, *values: Tensor) -> Tensor:
        arguments = (rows._replace(student=student),)
        found: Tensor = torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), arguments)[0]
        return found

    values = [each.detach().clone().requires_grad_() for each in parameters.values()]
    assert torch.autograd.gradcheck(loss, (rows.student, *values))


def test_evaluation_normalises_by_the_running_statistics_and_leaves_them() -> None:
    module, rows = local_distillation(config()), some_rows()
    for seed in range(60):
        module(some_rows(seed))
    before = {name: each.clone() for name, each in module.named_buffers()}
    training, _ = module(rows)
    module.load_state_dict(before, strict=False)
    found, _ = module.eval()(rows)
    assert 0.5 < (found / training).item() < 2
    assert found.item() != training.item()
    assert all(torch.equal(each, before[name]) for name, each in module.named_buffers())


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_neighbours_are_the_nearest_whatever_the_chunk(chunk: int) -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 100
    centres = torch.tensor([4, 49, 0, 17, 30, 31, 32, 33])
    found, squared = find_neighbours(points, centres, 5, chunk)
    nearest = torch.cdist(points[centres], points).sort(1)
    assert torch.equal(found.sort(1).values, nearest.indices[:, :5].sort(1).values)
    torch.testing.assert_close(squared.sort(1).values.sqrt(), nearest.values[:, :5], rtol=1e-6, atol=1e-5)
    assert (found == centres[:, None]).any(1).all()


def test_teacher_features_get_no_gradient_but_both_graphs_do() -> None:
    model_rows = some_rows()
    module = local_distillation(config())
    loss, _ = module(model_rows)
    loss.backward()
    assert model_rows.teacher.grad is None
    assert all(each.grad is not None and each.grad.abs().max() > 0 for each in module.parameters())


counts = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 400), st.just(100_000)), min_size=1, max_size=300)


@given(counts=counts, tau=st.sampled_from([0.1, 0.275, 0.3, 1.0]))
def test_effective_number_keeps_its_bound_for_any_counts(counts: list[int], tau: float) -> None:
    phi = paper_weights(torch.tensor(counts, dtype=torch.float64), tau)
    assert phi.sum().item() == pytest.approx(1)
    assert 1 / phi.square().sum().item() >= least_effective_share(tau) * len(counts) * (1 - 1e-9)


def test_the_bound_is_sharp_and_the_default_keeps_a_tenth() -> None:
    assert least_effective_share(PointDistillerConfig().tau) > 0.13
    assert least_effective_share(0.275) == pytest.approx(0.1, abs=1e-3)
    ratio = np.exp(1 / 0.3)
    counts = torch.zeros(10_000, dtype=torch.float64)
    counts[: round(10_000 / (1 + ratio))] = 9
    assert 1 / (1e4 * paper_weights(counts, 0.3).square().sum().item()) == pytest.approx(
        least_effective_share(0.3), rel=0.01
    )


def heavy_tailed_counts() -> Tensor:
    """6,700 pillars like a real frame's: half of them of one to three points, a few of hundreds."""
    generator = np.random.default_rng(0)
    return torch.from_numpy(np.minimum(1 + generator.pareto(1.1, 6700) * 2, 400).astype(np.int64)).double()


def test_heavy_tailed_counts_keep_a_third_in_paper_mode_and_those_at_the_cap_as_released() -> None:
    counts = heavy_tailed_counts().sort(descending=True).values[:1000]
    assert counts[0] == 400
    paper, released = paper_weights(counts, 0.3), released_weights(counts)
    assert 1 / paper.square().sum().item() > 333
    assert paper[0] > 2 * paper[-1]
    assert 1 / released.square().sum().item() == pytest.approx((counts >= 32).sum().item())


def test_all_maps_zero_weigh_the_same() -> None:
    torch.testing.assert_close(paper_weights(torch.zeros(4), 0.3), torch.full((4,), 0.25))


def released_case(batch: int) -> tuple[LocalDistillation, Rows]:
    module = LocalDistillation(PointDistillerConfig(mode="released-code"), TEACHER, STUDENT).double()
    return module, some_rows(3, [1200] * batch)


@pytest.mark.parametrize(("batch", "wanted"), [(1, 1000), (2, 2000), (3, 3000)])
def test_released_code_counts_pillars_of_the_whole_batch(batch: int, wanted: int) -> None:
    module, rows = released_case(batch)
    (choice,) = module.choose(rows)
    assert len(choice.chosen) == wanted
    few = rows._replace(sizes=[1200] * (6 * batch))
    assert len(module.choose(few)[0].chosen) == 1200 * batch


def test_released_code_clips_the_counts_and_is_sharp() -> None:
    module, rows = released_case(1)
    sparse = torch.randint(1, 31, (1200,), generator=torch.Generator().manual_seed(0)).double()
    sparse[[5, 9]], sparse[7] = 32.0, 500.0
    (choice,) = module.choose(rows._replace(importance=sparse))
    assert set(choice.chosen[choice.phi > 1e-6].tolist()) == {5, 7, 9}
    _, found = module(rows._replace(importance=sparse))
    assert found.effective.item() == pytest.approx(3)


def test_released_code_finds_neighbours_across_frames_and_paper_within() -> None:
    rows = some_rows(4, (200, 200))
    rows = rows._replace(teacher=rows.teacher[:200].repeat(2, 1) + 1e-4 * rows.teacher)
    for mode, across in (("released-code", True), ("paper", False)):
        module = LocalDistillation(PointDistillerConfig(mode=mode), TEACHER, STUDENT).double()
        found = [
            ((choice.first + choice.chosen) // 200, (choice.first + module._neighbours(rows, choice)[0]) // 200)
            for choice in module.choose(rows)
        ]
        assert any(bool((frame[:, None] != neighbours).any()) for frame, neighbours in found) is across


def test_released_code_equals_the_plain_form() -> None:
    module, rows = released_case(2)
    rows = rows._replace(importance=rows.importance.clamp(max=400))
    loss, found = module(rows)
    (choice,) = module.choose(rows)
    distance = torch.cdist(rows.teacher[choice.chosen], rows.teacher)
    neighbours = distance.topk(128, largest=False).indices
    weights = len(choice.chosen) * torch.softmax(rows.importance[choice.chosen].clamp(max=32) / 0.01, 0)
    expected, _ = twin_graphs(module, rows, [choice.chosen.tolist()], [neighbours], [weights])
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    for name, gradient in gradients(expected, module, rows).items():
        torch.testing.assert_close(gradients(module(rows)[0], module, rows)[name], gradient, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(found.neighbour_distance, distance.topk(128, largest=False).values.mean())


OTHER: dict[str, Any] = {
    "parts": "local",
    "where": "stages",
    "pillars": 5,
    "neighbours": 5,
    "tau": 1.0,
    "graphs": "unscaled",
    "width": 5,
    "space": "metric",
}
"""A value of each field that is not the default."""


@pytest.mark.parametrize(
    ("choice", "value", "idle"),
    [
        ("mode", "released-code", set(OTHER)),
        ("parts", "local", {"tau"}),
        ("parts", "reweighting", {"neighbours", "graphs", "width", "space"}),
    ],
)
def test_a_field_that_would_not_act_is_refused(choice: str, value: str, idle: set[str]) -> None:
    for name in OTHER.keys() - {choice}:
        fields = {choice: value, name: OTHER[name]}
        if name in idle:
            with pytest.raises(ValidationError, match=f"{name} .* does not act with {choice} '{value}'; leave it out"):
                PointDistillerConfig.model_validate(fields)
        else:
            PointDistillerConfig.model_validate(fields)
    PointDistillerConfig.model_validate({choice: value, "chunk": 5, "weight": 2.0})


def lowest_loss(graphs: str) -> float:
    """What is left of the loss, of features that have nothing in common, when the graph modules alone descend it."""
    rows = some_rows(0, (60, 60))
    module = local_distillation(config(graphs=graphs, pillars=60, neighbours=12))
    optimiser = torch.optim.Adam([each for each in module.parameters() if each.requires_grad], 0.05)
    first = module(rows)[0].item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = module(rows)[0]
        loss.backward()
        optimiser.step()
    return float(loss.item() / first)


def test_trained_graphs_shrink_the_loss_away_and_the_others_cannot() -> None:
    trained, unscaled, fixed = (lowest_loss(graphs) for graphs in ("trained", "unscaled", "teacher-fixed"))
    assert trained < 0.01
    assert unscaled > 10 * trained
    assert fixed > 10 * trained


def test_unscaled_graphs_keep_their_norms_and_a_fixed_teacher_its_graph() -> None:
    modules = {graphs: LocalDistillation(config(graphs=graphs), 8, 5) for graphs in ("unscaled", "teacher-fixed")}
    for module in modules.values():
        module(some_rows(dtype=torch.float32))[0].backward()
    moved = {
        graphs: {name for name, each in module.named_parameters() if each.grad is not None}
        for graphs, module in modules.items()
    }
    assert moved["unscaled"] == {"teacher_graph.linear.weight", "student_graph.linear.weight"}
    assert moved["teacher-fixed"] == {f"student_graph.{name}" for name in ("linear.weight", "norm.weight", "norm.bias")}


def test_the_parts_are_of_one_scale() -> None:
    rows = some_rows()
    same = rows._replace(importance=torch.full_like(rows.importance, 3.0))
    full, local = (local_distillation(config(parts=parts, pillars=60))(same)[0] for parts in ("full", "local"))
    torch.testing.assert_close(full, local)
    assert local_distillation(config(parts="local", pillars=60))(rows)[0].item() == pytest.approx(local.item())


def test_reweighting_alone_compares_features() -> None:
    rows = some_rows()
    module = local_distillation(config(parts="reweighting"))
    assert not any(isinstance(each, GraphConv) for each in module.modules())
    loss, found = module(rows)
    expected = torch.zeros((), dtype=torch.float64)
    count = 0
    for choice in module.choose(rows):
        for row, phi in zip(choice.first + choice.chosen, choice.phi, strict=True):
            difference = rows.teacher[row] - module.adapter(rows.student[row])
            expected += 2 * len(choice.phi) * phi * difference.square().mean()
            count += 1
    torch.testing.assert_close(loss, expected / count)
    assert found.neighbour_distance == 0
    equal = LocalDistillation(config(parts="reweighting"), STUDENT, STUDENT).double()
    assert not list(equal.parameters())
    torch.testing.assert_close(equal(rows._replace(teacher=rows.student.detach() - 3))[0].item(), 18.0)


def test_diagnostics() -> None:
    rows = some_rows(0, (40, 30))
    even = rows._replace(importance=torch.full_like(rows.importance, 2.0))
    _, found = local_distillation(config(space="metric"))(even)
    assert found.selected == 20
    torch.testing.assert_close(found.effective.item(), 20.0)
    torch.testing.assert_close(found.effective_share.item(), 1.0)
    torch.testing.assert_close(found.entropy.item(), float(np.log(20)))
    _, uneven = local_distillation(config(tau=0.1))(rows)
    assert 0.03 < uneven.effective_share < 0.9
    assert uneven.entropy < np.log(20)
    assert not any(each.requires_grad for each in uneven)


@pytest.fixture(scope="module")
def batch(tiny_model: PointPillars, tiny_cloud: npt.NDArray[np.float32]) -> Batch:
    none = torch.zeros(0, dtype=torch.int64)
    grid = tiny_model.config.grid
    frames = [pillarize(points, grid) for points in (tiny_cloud, tiny_cloud[:900])]
    return Batch(batch_pillars(frames, grid), Targets(none, none, torch.zeros(0, 7), none, none))


def trained_pair(tiny_model: PointPillars, batch: Batch, student: PointPillars) -> tuple[Activations, Activations]:
    with torch.no_grad():
        teacher = tiny_model.activations(batch.inputs)
    return teacher, student.activations(batch.inputs)


def small_student(tiny_model: PointPillars) -> PointPillars:
    torch.manual_seed(1)
    small = {"pillar_channels": 4, "backbone_channels": (4, 8, 16), "neck_channels": 4}
    return PointPillars(tiny_model.config.model_copy(update=small))


@pytest.mark.parametrize("where", ["pillars", "stages"])
@pytest.mark.parametrize("parts", ["full", "local", "reweighting"])
def test_method_on_a_detector(tiny_model: PointPillars, batch: Batch, where: str, parts: str) -> None:
    student = small_student(tiny_model)
    fields = config(where=where, parts=parts, pillars=50)
    method = PointDistiller(fields, tiny_model.config, student.config)
    lesson = method(*trained_pair(tiny_model, batch, student), batch)
    lesson.loss.backward()
    assert lesson.loss.shape == ()
    assert lesson.loss.dtype == torch.float32
    learnt = student.pillar_net.linear.weight.grad
    assert learnt is not None
    assert learnt.abs().max() > 0
    assert all(each.grad is None for each in tiny_model.parameters())
    assert all(each.grad is not None for each in method.parameters())
    prefixes = [""] if where == "pillars" else [f"stage{stage}/" for stage in range(3)]
    assert set(lesson.diagnostics) == {prefix + name for prefix in prefixes for name in Diagnostics._fields}
    assert student.state_dict().keys() == small_student(tiny_model).state_dict().keys()
    assert not {id(each) for each in method.parameters()} & {id(each) for each in student.parameters()}


def test_rows_of_pillars(tiny_model: PointPillars, tiny_cloud: npt.NDArray[np.float32], batch: Batch) -> None:
    student = small_student(tiny_model)
    pair = trained_pair(tiny_model, batch, student)
    grid = tiny_model.config.grid
    rows = Rows.of_pillars(*pair, batch, grid)
    frames = [pillarize(points, grid) for points in (tiny_cloud, tiny_cloud[:900])]
    assert rows.sizes == [len(frame.cells) for frame in frames]
    wanted = np.concatenate([np.bincount(frame.pillar) for frame in frames])
    assert rows.importance.tolist() == wanted.tolist()
    cells = np.concatenate([frame.cells for frame in frames])
    middle = torch.from_numpy(np.stack([cells % grid.nx, cells // grid.nx], 1) * grid.cell)
    torch.testing.assert_close(rows.positions, middle, check_dtype=False)


def test_rows_of_maps_are_cells_frame_by_frame() -> None:
    teacher = torch.rand(2, 3, 4, 5, dtype=torch.float32).bfloat16()
    student = torch.rand(2, 6, 4, 5)
    rows = Rows.of_maps(teacher, student, 0.5)
    for number, (b, y, x) in enumerate(np.ndindex(2, 4, 5)):
        assert rows.teacher[number].tolist() == teacher[b, :, y, x].tolist()
        assert rows.student[number].tolist() == student[b, :, y, x].tolist()
        assert rows.importance[number] == teacher[b, :, y, x].max()
        assert rows.positions[number].tolist() == [0.5 * x, 0.5 * y]
    assert rows.sizes == [20, 20]
    assert rows.teacher.dtype == torch.float32


def test_mixed_precision_is_left_outside(tiny_model: PointPillars, batch: Batch) -> None:
    student = small_student(tiny_model)
    pair = trained_pair(tiny_model, batch, student)
    method = PointDistiller(config(), tiny_model.config, student.config)
    plain = method(*pair, batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        inside = method(*pair, batch).loss
    assert torch.equal(plain, inside)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
@pytest.mark.parametrize("fields", [{}, {"chunk": 9}, {"space": "metric"}, {"parts": "reweighting"}], ids=str)
def test_gpu_equals_cpu(fields: dict[str, Any]) -> None:
    def on(device: str) -> dict[str, Tensor]:
        module = local_distillation(config(**fields)).to(device)
        there = cast(some_rows(), torch.float64, device)
        loss, found = module(there)
        values = {"loss": loss} | found._asdict() | gradients(loss, module, there) | dict(module.named_buffers())
        return {name: value.detach().cpu() for name, value in values.items()}

    wanted = on("cpu")
    for name, value in on("cuda").items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-8, atol=1e-11, msg=told(name))
