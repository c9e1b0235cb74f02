"""Pillars: the C++ against its numpy twin, one cell rule in every runtime, and the fused encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.config import GridConfig
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.pillars import (
    Layout,
    PillarEncoder,
    PillarNet,
    Pillars,
    encode_reference,
    pillarize,
    pillarize_reference,
    point_cells,
    point_cells_reference,
    scatter_reference,
)

Floats = npt.NDArray[np.float32]

KITTI = GridConfig()
GRIDS = (
    KITTI,
    GridConfig(x_min=-5.0, x_max=3.0, y_min=-2.1, y_max=4.9, z_min=-0.7, z_max=2.3, cell=0.1),
    GridConfig(x_min=100.3, x_max=107.3, y_min=-0.35, y_max=0.35, z_min=0, z_max=0.25, cell=0.35),
)


def random_cloud(rng: np.random.Generator, grid: GridConfig, count: int) -> Floats:
    """Points in the grid and around it, one in five of them on an edge of cells, some rows damaged."""
    low = [grid.x_min - 1, grid.y_min - 1, grid.z_min - 1, 0]
    high = [grid.x_max + 1, grid.y_max + 1, grid.z_max + 1, 1]
    points = rng.uniform(low, high, (count, 4))
    on_edge = rng.random(count) < 0.2
    points[on_edge, :2] = np.round(points[on_edge, :2] / grid.cell) * grid.cell
    damaged = rng.random((count, 4)) < 0.01
    points[damaged] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0], damaged.sum())
    return points.astype(np.float32)


def edge_coordinates() -> Floats:
    """Coordinates on the edges of KITTI's cells, four float32 steps around each, and every millimetre of the grid."""
    edges = (np.arange(-260, 460) * 0.16).astype(np.float32)
    steps = [edges]
    for direction in (np.float32(-np.inf), np.float32(np.inf)):
        moved = edges
        for _ in range(4):
            moved = np.nextafter(moved, direction)
            steps.append(moved)
    millimetres = (np.arange(-42_000, 72_000) / 1000).astype(np.float32)
    return np.concatenate([*steps, millimetres, np.array([0.0, -0.0, 1e-45, -1e-45], np.float32)])


def cloud_at(coordinates: Floats) -> Floats:
    """A cloud with every coordinate once as x and once as y."""
    points = np.zeros((2 * len(coordinates), 4), np.float32)
    points[: len(coordinates), 0] = coordinates
    points[len(coordinates) :, 1] = coordinates
    return points


def bits(pillars: Pillars) -> list[tuple[Any, ...]]:
    return [(array.dtype, array.shape, array.tobytes()) for array in pillars]


def random_net(rng: np.random.Generator, channels: int) -> PillarNet:
    return PillarNet(rng.normal(size=(10, channels)).astype(np.float32), rng.normal(size=channels).astype(np.float32))


def reference_canvas(points: Floats, grid: GridConfig, net: PillarNet) -> Floats:
    pillars = pillarize_reference(points, grid)
    return scatter_reference(encode_reference(pillars, net), pillars.cells, grid)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(0, 2**32 - 1), st.integers(0, 3000))
def test_cpp_is_bit_identical_to_numpy(grid: GridConfig, seed: int, count: int) -> None:
    points = random_cloud(np.random.default_rng(seed), grid, count)
    assert np.array_equal(point_cells(points, grid), point_cells_reference(points, grid))
    assert bits(pillarize(points, grid)) == bits(pillarize_reference(points, grid))


def test_cpp_is_bit_identical_to_numpy_on_cell_edges() -> None:
    points = cloud_at(edge_coordinates())
    assert bits(pillarize(points, KITTI)) == bits(pillarize_reference(points, KITTI))


def test_cpp_is_bit_identical_to_numpy_on_a_large_cloud() -> None:
    points = random_cloud(np.random.default_rng(5), KITTI, 300_000)
    assert bits(pillarize(points, KITTI)) == bits(pillarize_reference(points, KITTI))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(0, 2**32 - 1), st.integers(0, 2000))
