"""Full coverage: turned clouds, seams, and the same boxes wherever around the sensor an object stands."""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.boxes import Detections, bev_corners, bev_iou
from pd_edge.bundle import Bundle
from pd_edge.config import DecodeConfig, GridConfig
from pd_edge.decode import Heads
from pd_edge.detector import Detector, Timing, load
from pd_edge.errors import ConfigError
from pd_edge.pillars import point_cells
from pd_edge.runtimes import BatchRuntime, open_runtime
from pd_edge.sectors import OVERLAP, Sectors, coverage_named, turned, turned_boxes

Floats = npt.NDArray[np.float32]
QUARTER = math.pi / 2
GRID = GridConfig()


def detections(rows: Sequence[tuple[float, float, float]], labels: Sequence[int] | None = None) -> Detections:
    """Boxes of 2 x 1 x 1 m from (x, y, score), best first."""
    boxes = np.array([[x, y, -1, 2, 1, 1, 0] for x, y, _ in rows], np.float32).reshape(-1, 7)
    scores = np.array([score for *_, score in rows], np.float32)
    return Detections(boxes, np.array(labels or [0] * len(rows), np.int64), scores)


NONE = detections([])


def at(azimuth: float, distance: float = 20.0) -> tuple[float, float]:
    """The x and y [m] of a place at an azimuth [degrees]."""
    return distance * math.cos(math.radians(azimuth)), distance * math.sin(math.radians(azimuth))


def as_set(found: Detections) -> set[tuple[float, ...]]:
    """Boxes but for the yaw, with label and score: to the bit, in no order."""
    return {
        (*box[:6].tolist(), int(label), float(score))
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
    }


# Turns


@pytest.mark.parametrize("quarters", range(-3, 5))
def test_quarter_turns_are_exact(clouds: list[Floats], quarters: int) -> None:
    x, y = clouds[0][:, 0], clouds[0][:, 1]
    expected = {0: (x, y), 1: (-y, x), 2: (-x, -y), 3: (y, -x)}[quarters % 4]
    result = turned(clouds[0], quarters * QUARTER)
    np.testing.assert_array_equal(result[:, :2], np.stack(expected, axis=1))
    np.testing.assert_array_equal(result[:, 2:], clouds[0][:, 2:])


@settings(max_examples=30)
@given(angle=st.floats(-7, 7))
def test_boxes_turn_with_their_points(angle: float) -> None:
    boxes = np.array([[10, 3, -1, 4, 2, 1.5, 3.0], [5, -20, 0, 1, 0.5, 2, -3.1]], np.float32)
    corners = bev_corners(boxes).reshape(-1, 2)
    flat = np.column_stack([corners, np.zeros((8, 2))]).astype(np.float32)
    expected = turned(flat, angle)[:, :2].reshape(2, 4, 2)
    result = turned_boxes(boxes, angle)
    np.testing.assert_allclose(bev_corners(result), expected, atol=2e-5)
    np.testing.assert_array_equal(result[:, 2:6], boxes[:, 2:6])
    assert (np.abs(result[:, 6]) <= np.float32(math.pi)).all()


def test_a_turn_leaves_its_cloud_alone(clouds: list[Floats]) -> None:
    before = clouds[1].copy()
    turned(clouds[1], 1.0)
    np.testing.assert_array_equal(clouds[1], before)


# Reach


@settings(max_examples=30)
@given(
    azimuth=st.floats(-math.pi, math.pi),
    part=st.floats(0.001, 0.999),
    yaw=st.floats(-math.pi, math.pi),
    count=st.sampled_from([4, 5, 6]),
)
def test_within_reach_an_object_is_whole_in_the_sector_that_answers_for_it(
    azimuth: float, part: float, yaw: float, count: int
) -> None:
    sectors = Sectors(GRID, count)
    near, far = sectors.reach()
    distance = near + part * (far - near)
    x, y = distance * math.cos(azimuth), distance * math.sin(azimuth)
    car = np.array([[x, y, -1, 3.9, 1.6, 1.5, yaw]], np.float32)
    whole = []
    for axis in sectors.axes:
        corners = bev_corners(turned_boxes(car, -axis))[0]
        points = np.column_stack([corners, np.full(4, -1.0), np.zeros(4)]).astype(np.float32)
        whole.append(bool((point_cells(points, GRID) >= 0).all()))
    nearest = int(np.argmax(np.cos(azimuth - np.array(sectors.axes))))
    assert whole[nearest]


