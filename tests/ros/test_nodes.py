"""The nodes as processes, with messages that go through DDS."""

import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test-ros` brings it")
pytest.importorskip("vision_msgs", reason="needs vision_msgs; `make test-ros` builds it")
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2, PointField

from pd_edge.pointcloud2 import layout_of
from pd_edge.ros_messages import objects_of, time_of
from tests.ros.harness import Process, cloud_message, command, street, until

pytestmark = pytest.mark.ros
RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
_stamps = itertools.count(1_767_225_600_000_000_000, 100_000_000)


@pytest.fixture(scope="module")
def node() -> Iterator[Process]:
    """The plain node."""
    with Process(command("detector", parameters=["threads:=1", "diagnostics_period:=0.1"])) as running:
        running.wait_for("subscribed to /points")
        yield running


def send(publisher: Any, points: Any) -> int:
    """Publishes a cloud; its time stamp."""
    message = points if isinstance(points, PointCloud2) else cloud_message(points, next(_stamps))
    publisher.publish(message)
    return time_of(message)


def answered(listener: Any, publisher: Any, points: Any = None) -> Any:
    """Publishes clouds until one is answered, as the first may come before the node knows that its boxes are wanted."""
    cloud = street(0) if points is None else points
    assert until(publisher.get_subscription_count), "the node does not take these clouds"
    for _ in range(60):
        stamp = send(publisher, cloud)
        if until(lambda: stamp in listener.detections, 1.0):  # noqa: B023 - asked before the next turn
            return listener.detections[stamp]
    raise AssertionError(f"no answer; diagnostics: {listener.values}")


def test_publishers_of_both_kinds_and_restarts(node: Process, listener: Any) -> None:
    listener.listen()
    for qos in (BEST_EFFORT, RELIABLE, BEST_EFFORT):
        publisher = listener.node.create_publisher(PointCloud2, "points", qos)
        assert len(answered(listener, publisher).detections) > 5
        listener.node.destroy_publisher(publisher)
    other = listener.node.create_publisher(PointCloud2, "points", BEST_EFFORT)
    both = [other, listener.node.create_publisher(PointCloud2, "points", RELIABLE)]
    for publisher in both:
        answered(listener, publisher)
    listener.node.destroy_publisher(other)
    # How often it changed before is chance: a publisher that is gone within half a second may not be seen.
    assert until(lambda: re.findall(r"subscribed to /points, (\w+)", node.output)[-1] == "reliable"), node.output
    answered(listener, both[1])


def test_nothing_is_done_where_nobody_listens(node: Process, listener: Any) -> None:
    publisher = listener.node.create_publisher(PointCloud2, "points", RELIABLE)
    assert until(lambda: "unheard" in listener.values)
    before = int(listener.values["unheard"]), int(listener.values["detected"])
    for _ in range(600):
        send(publisher, street(0, 100))
        if until(lambda: int(listener.values["unheard"]) >= before[0] + 3, 0.1):
            break
    assert int(listener.values["unheard"]) >= before[0] + 3
    assert int(listener.values["detected"]) == before[1]
    assert until(lambda: listener.status.message == "nobody listens: nothing is detected", 10)
    listener.listen()
    answered(listener, publisher)


def malformed() -> dict[str, list[Any]]:
    """Messages by the reason that they are to be refused for."""

    def changed(**fields: Any) -> Any:
        message = cloud_message(street(0, 1000), next(_stamps))
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    nothing = cloud_message(np.full((1000, 4), np.nan, np.float32), next(_stamps))
    bright = street(0, 1000)
    bright[:, 3] = -1
    return {
        "malformed": [
            changed(point_step=5),
            changed(fields=[PointField(name="a", offset=0, datatype=7, count=1)]),
            changed(fields=[]),
            changed(
                fields=[
                    PointField(name=n, offset=o, datatype=99, count=1) for n, o in zip("xyz", (0, 4, 8), strict=True)
                ]
            ),
            changed(width=125_000_000, row_step=2_000_000_000),
            changed(height=50_000, width=50_000),
        ],
        "empty": [changed(width=0, row_step=0, data=[]), nothing],
        "intensity": [cloud_message(bright, next(_stamps))],
    }


def test_a_storm_of_malformed_clouds_is_counted_and_survived(node: Process, listener: Any) -> None:
    listener.listen()
    publisher = listener.node.create_publisher(PointCloud2, "points", RELIABLE)
    good = answered(listener, publisher)
    assert until(lambda: "malformed" in str(listener.values))

    def refused(reason: str) -> int:
        return int(listener.values[f"refused: {reason}"])

    before, memory, rounds = {reason: refused(reason) for reason in malformed()}, 0.0, 4
    for _ in range(rounds):
        for reason, messages in malformed().items():
            for message in messages:
                count = refused(reason)
                publisher.publish(message)
                assert until(lambda: refused(reason) > count, 30), (reason, listener.values)  # noqa: B023
        publisher.publish(b"\x00\x01\x00\x00" + b"\xff" * 200)
        memory = memory or node.memory()
    for reason, messages in malformed().items():
        assert refused(reason) == before[reason] + rounds * len(messages)
    big = street(0)
    swapped_bytes = np.ascontiguousarray(big, ">f4").reshape(-1).view(np.uint8)
    layout = layout_of(big)._replace(is_bigendian=True, data=swapped_bytes)
    swapped = answered(listener, publisher, cloud_message(big, next(_stamps), layout=layout))
    np.testing.assert_allclose(objects_of(swapped).boxes, objects_of(good).boxes, atol=1e-6)
    assert node.memory() - memory < 20


def test_parameters_while_it_runs(node: Process, listener: Any) -> None:
    listener.listen()
    publisher = listener.node.create_publisher(PointCloud2, "points", RELIABLE)
    everything = objects_of(answered(listener, publisher))
    assert listener.set(score_threshold=0.2).successful
    some = objects_of(answered(listener, publisher))
    assert 0 < len(some.names) < len(everything.names)
    np.testing.assert_allclose(some.boxes, everything.boxes[everything.scores >= 0.2])
    assert listener.set(score_threshold=0.1, classes="Car, Cyclist", class_thresholds="Car: 0.2").successful
    few = objects_of(answered(listener, publisher))
    kept = [
        score >= (0.2 if name == "Car" else 0.1) and name != "Pedestrian"
        for name, score in zip(everything.names, everything.scores, strict=True)
    ]
    np.testing.assert_allclose(few.boxes, everything.boxes[kept])
    for values, reason in (
        ({"score_threshold": 1.5}, "score_threshold"),
        ({"classes": "Cat"}, "classes: Cat; the model knows Car, Pedestrian, Cyclist"),
        ({"class_thresholds": "Car"}, "expected a class and a score in 0..1"),
        ({"model": "pointpillars-4x"}, "model cannot change while the engine is loaded"),
        ({"score_threshold": "high"}, "Wrong parameter type"),
    ):
        refused = listener.set(**values)
        assert not refused.successful
        assert reason in refused.reason
    np.testing.assert_allclose(objects_of(answered(listener, publisher)).boxes, few.boxes)
    assert listener.set(score_threshold=0.1, classes="", class_thresholds="").successful
    assert len(answered(listener, publisher).detections) == len(everything.names)


def test_ctrl_c_ends_it(node: Process) -> None:
    idle = os.getloadavg()[0] < (os.cpu_count() or 1)
    start = time.monotonic()
    assert node.end(signal.SIGINT) == 0, node.output
    assert time.monotonic() - start < (2 if idle else 20)
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (["scor_threshold:=0.1"], "scor_threshold: unknown key; did you mean score_threshold?"),
        (["max_age:=-1.0"], "max_age: Input should be greater than or equal to 0 (got -1.0)"),
        (["min_range:=9.0", "max_range:=8.0"], "max_range 8 m must be above min_range 9 m"),
        (["model:=nowhere"], "nowhere"),
        (["sensor:=hdl-32"], "no profile 'hdl-32'; shipped are"),
        (["target_frame:=base_link"], "target_frame 'base_link' needs tf2_ros, which is not installed"),
    ],
)
def test_bad_parameters_refuse_to_start(ros: Any, parameters: list[str], reason: str) -> None:
    if parameters[0].startswith("target_frame"):
        try:
            import tf2_ros  # noqa: F401 - where it is installed there is nothing to refuse
        except ModuleNotFoundError:
            pass
        else:
            pytest.skip("tf2_ros is installed")
    with Process(command("detector", parameters=parameters)) as started:
        assert started.running.wait(60) == 1, started.output
        until(lambda: reason in started.output, 5)
        assert reason in started.output
        assert "Traceback" not in started.output
