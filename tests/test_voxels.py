"""Voxels and the sparse encoder: the C++ against its numpy twins, and these against a dense convolution."""

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.config import SecondConfig, VoxelGridConfig, read_yaml
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.native import _voxels
from pd_edge.pillars import Layout
from pd_edge.sparse import Rules, convolve_reference, encode_voxels_reference, sparse_rules, sparse_sites
from pd_edge.voxels import (
    SparseLayer,
    Triple,
    VoxelEncoder,
    VoxelNet,
    Voxels,
    check_voxel_net,
    grid_sizes,
    output_size,
    sparse_layers,
    voxelize,
    voxelize_reference,
)

Floats = npt.NDArray[np.float32]
Channels = tuple[tuple[int, int, int, int], int]

KITTI = VoxelGridConfig()
SMALL = VoxelGridConfig(x_max=3.2, y_min=-0.8, y_max=1.6)
TALLEST = VoxelGridConfig(x_min=-5.0, x_max=-3.4, y_min=4, y_max=5.6, z_min=-0.7, z_max=5.5, cell=0.1)
LOWEST = VoxelGridConfig(x_min=100, x_max=104.8, y_min=-2.4, y_max=2.4, z_min=0, z_max=6, cell=0.3, height=0.25)
GRIDS = (KITTI, SMALL, TALLEST, LOWEST)
CONFIGS = Path(__file__).resolve().parents[1] / "training" / "configs"


def channels_of(name: str) -> Channels:
    """Sparse and folded channels of a training configuration, read without torch."""
    model = read_yaml(CONFIGS / f"{name}.yaml")["model"]
    return tuple(model["sparse_channels"]), model["folded_channels"]


TEACHER, STUDENT_4X, STUDENT_16X = (channels_of(f"second-{size}") for size in ("teacher", "4x", "16x"))
ODD: Channels = ((3, 17, 35, 50), 7)


def random_cloud(rng: np.random.Generator, grid: VoxelGridConfig, count: int) -> Floats:
    """Points in the grid and around it, one in five of them on an edge of voxels, some rows damaged."""
    low = [grid.x_min - 0.5, grid.y_min - 0.5, grid.z_min - 0.5, 0]
    high = [grid.x_max + 0.5, grid.y_max + 0.5, grid.z_max + 0.5, 1]
    points = rng.uniform(low, high, (count, 4))
    on_edge = rng.random(count) < 0.2
    sides = np.array([grid.cell, grid.cell, grid.height])
    points[on_edge, :3] = np.round(points[on_edge, :3] / sides) * sides
    damaged = rng.random((count, 4)) < 0.01
    points[damaged] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], damaged.sum())
    points[rng.random(count) < 0.01, rng.integers(3)] = rng.choice([1e30, -1e30])
    return points.astype(np.float32)


def model_of(channels: Channels, grid: VoxelGridConfig = SMALL) -> SecondConfig:
    sparse, folded = channels
    return SecondConfig(
        grid=grid, sparse_channels=sparse, folded_channels=folded, backbone_channels=(1, 1), neck_channels=1
    )


def random_net(rng: np.random.Generator, model: SecondConfig) -> VoxelNet:
    """Weights that keep values about as large from layer to layer."""
    shapes = [(int(np.prod(layer.kernel)), layer.inputs, layer.outputs) for layer in sparse_layers(model)]
    weights = (rng.normal(0, (5 * shape[1]) ** -0.5, shape).astype(np.float32) for shape in shapes)
    return VoxelNet(tuple(weights), tuple(rng.normal(0, 0.1, shape[2]).astype(np.float32) for shape in shapes))


def bits(voxels: Voxels) -> list[tuple[object, ...]]:
    return [(array.dtype, array.shape, array.tobytes()) for array in voxels]


def reference_canvas(points: Floats, net: VoxelNet, model: SecondConfig) -> Floats:
    return encode_voxels_reference(voxelize_reference(points, model.grid), net, model)


def as_nchw(canvas: Floats, layout: Layout) -> Floats:
    return canvas if layout == "nchw" else canvas.transpose(0, 3, 1, 2)