def test_reach_of_the_shipped_grid() -> None:
    near, far = Sectors(GRID, 4).reach()
    assert near == pytest.approx(2.97, abs=0.01)
    assert far == pytest.approx(53.15, abs=0.01)
    assert "from 3.0 to 53.1 m" in Sectors(GRID, 4).describe()
    assert Sectors(GRID, 6).reach(0.5).far == pytest.approx(68.62)  # the far edge, not the sides


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (GridConfig(x_min=-69.12), "lies all around as it is; leave the coverage out"),
        (GridConfig(x_min=1.6, x_max=70.72), "does not begin at the sensor"),
        (GridConfig(y_min=0.0, y_max=39.68), "both sides"),
        (GridConfig(y_min=-3.84, y_max=3.84), r"y -3.84..3.84 m, is too narrow for 4 sectors"),
    ],
    ids=["around", "ahead", "one side", "narrow"],
)
def test_a_grid_that_does_not_allow_it_is_refused(grid: GridConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sectors(grid, 4)
    assert Sectors(grid).count == 1


def test_an_unknown_coverage_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="coverage 'rear': choose one of front, full"):
        coverage_named("rear")
    with pytest.raises(ConfigError, match="coverage 'rear'"):
        load(tiny_bundle.folder, coverage="rear")  # type: ignore[arg-type]


# Merging


def test_each_sector_answers_for_its_wedge_and_little_more() -> None:
    inside, beside, outside = at(44.0), at(46.0), at(50.0)  # 0.35 m inside of the seam, 0.35 m and 1.74 m beyond it
    found = detections([(*inside, 0.9), (*outside, 0.7)])
    merged = Sectors(GRID, 4).merge([found, NONE, NONE, NONE], 0.01)
    np.testing.assert_array_equal(merged.boxes, found.boxes[:1])
    assert len(Sectors(GRID, 4).merge([detections([(*beside, 0.8)]), NONE, NONE, NONE], 0.01).boxes) == 1
    assert OVERLAP == 1.0


def test_what_is_found_from_both_sides_of_a_seam_is_one_object() -> None:
    """Whether both claim it, both disclaim it, or one does: exactly one box, and the better one."""
    for first in (43.5, 44.9, 45.1, 46.5):
        for second in (43.5, 44.9, 45.1, 46.5):
            ahead, left = detections([(*at(first), 0.6)]), detections([(*at(second - 90), 0.8)])
            merged = Sectors(GRID, 4).merge([ahead, left, NONE, NONE], 0.01)
            assert merged.scores.tolist() == [np.float32(0.8)]
            np.testing.assert_allclose(merged.boxes[0, :2], at(second), atol=1e-5)


def test_other_classes_and_other_places_stay() -> None:
    ahead = detections([(*at(45), 0.9), (*at(0), 0.5)])
    left = detections([(*at(-45), 0.7), (*at(10), 0.6)], [1, 0])
    merged = Sectors(GRID, 4).merge([ahead, left, NONE, NONE], 0.01)
    assert merged.scores.tolist() == np.array([0.9, 0.7, 0.6, 0.5], np.float32).tolist()
    assert merged.labels.tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(merged.boxes[2, :2], at(100), atol=1e-5)


def test_nothing_found_is_nothing() -> None:
    merged = Sectors(GRID, 4).merge([NONE] * 4, 0.01)
    assert [each.shape for each in merged] == [(0, 7), (0,), (0,)]
    assert [each.dtype for each in merged] == [np.float32, np.int64, np.float32]


def test_one_sector_is_the_model_as_it_is(clouds: list[Floats]) -> None:
    found = detections([(*at(170), 0.9), (*at(171), 0.8)])
    front = Sectors(GRID)
    assert front.merge([found], 0.01) is found
    (view,) = front.views(clouds[0])
    assert view is clouds[0]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), count=st.sampled_from([4, 6]))
def test_a_turn_by_a_sector_hands_the_answers_on(seed: int, count: int) -> None:
    """The views only change places: the same boxes in the sectors' frames, so the same boxes turned."""
    rng = np.random.default_rng(seed)
    found = []
    # No two boxes score the same: of two at a seam that do, the one of the first sector stays, which a turn changes.
    for scores in rng.permutation(20 * count).reshape(count, 20) / (20 * count):
        places = np.column_stack([rng.uniform(0, 60, 20), rng.uniform(-39, 39, 20), scores])
        found.append(detections(places[np.argsort(-places[:, 2])].tolist()))
    sectors = Sectors(GRID, count)
    one, other = sectors.merge(found, 0.01), sectors.merge([*found[-1:], *found[:-1]], 0.01)
    turned_one = one._replace(boxes=turned_boxes(one.boxes, sectors.axes[1]))
    assert len(one.boxes) == len(other.boxes)
    if count == 4:
        assert as_set(turned_one) == as_set(other)
    assert (bev_iou(turned_one.boxes, other.boxes).max(axis=1) > 0.999).all()


