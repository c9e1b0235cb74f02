"""Augmentation keeps boxes and points together, mutates nothing and depends on its generator alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.boxes import bev_iou, points_in_boxes, points_per_box
from pd_edge.config import GridConfig
from pd_edge.training import augment as augmentation
from pd_edge.training.data_config import AugmentConfig
from pd_edge.training.object_bank import ObjectBank, build_object_bank
from pd_edge.training.scene import OTHER, Scene, keep_targets
from pd_edge.training.sim.beams import ELEVATION_DEGREES, beam_height

SIZES = np.array([[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]], dtype=np.float32)
OFF = AugmentConfig(
    sampled_objects=0,
    beam_dropout=0,
    intensity_jitter=0,
    object_shift=0,
    object_turn=0,
    flip=0,
    rotation=0,
    scaling=0,
    translation=0,
)
seeds = st.integers(0, 2**32 - 1)


def fill(box: npt.NDArray[np.float32], count: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Points well inside a box, so that rounding moves none of them out."""
    local = rng.uniform(-0.45, 0.45, (count, 3)) * box[3:6]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    x, y = cos * local[:, 0] - sin * local[:, 1], sin * local[:, 0] + cos * local[:, 1]
    return np.stack([x + box[0], y + box[1], local[:, 2] + box[2], rng.random(count)], axis=1).astype(np.float32)


def make_scene(seed: int, objects: int = 8, ground: int = 500) -> Scene:
    """Non-overlapping objects of all classes and one of another class, each with 1 to 30 points, above flat ground."""
    rng = np.random.default_rng(seed)
    boxes = np.empty((0, 7), dtype=np.float32)
    labels: list[int] = []
    for index in range(objects):
        label = index % 3
        place = [rng.uniform(3, 60), rng.uniform(-30, 30), rng.uniform(-1.2, -0.4)]
        box = np.array([[*place, *SIZES[label], rng.uniform(-np.pi, np.pi)]], dtype=np.float32)
        if not (bev_iou(box, boxes) > 0).any():
            boxes = np.concatenate([boxes, box])
            labels.append(OTHER if index == 4 else label)
    flat = [rng.uniform(0, 65, ground), rng.uniform(-35, 35, ground), np.full(ground, -2.5), rng.random(ground)]
    points = [np.stack(flat, axis=1).astype(np.float32)]
    points += [fill(box, int(rng.integers(1, 30)), rng) for box in boxes]
    return Scene(np.concatenate(points), boxes, np.array(labels, dtype=np.int64))


def make_bank(seed: int, scenes: int = 6) -> ObjectBank:
    first = [make_scene(seed + index, 12) for index in range(scenes)]
    second = [make_scene(seed + 100 + index, 12) for index in range(scenes)]
    return build_object_bank([first, second], [3.0, 1.0], 3, min_points=5, max_objects=1000)


def arrays(scene: Scene) -> list[npt.NDArray[Any]]:
    return [scene.points, scene.boxes, scene.labels]


def frozen(scene: Scene) -> Scene:
    """The scene in arrays that refuse to be written to."""
    for array in arrays(scene):
        array.setflags(write=False)
    return scene


def owners(scene: Scene) -> npt.NDArray[np.int32]:
    return points_in_boxes(scene.points, scene.boxes)


GEOMETRIC: dict[str, Callable[[Scene, np.random.Generator], Scene]] = {
    "flip": lambda scene, _: augmentation.flip(scene),
    "rotate": lambda scene, rng: augmentation.rotate(scene, rng.uniform(-np.pi, np.pi)),
    "rescale": lambda scene, rng: augmentation.rescale(scene, rng.uniform(0.8, 1.2)),
    "translate": lambda scene, rng: augmentation.translate(scene, rng.normal(0, 2, 3)),
}
OTHERS: dict[str, Callable[[Scene, np.random.Generator], Scene]] = {
    "sample_objects": lambda scene, rng: augmentation.sample_objects(scene, make_bank(7), 6, rng),
    "drop_beams": lambda scene, rng: augmentation.drop_beams(scene, 0.4, rng),
    "move_objects": lambda scene, rng: augmentation.move_objects(scene, 0.3, 0.2, rng),
    "jitter_intensity": lambda scene, rng: augmentation.jitter_intensity(scene, 0.3, rng),
    "augment": lambda scene, rng: augmentation.augment(scene, AugmentConfig(flip=1), make_bank(7), rng),
}


