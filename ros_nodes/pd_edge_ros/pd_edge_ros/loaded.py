"""What the node holds while its engine is loaded."""

from typing import Any, NamedTuple

from pd_edge.boxes import Detections
from pd_edge.detector import Detector, Timing, load
from pd_edge.errors import DataError, EngineError
from pd_edge.sensors import Mount, SensorProfile, load_profile, mount_of
from pd_edge_ros.clouds import Prepared, prepare
from pd_edge_ros.config import NodeConfig
from pd_edge_ros.refusals import RefusedError


class Loaded(NamedTuple):
    """A detector with all that its input and output are to go through.

    Attributes:
        config: What it was loaded with.
        detector: The detector, for one thread.
        profile: The sensor.
        mount: Between the cloud's and the model's frame.
        thresholds: The least score of each class that is published.
    """

    config: NodeConfig
    detector: Detector
    profile: SensorProfile
    mount: Mount
    thresholds: dict[str, float]

    @classmethod
    def of(cls, config: NodeConfig) -> "Loaded":
        """Loads a detector and warms it up, so that the first cloud takes no longer than the next.

        Raises:
            PdEdgeError: The model, its runtime, the sensor's profile or a class cannot be used.
        """
        profile = load_profile(config.sensor)
        detector = load(
            config.model,
            config.runtime or None,
            config.precision or None,
            config.threads or None,
            sensor=profile.only_intensity(),
            coverage=config.coverage,
        )
        mount = mount_of(profile, config.sensor_height)
        loaded = cls(config, detector, profile, mount, config.thresholds(detector.classes))
        detector.set_score_threshold(min(loaded.thresholds.values()))
        detector.warm_up()
        return loaded

    def with_config(self, config: NodeConfig) -> "Loaded":
        """The same detector with other thresholds and classes.

        Raises:
            ConfigError: A class is named that the model does not know.
        """
        thresholds = config.thresholds(self.detector.classes)
        self.detector.set_score_threshold(min(thresholds.values()))
        return self._replace(config=config, thresholds=thresholds)

    def prepare(self, message: Any) -> Prepared:
        """The points of a message; see :func:`pd_edge_ros.clouds.prepare`."""
        return prepare(message, self.config, self.profile, self.mount)

    def detect(self, cloud: Prepared, source: str) -> tuple[Detections, Timing]:
        """The boxes in the model's frame, and the time of each stage.

        Raises:
            RefusedError: The intensities fit no known range, or the network put out NaN.
        """
        try:
            return self.detector.detect_timed(cloud.points, source)
        except DataError as error:  # points are there, finite and float32: only the intensity is left to be wrong
            raise RefusedError("intensity", str(error)) from error
        except EngineError as error:
            raise RefusedError("failed", str(error)) from error
