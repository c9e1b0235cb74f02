"""Boxes and transforms as ROS messages and back, through serialization."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rosbags", reason="needs the bags extra")

from pd_edge.boxes import Detections
from pd_edge.errors import DataError
from pd_edge.ros_messages import (
    DETECTIONS,
    MARKERS,
    Objects,
    bag_types,
    detection_array,
    header,
    marker_array,
    matrix_of,
    objects_of,
    placed_detections,
    quaternion_of,
    rotation_of,
    time_of,
    transform,
)
from pd_edge.sensors import Axis, SensorProfile, in_metres, mount_of

TYPES = bag_types()
KINDS = TYPES.types.__getitem__
CLASSES = ("Car", "Pedestrian", "Cyclist")
HEAD = header(KINDS, 1_317_046_453_072_943_000, "velodyne")


def sent(message: Any, kind: str) -> Any:
    """A message after its way through CDR."""
    return TYPES.deserialize_cdr(TYPES.serialize_cdr(message, kind), kind)


number = st.floats(-80, 80, width=32)
size = st.floats(0.125, 20, width=32)
box = st.tuples(number, number, number, size, size, size, st.floats(-3.125, 3.125, width=32))


@given(st.lists(st.tuples(box, st.sampled_from(CLASSES), st.floats(0, 1, width=32)), max_size=8))
def test_detections_there_and_back(rows: list[tuple[tuple[float, ...], str, float]]) -> None:
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 7)
    objects = Objects(boxes, [row[1] for row in rows], np.array([row[2] for row in rows], np.float32))
    message = sent(detection_array(KINDS, HEAD, objects), DETECTIONS)
    assert time_of(message) == 1_317_046_453_072_943_000
    assert message.header.frame_id == "velodyne"
    assert all(each.header == message.header for each in message.detections)
    assert [each.id for each in message.detections] == [str(place) for place in range(len(rows))]
    found = objects_of(message)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)
    assert list(found.names) == objects.names
    np.testing.assert_allclose(found.scores, objects.scores)


def some_objects() -> Objects:
    boxes = np.array([[10, 2, -1, 4, 1.6, 1.5, 0.5], [20, -3, -0.8, 0.8, 0.6, 1.8, -2]], np.float32)
    return Objects(boxes, ["Cyclist", "Car"], np.array([0.9, 0.4], np.float32))


def test_the_likeliest_class_counts_and_a_box_without_one_is_none() -> None:
    message = detection_array(KINDS, HEAD, some_objects())
    first, second = message.detections
    first.results = [*second.results, *first.results]
    second.results = []
    found = objects_of(message)
    assert (list(found.names), found.scores.tolist()) == (["Cyclist"], [pytest.approx(0.9)])


def test_a_box_that_lies_on_its_side_is_refused() -> None:
    message = detection_array(KINDS, HEAD, some_objects())
    message.detections[1].bbox.center.orientation.x = 1.0
    with pytest.raises(DataError, match=r"a box at 20 -3 -0\.8 m is turned by .* or leans by up to 45 degrees"):
        objects_of(message)


@pytest.mark.parametrize(("roll", "pitch"), [(0, 12), (-9, 0), (180, 0), (175, -8)])
def test_boxes_of_a_tilted_sensor_are_read_as_the_detector_gives_them(roll: float, pitch: float) -> None:
    mount = mount_of(SensorProfile(name="tilted", height=2, roll=roll, pitch=pitch, yaw=30))
    objects = some_objects()
    found = objects_of(sent(placed_detections(detection_array(KINDS, HEAD, objects), mount.pose_of_boxes), DETECTIONS))
    expected = mount.boxes(Detections(objects.boxes.astype(np.float32), np.zeros(2, np.int64), objects.scores))
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-5)


@pytest.mark.parametrize("axes", [("y", "x", "z"), ("-y", "x", "z"), ("x", "y", "-z")])
def test_boxes_lie_on_the_points_as_they_were_written(axes: tuple[Axis, Axis, Axis]) -> None:
    """The profile mends the axes for the model; a box's message says where its points are in the message's frame."""
    profile = SensorProfile(name="odd", height=2.5, pitch=3, axes=axes)
    mount, objects = mount_of(profile), some_objects()
    written = mount.to_written @ [*objects.boxes[0, :3], 1]
    np.testing.assert_allclose(
        mount.points(in_metres(np.array([[*written[:3], 0]]), profile))[0, :3], objects.boxes[0, :3], atol=1e-6
    )
    message = sent(placed_detections(detection_array(KINDS, HEAD, objects), mount.pose_of_boxes), DETECTIONS)
    centre = message.detections[0].bbox.center
    np.testing.assert_allclose([centre.position.x, centre.position.y, centre.position.z], written[:3], atol=1e-6)
    turn = rotation_of(centre.orientation)
    assert np.linalg.det(turn) == pytest.approx(1)
    yaw = float(objects.boxes[0, 6])
    ahead = mount.to_written[:3, :3] @ [math.cos(yaw), math.sin(yaw), 0]
    left = mount.to_written[:3, :3] @ [-math.sin(yaw), math.cos(yaw), 0]
    np.testing.assert_allclose(turn[:, 0], ahead, atol=1e-6)
    assert abs(turn[:, 1] @ left) == pytest.approx(1)


def test_a_turn_that_was_never_set_is_none() -> None:
    message = detection_array(KINDS, HEAD, some_objects())
    for each in message.detections:
        each.bbox.center.orientation.z = each.bbox.center.orientation.w = 0.0
    assert objects_of(message).boxes[:, 6].tolist() == [0, 0]


def test_boxes_that_score_little_have_no_markers() -> None:
    for shown, labels in ((0.0, ["Cyclist 0.90", "Car 0.40"]), (0.5, ["Cyclist 0.90"]), (1.0, [])):
        message = marker_array(KINDS, HEAD, some_objects(), CLASSES, 0.25, shown=shown)
        assert [each.text for each in message.markers if each.text] == labels
        assert [each.id for each in message.markers[1::3]] == list(range(len(labels)))


def test_markers_are_a_cube_an_arrow_and_a_label_after_all_others_are_deleted() -> None:
    message = sent(marker_array(KINDS, HEAD, some_objects(), CLASSES, 0.25), MARKERS)
    first, *shown = message.markers
    assert first.action == 3
    assert [(each.ns, each.id, each.type, each.action) for each in shown] == [
        ("boxes", 0, 1, 0),
        ("headings", 0, 0, 0),
        ("labels", 0, 9, 0),
        ("boxes", 1, 1, 0),
        ("headings", 1, 0, 0),
        ("labels", 1, 9, 0),
    ]
    cube, arrow, label = shown[:3]
    assert (cube.scale.x, cube.scale.y, cube.scale.z) == pytest.approx((4, 1.6, 1.5))
    assert arrow.scale.x == pytest.approx(4 / 2 + 1)
    assert label.text == "Cyclist 0.90"
    assert label.pose.position.z == pytest.approx(-1 + 0.75 + 0.6)
    assert (cube.color.r, cube.color.g, cube.color.b) != (shown[3].color.r, shown[3].color.g, shown[3].color.b)
    assert all(each.lifetime.nanosec == 250_000_000 and each.header == first.header for each in shown)
    for place, yaw in ((0, 0.5), (3, -2.0)):
        turned = shown[place].pose.orientation
        assert 2 * math.atan2(turned.z, turned.w) == pytest.approx(yaw)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.lists(number, min_size=3, max_size=3))
def test_transforms_there_and_back(quaternion: list[float], moved: list[float]) -> None:
    length = math.hypot(*quaternion)
    if length < 0.01:
        return
    x, y, z, w = (each / length for each in quaternion)
    kinds = KINDS("geometry_msgs/msg/Quaternion"), KINDS("geometry_msgs/msg/Vector3")
    source = KINDS("geometry_msgs/msg/Transform")(rotation=kinds[0](x, y, z, w), translation=kinds[1](*moved))
    matrix = matrix_of(source)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)
    found = sent(transform(KINDS, HEAD, "child", matrix), "geometry_msgs/msg/TransformStamped")
    assert (found.child_frame_id, found.header.frame_id) == ("child", "velodyne")
    np.testing.assert_allclose(matrix_of(found.transform), matrix, atol=1e-12)


def test_a_quarter_turn_about_z() -> None:
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(quaternion_of(turned), [0, 0, math.sqrt(0.5), math.sqrt(0.5)], atol=1e-12)
