"""Clouds of a live topic, where ROS 2 is."""

import time
from typing import Any

from pd_edge.doctor_evidence import Sample
from pd_edge.doctor_sources import message_sample
from pd_edge.errors import DataError
from pd_edge.sensors import SensorProfile

SECONDS = 5.0
"""How long to wait for clouds."""


def listen(topic: str, profile: SensorProfile, most: int, seconds: float = SECONDS) -> Sample:
    """The next clouds of a topic, subscribed to as its publishers offer it.

    Args:
        topic: Its name.
        profile: The sensor profile, for the names of its fields.
        most: Clouds to wait for.
        seconds: How long.

    Raises:
        DataError: There is no ROS, nobody publishes, or no cloud comes; the topics with clouds are named.
    """
    try:
        import rclpy  # noqa: PLC0415 - the library needs no ROS
    except ModuleNotFoundError as error:
        raise DataError(f"{topic}: no such path, and no ROS (rclpy) to listen to a topic with") from error
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node("pd_edge_doctor", context=context)
        return _listen(rclpy, node, context, (topic, profile, most, seconds))
    finally:
        rclpy.shutdown(context=context)


def _listen(rclpy: Any, node: Any, context: Any, wanted: tuple[str, SensorProfile, int, float]) -> Sample:
    from rclpy.executors import SingleThreadedExecutor  # noqa: PLC0415
    from sensor_msgs.msg import PointCloud2  # noqa: PLC0415

    topic, profile, most, seconds = wanted
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    end, messages, offered = time.monotonic() + seconds, list[Any](), ""
    subscription = None
    while time.monotonic() < end and len(messages) < most:
        executor.spin_once(timeout_sec=0.1)
        if subscription is None and node.count_publishers(topic):
            offered = _reliability(rclpy, node, topic)
            policy = getattr(rclpy.qos.ReliabilityPolicy, offered.upper())
            profile_of = rclpy.qos.QoSProfile(depth=most, reliability=policy)
            subscription = node.create_subscription(PointCloud2, topic, messages.append, profile_of)
    if messages:
        return message_sample(messages, profile, topic, offered)
    if subscription is not None:
        raise DataError(
            f"{topic}: published {offered}, but no cloud came in {seconds:g} s. Of large clouds published best effort "
            "the network may lose all: let the driver publish reliably; or the sensor is silent"
        )
    kind = "sensor_msgs/msg/PointCloud2"
    known = [name for name, kinds in node.get_topic_names_and_types() if kind in kinds]
    raise DataError(f"{topic}: nobody publishes it; clouds are on {', '.join(known) or 'no topic'}")


def _reliability(rclpy: Any, node: Any, topic: str) -> str:
    """``reliable`` where all publishers are, else ``best_effort``, which receives from both."""
    offered = {each.qos_profile.reliability for each in node.get_publishers_info_by_topic(topic)}
    return "reliable" if offered == {rclpy.qos.ReliabilityPolicy.RELIABLE} else "best_effort"
