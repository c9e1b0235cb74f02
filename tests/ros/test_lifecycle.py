"""The lifecycle node: transitions, what they load and free, simulated time and a mounted sensor."""

import gc
import time
import weakref
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test-ros` brings it")
pytest.importorskip("vision_msgs", reason="needs vision_msgs; `make test-ros` builds it")
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from pd_edge.ros_messages import header, objects_of
from tests.ros.harness import MODEL, Process, cloud_message, command, street, until

pytestmark = pytest.mark.ros
RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


class Managed:
    """The node's manager."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener

    def change(self, transition: int) -> bool:
        """Asks for a transition; whether it was made."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self._listener.call(ChangeState, "/detector/change_state", request).success)

    @property
    def state(self) -> str:
        answer = self._listener.call(GetState, "/detector/get_state", GetState.Request())
        return str(answer.current_state.label)


def answered(listener: Any, publisher: Any, points: Any, stamp: int) -> Any:
    """Publishes a cloud until it is answered."""
    for _ in range(60):
        publisher.publish(cloud_message(points, stamp))
        if until(lambda: stamp in listener.detections, 1.0):
            return listener.detections.pop(stamp)
    raise AssertionError(f"no answer; diagnostics: {listener.values}")


def test_transitions(listener: Any) -> None:
    listener.listen()
    publisher = listener.node.create_publisher(PointCloud2, "points", RELIABLE)
    words = command("lifecycle_detector", parameters=["model:=nowhere", "threads:=1", "diagnostics_period:=0.1"])
    with Process(words) as node:
        manager = Managed(listener)
        assert manager.state == "unconfigured"
        assert not manager.change(Transition.TRANSITION_CONFIGURE)
        assert manager.state == "unconfigured"
        node.wait_for("nowhere")
        assert listener.set(model=MODEL).successful
        assert manager.change(Transition.TRANSITION_CONFIGURE)
        assert manager.state == "inactive"
        assert "cannot change while the engine is loaded" in listener.set(threads=2).reason
        assert publisher.get_subscription_count() == 0
        for stamp in (1, 2):
            assert manager.change(Transition.TRANSITION_ACTIVATE)
            assert manager.state == "active"
            assert len(answered(listener, publisher, street(0), stamp).detections) > 5
            assert manager.change(Transition.TRANSITION_DEACTIVATE)
            assert until(lambda: publisher.get_subscription_count() == 0)
        assert manager.change(Transition.TRANSITION_CLEANUP)
        assert listener.set(threads=2).successful
        assert manager.change(Transition.TRANSITION_CONFIGURE)
        assert manager.change(Transition.TRANSITION_ACTIVATE)
        answered(listener, publisher, street(0), 3)
        assert manager.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert manager.state == "finalized"
        assert node.end() == 0, node.output


def test_cleanup_frees_the_engine(ros: Any) -> None:
    from pd_edge_ros.lifecycle_detector import LifecycleDetectorNode
    from rclpy.parameter import Parameter

    node = LifecycleDetectorNode()
    try:
        assert node.set_parameters([Parameter("model", value=MODEL)])[0].successful
        for _ in range(2):
            node.trigger_configure()
            node.trigger_activate()
            loaded = node._server._loaded
            assert loaded is not None
            engine = weakref.ref(loaded.detector)
            del loaded
            assert engine() is not None
            node.trigger_deactivate()
            node.trigger_cleanup()
            gc.collect()
            assert engine() is None
    finally:
        node.close()
        node.destroy_node()


def test_every_parameter_is_read(listener: Any, fields_read: set[tuple[str, str]]) -> None:
    from pd_edge_ros.config import NodeConfig
    from pd_edge_ros.lifecycle_detector import LifecycleDetectorNode
    from rclpy.parameter import Parameter

    listener.listen()
    node = LifecycleDetectorNode()
    try:
        node.set_parameters([Parameter("model", value=MODEL), Parameter("min_range", value=0.5)])
        fields_read.clear()
        node.trigger_configure()
        node.trigger_activate()
        publishers = node._server._publishers[:2]
        assert until(lambda: all(each.get_subscription_count() for each in publishers))
        node._server._detect(cloud_message(street(0), 5))
        assert until(lambda: 5 in listener.markers and 5 in listener.detections)
    finally:
        node.close()
        node.destroy_node()
    assert {("NodeConfig", name) for name in NodeConfig.model_fields} <= fields_read


def test_simulated_time_jumps_back_and_old_clouds_are_refused(listener: Any) -> None:
    """Also a sensor 2.5 m up, whose boxes come back in its own frame."""
    from pd_edge_ros.server import kinds

    listener.listen()
    publisher = listener.node.create_publisher(PointCloud2, "points", RELIABLE)
    clock = listener.node.create_publisher(Clock, "/clock", 10)
    given = ["use_sim_time:=true", "max_age:=0.5", "diagnostics_period:=0.1", "threads:=1"]
    with Process(command("detector", parameters=[*given, "sensor:=vlp-16", "sensor_height:=2.5"])) as node:
        node.wait_for("subscribed to /points")

        def age() -> float:
            return float(listener.values.get("age of input [s]", "nan"))

        def at(seconds: int) -> None:
            """Sets the time, and waits until the node has it: diagnostics carry its stamp."""
            for _ in range(300):
                clock.publish(Clock(clock=header(kinds, seconds * 10**9, "").stamp))
                time.sleep(0.1)
                if listener.stamp == seconds:
                    return
            raise AssertionError(f"the node's time is {listener.stamp} s, not {seconds} s")

        points = street(0)
        lifted = points - np.array([0, 0, 2.5 - 1.73, 0], np.float32)
        lifted[:, 3] *= 255
        at(1000)
        found = objects_of(answered(listener, publisher, lifted, 1_000_000_000_000))
        at(500)
        assert until(lambda: listener.values["clock_jumps"] == "1")
        again = objects_of(answered(listener, publisher, lifted, 500_000_000_000))
        np.testing.assert_allclose(again.boxes, found.boxes, atol=1e-6)
        assert until(lambda: abs(age()) < 0.2), listener.values
        stale = int(listener.values["refused: stale"])
        publisher.publish(cloud_message(lifted, 499_000_000_000))
        assert until(lambda: int(listener.values["refused: stale"]) == stale + 1)
        assert "max_age is 0.5 s" in node.output
        assert 499_000_000_000 not in listener.detections
        from pd_edge.detector import load

        plain = load(MODEL, threads=1).detect(points)
        assert len(plain.boxes) == len(found.boxes) > 5
        expected = plain.boxes - np.array([0, 0, 2.5 - 1.73, 0, 0, 0, 0])
        np.testing.assert_allclose(found.boxes[:, :6], expected[:, :6], atol=0.02)