def test_a_permutation_of_the_points_only_permutes_them(grid: GridConfig, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points = random_cloud(rng, grid, count)
    order = rng.permutation(count)
    straight, shuffled = pillarize(points, grid), pillarize(points[order], grid)
    assert straight.cells.tobytes() == shuffled.cells.tobytes()
    assert straight.counts.tobytes() == shuffled.counts.tobytes()
    kept = point_cells(points, grid) >= 0
    row = np.cumsum(kept) - 1
    from_straight = row[order[kept[order]]]
    assert straight.features[from_straight].tobytes() == shuffled.features.tobytes()
    assert straight.pillar[from_straight].tobytes() == shuffled.pillar.tobytes()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(0, 2**32 - 1))
def test_every_point_inside_is_kept_and_counted(grid: GridConfig, seed: int) -> None:
    points = random_cloud(np.random.default_rng(seed), grid, 2000)
    pillars = pillarize(points, grid)
    cells = point_cells(points, grid)
    assert np.array_equal(pillars.features[:, :4], points[cells >= 0])
    assert np.array_equal(pillars.cells[pillars.pillar], cells[cells >= 0])
    assert (np.diff(pillars.cells) > 0).all()
    assert np.array_equal(pillars.counts, np.bincount(pillars.pillar, minlength=len(pillars.cells)))


def test_features_of_a_pillar() -> None:
    points = np.array([[10.0, 0.0, -1.0, 0.5], [10.1, 0.1, -2.0, 0.25]], np.float32)
    pillars = pillarize(points, KITTI)
    assert pillars.cells.tolist() == [248 * 432 + 62, 248 * 432 + 63]  # 10.1 m lies in the cell 10.08 .. 10.24 m
    points[1, 0] = 10.02
    pillars = pillarize(points, KITTI)
    assert pillars.counts.tolist() == [2]
    expected = [
        [10.0, 0.0, -1.0, 0.5, -0.01, -0.05, 0.5, 0.0, -0.08, 0.0],
        [10.02, 0.1, -2.0, 0.25, 0.01, 0.05, -0.5, 0.02, 0.02, -1.0],
    ]
    np.testing.assert_allclose(pillars.features, expected, atol=1e-5)


def test_a_pillar_has_no_cap() -> None:
    points = np.tile(np.array([[10.03, 5.07, -1.0, 0.5]], np.float32), (70_000, 1))
    pillars = pillarize(points, KITTI)
    assert pillars.counts.tolist() == [70_000]
    assert np.abs(pillars.features[:, 4:7]).max() == 0.0  # the mean of equal points is that point, exactly


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_point_that_is_not_finite_is_outside(column: int, value: float) -> None:
    points = np.array([[10, 0, -1, 0.5], [10, 0, -1, 0.5]], np.float32)
    points[0, column] = value
    assert (point_cells(points, KITTI) >= 0).tolist() == [False, True]
    assert len(pillarize(points, KITTI).features) == 1


def test_the_grid_is_half_open() -> None:
    at = np.array(
        [[0, -39.68, -3, 0], [69.1199, 39.6799, 0.9999999, 0], [69.12, 0, 0, 0], [1, 39.68, 0, 0], [1, 0, 1, 0]],
        np.float32,
    )
    assert point_cells(at, KITTI).tolist() == [0, 432 * 496 - 1, -1, -1, -1]
    assert point_cells(np.array([[-1e-6, 0, 0, 0], [-0.0, 0, 0, 0]], np.float32), KITTI).tolist() == [-1, 248 * 432]


def test_no_points() -> None:
    pillars = pillarize(np.empty((0, 4), np.float32), KITTI)
    assert [array.shape for array in pillars] == [(0, 10), (0,), (0,), (0,)]
    assert bits(pillars) == bits(pillarize_reference(np.empty((0, 4), np.float32), KITTI))


def test_points_need_not_be_contiguous() -> None:
    wide = np.random.default_rng(0).uniform(0, 30, (500, 6)).astype(np.float32)
    assert bits(pillarize(wide[::2, 1:5], KITTI)) == bits(pillarize(wide[::2, 1:5].copy(), KITTI))


@pytest.mark.parametrize(
    "points", [np.zeros((5, 4)), np.zeros((5, 3), np.float32), np.zeros(4, np.float32), np.zeros((1, 5, 4), np.float32)]
)
def test_wrong_points_are_named(points: Floats) -> None:
    with pytest.raises(DataError, match=r"expected float32 \(N, 4\)"):
        pillarize(points, KITTI)


