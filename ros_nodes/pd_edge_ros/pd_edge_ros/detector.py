"""The plain node: detects from its start to its end."""

import sys

from rclpy.node import Node

from pd_edge_ros.process import run
from pd_edge_ros.server import DetectionServer

NAME = "detector"


class DetectorNode(Node):  # type: ignore[misc]
    """Loads the engine and takes clouds at once.

    Raises:
        PdEdgeError: A parameter is wrong, or the engine cannot be loaded.
    """

    def __init__(self) -> None:
        super().__init__(NAME)
        self._server = DetectionServer(self, self.create_publisher)
        self._server.load()
        self._server.start()

    def close(self) -> None:
        """Stops and frees the engine."""
        self._server.stop()
        self._server.free()


def main() -> None:
    """The command ``detector``."""
    sys.exit(run(DetectorNode))


if __name__ == "__main__":
    main()
