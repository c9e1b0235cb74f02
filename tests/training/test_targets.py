"""Target assignment against a dense, literal implementation, and on cases with a known answer."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.config import GridConfig, PointPillarsConfig
from pd_edge.decode import anchors, encode_boxes
from pd_edge.training.config import KITTI_THRESHOLDS
from pd_edge.training.scene import ignored_label
from pd_edge.training.targets import FrameTargets, TargetAssigner, batch_targets, nearest_bev_sizes

GRID = GridConfig(x_min=0, x_max=19.2, y_min=-9.6, y_max=9.6)
MODEL = PointPillarsConfig(grid=GRID, pillar_channels=4, backbone_channels=(4, 4, 4), neck_channels=4)
ASSIGNER = TargetAssigner(MODEL, KITTI_THRESHOLDS)
ANCHORS = anchors(MODEL).reshape(-1, 7)
SIZES = np.array([each.anchor_size for each in MODEL.classes])


def rectangles(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Boxes (K, 7) turned to the nearest axis: (K, 4) low x, low y, high x, high y."""
    half = np.array([box[3:5] if abs(math.cos(box[6])) >= abs(math.sin(box[6])) else box[[4, 3]] for box in boxes])
    half = half.reshape(-1, 2) / 2
    return np.hstack([boxes[:, :2] - half, boxes[:, :2] + half])