def test_a_cloud_that_overflows_the_sums_is_refused() -> None:
    grid = GridConfig(x_min=2e9, x_max=2e9 + 1024, y_min=0, y_max=1024, cell=1024)
    with pytest.raises(DataError, match="overflow"):
        pillarize(np.zeros((300, 4), np.float32), grid)


def test_a_grid_without_32_bit_cell_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match="use larger cells"):
        pillarize(np.zeros((1, 4), np.float32), GridConfig(x_min=0, x_max=60000, y_min=0, y_max=60000, cell=1))


# One cell rule in every runtime.

CellRule = Callable[[Floats], Floats]


def numpy_rule(xy: Floats) -> Floats:
    cells: Floats = np.floor(xy * KITTI.scale + np.array([KITTI.x_offset, KITTI.y_offset]))
    return cells


def torch_rule() -> CellRule:
    torch = pytest.importorskip("torch")
    scale, offset = torch.tensor(KITTI.scale), torch.tensor([KITTI.x_offset, KITTI.y_offset])

    def run(xy: Floats) -> Floats:
        cells: Floats = torch.floor(torch.from_numpy(xy) * scale + offset).numpy()
        return cells

    return run


def cell_graph() -> bytes:
    """The rule as an ONNX file.

    The Max changes no product; it stands between multiplication and addition because OpenVINO fuses the two into one
    rounding otherwise, which moves points on cell edges to the next cell (30 coordinates in the 132 real frames).
    """
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    constants = {
        "scale": np.array(KITTI.scale),
        "lowest": np.array(np.finfo(np.float32).min),
        "offset": np.array([KITTI.x_offset, KITTI.y_offset]),
    }
    nodes = [
        helper.make_node("Mul", ["xy", "scale"], ["product"]),
        helper.make_node("Max", ["product", "lowest"], ["rounded"]),
        helper.make_node("Add", ["rounded", "offset"], ["sum"]),
        helper.make_node("Floor", ["sum"], ["cell"]),
    ]
    ends = [[helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2])] for name in ("xy", "cell")]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "cell_rule", *ends, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    file: bytes = model.SerializeToString()
    return file


def onnxruntime_rule() -> CellRule:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(cell_graph(), providers=["CPUExecutionProvider"])

    def run(xy: Floats) -> Floats:
        cells: Floats = session.run(None, {"xy": xy})[0]
        return cells

    return run


def openvino_rule() -> CellRule:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.compile_model(core.read_model(cell_graph(), b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(xy: Floats) -> Floats:
        cells: Floats = model(xy)[0]
        return cells

    return run


RULES = pytest.mark.parametrize(
    "make_rule", [lambda: numpy_rule, torch_rule, onnxruntime_rule, openvino_rule], ids=["numpy", "torch", "ort", "ov"]
)


def flat_cells(xy_cells: Floats, points: Floats, grid: GridConfig) -> npt.NDArray[np.int64]:
    column, row = xy_cells.astype(np.int64).T
    inside = (column >= 0) & (column < grid.nx) & (row >= 0) & (row < grid.ny)
    inside &= (points[:, 2] >= grid.z_min) & (points[:, 2] < grid.z_max)
    return np.where(inside, row * grid.nx + column, -1)


@RULES
def test_cells_are_the_same_in_every_runtime_on_edges(make_rule: Callable[[], CellRule]) -> None:
    points = cloud_at(edge_coordinates())
    xy = np.ascontiguousarray(points[:, :2])
    cells = make_rule()(xy)
    assert np.array_equal(cells, numpy_rule(xy))
    assert np.array_equal(flat_cells(cells, points, KITTI), point_cells(points, KITTI))


@RULES
def test_cells_are_the_same_in_every_runtime_on_real_frames(
    make_rule: Callable[[], CellRule], kitti_root: Path
) -> None:
    files = sorted((kitti_root / "object/training/velodyne_reduced").glob("*.bin"))
    assert len(files) == 132
    rule = make_rule()
    for file in files:
        points = np.fromfile(file, np.float32).reshape(-1, 4)
        cells = flat_cells(rule(np.ascontiguousarray(points[:, :2])), points, KITTI)
        assert np.array_equal(cells, point_cells(points, KITTI)), file.name
        assert np.array_equal(cells, point_cells_reference(points, KITTI)), file.name


def test_real_frames_are_bit_identical_in_both_twins(kitti_root: Path) -> None:
    for file in sorted((kitti_root / "object/training/velodyne_reduced").glob("*.bin"))[::12]:
        points = np.fromfile(file, np.float32).reshape(-1, 4)
        assert bits(pillarize(points, KITTI)) == bits(pillarize_reference(points, KITTI)), file.name


# The fused encoder.


def as_nchw(canvas: Floats, layout: Layout) -> Floats:
    return canvas if layout == "nchw" else canvas.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", [1, 15, 16, 17, 32, 64])
@pytest.mark.parametrize("grid", GRIDS, ids=["kitti", "small", "far"])
def test_encoder_agrees_with_the_reference(grid: GridConfig, channels: int, layout: Layout) -> None:
    rng = np.random.default_rng(channels)
    points = random_cloud(rng, grid, 4000)
    net = random_net(rng, channels)
    expected = reference_canvas(points, grid, net)
    canvas = as_nchw(PillarEncoder(grid, net, layout).encode(points), layout)
    assert canvas.shape == (1, channels, grid.ny, grid.nx)
    assert canvas.dtype == np.float32
    assert (canvas >= 0).all()
    # Rounding is relative to the terms of a sum: weights times coordinates, not to what is left of them.
    largest_term = max(abs(grid.x_max), 1.0) * np.abs(net.weight).max()
    np.testing.assert_allclose(canvas, expected, rtol=1e-5, atol=1e-6 * largest_term)
    occupied = np.zeros(grid.ny * grid.nx, bool)
    occupied[pillarize(points, grid).cells] = True
    assert not canvas.reshape(channels, -1)[:, ~occupied].any()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 300)), min_size=1, max_size=5), st.booleans())