def assert_close(canvas: Floats, expected: Floats) -> None:
    assert canvas.shape == expected.shape
    assert np.abs(canvas - expected).max() <= 1e-5 * np.abs(expected).max()


# Voxels.


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(0, 2**32 - 1), st.integers(0, 3000))
def test_cpp_is_bit_identical_to_numpy(grid: VoxelGridConfig, seed: int, count: int) -> None:
    points = random_cloud(np.random.default_rng(seed), grid, count)
    assert bits(voxelize(points, grid)) == bits(voxelize_reference(points, grid))


def test_cpp_is_bit_identical_to_numpy_on_edges() -> None:
    edges = [(np.arange(-900, 1500) * side).astype(np.float32) for side in (0.05, 0.1)]
    near = [np.nextafter(each, np.float32(way)) for each in edges for way in (-np.inf, np.inf)]
    coordinates = np.concatenate([*edges, *near, np.arange(-3100, 1100, dtype=np.float32) / np.float32(1000)])
    points = np.zeros((3 * len(coordinates), 4), np.float32)
    for axis in range(3):
        points[axis * len(coordinates) : (axis + 1) * len(coordinates), axis] = coordinates
    assert bits(voxelize(points, KITTI)) == bits(voxelize_reference(points, KITTI))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(0, 2**32 - 1))
