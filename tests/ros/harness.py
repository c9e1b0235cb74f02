"""Processes and a listener for the tests with a running ROS."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.pointcloud2 import Layout, layout_of

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent.parent / "ros_nodes" / "pd_edge_ros"
MODEL = "pointpillars-16x"
PATIENCE_SECONDS = 60.0
"""A busy machine is no failure."""
Cloud = npt.NDArray[np.float32]
CARS = ((10.0, 3.0, 0.1), (15.0, -4.0, 1.5), (22.0, 5.0, 3.0), (8.0, -6.0, 0.0))


def street(seed: int, ground: int = 5_000) -> Cloud:
    """A plane with four boxes of the size of cars: (N, 4) float32 in the LiDAR frame, intensity 0..1.

    It has 320 kB: of a best-effort publisher, Fast DDS loses most of what is larger than its buffers of 500 kB.
    """
    rng = np.random.default_rng(seed)
    distance, angle = rng.uniform(4, 70, ground), rng.uniform(-np.pi, np.pi, ground)
    height = rng.normal(-1.73, 0.02, ground)
    parts = [
        np.column_stack([distance * np.cos(angle), distance * np.sin(angle), height, rng.uniform(0.1, 0.4, ground)])
    ]
    length, width, tall = 3.9, 1.6, 1.5
    for x, y, yaw in CARS:
        count = int(3e5 / (x * x + y * y))
        across, up = rng.uniform(-0.5, 0.5, (2, count)), rng.uniform(0.0, tall, (2, count))
        side = np.column_stack([length * across[0], np.full(count, -np.sign(y) * width / 2), up[0]])
        back = np.column_stack([np.full(count, -length / 2), width * across[1], up[1]])
        local = np.vstack([side, back])
        along, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        ground_plan = np.array([x, y]) + local[:, :1] * along + local[:, 1:2] * left
        parts.append(np.column_stack([ground_plan, local[:, 2] - 1.73, rng.uniform(0.1, 0.6, 2 * count)]))
    return np.vstack(parts).astype(np.float32)


def command(module: str, *, parameters: Sequence[str] = ()) -> list[str]:
    """The command line of a node, with parameters as ``name:=value``."""
    given = (
        [f"model:={MODEL}", *parameters] if not any(each.startswith("model:=") for each in parameters) else parameters
    )
    return [
        sys.executable,
        "-m",
        f"pd_edge_ros.{module}",
        "--ros-args",
        *(word for each in given for word in ("-p", each)),
    ]


class Process:
    """A process whose output is kept; a context manager that ends it."""

    def __init__(self, words: Sequence[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), str(HERE.parent.parent)])}
        environment |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self.running = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.running.stdout or ():
            self.lines.append(line)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        """Until it has printed a text."""
        until(lambda: text in self.output or self.running.poll() is not None)
        assert text in self.output, self.output

    def end(self, number: int = signal.SIGINT) -> int:
        """Sends a signal and waits for its end."""
        self.running.send_signal(number)
        code = self.running.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code

    def memory(self) -> float:
        """Resident memory [MB]."""
        status = Path(f"/proc/{self.running.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return float(line.split()[1]) / 1e3

    def __enter__(self) -> "Process":  # noqa: PYI034 - Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.running.poll() is None:
                self.end()  # orderly, as Fast DDS would leave its shared memory behind
        finally:
            self.running.kill()
            self.running.wait()


def until(done: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> bool:
    """Waits for something; whether it came."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def cloud_message(points: Cloud, stamp_ns: int, frame_id: str = "lidar", layout: Layout | None = None) -> Any:
    """An rclpy PointCloud2."""
    from pd_edge_ros.server import kinds
    from sensor_msgs.msg import PointCloud2, PointField

    from pd_edge.ros_messages import header

    given = layout or layout_of(points)
    message = PointCloud2(
        header=header(kinds, stamp_ns, frame_id),
        height=given.height,
        width=given.width,
        fields=[PointField(name=n, offset=o, datatype=d, count=c) for n, o, d, c in given.fields],
        is_bigendian=given.is_bigendian,
        point_step=given.point_step,
        row_step=given.row_step,
        is_dense=given.is_dense,
    )
    message.data.frombytes(given.data.tobytes())
    return message
