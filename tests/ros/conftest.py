"""A ROS of its own for the tests of the nodes: no other machine or session takes part."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 90 + 10))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


class Listener:
    """A node in this process that publishes clouds, and keeps what the detector says."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor

        self.node = rclpy.create_node("listener")
        self.detections: dict[int, Any] = {}
        self.markers: dict[int, Any] = {}
        self.status: Any = None
        self.stamp = -1
        self._subscriptions: list[Any] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._tell, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def listen(self) -> None:
        """From now on detections and markers are heard."""
        from vision_msgs.msg import Detection3DArray
        from visualization_msgs.msg import MarkerArray

        self._subscriptions += [
            self.node.create_subscription(Detection3DArray, "detections", self._found, 100),
            self.node.create_subscription(MarkerArray, "detections/markers", self._marked, 100),
        ]

    def ignore(self) -> None:
        """From now on they are not."""
        for each in self._subscriptions:
            self.node.destroy_subscription(each)
        self._subscriptions.clear()

    def _found(self, message: Any) -> None:
        from pd_edge.ros_messages import time_of

        self.detections[time_of(message)] = message

    def _marked(self, message: Any) -> None:
        from pd_edge.ros_messages import time_of

        self.markers[time_of(message.markers[0])] = message

    def _tell(self, message: Any) -> None:
        self.status = message.status[0]
        self.stamp = message.header.stamp.sec

    @property
    def values(self) -> dict[str, str]:
        """What the last diagnostics said."""
        return {} if self.status is None else {each.key: each.value for each in self.status.values}

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """A service's answer."""
        from tests.ros.harness import until

        client = self.node.create_client(kind, service)
        assert until(client.service_is_ready), f"no service {service}"
        answer = client.call_async(request)
        assert until(answer.done), f"no answer from {service}"
        self.node.destroy_client(client)
        return answer.result()

    def set(self, **values: Any) -> Any:
        """Sets a parameter of the detector; the result."""
        from rcl_interfaces.srv import SetParametersAtomically
        from rclpy.parameter import Parameter

        request = SetParametersAtomically.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        )
        return self.call(SetParametersAtomically, "/detector/set_parameters_atomically", request).result

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()


@pytest.fixture(scope="session")
def ros() -> Iterator[Any]:
    """ROS in this process; skips where there is none."""
    rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test-ros` brings it")
    pytest.importorskip("vision_msgs", reason="needs vision_msgs; `make test-ros` builds it")
    rclpy.init(args=[])
    yield rclpy
    rclpy.try_shutdown()


@pytest.fixture
def listener(ros: Any) -> Iterator[Listener]:
    """A node to talk to the detector with."""
    made = Listener()
    yield made
    made.close()