def test_voxels_do_not_depend_on_the_order_of_the_points(grid: VoxelGridConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.repeat(random_cloud(rng, grid, 300), 5, axis=0)
    assert bits(voxelize(rng.permutation(points), grid)) == bits(voxelize(points, grid))


def test_features_of_a_voxel() -> None:
    points = np.array([[10.01, 0.02, -1.04, 0.5], [10.03, 0.04, -1.02, 0.25], [0, 0, 0, 1]], np.float32)
    voxels = voxelize(points, KITTI)
    column = 800 * 1408
    assert voxels.keys.tolist() == [column * 41 + 30, (column + 200) * 41 + 19]
    assert voxels.counts.tolist() == [1, 2]
    expected = np.array([[0, 0, 0, 1], [10.02, 0.03, -1.03, 0.375]])
    np.testing.assert_allclose(voxels.features, expected, atol=1e-6)


def test_a_voxel_has_no_cap() -> None:
    points = np.tile(np.array([[10.01, 5.02, -1.03, 0.7]], np.float32), (70_000, 1))
    voxels = voxelize(points, KITTI)
    assert voxels.counts.tolist() == [70_000]
    np.testing.assert_allclose(voxels.features, points[:1], atol=2**-24)


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_point_that_is_not_finite_has_no_voxel(column: int, value: float) -> None:
    points = np.tile(np.array([[10, 0, -1, 0.5]], np.float32), (2, 1))
    points[0, column] = value
    assert voxelize(points, KITTI).counts.tolist() == [1]


def test_the_grid_is_half_open() -> None:
    inside = np.array([[0, -40, -3, 0], [70.3999, 39.9999, 0.99999, 0]], np.float32)
    assert voxelize(inside, KITTI).keys.tolist() == [0, 1600 * 1408 * 41 - 2]
    outside = [[70.4, 0, 0, 0], [1, 40, 0, 0], [1, 0, 1, 0], [1, 0, -3.00001, 0], [-1e-6, 0, 0, 0]]
    assert len(voxelize(np.array(outside, np.float32), KITTI).keys) == 0


def test_no_points_are_no_voxels() -> None:
    voxels = voxelize(np.empty((0, 4), np.float32), KITTI)
    assert [array.shape for array in voxels] == [(0, 4), (0,), (0,)]
    assert bits(voxels) == bits(voxelize_reference(np.empty((0, 4), np.float32), KITTI))


def test_points_need_not_be_contiguous() -> None:
    wide = np.random.default_rng(0).uniform(0, 3, (500, 6)).astype(np.float32)
    assert bits(voxelize(wide[::2, 1:5], SMALL)) == bits(voxelize(wide[::2, 1:5].copy(), SMALL))


@pytest.mark.parametrize(
    "points", [np.zeros((5, 4)), np.zeros((5, 3), np.float32), np.zeros(4, np.float32), np.zeros((1, 5, 4), np.float32)]
)
def test_wrong_points_are_named(points: Floats) -> None:
    with pytest.raises(DataError, match=r"expected float32 \(N, 4\)"):
        voxelize(points, KITTI)


def test_intensities_that_overflow_the_sums_are_refused() -> None:
    points = np.zeros((300, 4), np.float32)
    points[7, 3] = -3e9
    with pytest.raises(DataError, match=r"intensity of 3e\+09 among 300 points overflows"):
        voxelize(points, KITTI)


def test_real_frames_are_bit_identical_in_both_twins(kitti_root: Path) -> None:
    for file in sorted((kitti_root / "object/training/velodyne_reduced").glob("*.bin"))[::12]:
        points = np.fromfile(file, np.float32).reshape(-1, 4)
        assert bits(voxelize(points, KITTI)) == bits(voxelize_reference(points, KITTI)), file.name


# The numpy reference against a dense convolution.


def random_sites(rng: np.random.Generator, size: Triple, share: float) -> npt.NDArray[np.bool_]:
    heights, ny, nx = size
    there: npt.NDArray[np.bool_] = rng.random((ny, nx, heights)) < share
    return there


def dense_neighbours(values: Floats, layer: SparseLayer) -> Floats:
    """(ny', nx', heights', K, C): what each output place of a layer sees of a grid (ny, nx, heights, C) of zeros."""
    z, y, x = layer.padding
    padded = np.pad(values, ((y, y), (x, x), (z, z), (0, 0)))
    heights, ny, nx = output_size((values.shape[2], values.shape[0], values.shape[1]), layer)
    sz, sy, sx = layer.stride
    places = [
        padded[ky : ky + sy * ny : sy, kx : kx + sx * nx : sx, kz : kz + sz * heights : sz][:ny, :nx, :heights]
        for kz, ky, kx in itertools.product(*map(range, layer.kernel))
    ]
    return np.stack(places, axis=3)


@pytest.mark.parametrize("size", [(5, 6, 4), (4, 2, 6), (7, 1, 1)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("which", [0, 2, 8, 11], ids=["submanifold", "strided", "low", "folding"])
def test_reference_is_a_dense_convolution_at_its_sites(which: int, share: float, size: Triple) -> None:
    rng = np.random.default_rng(which)
    layer = sparse_layers(model_of(STUDENT_16X))[which]
    there = random_sites(rng, size, share)
    values = np.where(there[..., None], rng.normal(size=(*there.shape, layer.inputs)), 0).astype(np.float32)
    weight = rng.normal(size=(int(np.prod(layer.kernel)), layer.inputs, layer.outputs)).astype(np.float32)
    bias = rng.normal(size=layer.outputs).astype(np.float32)

    keys = np.flatnonzero(there)
    sites = sparse_sites(keys, size, layer)
    rules = sparse_rules(keys, sites, size, layer)
    features = convolve_reference(values[there], weight, bias, rules, len(sites))

    reached = dense_neighbours(there[..., None].astype(np.float32), layer).any(axis=(3, 4))
    assert np.array_equal(sites, np.flatnonzero(there if layer.submanifold else reached))
    dense = np.maximum(np.einsum("yxzki,kio->yxzo", dense_neighbours(values, layer), weight) + bias, 0)
    np.testing.assert_allclose(features, dense.reshape(-1, layer.outputs)[sites], atol=1e-4)
    assert_places_are_filled_once(rules)


def assert_places_are_filled_once(rules: Rules) -> None:
    for inputs, outputs in rules:
        assert len(np.unique(inputs)) == len(inputs)
        assert len(np.unique(outputs)) == len(outputs)


def test_canvas_has_the_heights_of_a_channel_side_by_side() -> None:
    model = model_of(STUDENT_16X)
    rng = np.random.default_rng(0)
    biases = [np.zeros(layer.outputs, np.float32) for layer in sparse_layers(model)]
    biases[-1] = np.arange(1, 33, dtype=np.float32)
    net = random_net(rng, model)._replace(biases=tuple(biases))
    net = net._replace(weights=tuple(np.zeros_like(weight) for weight in net.weights))
    points = np.array([[0.01, -0.79, 0.4, 0.5]], np.float32)  # height 34 of 41: 17 of 21, 8 and 9 of 11, 3 and 4 of 5
    canvas = VoxelEncoder(model, net).encode(points)
    assert canvas.shape == (1, 64, 6, 8)
    assert canvas[0, :, 0, 0].tolist() == [value for c in range(1, 33) for value in (0, c)]
    assert np.count_nonzero(canvas) == 32
    assert np.array_equal(reference_canvas(points, net, model), canvas)


# The fused encoder.


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", [TEACHER, STUDENT_4X, STUDENT_16X, ODD], ids=["teacher", "4x", "16x", "odd"])
@pytest.mark.parametrize("grid", GRIDS[1:], ids=["small", "tallest", "lowest"])
def test_encoder_agrees_with_the_reference(grid: VoxelGridConfig, channels: Channels, layout: Layout) -> None:
    rng = np.random.default_rng(3)
    model = model_of(channels, grid)
    net = random_net(rng, model)
    points = random_cloud(rng, grid, 1500)
    canvas = as_nchw(VoxelEncoder(model, net, layout).encode(points), layout)
    expected = reference_canvas(points, net, model)
    assert canvas.dtype == np.float32
    assert canvas.shape == model.canvas_shape
    assert expected.max() > 0.1
    assert_close(canvas, expected)


@pytest.mark.parametrize("channels", [TEACHER, STUDENT_4X, STUDENT_16X, ODD], ids=["teacher", "4x", "16x", "odd"])
@pytest.mark.parametrize("instructions", _voxels.instruction_sets())
def test_every_instruction_set_agrees_with_the_reference(
    instructions: str, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_voxels, "instruction_sets", lambda: [instructions])
    rng = np.random.default_rng(5)
    model = model_of(channels)
    net = random_net(rng, model)
    points = random_cloud(rng, SMALL, 1000)
    assert_close(VoxelEncoder(model, net).encode(points), reference_canvas(points, net, model))


def test_an_instruction_set_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_voxels, "instruction_sets", lambda: ["abacus"])
    model = model_of(STUDENT_16X)
    with pytest.raises(ValueError, match="no instruction set abacus"):
        VoxelEncoder(model, random_net(np.random.default_rng(0), model))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(GRIDS[1:]), st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_encoder_agrees_with_the_reference_on_few_points(grid: VoxelGridConfig, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    model = model_of(STUDENT_16X, grid)
    net = random_net(rng, model)
    points = random_cloud(rng, grid, count)
    assert_close(VoxelEncoder(model, net).encode(points), reference_canvas(points, net, model))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 200)), min_size=2, max_size=5), st.booleans())
