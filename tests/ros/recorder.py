"""Records what the node publishes into a bag: ``python recorder.py OUT``.

As `ros2 bag record` does, where there is none. Ctrl-C or SIGTERM ends it and completes the bag.
"""

import argparse
import signal
import threading
import time
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.signals import SignalHandlerOptions
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from pd_edge.bags import BagWriter, Record
from pd_edge.ros_messages import bag_types

TOPICS = {
    "/detections": (Detection3DArray, "vision_msgs/msg/Detection3DArray"),
    "/detections/markers": (MarkerArray, "visualization_msgs/msg/MarkerArray"),
    "/diagnostics": (DiagnosticArray, "diagnostic_msgs/msg/DiagnosticArray"),
}
DEPTH = 100
LOOK_SECONDS = 0.2
"""How often to look whether it was told to end."""


def main() -> None:
    """Records until it is told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    ended = threading.Event()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    node = rclpy.create_node("recorder")
    with BagWriter(given.out, bag_types()) as bag:

        def listen(topic: str, kind: Any, name: str) -> None:
            def write(data: bytes) -> None:
                bag.copy(Record(topic, name, time.time_ns(), data), bag.types)

            node.create_subscription(kind, topic, write, DEPTH, raw=True)

        for topic, (kind, name) in TOPICS.items():
            listen(topic, kind, name)
        node.get_logger().info("recording")
        known = False
        while not ended.is_set():
            rclpy.spin_once(node, timeout_sec=LOOK_SECONDS)
            if not known and all(map(node.count_publishers, TOPICS)):
                known = True
                node.get_logger().info("a detector is there")
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
