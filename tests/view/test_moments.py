"""Boxes brought to the level frame."""

from typing import Any

import numpy as np
import pytest

from pd_edge.boxes import Detections
from pd_edge.ros_messages import Objects, bag_types, detection_array, header, placed_detections
from pd_edge.sensors import SensorProfile, mount_of
from pd_edge.view.moments import at_least, leveled, posed, posed_of

from .helpers import NAMES, SCORES, boxes

TILTED = SensorProfile(name="mine", height=2.4, roll=170.0, pitch=8.0, yaw=-35.0)


@pytest.fixture(scope="module")
def message() -> Any:
    """The boxes of a level frame as ``replay`` records them for a sensor that hangs upside down and tilted."""
    pytest.importorskip("rosbags", reason="needs the bags extra")
    kinds = bag_types().types.__getitem__
    made = detection_array(kinds, header(kinds, 5, "lidar"), Objects(boxes(), list(NAMES), np.array(SCORES)))
    return placed_detections(made, mount_of(TILTED).to_cloud)


def test_recorded_boxes_of_a_tilted_sensor_stand_upright_again(message: Any) -> None:
    found = leveled(posed_of(message), mount_of(TILTED).to_model)
    np.testing.assert_allclose(found.boxes, boxes(), atol=1e-9)
    assert list(found.names) == list(NAMES)
    assert list(found.scores) == list(SCORES)


def test_boxes_of_no_class_are_left_out(message: Any) -> None:
    message.detections[1].results = []
    assert list(posed_of(message).names) == [NAMES[0], *NAMES[2:]]


def test_boxes_of_a_turned_sensor_come_back() -> None:
    mount = mount_of(SensorProfile(name="mine", height=0.9, yaw=120.0))
    found = Detections(boxes().astype(np.float32), np.zeros(4, np.int64), np.array(SCORES, np.float32))
    written = mount.boxes(found)
    back = leveled(posed(written.boxes, NAMES, written.scores), mount.to_model)
    np.testing.assert_allclose(back.boxes, boxes(), atol=1e-5)


def test_no_boxes_stay_none() -> None:
    assert leveled(posed(np.empty((0, 7)), []), np.eye(4)).boxes.shape == (0, 7)


def test_weak_boxes_are_left_out() -> None:
    kept = at_least(Objects(boxes(), list(NAMES), np.array(SCORES)), 0.6)
    assert (list(kept.names), list(kept.scores), kept.boxes.shape) == (["Car", "Pedestrian"], [0.9, 0.6], (2, 7))
