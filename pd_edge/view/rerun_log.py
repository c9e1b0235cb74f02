"""Scans as a recording of Rerun, in a file or in its viewer; needs the extra ``view``."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.errors import DataError, MissingExtraError
from pd_edge.ros_messages import Objects
from pd_edge.view.html import Written
from pd_edge.view.moments import Moment, at_least
from pd_edge.view.scene import TRUTH_COLOUR, Scene, known_of

SUFFIX = ".rrd"
POINTS, FOUND, TRUTH, COUNT = "world/points", "world/detections", "world/ground_truth", "detections"
"""Where things are in the recording."""
_LOW = np.array([0x2B, 0x3C, 0x66], np.float64)
_HIGH = np.array([0xCF, 0xE6, 0xF9], np.float64)


def has_rerun() -> bool:
    """Whether Rerun's library is installed; it is not imported."""
    return find_spec("rerun") is not None


def log_rerun(
    path: Path | None, scene: Scene, moments: Iterable[Moment], *, advance: Callable[[int], None] | None = None
) -> Written:
    """Logs scans; detections that score at least as much as the scene begins with, since Rerun has no slider for it.

    Args:
        path: The recording, ending in .rrd; Rerun's viewer when left out.
        scene: An empty scene; it is filled.
        moments: The scans.
        advance: Called with the scans done, after each.

    Raises:
        MissingExtraError: Rerun is not installed.
        DataError: The file cannot be written, or the viewer cannot be started.
    """
    rerun = _rerun()
    stream = rerun.RecordingStream("pd-edge")
    where = path or Path("Rerun")
    try:
        _open(stream, path)
        stream.log("world", rerun.ViewCoordinates.FLU, static=True)
        for place, moment in enumerate(moments):
            scene.add(moment, known_of(moment), len(moment.points), 0.0)
            _log(rerun, stream, place, moment, scene)
            if advance is not None:
                advance(place + 1)
        stream.flush()
    finally:
        stream.disconnect()
    return Written(where, len(scene.frames), scene.boxes, path.stat().st_size if path else 0)


def _rerun() -> Any:
    try:
        import rerun  # noqa: PLC0415 - extra
    except ImportError as error:
        raise MissingExtraError("rerun-sdk", "view") from error
    return rerun


def _open(stream: Any, path: Path | None) -> None:
    try:
        if path is None:
            stream.spawn()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream.save(path)
    except (OSError, RuntimeError) as error:
        what = "Rerun's viewer cannot be started" if path is None else f"{path}: cannot be written"
        raise DataError(f"{what} ({error}); --out FILE.html needs neither") from error


def _log(rerun: Any, stream: Any, place: int, moment: Moment, scene: Scene) -> None:
    stream.set_time("frame", sequence=place)
    if moment.time_ns is not None:
        stream.set_time("time", duration=(scene.frames[-1]["time"]))
    points = moment.points
    stream.log(POINTS, rerun.Points3D(points[:, :3], colors=_shades(points[:, 3]), radii=rerun.Radius.ui_points(1.2)))
    shown = at_least(moment.found, scene.score)
    colours = [_rgb(scene.colour(name)) for name in shown.names]
    labels = [f"{name} {score:.2f}" for name, score in zip(shown.names, shown.scores, strict=True)]
    stream.log(FOUND, _boxes(rerun, shown, colours, labels))
    truth = moment.truth
    if truth is not None:
        stream.log(TRUTH, _boxes(rerun, truth, [_rgb(TRUTH_COLOUR)] * len(truth.names), truth.names))
    stream.log(COUNT, rerun.Scalars(float(len(shown.names))))


def _boxes(rerun: Any, objects: Objects, colours: list[tuple[int, int, int]], labels: Any) -> Any:
    if not len(objects.names):
        return rerun.Clear(recursive=False)
    boxes = np.asarray(objects.boxes, np.float64)
    turns = np.zeros((len(boxes), 4))
    turns[:, 2], turns[:, 3] = np.sin(boxes[:, 6] / 2), np.cos(boxes[:, 6] / 2)
    return rerun.Boxes3D(
        centers=boxes[:, :3],
        half_sizes=boxes[:, 3:6] / 2,
        quaternions=turns,
        colors=colours,
        labels=list(labels),
        show_labels=True,
    )


def _shades(intensity: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Dim blue to white, by the root of the intensity."""
    share = np.sqrt(intensity.clip(0, 1))[:, None]
    return np.asarray(_LOW + share * (_HIGH - _LOW), np.uint8)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