@pytest.mark.parametrize("name", GEOMETRIC)
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_points_stay_in_their_boxes(name: str, seed: int) -> None:
    scene = make_scene(seed)
    changed = GEOMETRIC[name](scene, np.random.default_rng(seed))
    np.testing.assert_array_equal(owners(changed), owners(scene))
    np.testing.assert_array_equal(points_per_box(changed.points, changed.boxes), points_per_box(*scene[:2]))
    assert ((changed.boxes[:, 6] >= -np.pi) & (changed.boxes[:, 6] <= np.pi)).all()


@pytest.mark.parametrize("name", GEOMETRIC | OTHERS)
def test_nothing_is_mutated_and_types_are_kept(name: str) -> None:
    scene = frozen(make_scene(3))
    changed = (GEOMETRIC | OTHERS)[name](scene, np.random.default_rng(5))
    assert [array.dtype for array in arrays(changed)] == [np.float32, np.float32, np.int64]
    assert changed.points.shape[1:] == (4,)
    assert changed.boxes.shape == (len(changed.labels), 7)
    assert any(not np.array_equal(new, old) for new, old in zip(arrays(changed), arrays(scene), strict=True))


@pytest.mark.parametrize("name", OTHERS)
def test_same_generator_gives_the_same_scene(name: str) -> None:
    first, again = (OTHERS[name](make_scene(3), np.random.default_rng(11)) for _ in range(2))
    other = OTHERS[name](make_scene(3), np.random.default_rng(12))
    for one, two in zip(arrays(first), arrays(again), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.points, other.points)


@pytest.mark.parametrize("name", GEOMETRIC | OTHERS)
def test_an_empty_scene_stays_a_scene(name: str) -> None:
    empty = Scene(np.empty((0, 4), np.float32), np.empty((0, 7), np.float32), np.empty(0, np.int64))
    changed = (GEOMETRIC | OTHERS)[name](empty, np.random.default_rng(1))
    assert len(changed.boxes) == len(changed.labels)
    assert (name in ("sample_objects", "augment")) == (len(changed.boxes) > 0)


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_flip_twice_is_the_identity(seed: int) -> None:
    scene = make_scene(seed)
    twice = augmentation.flip(augmentation.flip(scene))
    np.testing.assert_array_equal(twice.points, scene.points)
    np.testing.assert_allclose(twice.boxes, scene.boxes, atol=1e-6)


def test_rotation_turns_a_box_left_of_the_vehicle() -> None:
    box = np.array([[10, 0, -1, 4, 2, 1.5, 0]], dtype=np.float32)
    scene = Scene(np.array([[12, 0, -1, 0.5]], dtype=np.float32), box, np.zeros(1, np.int64))
    turned = augmentation.rotate(scene, np.pi / 2)
    np.testing.assert_allclose(turned.points, [[0, 12, -1, 0.5]], atol=1e-5)
    np.testing.assert_allclose(turned.boxes, [[0, 10, -1, 4, 2, 1.5, np.pi / 2]], atol=1e-5)


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_sampled_objects_overlap_nothing_and_bring_their_points(seed: int) -> None:
    scene, bank = make_scene(seed), make_bank(seed % 1000 + 1)
    pasted = augmentation.sample_objects(scene, bank, 10, np.random.default_rng(seed))
    iou = bev_iou(pasted.boxes, pasted.boxes)
    np.fill_diagonal(iou, 0)
    assert iou.max(initial=0) == 0
    old = len(scene.boxes)
    np.testing.assert_array_equal(pasted.boxes[:old], scene.boxes)
    for label in range(3):
        before, after = (int((labels == label).sum()) for labels in (scene.labels, pasted.labels))
        assert before <= after <= max(before, 10)
    for box, label in zip(pasted.boxes[old:], pasted.labels[old:], strict=True):
        index = int(np.flatnonzero((bank.boxes == box).all(axis=1))[0])
        assert bank.labels[index] == label
        inside = pasted.points[points_in_boxes(pasted.points, box[None]) == 0]
        np.testing.assert_array_equal(np.sort(inside, axis=0), np.sort(bank.points_of(index), axis=0))


