"""The node's work: subscribe, convert, detect, publish. The plain and the lifecycle node share it."""

import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from sensor_msgs.msg import PointCloud2
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from pd_edge.errors import ConfigError
from pd_edge.ros_messages import header, time_of
from pd_edge_ros import qos
from pd_edge_ros.clouds import Prepared, count_in
from pd_edge_ros.config import changed
from pd_edge_ros.health import Frame, Health
from pd_edge_ros.latest import LatestOnly
from pd_edge_ros.loaded import Loaded
from pd_edge_ros.outgoing import chosen, detections_message, diagnostics_message, markers_message
from pd_edge_ros.parameters import declare, values_of
from pd_edge_ros.refusals import RefusedError
from pd_edge_ros.transforms import Transforms

CLOUDS, DETECTIONS, MARKERS, DIAGNOSTICS = "points", "detections", "detections/markers", "/diagnostics"
DEPTH = 10
LOOK_SECONDS = 0.5
"""How often to look who publishes."""
QUIET_SECONDS = 5.0
"""Between two warnings of one kind."""
END_SECONDS = 1.0
"""To wait for the cloud that is being worked on when the node stops."""
CLOCK_JUMP = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)


class DetectionServer:
    """Everything of a node but its life cycle: :meth:`load`, :meth:`start`, :meth:`stop`, :meth:`free`.

    Args:
        node: The node to work for.
        create_publisher: The node's function for publishers of detections and markers.

    Raises:
        ConfigError: A parameter is unknown or wrong.
    """

    def __init__(self, node: Any, create_publisher: Callable[..., Any]) -> None:
        self._node, self._create_publisher = node, create_publisher
        self._config = declare(node)
        self._health = Health()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._loaded: Loaded | None = None
        self._transforms: Transforms | None = None
        self._queue: LatestOnly[Any] | None = None
        self._subscription: Any = None
        self._reliability: qos.Reliability = "best_effort"
        self._publishers: list[Any] = []
        self._timers: list[Any] = []
        self._jumps = node.get_clock().create_jump_callback(CLOCK_JUMP, post_callback=self._clock_jumped)
        node.add_on_set_parameters_callback(self._set_parameters)

    def load(self) -> None:
        """Loads the engine and warms it up; offers the topics.

        Raises:
            PdEdgeError: The model, its runtime, the sensor's profile, a class or the target frame cannot be used.
        """
        config = self._config
        self._transforms = Transforms(self._node, config.target_frame) if config.target_frame else None
        self._loaded = Loaded.of(config)
        self._publishers = [
            self._create_publisher(Detection3DArray, DETECTIONS, DEPTH),
            self._create_publisher(MarkerArray, MARKERS, DEPTH),
            self._node.create_publisher(DiagnosticArray, DIAGNOSTICS, DEPTH),
        ]
        said = self._loaded.detector
        self._node.get_logger().info(f"{said.name} on {said.runtime.name}, sensor {self._loaded.profile.name}")

    def start(self) -> None:
        """Takes clouds."""
        self._queue = LatestOnly(self._handle, lambda: self._health.count("dropped"))
        self._subscribe(qos.wanted(self._config.reliability, self._node, self._topic, self._reliability))
        for period, callback in ((LOOK_SECONDS, self._follow), (self._config.diagnostics_period, self._tell)):
            self._timers.append(self._node.create_timer(period, callback, clock=self._steady))

    def stop(self) -> None:
        """Takes no more clouds; the one that is being worked on is ended."""
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._timers.clear()
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        if self._queue is not None and not self._queue.stop(END_SECONDS):
            self._node.get_logger().error(f"a cloud is still being worked on after {END_SECONDS:g} s; it is left alone")
        self._subscription = self._queue = None

    def free(self) -> None:
        """Lets go of the engine and the topics."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        if self._transforms is not None:
            self._transforms.close()
        self._publishers, self._transforms, self._loaded = [], None, None

    @property
    def _topic(self) -> str:
        return str(self._node.resolve_topic_name(CLOUDS))

    def _subscribe(self, reliability: qos.Reliability) -> None:
        self._reliability = reliability
        self._subscription = self._node.create_subscription(
            PointCloud2, CLOUDS, self._received, qos.profile(reliability)
        )
        self._node.get_logger().info(f"subscribed to {self._topic}, {reliability}")

    def _follow(self) -> None:
        """Subscribes anew where the publishers' reliability has changed."""
        reliability = qos.wanted(self._config.reliability, self._node, self._topic, self._reliability)
        if reliability != self._reliability:
            self._node.destroy_subscription(self._subscription)
            self._subscribe(reliability)

    def _received(self, message: Any) -> None:
        """Leaves a cloud to the thread that detects, if anybody listens."""
        self._health.count("received")
        if self._queue is None or not any(each.get_subscription_count() for each in self._publishers[:2]):
            self._health.count("unheard")
        else:
            self._queue.put(message)

    def _handle(self, message: Any) -> None:
        """Works on a cloud; a bad one is counted and said, and ends nothing."""
        try:
            self._detect(message)
        except RefusedError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the next cloud is worth another try
            self._refuse(RefusedError("failed", f"{type(error).__name__}: {error}"))

    def _detect(self, message: Any) -> None:
        """The one path of a cloud: convert, detect, publish."""
        loaded = self._loaded
        if loaded is None:
            return
        start = time.perf_counter()
        age = self._age(message, loaded.config.max_age)
        cloud = loaded.prepare(message)
        converted = time.perf_counter()
        detections, timing = loaded.detect(cloud, f"cloud at {time_of(message)} ns")
        detected = time.perf_counter()
        objects = chosen(detections, loaded.detector.classes, loaded.thresholds)
        self._publish(loaded, message.header, objects)
        ended = time.perf_counter()
        stages = (1e3 * (converted - start), *timing, 1e3 * (ended - detected))
        self._health.detected(_frame(loaded, stages, age, cloud, len(objects.names)))

    def _age(self, message: Any, most: float) -> float:
        """How old a cloud is [s].

        Raises:
            RefusedError: Too old.
        """
        age = float(self._node.get_clock().now().nanoseconds - time_of(message)) / 1e9
        if most and age > most:
            raise RefusedError(
                "stale",
                f"a cloud is {age:.3f} s old, max_age is {most:g} s. From a bag? Play it with --clock and set "
                "use_sim_time. Else the sensor's clock is not synchronised, or clouds wait on their way",
            )
        return age

    def _publish(self, loaded: Loaded, head: Any, objects: Any) -> None:
        """Publishes boxes under a cloud's header, in its frame or the target frame; builds only what is listened to."""
        pose, head = self._placed(loaded, head)
        detections, markers, _ = self._publishers
        if detections.get_subscription_count():
            detections.publish(detections_message(kinds, head, objects, pose))
        if markers.get_subscription_count():
            classes, config = loaded.detector.classes, loaded.config
            markers.publish(markers_message(kinds, head, objects, pose, classes=classes, config=config))

    def _placed(self, loaded: Loaded, head: Any) -> tuple[npt.NDArray[np.float64] | None, Any]:
        """The pose of the model's frame in that of the boxes, None where they are the same, and the boxes' header."""
        if self._transforms is None:
            return loaded.mount.pose_of_boxes, head
        pose = self._transforms.pose(head) @ loaded.mount.to_written
        return pose, kinds("std_msgs/msg/Header")(stamp=head.stamp, frame_id=self._transforms.target)

    def _refuse(self, error: RefusedError) -> None:
        self._health.refused(error.reason, str(error))
        if self._node.context.ok():
            self._node.get_logger().warning(f"cloud refused: {error}", throttle_duration_sec=QUIET_SECONDS)

    def _tell(self) -> None:
        """Publishes diagnostics."""
        now = header(kinds, self._node.get_clock().now().nanoseconds, "")
        name = self._node.get_fully_qualified_name().lstrip("/")
        hardware = self._loaded.profile.name if self._loaded is not None else ""
        self._publishers[2].publish(diagnostics_message(kinds, now, name, hardware, self._health.report()))

    def _clock_jumped(self, _: Any) -> None:
        self._health.count("clock_jumps")
        self._node.get_logger().warning("time has jumped back, as when a bag starts again; going on")

    def _set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """Applies new parameters, all or none."""
        try:
            config = changed(self._config, values_of(parameters), running=self._loaded is not None)
            if self._loaded is not None:
                self._loaded = self._loaded.with_config(config)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._config = config
        return SetParametersResult(successful=True)


@functools.cache
def kinds(name: str) -> Any:
    """The class of a message type such as ``std_msgs/msg/Header``."""
    package, _, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def _frame(loaded: Loaded, stages: Any, age: float, cloud: Prepared, boxes: int) -> Frame:
    in_range = count_in(cloud.points, loaded.detector.sectors)
    return Frame(stages, age, len(cloud.points), in_range, cloud.removed, cloud.intensity, boxes)
