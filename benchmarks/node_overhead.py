"""What the ROS 2 node adds to ``Detector.detect``: ``python benchmarks/node_overhead.py [--seconds 20] [--rate 10]``.

Another process publishes clouds and waits for their boxes, so that each way goes through DDS. Of the time from its
`publish` to the arrival of the boxes, what is not ``Detector.detect`` is the node's and ROS's. Needs ROS 2 with
vision_msgs, as `make test-ros` makes it in .venv-ros.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from vision_msgs.msg import Detection3DArray

from pd_edge.bench import synthetic_cloud
from pd_edge.config import GridConfig
from pd_edge.pointcloud2 import layout_of
from pd_edge.ros_messages import time_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ros_nodes" / "pd_edge_ros"))

from pd_edge_ros.detector import DetectorNode
from pd_edge_ros.health import Frame, Health
from pd_edge_ros.loaded import Loaded

STAMP = slice(4, 12)
"""Where the time stamp is in a serialized PointCloud2: behind the encoding, seconds and nanoseconds."""
PATIENCE_SECONDS = 60.0


def peer(given: argparse.Namespace) -> None:
    """Publishes clouds at a rate; prints when the boxes of each came."""
    rclpy.init(args=[])
    node = rclpy.create_node("peer")
    arrived: dict[int, float] = {}

    def found(message: Any) -> None:
        stamp = time_of(message)
        arrived[stamp] = (time.time_ns() - stamp) / 1e6

    told: list[dict[str, str]] = []
    node.create_subscription(Detection3DArray, "detections", found, 10)
    node.create_subscription(
        DiagnosticArray, "/diagnostics", lambda each: told.append({v.key: v.value for v in each.status[0].values}), 10
    )
    publisher = node.create_publisher(PointCloud2, "points", QoSProfile(depth=1))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    data = cloud(given.points)
    end = time.monotonic() + PATIENCE_SECONDS
    while not arrived and time.monotonic() < end:
        publish(publisher, data)
        time.sleep(1.0)
    before, first = len(arrived), len(told)
    start, count = time.monotonic(), int(given.seconds * given.rate)
    for place in range(count):
        time.sleep(max(0.0, start + place / given.rate - time.monotonic()))
        publish(publisher, data)
    time.sleep(3.0)
    latencies = dict(list(arrived.items())[before:])
    dropped = int(told[-1]["dropped"]) - int(told[max(first - 1, 0)]["dropped"])
    print(json.dumps({"sent": count, "dropped": dropped, "latencies": latencies}))
    executor.shutdown()
    spinning.join()
    rclpy.try_shutdown()


def publish(publisher: Any, data: bytearray) -> None:
    """Publishes a serialized cloud with the present time."""
    data[STAMP] = np.array(divmod(time.time_ns(), 10**9), "<u4").tobytes()
    publisher.publish(bytes(data))


def cloud(points: int) -> bytearray:
    """A serialized cloud."""
    layout = layout_of(synthetic_cloud(points, GridConfig()))
    fields = [PointField(name=n, offset=o, datatype=d, count=c) for n, o, d, c in layout.fields]
    message = PointCloud2(
        height=1, width=points, fields=fields, point_step=layout.point_step, row_step=layout.row_step, is_dense=True
    )
    message.data.frombytes(layout.data.tobytes())
    return bytearray(serialize_message(message))


def memory() -> float:
    """Resident memory of this process [MB]."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1e3


class Watched(NamedTuple):
    """What the node tells of each cloud.

    Attributes:
        frames: By time stamp.
        processor: Processor time of this process before and after each detection [s].
    """

    frames: dict[int, Frame]
    processor: list[tuple[float, float]]

    def overhead(self) -> float:
        """Processor time between two detections, mean [ms]: a busy machine does not add to it."""
        return 1e3 * float(np.mean([start - end for (_, end), (start, _) in pairwise(self.processor)]))


def watched() -> Watched:
    """Watches the node from now on."""
    frames: dict[int, Frame] = {}
    processor: list[tuple[float, float]] = []
    stamps: list[int] = []
    detect, detected = Loaded.detect, Health.detected

    def note_stamp(self: Loaded, cloud: Any, source: str) -> Any:
        stamps.append(int(source.split()[2]))
        before = time.process_time()
        found = detect(self, cloud, source)
        processor.append((before, time.process_time()))
        return found

    def note_frame(self: Health, frame: Frame) -> None:
        frames[stamps[-1]] = frame
        detected(self, frame)

    Loaded.detect, Health.detected = note_stamp, note_frame  # type: ignore[method-assign]
    return Watched(frames, processor)


def run_node(given: argparse.Namespace) -> dict[str, Any]:
    """Runs the node until the peer has ended; the figures."""
    seen = watched()
    rclpy.init(args=["--ros-args", "-p", f"model:={given.model}", "-p", f"threads:={given.threads}"])
    node = DetectorNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    words = [sys.executable, __file__, "--peer", *sys.argv[1:]]
    # Into a file: a pipe that is read only at the end holds what is said of a few thousand clouds, then blocks.
    with tempfile.TemporaryFile("w+") as told, subprocess.Popen(words, stdout=told) as other:  # noqa: S603 - this script
        memories = []
        while other.poll() is None:
            executor.spin_once(timeout_sec=1.0)
            memories.append(memory())
        told.seek(0)
        said = json.loads(told.read())
    node.close()
    node.destroy_node()
    rclpy.try_shutdown()
    settled = memories[len(memories) // 5]
    found = figures(said, seen.frames)
    return {
        **found,
        "overhead, processor time [ms]": round(seen.overhead(), 2),
        "memory growth [MB]": round(max(memories[-10:]) - settled, 1),
    }


def figures(said: dict[str, Any], frames: dict[int, Frame]) -> dict[str, Any]:
    """Percentiles of what was measured [ms]."""
    stamps = [stamp for stamp in map(int, said["latencies"]) if stamp in frames]
    latency = np.array([said["latencies"][str(stamp)] for stamp in stamps])
    stages = np.array([frames[stamp].stages for stamp in stamps])
    detect, convert, emit = stages[:, 1:4].sum(axis=1), stages[:, 0], stages[:, 4]
    taken = np.array([1e3 * frames[stamp].age for stamp in stamps])
    parts = {
        "message in to boxes out": latency,
        "Detector.detect": detect,
        "overhead": latency - detect,
        "of it convert": convert,
        "of it build and publish": emit,
        "of it to the node's thread (DDS, take, wait)": taken,
        "of it back (DDS, take)": latency - taken - convert - detect - emit,
    }
    rows = {name: [round(float(np.percentile(part, q)), 2) for q in (50, 99)] for name, part in parts.items()}
    return {"sent": said["sent"], "answered": len(stamps), "dropped": said["dropped"], "p50, p99 [ms]": rows}


def main() -> None:
    """Measures and prints, and writes a file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pointpillars-16x")
    parser.add_argument("--points", type=int, default=120_000)
    parser.add_argument("--rate", type=float, default=10.0, help="clouds a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0: the runtime's choice")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--peer", action="store_true", help="be the other process")
    given = parser.parse_args()
    if given.peer:
        peer(given)
        return
    text = json.dumps({"model": given.model, "points": given.points, "rate": given.rate, **run_node(given)}, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