# The detector


@pytest.fixture(scope="module")
def around(tiny_bundle: Bundle) -> Detector:
    pytest.importorskip("openvino")
    return load(tiny_bundle.folder, threads=1, coverage="full")


@pytest.fixture(scope="module")
def circle() -> Floats:
    """16,000 points all around, near enough for the tiny model's grid and as dense as ``tiny_cloud``."""
    rng = np.random.default_rng(3)
    low, high = (-20.0, -20.0, -2.5, 0.0), (20.0, 20.0, 0.9, 1.0)
    return rng.uniform(low, high, (16_000, 4)).astype(np.float32)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_cloud_turned_by_a_quarter_gives_the_same_boxes_turned(
    around: Detector, circle: Floats, quarters: int
) -> None:
    """Centres, sizes, classes and scores to the bit; yaws to float32's rounding."""
    plain = around.detect(circle)
    assert len(plain.boxes) >= 40
    expected = plain._replace(boxes=turned_boxes(plain.boxes, quarters * QUARTER))
    found = around.detect(turned(circle, quarters * QUARTER))
    assert as_set(found) == as_set(expected)
    order, wanted = np.lexsort(found.boxes.T[:3]), np.lexsort(expected.boxes.T[:3])
    difference = found.boxes[order, 6].astype(np.float64) - expected.boxes[wanted, 6]
    assert np.abs(np.sin(difference)).max() < 1e-6
    assert np.cos(difference).min() > 0.99


def test_ahead_of_the_seams_full_coverage_is_the_front_model(
    tiny_bundle: Bundle, around: Detector, circle: Floats
) -> None:
    front = load(tiny_bundle.folder, threads=1).detect(circle)
    x, y = front.boxes[:, 0], front.boxes[:, 1]
    clear = np.abs(y) < x - 4  # nothing from the other side of a seam overlaps it
    assert clear.sum() >= 5
    own = Detections(front.boxes[clear], front.labels[clear], front.scores[clear])
    assert as_set(own) <= as_set(around.detect(circle))


