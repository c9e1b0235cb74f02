"""Reliability of the subscription."""

from typing import Any, Literal

from rclpy.qos import QoSProfile, ReliabilityPolicy

Reliability = Literal["best_effort", "reliable"]


def wanted(setting: str, node: Any, topic: str, now: Reliability) -> Reliability:
    """The reliability to subscribe with.

    A best-effort subscription receives from publishers of both kinds, but a cloud of two megabytes goes over the
    network in many datagrams, and loses them all with one; so a topic all of whose publishers are reliable is
    subscribed to reliably. With a publisher of each kind only best effort receives from both.

    Args:
        setting: The parameter; ``auto`` follows the publishers.
        node: The node that subscribes.
        topic: The topic, resolved.
        now: What holds, which stays while nobody publishes.
    """
    if setting == "reliable":
        return "reliable"
    if setting == "best_effort":
        return "best_effort"
    offered = {each.qos_profile.reliability for each in node.get_publishers_info_by_topic(topic)}
    if not offered:
        return now
    return "reliable" if offered == {ReliabilityPolicy.RELIABLE} else "best_effort"


def profile(reliability: Reliability) -> QoSProfile:
    """The newest cloud alone, volatile, which late and early publishers fit."""
    policy = ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=1, reliability=policy)
