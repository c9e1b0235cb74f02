"""Plays the clouds of a bag, as `ros2 bag play` does, where there is none: ``python player.py BAG [--rate 10]``.

Messages go out as they are stored, without being deserialized.
"""

import argparse
import time
from pathlib import Path

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from pd_edge.bags import BagReader

KIND = "sensor_msgs/msg/PointCloud2"
PATIENCE_SECONDS = 30.0


def main() -> None:
    """Waits for somebody who subscribes, then plays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--topic", default="points")
    parser.add_argument("--rate", type=float, default=10.0, help="clouds a second")
    parser.add_argument("--times", type=int, default=1, help="how often to play it")
    parser.add_argument("--best-effort", action="store_true", help="reliable if left out")
    given = parser.parse_args()
    with BagReader(given.bag) as bag:
        clouds = [bytes(record.data) for record in bag.records() if record.kind == KIND]
    rclpy.init(args=[])
    node = rclpy.create_node("player")
    policy = ReliabilityPolicy.BEST_EFFORT if given.best_effort else ReliabilityPolicy.RELIABLE
    publisher = node.create_publisher(PointCloud2, given.topic, QoSProfile(depth=5, reliability=policy))
    end = time.monotonic() + PATIENCE_SECONDS
    while not publisher.get_subscription_count() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)  # a subscription is known here a little before it receives
    start = time.monotonic()
    for place, data in enumerate(clouds * given.times):
        time.sleep(max(0.0, start + place / given.rate - time.monotonic()))
        publisher.publish(data)
    time.sleep(0.5)
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
