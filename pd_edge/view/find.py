"""Where a scan's boxes come from: a detector, what an earlier run has written, or nowhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pd_edge.boxes import BOX_COLUMNS
from pd_edge.clouds import Cloud
from pd_edge.detector import Detector
from pd_edge.errors import DataError
from pd_edge.files import read_json
from pd_edge.ros_messages import Objects
from pd_edge.sensors import Mount
from pd_edge.view.moments import Posed, leveled, no_objects, posed

Find = Callable[[Cloud, str], Objects]
"""Boxes in the level frame, of a cloud in its own frame [m] and the scan's name."""
DETECTIONS = "detections.json"
"""The file that ``pd-edge detect --out`` leaves in its folder."""


def by_detector(detector: Detector) -> Find:
    """Runs a detector on every cloud."""
    detector.warm_up()

    def find(points: Cloud, name: str) -> Objects:
        found, _ = detector.detect_mounted(points, f"frame {name}")
        return Objects(found.boxes, [detector.classes[label] for label in found.labels], found.scores)

    return find


def nothing(points: Cloud, name: str) -> Objects:  # noqa: ARG001 - a Find
    """No boxes: the cloud and its ground truth alone."""
    return no_objects()


class Results:
    """What ``pd-edge detect --out FOLDER`` found.

    Args:
        folder: That folder.

    Attributes:
        path: The file.
        classes: Class names, as the detector has them.

    Raises:
        DataError: There is no ``detections.json`` in it, or it is malformed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DETECTIONS
        data = read_json(self.path, "what `pd-edge detect --out` writes")
        try:
            self.classes = tuple(str(name) for name in data["classes"])
            self._frames = {str(frame["id"]): _read(frame["detections"]) for frame in data["frames"]}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.path}: not as `pd-edge detect --out` writes it ({error!r}); detect again into a new folder"
            ) from error

    def find(self, mount: Mount) -> Find:
        """The boxes of a scan by its name, brought from the cloud's frame to the level one."""

        def find(points: Cloud, name: str) -> Objects:  # noqa: ARG001 - a Find
            if name not in self._frames:
                raise DataError(
                    f"{self.path}: no frame {name}; it has {', '.join([*self._frames][:3]) or 'none'} ...: give the "
                    "clouds that were detected in"
                )
            return leveled(self._frames[name], mount.to_model)

        return find


def _read(detections: list[dict[str, object]]) -> Posed:
    boxes = np.array([each["box"] for each in detections], np.float64).reshape(-1, BOX_COLUMNS)
    scores = np.array([each["score"] for each in detections], np.float64)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("a box or score is not finite")
    return posed(boxes, [str(each["class"]) for each in detections], scores)
