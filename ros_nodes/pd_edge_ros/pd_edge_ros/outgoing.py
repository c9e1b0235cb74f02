"""Boxes as messages in the frame they are wanted in, and diagnostics."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Detections
from pd_edge.ros_messages import Kinds, Objects, detection_array, marker_array, placed_detections, placed_markers
from pd_edge_ros.config import NodeConfig
from pd_edge_ros.health import Report

Matrix = npt.NDArray[np.float64]


def chosen(detections: Detections, classes: tuple[str, ...], thresholds: Mapping[str, float]) -> Objects:
    """The boxes of classes that are wanted, which score at least their class's threshold.

    Args:
        detections: What the detector found.
        classes: The model's classes, in label order.
        thresholds: Least score by class; a class that is missing is not wanted.
    """
    lowest = min(thresholds.values())  # the decoder's, which compares logits: a score can round to just below it
    least = np.array([thresholds.get(name, np.inf) for name in classes])
    least[least == lowest] = 0
    kept = detections.scores >= least[detections.labels]
    names = [classes[label] for label in detections.labels[kept]]
    return Objects(detections.boxes[kept], names, detections.scores[kept])


def detections_message(kinds: Kinds, head: Any, objects: Objects, pose: Matrix | None) -> Any:
    """A Detection3DArray in the header's frame.

    Args:
        kinds: Message classes.
        head: Its header.
        objects: The boxes, in the model's frame.
        pose: (4, 4) from the model's frame to the header's [m]; None where they are the same.
    """
    return placed_detections(detection_array(kinds, head, objects), pose)


def markers_message(
    kinds: Kinds, head: Any, objects: Objects, pose: Matrix | None, *, classes: tuple[str, ...], config: NodeConfig
) -> Any:
    """A MarkerArray in the header's frame that takes the place of all earlier ones; see :func:`detections_message`."""
    lifetime, shown = config.marker_lifetime, config.marker_threshold
    return placed_markers(marker_array(kinds, head, objects, classes, lifetime, shown=shown), pose)


def diagnostics_message(kinds: Kinds, head: Any, name: str, hardware: str, report: Report) -> Any:
    """A DiagnosticArray of one status."""
    pair, status = kinds("diagnostic_msgs/msg/KeyValue"), kinds("diagnostic_msgs/msg/DiagnosticStatus")
    values = [pair(key=key, value=value) for key, value in report.values.items()]
    # The level is a `byte`, which is bytes of length one in Python.
    level = bytes([report.level])
    said = status(level=level, name=name, message=report.message, hardware_id=hardware, values=values)
    return kinds("diagnostic_msgs/msg/DiagnosticArray")(header=head, status=[said])