def test_boxes_are_found_in_all_quarters(around: Detector, circle: Floats) -> None:
    boxes = around.detect(circle).boxes
    azimuths = np.round(np.arctan2(boxes[:, 1], boxes[:, 0]) / QUARTER) % 4
    assert set(azimuths.tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_no_two_boxes_of_a_class_overlap(around: Detector, circle: Floats) -> None:
    boxes, labels, _ = around.detect(circle)
    same = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    assert bev_iou(boxes, boxes)[same].max() <= around.config.decode.nms_iou


class OneByOne:
    """A runtime that takes one canvas at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self._inner = open_runtime(bundle, "openvino", threads=1)
        self.name, self.precision, self.layout = self._inner.name, self._inner.precision, self._inner.layout
        self.calls = 0

    def infer(self, canvas: Floats) -> Heads:
        self.calls += 1
        return self._inner.infer(canvas)


def test_sectors_one_by_one_give_the_same_as_at_once(tiny_bundle: Bundle, around: Detector, circle: Floats) -> None:
    alone = OneByOne(tiny_bundle)
    assert not isinstance(alone, BatchRuntime)
    assert isinstance(around.runtime, BatchRuntime)
    one_by_one = Detector(tiny_bundle, alone, coverage="full")
    for cloud in (circle, circle[::2], circle):
        found = one_by_one.detect(cloud)
        for one, other in zip(found, around.detect(cloud), strict=True):
            np.testing.assert_array_equal(one, other)
    assert alone.calls == 12


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_every_runtime_goes_around(tiny_bundle: Bundle, around: Detector, circle: Floats, name: str) -> None:
    pytest.importorskip(name)
    found = load(tiny_bundle.folder, name, threads=1, coverage="full").detect(circle)
    expected = around.detect(circle)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


class Recorder:
    """A runtime that takes points, finds nothing, and keeps what it was shown."""

    name, precision = "recorder", "fp32"

    def __init__(self, bundle: Bundle) -> None:
        model = bundle.config.model
        anchors, height, width = 2 * len(model.classes), model.grid.ny // 2, model.grid.nx // 2
        self.seen: list[Floats] = []
        self._heads = Heads(
            np.full((1, anchors * len(model.classes), height, width), -20, np.float32),
            np.zeros((1, anchors * 7, height, width), np.float32),
            np.zeros((1, anchors * 2, height, width), np.float32),
        )

    def infer_points(self, points: Floats) -> Heads:
        self.seen.append(points.copy())
        return self._heads


def test_a_network_that_takes_points_is_shown_each_view(tiny_bundle: Bundle, circle: Floats) -> None:
    runtime = Recorder(tiny_bundle)
    assert not len(Detector(tiny_bundle, runtime, coverage="full").detect(circle).boxes)
    assert len(runtime.seen) == 4
    for quarter, view in enumerate(runtime.seen):
        np.testing.assert_array_equal(turned(view, quarter * QUARTER), circle)


def test_stages_are_those_of_all_sectors(around: Detector, circle: Floats) -> None:
    _, timing = around.detect_timed(circle)
    assert min(timing) > 0
    assert around.detect_timed(np.empty((0, 4), np.float32))[1] == Timing(0.0, 0.0, 0.0)


def test_thresholds_hold_all_around_and_the_most_boxes_for_each_sector(tiny_bundle: Bundle, circle: Floats) -> None:
    few = load(tiny_bundle.folder, threads=1, decode=DecodeConfig(max_boxes=2), coverage="full")
    found = few.detect(circle)
    assert 2 < len(found.boxes) <= 8
    few.set_score_threshold(float(found.scores[1]))
    assert few.detect(circle).scores.tolist() == found.scores[found.scores >= found.scores[1]].tolist()


def test_only_what_lies_in_no_sector_is_outside(tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    detector = load(tiny_bundle.folder, threads=1, decode=DecodeConfig(score_threshold=1.0), coverage="full")
    behind, away = (np.array([[x, 1.0, -1.0, 0.5]] * 9, np.float32) for x in (-15.0, -25.0))
    with caplog.at_level(logging.WARNING):
        detector.detect(behind)
        assert not caplog.text
        detector.detect(away)
    assert "none of 9 points lies in the grid (x 0..20.48, y -5.12..5.12, z -3..1 m in 4 sectors)" in caplog.text


def test_the_front_stays_the_front(tiny_bundle: Bundle, tiny_cloud: Floats) -> None:
    detector = load(tiny_bundle.folder, threads=1)
    assert (detector.coverage, detector.sectors.count) == ("front", 1)
    behind = turned(tiny_cloud, math.pi)
    for one, other in zip(
        detector.detect(np.concatenate([tiny_cloud, behind])),
        detector.detect(np.concatenate([tiny_cloud, behind[behind[:, 0] >= 0]])),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


# A scan


class Street(NamedTuple):
    """A simulated scan, whole around the sensor, and what the smallest shipped model finds in it."""

    points: Floats
    found: Detections
    detector: Detector


@pytest.fixture(scope="module")
def street() -> Street:
    for name in ("open3d", "scipy"):
        pytest.importorskip(name, reason="needs the train extra", exc_type=ImportError)
    from pd_edge.training.sim.drive import drive_scan
    from pd_edge.training.sim.scene import SimulateConfig

    points = drive_scan(5, 2, SimulateConfig(), 0).points
    detector = load("pointpillars-4x", threads=1, coverage="full")
    return Street(points, detector.detect(points), detector)


def test_a_scan_turned_by_a_quarter_gives_the_same_boxes_turned(street: Street) -> None:
    assert (street.found.scores > 0.5).sum() >= 10
    expected = street.found._replace(boxes=turned_boxes(street.found.boxes, QUARTER))
    assert as_set(street.detector.detect(turned(street.points, QUARTER))) == as_set(expected)


@pytest.mark.parametrize("degrees", [20, 45, 70])
def test_a_scan_turned_by_any_angle_gives_nearly_the_same_cars(street: Street, degrees: int) -> None:
    """What moves from an axis to a seam, or from one to the other, stays: the model varies, the coverage does not."""
    angle = math.radians(degrees)
    boxes, labels, scores = street.found
    distance = np.hypot(boxes[:, 0], boxes[:, 1])
    cars = boxes[(labels == 0) & (scores > 0.5) & (distance > 3) & (distance < 40)]
    assert len(cars) >= 8
    after = street.detector.detect(turned(street.points, angle))
    back = turned_boxes(after.boxes[after.labels == 0], -angle)
    overlap = bev_iou(cars, back)
    assert (overlap.max(axis=1) > 0.5).mean() >= 0.9
    moved = np.hypot(*(cars[:, :2] - back[overlap.argmax(axis=1), :2]).T)
    assert np.median(moved) < 0.15
