"""Boxes as messages in the frame they are wanted in."""

import math

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")

from pd_edge_ros.config import NodeConfig
from pd_edge_ros.health import Report
from pd_edge_ros.outgoing import chosen, detections_message, diagnostics_message, markers_message

from pd_edge.boxes import Detections
from pd_edge.ros_messages import DETECTIONS, MARKERS, bag_types, header, objects_of
from pd_edge.sensors import SensorProfile, mount_of

TYPES = bag_types()
KINDS = TYPES.types.__getitem__
CLASSES = ("Car", "Pedestrian", "Cyclist")
HEAD = header(KINDS, 1_767_225_600_000_000_000, "lidar")
FOUND = Detections(
    np.array([[10, 2, -1, 4, 1.6, 1.5, 0.5], [20, -3, -0.8, 0.8, 0.6, 1.8, -2], [5, 0, -1, 4, 2, 2, 3]], np.float32),
    np.array([0, 1, 0]),
    np.array([0.9, 0.4, 0.2], np.float32),
)


def test_classes_and_thresholds() -> None:
    assert list(chosen(FOUND, CLASSES, dict.fromkeys(CLASSES, 0.1)).names) == ["Car", "Pedestrian", "Car"]
    some = chosen(FOUND, CLASSES, {"Car": 0.5, "Pedestrian": 0.3})
    assert list(some.names) == ["Car", "Pedestrian"]
    np.testing.assert_array_equal(some.boxes, FOUND.boxes[:2])
    assert list(chosen(FOUND, CLASSES, {"Car": 0.1}).names) == ["Car", "Car"]


def test_a_score_on_the_decoder_s_own_threshold_stays() -> None:
    """The decoder compares logits; the score of one that passes can lie just below the threshold."""
    border = FOUND._replace(scores=np.array([0.9, 0.4, np.nextafter(np.float32(0.2), np.float32(0))], np.float32))
    assert len(chosen(border, CLASSES, dict.fromkeys(CLASSES, 0.2)).names) == 3


def test_a_turned_and_lifted_sensor_gets_boxes_in_its_own_frame() -> None:
    mount = mount_of(SensorProfile(name="turned", height=2.73, yaw=90))
    objects = chosen(FOUND, CLASSES, dict.fromkeys(CLASSES, 0.1))
    message = detections_message(KINDS, HEAD, objects, mount.to_cloud)
    message = TYPES.deserialize_cdr(TYPES.serialize_cdr(message, DETECTIONS), DETECTIONS)
    boxes = objects_of(message).boxes
    np.testing.assert_allclose(boxes[0, :6], [2, -10, -2, 4, 1.6, 1.5], atol=1e-6)
    quarter = math.pi / 2
    np.testing.assert_allclose(boxes[:, 6], [0.5 - quarter, -2 - quarter + 4 * quarter, 3 - quarter], atol=1e-6)
    posed = message.detections[0].results[0].pose.pose
    assert posed == message.detections[0].bbox.center


def test_a_tilted_sensor_gets_tilted_boxes() -> None:
    mount = mount_of(SensorProfile(name="nose down", height=1.73, pitch=10))
    objects = chosen(FOUND, CLASSES, dict.fromkeys(CLASSES, 0.1))
    level, tilted = (detections_message(KINDS, HEAD, objects, pose) for pose in (None, mount.to_cloud))
    angle = math.radians(10)
    p, q = tilted.detections[0].bbox.center.position, level.detections[0].bbox.center.position
    assert p.x == pytest.approx(q.x * math.cos(angle) - q.z * math.sin(angle))
    assert p.z == pytest.approx(q.x * math.sin(angle) + q.z * math.cos(angle))
    turned = tilted.detections[0].bbox.center.orientation
    up = 1 - 2 * (turned.x**2 + turned.y**2)
    assert math.acos(up) == pytest.approx(angle)


def test_markers_move_with_their_boxes_and_replace_all_others() -> None:
    mount = mount_of(SensorProfile(name="high", height=2.73))
    objects = chosen(FOUND, CLASSES, dict.fromkeys(CLASSES, 0.1))
    level, lifted = (
        markers_message(KINDS, HEAD, objects, pose, classes=CLASSES, config=NodeConfig())
        for pose in (None, mount.to_cloud)
    )
    assert TYPES.serialize_cdr(lifted, MARKERS)
    assert [each.text for each in level.markers if each.text] == ["Car 0.90", "Pedestrian 0.40"]
    assert lifted.markers[0].action == 3
    heights = [[each.pose.position.z for each in message.markers[1:]] for message in (level, lifted)]
    np.testing.assert_allclose(np.array(heights[0]) - np.array(heights[1]), 1)


def test_diagnostics() -> None:
    report = Report(1, "something", {"rate [Hz]": "9.90"})
    message = diagnostics_message(KINDS, HEAD, "detector", "VLP-16", report)
    status = message.status[0]
    assert (status.name, status.hardware_id, status.message) == ("detector", "VLP-16", "something")
    assert status.level == b"\x01"
    assert [(each.key, each.value) for each in status.values] == [("rate [Hz]", "9.90")]
