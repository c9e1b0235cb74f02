"""A node as a process."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from pd_edge.errors import PdEdgeError


def run(make: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """Runs a node until Ctrl-C, SIGTERM or a shutdown of ROS.

    Args:
        make: Makes the node, which has a ``close``.
        args: The command line; the process's own when left out.

    Returns:
        0, or 1 where the node could not start, which is said in one line.
    """
    rclpy.init(args=args)
    try:
        node = make()
    except PdEdgeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the logger goes with the context
        rclpy.try_shutdown()
        return 1
    try:
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
