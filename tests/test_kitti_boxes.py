"""Boxes between the camera's frame, the LiDAR's frame and the image."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_edge.boxes import Detections, points_in_boxes, wrap_angle
from pd_edge.errors import DataError
from pd_edge.kitti import (
    Calibration,
    Label,
    ObjectDataset,
    boxes_to_labels,
    boxes_to_lidar,
    detections_to_labels,
)


def test_a_car_ahead_by_hand(calibration: Calibration, car: Label) -> None:
    # It stands 20 m ahead of the camera and looks away from it (rotation_y -pi/2), so its yaw is 0.
    label = car._replace(rotation_y=-np.pi / 2)
    np.testing.assert_allclose(
        boxes_to_lidar([label], calibration), [[20.3, -1.0, -1.05, 4.0, 1.6, 1.5, 0]], atol=1e-12
    )
    # Looking to the camera's right is the LiDAR's -y.
    np.testing.assert_allclose(boxes_to_lidar([car._replace(rotation_y=0)], calibration)[0, 6], -np.pi / 2)


box_rows = st.tuples(
    st.floats(-80, 80), st.floats(-80, 80), st.floats(-3, 3), *[st.floats(0.1, 20)] * 3, st.floats(-3.14, 3.14)
)
small_angles = st.tuples(*[st.floats(-0.03, 0.03)] * 3)


def tilted(calibration: Calibration, angles: tuple[float, ...]) -> Calibration:
    """The calibration with the camera turned by small angles [rad] about its axes."""
    a, b, c = angles
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]])
    u, _, vt = np.linalg.svd(turn)
    return calibration._replace(R0_rect=u @ vt)


@given(rows=st.lists(box_rows, max_size=8), angles=small_angles)
def test_boxes_go_to_the_camera_and_back(
    calibration: Calibration, rows: list[tuple[float, ...]], angles: tuple[float, ...]
) -> None:
    calibration = tilted(calibration, angles)
    boxes = np.array(rows).reshape(-1, 7)
    labels = boxes_to_labels(boxes, ["Car"] * len(rows), calibration)
    back = boxes_to_lidar(labels, calibration)
    np.testing.assert_allclose(back[:, :6], boxes[:, :6], atol=1e-6)
    assert (np.abs(wrap_angle(back[:, 6] - boxes[:, 6])) < 1e-6).all()
    again = boxes_to_labels(back, ["Car"] * len(rows), calibration)
    np.testing.assert_allclose([label.location for label in again], [label.location for label in labels], atol=1e-6)


def test_dont_care_has_no_box_in_the_lidar_frame(calibration: Calibration, car: Label, dont_care: Label) -> None:
    with pytest.raises(DataError, match="DontCare label has no 3D box"):
        boxes_to_lidar([car, dont_care], calibration)


def test_no_boxes(calibration: Calibration) -> None:
    assert boxes_to_lidar([], calibration).shape == (0, 7)
    assert boxes_to_labels(np.empty((0, 7)), [], calibration) == []


def test_image_box_of_a_cube_by_hand(calibration: Calibration) -> None:
    # A 2 m cube 11 m ahead of the camera: its near face, 10 m away, bounds it: 700 * 1 / 10 px to each side.
    label = boxes_to_labels(np.array([[11.3, 0, -0.1, 2, 2, 2, 0]]), ["Misc"], calibration)[0]
    np.testing.assert_allclose(label.bbox, [430, 130, 570, 270])
    assert label.truncation == pytest.approx(0, abs=1e-12)
    assert label.alpha == pytest.approx(-np.pi / 2)


def test_image_box_is_cut_at_the_image_and_truncation_says_how_much(calibration: Calibration) -> None:
    # The same cube, so far right that only its left half is in the image, which ends at pixel 999.
    right = (999 - 500) / 700 * 10
    label = boxes_to_labels(np.array([[11.3, -right, -0.1, 2, 2, 2, 0]]), ["Misc"], calibration)[0]
    assert label.bbox[2] == 999
    whole = 929 + 140 - label.bbox[0]
    assert label.truncation == pytest.approx(1 - (999 - label.bbox[0]) / whole)


def test_a_box_that_reaches_behind_the_camera_fills_the_image_to_its_edge(calibration: Calibration) -> None:
    label = boxes_to_labels(np.array([[2.0, -2.0, -1.0, 8, 2, 1.5, 0]]), ["Car"], calibration)[0]
    assert label.bbox[2:] == (999, 399)
    assert 500 < label.bbox[0] < 700
    assert 0.9 < label.truncation < 1


@pytest.mark.parametrize("x", [-20.0, 0.0])
def test_a_box_out_of_sight_keeps_its_label(x: float, calibration: Calibration) -> None:
    label = boxes_to_labels(np.array([[x, 15, -1, 4, 2, 1.5, 0]]), ["Car"], calibration)[0]
    assert (label.bbox, label.truncation) == ((0, 0, 0, 0), 1)


def test_detections_become_labels_with_scores(calibration: Calibration) -> None:
    boxes = np.array([[20, 3, -1, 4, 1.7, 1.5, 0.3], [-9, 0, -1, 0.8, 0.6, 1.7, 1]], np.float32)
    found = Detections(boxes, np.array([0, 1]), np.array([0.9, 0.25], np.float32))
    labels = detections_to_labels(found, ("Car", "Pedestrian"), calibration)
    assert [label.name for label in labels] == ["Car", "Pedestrian"]
    assert [label.score for label in labels] == pytest.approx([0.9, 0.25])
    assert {(label.truncation, label.occlusion) for label in labels} == {(-1, -1)}
    np.testing.assert_allclose(boxes_to_lidar(labels, calibration), boxes, atol=1e-6)


def test_real_boxes_project_onto_their_annotated_image_boxes(kitti_root: Path) -> None:
    off, turned = [], []
    for frame in ObjectDataset(kitti_root / "object", "val"):
        assert frame.calibration is not None
        assert frame.labels is not None
        labels = [label for label in frame.labels if label.name != "DontCare"]
        boxes = boxes_to_lidar(labels, frame.calibration)
        again = boxes_to_labels(boxes, [label.name for label in labels], frame.calibration)
        off += [np.abs(np.subtract(a.bbox, b.bbox)).max() for a, b in zip(labels, again, strict=True)]
        turned += [abs(wrap_angle(a.alpha - b.alpha)) for a, b in zip(labels, again, strict=True)]
        np.testing.assert_allclose(boxes_to_lidar(again, frame.calibration), boxes, atol=1e-6)
    assert np.median(off) < 1.5
    assert np.median(turned) < 0.01


def test_real_boxes_hold_the_points_of_their_objects(kitti_root: Path) -> None:
    frame = ObjectDataset(kitti_root / "object", "val").frame(0)
    assert frame.calibration is not None
    cars = [label for label in frame.labels or [] if label.name == "Car"]
    boxes = boxes_to_lidar(cars, frame.calibration)
    inside = points_in_boxes(frame.points, boxes)
    assert cars
    assert all((inside == index).sum() > 20 for index in range(len(cars)))