def test_sampling_removes_the_background_around_a_pasted_object_only() -> None:
    bank = make_bank(1)
    grid = np.stack(np.meshgrid(np.arange(0, 65, 0.25), np.arange(-35, 35, 0.25), [-0.8]), axis=-1).reshape(-1, 3)
    points = np.concatenate([grid, np.zeros((len(grid), 1))], axis=1).astype(np.float32)
    scene = Scene(points, np.empty((0, 7), np.float32), np.empty(0, np.int64))
    pasted = augmentation.sample_objects(scene, bank, 5, np.random.default_rng(0))
    kept = pasted.points[: -sum(points_per_box(pasted.points, pasted.boxes))]
    grown = pasted.boxes + np.array([0, 0, 0, *[2 * augmentation.CLEARANCE] * 3, 0], dtype=np.float32)
    np.testing.assert_array_equal(kept, points[points_in_boxes(points, grown) < 0])
    assert len(kept) < len(points)


def test_a_full_class_gets_no_sampled_object() -> None:
    scene = make_scene(2, objects=30)
    pasted = augmentation.sample_objects(scene, make_bank(1), 1, np.random.default_rng(0))
    assert pasted.points is scene.points


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_moved_objects_keep_their_points_and_do_not_collide(seed: int) -> None:
    scene = make_scene(seed, objects=40)
    moved = augmentation.move_objects(scene, 0.5, 0.3, np.random.default_rng(seed))
    iou = bev_iou(moved.boxes, moved.boxes)
    np.fill_diagonal(iou, 0)
    assert iou.max(initial=0) == 0
    owner = owners(scene)
    held = owner >= 0
    np.testing.assert_array_equal(owners(moved)[held], owner[held])
    np.testing.assert_array_equal(moved.points[~held], scene.points[~held])
    np.testing.assert_array_equal(moved.boxes[:, 2:6], scene.boxes[:, 2:6])
    assert (np.abs(moved.boxes - scene.boxes)[:, :2] > 0).any()


def test_an_object_without_room_stays() -> None:
    row = np.array([[10, 1.61 * place, -1, 3.9, 1.6, 1.5, 0] for place in range(-3, 4)], dtype=np.float32)
    scene = Scene(np.concatenate([fill(box, 10, np.random.default_rng(0)) for box in row]), row, np.zeros(7, np.int64))
    moved = augmentation.move_objects(scene, 0.2, 0.3, np.random.default_rng(4))
    stayed = (moved.boxes == row).all(axis=1)
    assert stayed[1:-1].any()
    owner = owners(scene)
    np.testing.assert_array_equal(moved.points[stayed[owner]], scene.points[stayed[owner]])


def test_dropped_beams_are_whole_and_their_share_is_kept() -> None:
    elevation = (np.arange(-55, 5) + 0.5) * augmentation.BEAM_SPACING
    azimuth = np.linspace(-0.6, 0.6, 100)
    beams, around = np.meshgrid(elevation, azimuth, indexing="ij")
    xyz = 20 * np.stack([np.cos(beams) * np.cos(around), np.cos(beams) * np.sin(around), np.sin(beams)], axis=-1)
    points = np.concatenate([xyz, np.zeros((60, 100, 1))], axis=-1).reshape(-1, 4).astype(np.float32)
    scene = Scene(points, np.empty((0, 7), np.float32), np.empty(0, np.int64))
    rng, left = np.random.default_rng(0), []
    for _ in range(100):
        kept = augmentation.drop_beams(scene, 0.3, rng).points
        assert len(kept) % 100 == 0
        left.append(len(kept) / len(points))
    assert np.mean(left) == pytest.approx(0.7, abs=0.03)
    assert augmentation.drop_beams(scene, 0.0, rng).points.shape == points.shape


