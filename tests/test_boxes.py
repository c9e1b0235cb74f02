"""Overlaps, suppression and points in boxes: invariants, exact cases, and parity of C++ with numpy."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge import boxes as bx
from pd_edge.boxes_reference import bev_iou_reference, iou_3d_reference, nms_bev_reference, points_inside_reference
from pd_edge.errors import DataError

Boxes = npt.NDArray[np.float64]
Overlap = Callable[[Boxes, Boxes], Boxes]
# A loaded machine may take its time: only the result is tested.
UNHURRIED = settings(deadline=None, max_examples=50)
OVERLAPS = pytest.mark.parametrize("overlap", [bx.bev_iou, bx.iou_3d])
UNIT = np.array([[0.0, 0, 0, 1, 1, 1, 0]])


def box(**changes: float) -> Boxes:
    """A 4 x 2 x 1.5 m box at the origin, changed as told."""
    row = {"x": 0.0, "y": 0.0, "z": 0.0, "length": 4.0, "width": 2.0, "height": 1.5, "yaw": 0.0} | changes
    return np.array([list(row.values())])


def random_boxes(seed: int, count: int, spread: float = 4.0) -> Boxes:
    rng = np.random.default_rng(seed)
    return np.column_stack(
        [rng.uniform(-spread, spread, (count, 3)), rng.uniform(0.1, 5, (count, 3)), rng.uniform(-9, 9, count)]
    )


def box_rows() -> st.SearchStrategy[Boxes]:
    """1 to 6 boxes near each other, many of them degenerate, aligned, touching or alike."""
    place = st.sampled_from([0.0, 0.5, 1.0, -2.0]) | st.floats(-5, 5)
    size = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 6)
    yaw = st.sampled_from([0.0, math.pi / 2, math.pi, -math.pi / 4]) | st.floats(-10, 10)
    row = st.tuples(place, place, place, size, size, size, yaw)
    return st.lists(row, min_size=1, max_size=6).map(lambda rows: np.array(rows, dtype=np.float64))


@given(box_rows(), box_rows())
@UNHURRIED
def test_overlap_is_between_0_and_1_and_symmetric(a: Boxes, b: Boxes) -> None:
    for overlap in (bx.bev_iou, bx.iou_3d):
        forward = overlap(a, b)
        assert (forward >= 0).all()
        assert (forward <= 1 + 1e-12).all()
        # Slivers: a relative error of the area is a large error of the ratio only when both areas vanish.
        sound = np.minimum.outer(a[:, 3:5].min(axis=1), b[:, 3:5].min(axis=1)) > 1e-3
        np.testing.assert_allclose(forward[sound], overlap(b, a).T[sound], atol=1e-9)


@given(box_rows(), box_rows())
@UNHURRIED
def test_overlap_equals_the_numpy_reference(a: Boxes, b: Boxes) -> None:
    sound = np.minimum.outer(a[:, 3:5].min(axis=1), b[:, 3:5].min(axis=1)) > 1e-3
    np.testing.assert_allclose(bx.bev_iou(a, b)[sound], bev_iou_reference(a, b)[sound], atol=1e-9)
    sound &= np.minimum.outer(a[:, 5], b[:, 5]) > 1e-3
    np.testing.assert_allclose(bx.iou_3d(a, b)[sound], iou_3d_reference(a, b)[sound], atol=1e-9)


@given(st.integers(0, 10_000), st.floats(-80, 80), st.floats(-80, 80), st.floats(-3, 3))
@UNHURRIED
def test_overlap_ignores_where_the_origin_is(seed: int, x: float, y: float, z: float) -> None:
    a, b = random_boxes(seed, 5), random_boxes(seed + 1, 5)
    shift = np.array([x, y, z, 0, 0, 0, 0])
    np.testing.assert_allclose(bx.bev_iou(a + shift, b + shift), bx.bev_iou(a, b), atol=1e-9)
    np.testing.assert_allclose(bx.iou_3d(a + shift, b + shift), bx.iou_3d(a, b), atol=1e-9)


@given(st.integers(0, 10_000), st.floats(-20, 20))
@UNHURRIED
def test_overlap_ignores_which_way_is_north(seed: int, angle: float) -> None:
    def turned(boxes: Boxes) -> Boxes:
        cos, sin = math.cos(angle), math.sin(angle)
        result = boxes.copy()
        result[:, :2] = boxes[:, :2] @ np.array([[cos, sin], [-sin, cos]])
        result[:, 6] += angle
        return result

    a, b = random_boxes(seed, 5), random_boxes(seed + 1, 5)
    np.testing.assert_allclose(bx.bev_iou(turned(a), turned(b)), bx.bev_iou(a, b), atol=1e-9)
    np.testing.assert_allclose(bx.iou_3d(turned(a), turned(b)), bx.iou_3d(a, b), atol=1e-9)


@OVERLAPS
@given(seed=st.integers(0, 10_000))
@UNHURRIED
def test_identical_boxes_overlap_by_1(overlap: Overlap, seed: int) -> None:
    a = random_boxes(seed, 6, spread=70)
    same = a.copy()
    same[:, 6] += np.pi * np.array([0, 1, -1, 2, -2, 4])
    np.testing.assert_allclose(np.diag(overlap(a, same)), 1, atol=1e-9)


@OVERLAPS
@pytest.mark.parametrize(
    "other",
    [
        box(x=4.0),
        box(y=-2.0),
        box(x=4.0, y=2.0),
        box(x=3.0, yaw=math.pi / 2),
        box(x=2 + math.sqrt(2), length=2.0, width=2.0, yaw=math.pi / 4),
    ],
    ids=["ends", "sides", "corners", "side to end", "corner to side"],
)
def test_touching_boxes_do_not_overlap(overlap: Overlap, other: Boxes) -> None:
    assert overlap(box(), other)[0, 0] == pytest.approx(0, abs=1e-12)


def test_boxes_on_top_of_each_other_share_their_footprint_only() -> None:
    assert bx.iou_3d(box(), box(z=1.5))[0, 0] == 0
    assert bx.bev_iou(box(), box(z=1.5))[0, 0] == pytest.approx(1)


@OVERLAPS
@pytest.mark.parametrize(
    "flat", [{"length": 0.0}, {"width": 0.0}, {"length": 0.0, "width": 0.0}, {"x": 1.0, "width": 0.0}]
)
@pytest.mark.parametrize("yaw", [0.0, 0.3, math.pi / 2])
def test_boxes_without_area_overlap_nothing(overlap: Overlap, flat: dict[str, float], yaw: float) -> None:
    degenerate = box(**flat, yaw=yaw)
    assert overlap(degenerate, degenerate)[0, 0] == 0
    assert overlap(box(), degenerate)[0, 0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("yaw", [0.0, 0.7, math.pi / 2])
def test_nested_boxes_overlap_by_the_ratio_of_their_sizes(yaw: float) -> None:
    inner = box(x=0.2, y=0.1, z=0.1, length=0.8, width=0.6, height=0.5, yaw=yaw)
    assert bx.bev_iou(box(), inner)[0, 0] == pytest.approx(0.48 / 8)
    assert bx.iou_3d(box(), inner)[0, 0] == pytest.approx(0.24 / 12)


def test_known_overlaps() -> None:
    octagon = 2 * (math.sqrt(2) - 1)
    turned = box(z=0.5, length=1, width=1, height=1, yaw=math.pi / 4)
    assert bx.bev_iou(UNIT, turned)[0, 0] == pytest.approx(octagon / (2 - octagon))
    assert bx.iou_3d(UNIT, turned)[0, 0] == pytest.approx(octagon / 2 / (2 - octagon / 2))
    assert bx.bev_iou(box(), box(x=1.0, y=0.5))[0, 0] == pytest.approx(4.5 / 11.5)
    assert bx.bev_iou(box(), box(yaw=math.pi / 2))[0, 0] == pytest.approx(4 / 12)


def test_paired_overlaps_are_the_diagonal() -> None:
    a, b = random_boxes(1, 20), random_boxes(2, 20)
    np.testing.assert_array_equal(bx.paired_bev_iou(a, b), np.diag(bx.bev_iou(a, b)))
    np.testing.assert_array_equal(bx.paired_iou_3d(a, b), np.diag(bx.iou_3d(a, b)))
    with pytest.raises(DataError, match="a has 20 boxes and b 19"):
        bx.paired_bev_iou(a, b[:19])


def test_empty_and_single_precision_arrays() -> None:
    none = np.empty((0, 7), dtype=np.float32)
    one = box().astype(np.float32)
    assert bx.bev_iou(none, one).shape == (0, 1)
    assert bx.iou_3d(one, none).shape == (1, 0)
    assert bx.nms_bev(none, np.empty(0), 0.5).shape == (0,)
    assert bx.points_in_boxes(np.zeros((2, 4), dtype=np.float32), none).tolist() == [-1, -1]
    assert bx.points_per_box(np.empty((0, 4), dtype=np.float32), one).tolist() == [0]
    assert bx.bev_corners(none).shape == (0, 4, 2)
    assert bx.box_corners(none).shape == (0, 8, 3)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.3, 0.7, 1.0]))
@UNHURRIED
def test_suppression_equals_the_reference(seed: int, threshold: float) -> None:
    a = random_boxes(seed, 15)
    scores = np.random.default_rng(seed).integers(0, 8, 15) / 8  # many ties
    kept = bx.nms_bev(a, scores, threshold)
    np.testing.assert_array_equal(kept, nms_bev_reference(a, scores, threshold))
    assert (np.diff(scores[kept]) <= 0).all()
    among_kept = bx.bev_iou(a[kept], a[kept])
    assert (among_kept[~np.eye(len(kept), dtype=bool)] <= threshold).all()


def test_suppression_keeps_the_best_and_prefers_the_earlier_of_equals() -> None:
    three = np.concatenate([box(), box(x=0.5), box(x=30.0)])
    assert bx.nms_bev(three, np.array([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]
    assert bx.nms_bev(three, np.array([0.5, 0.5, 0.9]), 0.5).tolist() == [2, 0]
    overlap = bx.bev_iou(three[:1], three[1:2])[0, 0]
    assert bx.nms_bev(three[:2], np.array([0.9, 0.5]), overlap).tolist() == [0, 1]
    assert bx.nms_bev(three[:2], np.array([0.9, 0.5]), math.nextafter(overlap, 0)).tolist() == [0]


def test_crowd_of_boxes_is_thinned_like_the_reference() -> None:
    crowds = [random_boxes(seed, 15, spread=3.0) for seed in range(4)]
    for k, crowd in enumerate(crowds):
        crowd[:, 0] += 20 * k
    a = np.concatenate(crowds)
    scores = np.random.default_rng(0).random(60)
    np.testing.assert_array_equal(bx.nms_bev(a, scores, 0.1), nms_bev_reference(a, scores, 0.1))


@pytest.mark.parametrize("single", [False, True])
def test_points_in_boxes_equal_the_reference(*, single: bool) -> None:
    a = random_boxes(3, 12)
    points: bx.Floats = np.random.default_rng(4).uniform(-6, 6, (4000, 4))
    points = points.astype(np.float32) if single else points
    inside = points_inside_reference(points, a)
    assert inside.sum() > 500
    np.testing.assert_array_equal(bx.points_per_box(points, a), inside.sum(axis=0))
    first = np.where(inside.any(axis=1), inside.argmax(axis=1), -1)
    np.testing.assert_array_equal(bx.points_in_boxes(points, a), first)
    np.testing.assert_array_equal(bx.points_in_boxes(points[::3, :3], a), first[::3])


@given(st.integers(0, 10_000))
@UNHURRIED
def test_points_drawn_inside_a_box_are_found_in_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = random_boxes(seed, 1, spread=50)
    local = rng.uniform(-0.499, 0.499, (50, 3)) * one[0, 3:6]
    cos, sin = np.cos(one[0, 6]), np.sin(one[0, 6])
    points = local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + one[0, :3]
    assert bx.points_per_box(points, one)[0] == 50
    points[:, 0] += 2 * one[0, 3:6].max() + 1
    assert bx.points_per_box(points, one)[0] == 0


def test_faces_belong_to_the_box_and_the_first_box_wins() -> None:
    points = np.array([[2.0, 1, 0.75], [2.01, 0, 0], [0, 0, 0]])
    two = np.concatenate([box(), box()])
    assert bx.points_in_boxes(points, two).tolist() == [0, -1, 0]
    assert bx.points_per_box(points, two).tolist() == [2, 2]


def test_corners() -> None:
    expected = [[-1 + 1, 2 + 2], [-1 + 1, -2 + 2], [1 + 1, -2 + 2], [1 + 1, 2 + 2]]
    turned = box(x=1.0, y=2.0, z=3.0, yaw=math.pi / 2)
    np.testing.assert_allclose(bx.bev_corners(turned)[0], expected, atol=1e-12)
    corners = bx.box_corners(turned)[0]
    np.testing.assert_allclose(corners[:4], [[*xy, 2.25] for xy in expected], atol=1e-12)
    np.testing.assert_allclose(corners[4:], [[*xy, 3.75] for xy in expected], atol=1e-12)


@given(st.floats(-1e4, 1e4))
@UNHURRIED
def test_wrapped_angles_point_the_same_way(angle: float) -> None:
    wrapped = bx.wrap_angle(angle)
    assert -math.pi <= wrapped < math.pi
    assert (math.cos(wrapped), math.sin(wrapped)) == pytest.approx((math.cos(angle), math.sin(angle)), abs=1e-9)
    single = bx.wrap_angle(np.array([angle], dtype=np.float32))
    assert single.dtype == np.float32
    assert -np.float32(np.pi) <= single[0] < np.float32(np.pi)
    assert math.cos(single[0]) == pytest.approx(math.cos(np.float32(angle)), abs=1e-6)


def test_half_a_turn_wraps_to_the_closed_end() -> None:
    assert bx.wrap_angle(math.pi) == -math.pi
    assert bx.wrap_angle(-math.pi) == -math.pi
    assert bx.wrap_angle(math.nextafter(-math.pi, -4)) < math.pi
    just_beyond_half_a_turn = np.array([np.pi], dtype=np.float32)  # rounded up
    assert bx.wrap_angle(just_beyond_half_a_turn)[0] == np.nextafter(-np.float32(np.pi), np.float32(0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 8)), r"shape \(2, 8\); expected \(N, 7\)"),
        (np.zeros(7), r"shape \(7,\)"),
        (box(x=math.nan), r"\[0, 0\] is nan"),
        (box(yaw=math.inf), r"\[0, 6\] is inf"),
        (box(x=1e300), "finite"),
        (box(width=-1.0), "negative size"),
        (np.array([["a"] * 7]), "not an array of numbers"),
    ],
)
def test_bad_boxes_are_refused(bad: Boxes, message: str) -> None:
    for call in (
        lambda: bx.bev_iou(bad, UNIT),
        lambda: bx.iou_3d(UNIT, bad),
        lambda: bx.nms_bev(bad, np.zeros(len(bad)), 0.5),
        lambda: bx.points_in_boxes(np.zeros((1, 3)), bad),
        lambda: bx.bev_corners(bad),
        lambda: bx.box_corners(bad),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_bad_scores_thresholds_and_points_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(2,\); expected \(1,\)"):
        bx.nms_bev(UNIT, np.zeros(2), 0.5)
    with pytest.raises(DataError, match=r"scores\[0\] is nan"):
        bx.nms_bev(UNIT, np.array([np.nan]), 0.5)
    with pytest.raises(DataError, match="iou_threshold is 2"):
        bx.nms_bev(UNIT, np.zeros(1), 2)
    with pytest.raises(DataError, match=r"shape \(3, 2\)"):
        bx.points_in_boxes(np.zeros((3, 2)), UNIT)
    with pytest.raises(DataError, match="int64; expected a float32 or float64"):
        bx.points_per_box(np.zeros((3, 3), dtype=np.int64), UNIT)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"points\[1, 2\] is inf"):
        bx.points_in_boxes(np.array([[0, 0, 0], [0, 0, np.inf]]), UNIT)