def dense_iou(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(K, anchors) nearest-BEV IoU."""
    a, b = rectangles(boxes.astype(np.float64))[:, None], rectangles(ANCHORS.astype(np.float64))[None]
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    iou: npt.NDArray[np.float64] = shared / union
    return iou


def dense_assign(
    boxes: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[dict[int, tuple[int, float]], set[int]]:
    """Positive anchors with their label and overlap, and ignored anchors, with every anchor compared to every box."""
    positive: dict[int, tuple[int, float]] = {}
    ignored: set[int] = set()
    anchor_class = np.arange(len(ANCHORS)) % 6 // 2
    iou = np.where(anchor_class == labels[:, None], dense_iou(boxes), 0)
    limits = [KITTI_THRESHOLDS[each.name] for each in MODEL.classes]
    for anchor in np.flatnonzero(iou.max(axis=0, initial=0)):
        overlap = iou[:, anchor]
        forced = [k for k in range(len(boxes)) if overlap[k] > 0 and overlap[k] >= iou[k].max() - 1e-9]
        owner = max(forced, key=lambda k: overlap[k]) if forced else int(overlap.argmax())
        if forced or overlap[owner] >= limits[anchor_class[anchor]].positive:
            positive[int(anchor)] = (int(labels[owner]), float(overlap[owner]))
        elif overlap[owner] >= limits[anchor_class[anchor]].negative:
            ignored.add(int(anchor))
    return positive, ignored


def random_boxes(seed: int, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    boxes = np.empty((count, 7))
    boxes[:, :3] = rng.uniform((-2, -11, -2), (21, 11, 1), (count, 3))
    boxes[:, 3:6] = SIZES[labels] * rng.uniform(0.6, 1.5, (count, 3))
    boxes[:, 6] = rng.uniform(-math.pi, math.pi, count)
    return boxes.astype(np.float32), labels


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 12))
def test_equals_dense_assignment(seed: int, count: int) -> None:
    boxes, labels = random_boxes(seed, count)
    found = ASSIGNER.assign(boxes, labels)
    positive, ignored = dense_assign(boxes, labels)
    assert found.positives.tolist() == sorted(positive)
    assert found.ignored.tolist() == sorted(ignored)
    assert found.labels.tolist() == [positive[anchor][0] for anchor in sorted(positive)]
    if count:
        # The decoded owner overlaps its anchor as much as the dense choice does.
        iou = dense_iou(boxes)
        for anchor, residual in zip(found.positives, found.residuals, strict=True):
            candidates = encode_boxes(boxes, np.repeat(ANCHORS[anchor : anchor + 1], count, axis=0))
            owner = int(np.abs(candidates - residual).sum(axis=1).argmin())
            assert iou[owner, anchor] == pytest.approx(positive[int(anchor)][1], abs=1e-6)


def test_spread_anchors_are_assigned_where_they_stand() -> None:
    spread = MODEL.model_copy(update={"anchor_range": (0.0, -9.0, 18.0, 9.0)})
    places = anchors(spread).reshape(-1, 7)
    chosen = np.array([0, len(places) // 2 // 6 * 6, len(places) - 6])
    found = TargetAssigner(spread, KITTI_THRESHOLDS).assign(places[chosen], np.zeros(3, np.int64))
    assert set(chosen) <= set(found.positives)
    np.testing.assert_allclose(found.residuals[np.isin(found.positives, chosen)], 0, atol=1e-5)


def test_box_on_an_anchor_learns_zero_residuals() -> None:
    index = (30 * 60 + 20) * 6 + 2  # row 30, column 20, pedestrian, yaw 0
    found = ASSIGNER.assign(ANCHORS[index : index + 1], np.array([1]))
    place = found.positives.tolist().index(index)
    assert np.abs(found.residuals[place]).max() < 1e-6
    assert found.residuals.dtype == np.float32
    assert found.directions[place] == 1  # yaw 0 lies before the offset of 45 degrees


def test_small_object_still_gets_its_best_anchor() -> None:
    box = np.array([[10, 0, -1, 1.0, 0.5, 0.5, 0.2]], np.float32)
    found = ASSIGNER.assign(box, np.array([0]))
    assert len(found.positives) >= 1
    assert not len(found.ignored)


def test_object_off_the_grid_changes_nothing() -> None:
    box = np.array([[-30, 0, -1, 4, 1.6, 1.5, 0]], np.float32)
    found = ASSIGNER.assign(box, np.array([0]))
    assert not len(found.positives)
    assert not len(found.ignored)


def test_a_box_larger_than_the_ground_takes_no_more_memory_than_the_map() -> None:
    """Which a teacher that has hardly learned may see, and label distillation then assigns."""
    found = ASSIGNER.assign(np.array([[5.0, 0.0, 0.0, 1e6, 1e6, 2.0, 0.0]], np.float32), np.array([0]))
    cars = np.flatnonzero(np.arange(len(ANCHORS)) % 6 < 2)
    assert set(found.positives) <= set(cars)
    assert len(found.positives) > 0


def test_class_without_objects_has_no_targets() -> None:
    found = ASSIGNER.assign(*random_boxes(1, 8))
    only_cars = ASSIGNER.assign(np.array([[10, 0, -1, 4, 1.6, 1.5, 0]], np.float32), np.array([0]))
    assert set(found.labels) == {0, 1, 2}
    assert set(only_cars.positives % 6 // 2) == {0}


def test_what_is_to_be_ignored_is_no_background_and_no_target() -> None:
    boxes, labels = random_boxes(3, 6)
    sure, unsure = ASSIGNER.assign(boxes[:3], labels[:3]), ASSIGNER.assign(boxes[3:], labels[3:])
    both = ASSIGNER.assign(boxes, np.concatenate([labels[:3], ignored_label(labels[3:])]))
    np.testing.assert_array_equal(both.positives, sure.positives)
    np.testing.assert_array_equal(both.residuals, sure.residuals)
    near = set(sure.ignored) | set(unsure.positives) | set(unsure.ignored)
    assert set(both.ignored) == near - set(sure.positives)
    assert len(both.ignored) > len(sure.ignored)


def test_nearest_bev_sizes_swap_beyond_45_degrees() -> None:
    sizes = nearest_bev_sizes(np.tile([4.0, 2.0], (4, 1)), np.radians([44, 46, -46, 179]))
    assert sizes.tolist() == [[4, 2], [2, 4], [2, 4], [4, 2]]


def test_batch_shifts_the_anchors_of_later_frames() -> None:
    frames = [ASSIGNER.assign(*random_boxes(seed, 5)) for seed in (1, 2)]
    batch = batch_targets(frames, MODEL)
    count = len(frames[0].positives)
    assert batch.positives[count:].tolist() == (frames[1].positives + len(ANCHORS)).tolist()
    assert batch.ignored[len(frames[0].ignored) :].tolist() == (frames[1].ignored + len(ANCHORS)).tolist()
    assert batch.residuals.shape == (len(batch.positives), 7)
    assert batch.positives.dtype == torch.int64


def test_batch_of_empty_frames() -> None:
    empty = ASSIGNER.assign(np.zeros((0, 7), np.float32), np.zeros(0, np.int64))
    assert isinstance(empty, FrameTargets)
    batch = batch_targets([empty, empty], MODEL)
    assert [len(each) for each in batch] == [0, 0, 0, 0, 0]