def test_the_reused_canvas_equals_a_fresh_one(clouds: list[tuple[int, int]], channels_last: bool) -> None:
    model = model_of(STUDENT_16X)
    net = random_net(np.random.default_rng(0), model)
    layout: Layout = "nhwc" if channels_last else "nchw"
    reused = VoxelEncoder(model, net, layout)
    for seed, count in clouds:
        points = random_cloud(np.random.default_rng(seed), SMALL, count)
        points[: count // 2, 0] = 0.3  # leaves much of the grid empty
        assert np.array_equal(reused.encode(points), VoxelEncoder(model, net, layout).encode(points))


def test_threads_and_the_order_of_the_points_change_no_bit() -> None:
    rng = np.random.default_rng(4)
    grid = VoxelGridConfig(x_max=12.8, y_min=-6.4, y_max=6.4)
    model = model_of(STUDENT_4X, grid)
    net = random_net(rng, model)
    points = random_cloud(rng, grid, 6000)
    canvases = [VoxelEncoder(model, net, threads=threads).encode(points).tobytes() for threads in (1, 2, 3)]
    canvases.append(VoxelEncoder(model, net).encode(rng.permutation(points)).tobytes())
    assert len(set(canvases)) == 1


def test_an_empty_cloud_clears_the_canvas() -> None:
    rng = np.random.default_rng(1)
    model = model_of(STUDENT_16X)
    encoder = VoxelEncoder(model, random_net(rng, model))
    assert not encoder.encode(np.empty((0, 4), np.float32)).any()
    first = encoder.encode(random_cloud(rng, SMALL, 1000))
    assert first.any()
    second = encoder.encode(np.empty((0, 4), np.float32))
    assert second is first
    assert not second.any()


def test_a_refused_cloud_leaves_the_canvas() -> None:
    rng = np.random.default_rng(2)
    model = model_of(STUDENT_16X)
    encoder = VoxelEncoder(model, random_net(rng, model))
    canvas = encoder.encode(random_cloud(rng, SMALL, 1000))
    before = canvas.copy()
    with pytest.raises(DataError):
        encoder.encode(np.zeros((3, 5), np.float32))
    with pytest.raises(DataError):
        encoder.encode(np.full((3, 4), 1e30, np.float32))
    assert np.array_equal(canvas, before)


def test_a_value_that_is_not_a_number_stays_one() -> None:
    rng = np.random.default_rng(6)
    model = model_of(STUDENT_16X)
    net = random_net(rng, model)
    net = net._replace(weights=tuple(np.sign(weight) * np.float32(1e38) for weight in net.weights))
    points = random_cloud(rng, SMALL, 500)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isnan(reference_canvas(points, net, model)).any()
    assert np.isnan(VoxelEncoder(model, net).encode(points)).any()


def test_the_steps_of_a_call_are_timed() -> None:
    model = model_of(STUDENT_16X)
    encoder = VoxelEncoder(model, random_net(np.random.default_rng(0), model))
    assert set(encoder.seconds.values()) == {0.0}
    encoder.encode(random_cloud(np.random.default_rng(0), SMALL, 1000))
    assert list(encoder.seconds) == ["voxelize", "rules", "convolve", "fold"]
    assert all(seconds > 0 for seconds in encoder.seconds.values())


def test_encoder_agrees_with_the_reference_on_a_real_frame(kitti_root: Path) -> None:
    file = min((kitti_root / "object/training/velodyne_reduced").glob("*.bin"))
    points = np.fromfile(file, np.float32).reshape(-1, 4)
    model = model_of(STUDENT_16X, KITTI)
    net = random_net(np.random.default_rng(0), model)
    assert_close(VoxelEncoder(model, net).encode(points), reference_canvas(points, net, model))


def test_a_wrong_net_is_named() -> None:
    model = model_of(STUDENT_16X)
    net = random_net(np.random.default_rng(0), model)
    with pytest.raises(EngineError, match=r"12 weights and 11 biases, expected one of each for the 12 sparse layers"):
        check_voxel_net(net._replace(biases=net.biases[1:]), model)
    with pytest.raises(EngineError, match=r"weight 11 .* of shape \(3, 16, 31\), expected float32 \(3, 16, 32\)"):
        check_voxel_net(net._replace(weights=(*net.weights[:-1], net.weights[-1][:, :, :31])), model)
    with pytest.raises(EngineError, match="bias 0 is float64"):
        check_voxel_net(net._replace(biases=(net.biases[0].astype(np.float64), *net.biases[1:])), model)
    with pytest.raises(EngineError, match="weight 0 holds a NaN"):
        check_voxel_net(net._replace(weights=(np.full_like(net.weights[0], np.nan), *net.weights[1:])), model)
    with pytest.raises(EngineError, match="export anew"):
        VoxelEncoder(model_of(STUDENT_4X), net)
    with pytest.raises(EngineError, match="export anew"):
        encode_voxels_reference(voxelize(np.zeros((0, 4), np.float32), SMALL), net, model_of(STUDENT_4X))


def test_wrong_options_are_named() -> None:
    model = model_of(STUDENT_16X)
    net = random_net(np.random.default_rng(0), model)
    with pytest.raises(ConfigError, match="'chwn' is unknown"):
        VoxelEncoder(model, net, "chwn")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="threads 0: give 1 or more"):
        VoxelEncoder(model, net, threads=0)


def test_sizes_of_the_layers() -> None:
    sizes = grid_sizes(model_of(TEACHER, KITTI))
    assert list(dict.fromkeys(sizes)) == [
        (41, 1600, 1408),
        (21, 800, 704),
        (11, 400, 352),
        (5, 200, 176),
        (2, 200, 176),
    ]
