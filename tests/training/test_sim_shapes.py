"""Meshes of the simulated world, and the learning of where they stand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.errors import DataError
from pd_edge.kitti import boxes_to_labels, write_labels
from pd_edge.training.sim import people, vehicles
from pd_edge.training.sim.camera import camera_calibration
from pd_edge.training.sim.clutter import FURNITURE
from pd_edge.training.sim.layouts import layout_stats
from pd_edge.training.sim.learn_layouts import CLASSES, learn
from pd_edge.training.sim.materials import Material
from pd_edge.training.sim.mesh import Mesh, box, limb, merge, move
from pd_edge.training.sim.vehicles import Shape, Size
from pd_edge.training.sim.world import WorldConfig, draw_ground, ground_mesh, surroundings

Builder = Callable[[np.random.Generator, Size], Shape]
BUILDERS: list[tuple[Builder, Size, float]] = [
    (vehicles.car, (3.9, 1.65, 1.5), 0.3),
    (vehicles.van, (5.1, 1.9, 2.2), 0.3),
    (vehicles.truck, (9.0, 2.6, 3.3), 0.1),
    (vehicles.tram, (15.0, 2.4, 3.5), 0.1),
    (vehicles.motorcycle, (2.0, 0.7, 1.2), 0.1),
    (vehicles.trailer, (3.0, 1.8, 1.8), 0.1),
    (people.pedestrian, (0.8, 0.6, 1.75), 0.02),
    (people.sitting, (0.8, 0.6, 1.28), 0.02),
    (people.cyclist, (1.77, 0.57, 1.72), 0.02),
]


def check_mesh(mesh: Mesh) -> None:
    assert np.isfinite(mesh.vertices).all()
    assert mesh.triangles.min() >= 0
    assert mesh.triangles.max() < len(mesh.vertices)
    assert len(mesh.material) == len(mesh.triangles)
    assert set(mesh.material.tolist()) <= set(map(int, Material))


@pytest.mark.parametrize(("builder", "size", "beyond"), BUILDERS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.85, 1.15))
def test_a_shape_fills_its_box(builder: Builder, size: Size, beyond: float, seed: int, scale: float) -> None:
    length, width, height = (scale * value for value in size)
    shape = builder(np.random.default_rng(seed), (length, width, height))
    check_mesh(shape.mesh)
    low, high = shape.mesh.vertices.min(axis=0), shape.mesh.vertices.max(axis=0)
    half = np.array(shape.size) / 2
    assert (low[:2] >= -half[:2] - beyond).all()
    assert (high[:2] <= half[:2] + beyond).all()
    assert -0.05 <= low[2] <= 0.25
    assert 0.5 * shape.size[2] <= high[2] <= shape.size[2] + 0.12
    assert (high - low)[0] > 0.25 * shape.size[0]


def test_a_car_is_no_box() -> None:
    mesh = vehicles.car(np.random.default_rng(2), (4.2, 1.7, 1.5)).mesh
    front = mesh.vertices[mesh.vertices[:, 0] > 1.4]
    middle = mesh.vertices[np.abs(mesh.vertices[:, 0]) < 0.5]
    assert front[:, 2].max() < 1.15 < middle[:, 2].max()
    assert {Material.GLASS, Material.RUBBER, Material.PLATE, Material.INTERIOR} <= set(mesh.material.tolist())


def test_furniture_stands_on_the_ground() -> None:
    for builder, share in FURNITURE:
        mesh = builder(np.random.default_rng(1))
        check_mesh(mesh)
        assert share > 0
        assert -1.7 < mesh.vertices[:, 2].min() < 0.9


def test_merge_and_move() -> None:
    first, second = box((0, 0, 0), (2, 2, 2), Material.WALL), limb([(0, 0, 0), (0, 0, 1)], (0.1, 0.1), Material.WOOD)
    both = merge([first, second])
    assert len(both.triangles) == len(first.triangles) + len(second.triangles)
    assert both.triangles[len(first.triangles) :].min() == len(first.vertices)
    turned = move(box((1, 0, 0), (0.1, 0.1, 0.1), Material.WALL), (0, 0, 5), np.pi / 2)
    np.testing.assert_allclose(turned.vertices.mean(axis=0), [0, 1, 5], atol=1e-12)
    assert len(merge([]).triangles) == 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_ground_mesh_follows_the_ground(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ground = draw_ground(rng, WorldConfig(), layout_stats().ground)
    for strip in ground_mesh(rng, ground, (-6.0, 80.0)):
        check_mesh(strip)
        level = ground.z(strip.vertices[:, 0], strip.vertices[:, 1])
        np.testing.assert_allclose(strip.vertices[:, 2], level, atol=0.011)


def test_nothing_is_built_on_objects() -> None:
    taken = np.array([[20.0, 12.0], [40.0, -9.0]])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ground = draw_ground(rng, WorldConfig(backdrop=0.0), layout_stats().ground)
        for piece in surroundings(rng, WorldConfig(backdrop=0.0), ground, taken, (-6.0, 80.0)):
            for x, y in taken:
                near = np.hypot(piece.vertices[:, 0] - x, piece.vertices[:, 1] - y)
                assert near.min() > 0.3


def test_learning_finds_rows_sizes_and_slopes(tmp_path: Path) -> None:
    x = np.array([8.0, 13.5, 19.0, 30.0, 40.0, 50.0])
    ground = 0.02 * x - 1.713
    boxes = np.array([(a, -5.0 - 2 * (a > 20), g + 0.75, 4.0, 1.6, 1.5, 0.01) for a, g in zip(x, ground, strict=True)])
    calibration = camera_calibration()
    for index in range(3):
        write_labels(tmp_path / f"{index:06d}.txt", boxes_to_labels(boxes, ["Car"] * 6, calibration))
    others = [name for name in CLASSES if name != "Car"]
    singles = np.array([(12.0 + 4 * i, 6.0, -0.9, 0.8, 0.6, 1.7, 0.0) for i in range(len(others))])
    abreast = np.array([(30.0, y, -0.9, 4.0, 1.6, 1.5, 0.0) for y in (-3.0, -5.6)])
    mixed = boxes_to_labels(np.concatenate([singles, abreast]), [*others, "Car", "Car"], calibration)
    write_labels(tmp_path / "000003.txt", mixed)
    stats = learn(tmp_path)
    assert list(stats.classes["Car"].counts) == [0, 0, 0.25, 0, 0, 0, 0.75]
    assert stats.classes["Car"].size_mean == pytest.approx((4.0, 1.6, 1.5), abs=0.01)
    assert stats.abreast.gap[0] == pytest.approx(1.0, abs=0.02)
    assert stats.lengthwise.share == pytest.approx(9 / 21, abs=1e-3)
    assert list(stats.lengthwise.lengths) == [0, 1]
    assert stats.lengthwise.gap[0] == pytest.approx(1.5, abs=0.02)
    assert stats.ground.slope_x[0] > 0.01


def test_learning_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label files"):
        learn(tmp_path)
    (tmp_path / "000000.txt").write_text("")
    with pytest.raises(DataError, match=r"learn from a folder of some hundred frames"):
        learn(tmp_path)