def test_thinned_scenes_keep_every_second_beam_whole() -> None:
    beams = np.arange(64)
    slope = np.tan(np.radians(ELEVATION_DEGREES))
    across = np.random.default_rng(0).uniform(5, 40, (64, 50))
    points = np.stack([across, np.zeros_like(across), across * slope[:, None] + beam_height(beams)[:, None]], axis=-1)
    cloud = np.concatenate([points, np.broadcast_to(beams[:, None, None] / 64, (64, 50, 1))], axis=-1)
    scene = Scene(cloud.reshape(-1, 4).astype(np.float32), np.empty((0, 7), np.float32), np.empty(0, np.int64))
    for every, first in ((2, 0), (2, 1), (3, 2), (4, 3)):
        kept = augmentation.thin_beams(scene, every, first).points
        left = np.round(kept[:, 3] * 64).astype(int)
        assert set(left) == set(range(first, 64, every))
        assert len(kept) == 50 * len(set(left))


def test_a_share_of_the_scenes_is_thinned() -> None:
    scene, config = make_scene(1), OFF.model_copy(update={"fewer_beams": 0.25})
    rng = np.random.default_rng(0)
    thinned = [augmentation.augment(scene, config, None, rng) is not scene for _ in range(400)]
    assert np.mean(thinned) == pytest.approx(0.25, abs=0.07)
    assert "fewer_beams" not in OFF.model_dump()
    assert AugmentConfig.model_validate(config.model_dump()) == config


def test_intensity_jitter_stays_in_range_and_touches_nothing_else() -> None:
    scene = make_scene(1)
    changed = augmentation.jitter_intensity(scene, 0.9, np.random.default_rng(2))
    np.testing.assert_array_equal(changed.points[:, :3], scene.points[:, :3])
    assert changed.points[:, 3].min() >= 0
    assert changed.points[:, 3].max() <= 1


def test_all_zero_returns_the_scene_itself_and_draws_nothing() -> None:
    scene, rng = make_scene(1), np.random.default_rng(9)
    changed = augmentation.augment(scene, OFF, None, rng)
    assert all(new is old for new, old in zip(arrays(changed), arrays(scene), strict=True))
    assert rng.random() == np.random.default_rng(9).random()


@pytest.mark.parametrize("field", [name for name in AugmentConfig.model_fields if not name.startswith("bank_")])
def test_every_switch_changes_the_scene(field: str) -> None:
    scene = make_scene(1)
    value = {"sampled_objects": 10, "flip": 1.0, "fewer_beams": 1.0}.get(field, 0.5)
    changed = augmentation.augment(scene, OFF.model_copy(update={field: value}), make_bank(2), np.random.default_rng(0))
    assert any(not np.array_equal(new, old) for new, old in zip(arrays(changed), arrays(scene), strict=True))


def test_targets_are_of_trained_classes_on_the_grid_and_with_points() -> None:
    grid = GridConfig()
    rng = np.random.default_rng(0)
    centres = [(20, 0), (-5, 0), (20, 45), (30, 5), (40, 5), (50, 5)]
    boxes = np.array([[x, y, -1, 3.9, 1.6, 1.5, 0.3] for x, y in centres], dtype=np.float32)
    points = np.concatenate([fill(box, count, rng) for box, count in zip(boxes, (9, 9, 9, 9, 2, 0), strict=True)])
    scene = Scene(points, boxes, np.array([0, 0, 0, OTHER, 1, 2], dtype=np.int64))
    for min_points, expected in ((0, [0, 1, 2]), (1, [0, 1]), (3, [0])):
        kept = keep_targets(scene, grid, min_points)
        np.testing.assert_array_equal(kept.labels, expected)
        assert kept.points is scene.points
