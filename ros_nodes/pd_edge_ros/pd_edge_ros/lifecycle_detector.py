"""The lifecycle node: loads on `configure`, detects while active, frees the engine on `cleanup`."""

import sys

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from pd_edge.errors import PdEdgeError
from pd_edge_ros.process import run
from pd_edge_ros.server import DetectionServer

NAME = "detector"
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class LifecycleDetectorNode(LifecycleNode):  # type: ignore[misc]
    """A node whose engine a manager loads, starts, stops and frees; its parameters can change while it is free.

    Raises:
        ConfigError: A parameter is wrong.
    """

    def __init__(self) -> None:
        super().__init__(NAME)
        self._server = DetectionServer(self, self.create_lifecycle_publisher)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the engine and warms it up."""
        try:
            self._server.load()
        except PdEdgeError as error:
            self._server.free()
            self.get_logger().error(str(error))
            return FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes clouds."""
        done = super().on_activate(state)
        self._server.start()
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes no more clouds."""
        self._server.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the engine."""
        done = super().on_cleanup(state)
        self.close()
        return done

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops whatever runs and frees the engine."""
        done = super().on_shutdown(state)
        self.close()
        return done

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after an error in a transition."""
        self.close()
        return super().on_error(state)

    def close(self) -> None:
        """Stops and frees the engine; once more does nothing."""
        self._server.stop()
        self._server.free()


def main() -> None:
    """The command ``lifecycle_detector``."""
    sys.exit(run(LifecycleDetectorNode))


if __name__ == "__main__":
    main()
