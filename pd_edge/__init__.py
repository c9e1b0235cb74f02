"""LiDAR 3D detection that fits in the vehicle: a cloud in, boxes out.

>>> import pd_edge
>>> detector = pd_edge.load("pointpillars-4x")
>>> detections = detector.detect(points)  # (N, 4) float32 in, Detections out
"""

from typing import TYPE_CHECKING, Any

from pd_edge.errors import ConfigError, DataError, EngineError, MissingExtraError, PdEdgeError

if TYPE_CHECKING:
    from pd_edge.boxes import Detections
    from pd_edge.detector import Detector, load

__version__ = "0.1.0"
__all__ = [
    "ConfigError",
    "DataError",
    "Detections",
    "Detector",
    "EngineError",
    "MissingExtraError",
    "PdEdgeError",
    "load",
]


def __getattr__(name: str) -> Any:
    """Imports the detector on first use, so that ``import pd_edge`` stays light."""
    if name in ("Detector", "load"):
        from pd_edge import detector  # noqa: PLC0415 - late on purpose

        return getattr(detector, name)
    if name == "Detections":
        from pd_edge.boxes import Detections  # noqa: PLC0415 - late on purpose

        return Detections
    raise AttributeError(f"module 'pd_edge' has no attribute {name!r}")