def test_the_reused_canvas_equals_a_fresh_one(clouds: list[tuple[int, int]], channels_last: bool) -> None:
    grid, net = GRIDS[1], random_net(np.random.default_rng(0), 20)
    layout: Layout = "nhwc" if channels_last else "nchw"
    reused = PillarEncoder(grid, net, layout)
    for seed, count in clouds:
        points = random_cloud(np.random.default_rng(seed), grid, count)
        assert np.array_equal(reused.encode(points), PillarEncoder(grid, net, layout).encode(points))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_canvas_does_not_depend_on_the_order_of_the_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = random_cloud(rng, GRIDS[1], 3000)
    encoder = PillarEncoder(GRIDS[1], random_net(rng, 16))
    straight = encoder.encode(points).tobytes()
    assert encoder.encode(rng.permutation(points)).tobytes() == straight


def test_an_empty_cloud_clears_the_canvas() -> None:
    rng = np.random.default_rng(1)
    encoder = PillarEncoder(KITTI, random_net(rng, 8))
    first = encoder.encode(random_cloud(rng, KITTI, 1000))
    assert first.any()
    second = encoder.encode(np.empty((0, 4), np.float32))
    assert second is first
    assert not second.any()


def test_a_refused_cloud_leaves_the_canvas() -> None:
    rng = np.random.default_rng(2)
    encoder = PillarEncoder(GRIDS[1], random_net(rng, 8))
    canvas = encoder.encode(random_cloud(rng, GRIDS[1], 1000))
    before = canvas.copy()
    with pytest.raises(DataError):
        encoder.encode(np.zeros((3, 5), np.float32))
    assert np.array_equal(canvas, before)


def test_a_wrong_net_is_named() -> None:
    net = random_net(np.random.default_rng(0), 8)
    with pytest.raises(EngineError, match=r"weight has shape \(9, 8\)"):
        PillarEncoder(KITTI, PillarNet(net.weight[:9], net.bias))
    with pytest.raises(EngineError, match="bias is float64"):
        PillarEncoder(KITTI, PillarNet(net.weight, net.bias.astype(np.float64)))
    with pytest.raises(EngineError, match="weight holds a NaN"):
        PillarEncoder(KITTI, PillarNet(np.full_like(net.weight, np.nan), net.bias))
    with pytest.raises(ConfigError, match="'chwn' is unknown"):
        PillarEncoder(KITTI, net, "chwn")  # type: ignore[arg-type]
