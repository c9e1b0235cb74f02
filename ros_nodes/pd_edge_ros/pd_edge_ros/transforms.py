"""Where the cloud's frame is in another, through tf2."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.errors import ConfigError
from pd_edge.ros_messages import matrix_of
from pd_edge_ros.refusals import RefusedError

PATIENCE_NS = 50_000_000
"""How long to wait for a transform that is not there yet [ns]."""


class Transforms:
    """Listens to /tf and /tf_static.

    Args:
        node: The node to listen with.
        target: The frame that is wanted.

    Raises:
        ConfigError: tf2 is not installed.
    """

    def __init__(self, node: Any, target: str) -> None:
        try:
            import tf2_ros  # noqa: PLC0415 - not there in a ROS made of wheels
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"target_frame '{target}' needs tf2_ros, which is not installed; install "
                "ros-$ROS_DISTRO-tf2-ros-py, or leave target_frame empty for boxes in the cloud's frame"
            ) from error
        self.target = target
        self._failure = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def pose(self, head: Any) -> npt.NDArray[np.float64]:
        """The pose (4, 4) of a header's frame in the target frame, at the header's time [m].

        Raises:
            RefusedError: It is not known.
        """
        from rclpy.duration import Duration  # noqa: PLC0415 - needs ROS
        from rclpy.time import Time  # noqa: PLC0415

        try:
            found = self._buffer.lookup_transform(
                self.target, head.frame_id, Time.from_msg(head.stamp), Duration(nanoseconds=PATIENCE_NS)
            )
        except self._failure as error:
            raise RefusedError("no_transform", f"from {head.frame_id} to {self.target}: {error}") from error
        return matrix_of(found.transform)

    def close(self) -> None:
        """Stops listening."""
        self._listener.unregister()
