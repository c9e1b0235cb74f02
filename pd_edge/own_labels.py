"""Boxes of own data: the label files of the plain layout, and the same objects as the labels that AP is computed on.

An object is a class and a box in the frame of its cloud. The evaluation compares KITTI's labels; :func:`to_labels`
gives an object as one, seen by a camera that stands in the cloud's origin and looks along x. It has no image: its 2D
box is the same for every object, so that none is too small to count.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pd_edge.boxes import Detections, Floats, points_per_box
from pd_edge.config import Config, parse_config
from pd_edge.errors import ConfigError, DataError
from pd_edge.files import parse_floats, read_json, read_text, write_bytes
from pd_edge.kitti_boxes import boxes_to_labels, boxes_to_lidar, detections_to_labels
from pd_edge.kitti_calibration import Calibration, read_object_calibration
from pd_edge.kitti_labels import DONT_CARE, Label, parse_label

LEVELS = (("easy", 50), ("moderate", 10), ("hard", 1))
"""Least points in a box by difficulty, each with those before it; a box without points never counts."""
AXES = Calibration(
    P2=np.eye(3, 4),
    R0_rect=np.eye(3),
    Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
)
"""A camera in the cloud's origin that looks along x; it has no image."""
IGNORED = 1.0
"""Truncation of a label that is not judged and not learnt."""
_ANY_IMAGE, _ANY_BOX = (2, 2), (0.0, 0.0, 100.0, 100.0)
_LINE = "x y z length width height [m] yaw [rad] class, as OpenPCDet's custom data"

Boxes = npt.NDArray[np.float64]


class OwnObject(Config):
    """One labelled object, in the frame of its cloud: x forward, y left, z up."""

    kind: str = Field(alias="class", min_length=1, description="Class.")
    centre: tuple[float, float, float] = Field(description="Geometric centre x y z [m], not the bottom's.")
    size: tuple[float, float, float] = Field(description="Length (along the heading), width, height [m].")
    yaw: float = Field(description="Heading about z [rad], counter-clockwise from x.")
    ignore: bool = Field(default=False, description="Neither judged nor learnt: doubtful, or a crowd.")


class _LabelFile(Config):
    objects: tuple[OwnObject, ...] = Field(description="Objects; none in an empty scene.")


class Objects(NamedTuple):
    """Labelled objects of one cloud.

    Attributes:
        boxes: (K, 7) float64 x y z length width height yaw [m, rad], geometric centre; as the file has them.
        names: K classes.
        ignored: K, whether an object is neither judged nor learnt.
    """

    boxes: Boxes
    names: list[str]
    ignored: list[bool]

    def meant(self) -> "Objects":
        """Those that are judged and learnt."""
        rows = [row for row, ignored in enumerate(self.ignored) if not ignored]
        return objects_of(self.boxes[rows], [self.names[row] for row in rows])


def objects_of(boxes: npt.ArrayLike, names: Sequence[str], ignored: Sequence[bool] | None = None) -> Objects:
    """Objects from boxes (K, 7) and their classes; none ignored when left out."""
    rows = np.asarray(boxes, np.float64).reshape(-1, 7)
    return Objects(rows, list(names), list(ignored) if ignored is not None else [False] * len(rows))


def read_objects(path: Path, calibration: Path) -> Objects:
    """Reads a label file.

    Args:
        path: ``.json`` as documented in the README; or ``.txt`` with a line for each object, either
            ``x y z length width height yaw class`` or KITTI's.
        calibration: KITTI's calibration of the frame, needed for KITTI's lines alone.

    Raises:
        DataError: A file is missing or malformed; file, line and value are named.
    """
    return _read_json(path) if path.suffix == ".json" else _read_text(path, calibration)


def write_objects(path: Path, objects: Objects) -> None:
    """Writes a label file (JSON), one line an object, lengths to 0.1 mm.

    Raises:
        DataError: It cannot be written.
    """
    lines = [_line(*each) for each in zip(objects.boxes.tolist(), objects.names, objects.ignored, strict=True)]
    text = '{"objects": [\n' + ",\n".join(lines) + "\n]}\n" if lines else '{"objects": []}\n'
    write_bytes(path, text.encode())


def to_labels(objects: Objects, points: Floats) -> list[Label]:
    """Objects as KITTI labels in the frame of :data:`AXES`; occlusion stands for the points in the box.

    Args:
        objects: The objects.
        points: (N, 3 or more) their cloud [m], in the same frame.

    Raises:
        DataError: A box is malformed.
    """
    inside = points_per_box(points, objects.boxes)
    steps = np.array([least for _, least in LEVELS])
    occlusion = (inside[:, None] < steps).sum(axis=1)
    labels = boxes_to_labels(objects.boxes, objects.names, AXES, _ANY_IMAGE, occlusion.tolist())
    return [
        label._replace(bbox=_ANY_BOX, truncation=IGNORED if ignored else 0.0)
        for label, ignored in zip(labels, objects.ignored, strict=True)
    ]


def found_labels(detections: Detections, classes: Sequence[str]) -> list[Label]:
    """Detections as KITTI labels with scores, to compare with those of :func:`to_labels`."""
    return [each._replace(bbox=_ANY_BOX) for each in detections_to_labels(detections, classes, AXES, _ANY_IMAGE)]


def _read_json(path: Path) -> Objects:
    try:
        file = parse_config(read_json(path, "labels"), _LabelFile, str(path))
    except ConfigError as error:
        raise DataError(f"{error}; expected {_example()}") from error
    for number, each in enumerate(file.objects):
        _check_size(each.size, f"{path}: objects.{number}")
    boxes = [(*each.centre, *each.size, each.yaw) for each in file.objects]
    return objects_of(boxes, [each.kind for each in file.objects], [each.ignore for each in file.objects])


def _read_text(path: Path, calibration: Path) -> Objects:
    lines = [(f"{path}, line {n}", line) for n, line in enumerate(read_text(path, "labels").split("\n"), 1)]
    lines = [(where, line) for where, line in lines if line.strip()]
    if lines and all(len(line.split()) in (15, 16) for _, line in lines):
        labels = [parse_label(line, where) for where, line in lines]
        solid = [label for label in labels if label.name != DONT_CARE]
        return objects_of(boxes_to_lidar(solid, read_object_calibration(calibration)), [each.name for each in solid])
    rows = [_row(line, where) for where, line in lines]
    return objects_of([box for box, _ in rows], [name for _, name in rows])


def _row(line: str, where: str) -> tuple[list[float], str]:
    words = line.split()
    if len(words) != 8:
        raise DataError(f"{where}: {len(words)} fields; expected 8 ({_LINE}), or 15 in every line (KITTI's)")
    box = parse_floats(words[:7], where, _LINE)
    _check_size(box[3:6], where)
    return box, words[7]


def _check_size(size: Sequence[float], where: str) -> None:
    if min(size) <= 0:
        length, width, height = size
        raise DataError(
            f"{where}: a box of {length:g} x {width:g} x {height:g} m; expected length, width and height above 0"
        )


def _line(box: Sequence[float], name: str, ignored: bool) -> str:
    numbers = [round(value, 4) for value in box[:6]]
    data = {
        "class": name,
        "centre": numbers[:3],
        "size": numbers[3:],
        "yaw": round(math.remainder(box[6], math.tau), 5),
    }
    return json.dumps({**data, "ignore": True} if ignored else data, ensure_ascii=False)


def _example() -> str:
    return (
        '{"objects": [{"class": "Car", "centre": [x, y, z], "size": [length, width, height], "yaw": 0.1}]}, m and rad'
    )


def is_ignored(label: Label, *, around: bool) -> bool:
    """Whether own data (``around``) leave an object out of training and figures; KITTI has no such mark."""
    return around and label.truncation == IGNORED


def to_be_found(labels: Sequence[Label], *, around: bool) -> list[Label]:
    """The labels that are boxes and asked for: no DontCare region; of own data (``around``) none that is ignored."""
    return [
        each for each in labels if each.name != DONT_CARE and each.height >= 0 and not is_ignored(each, around=around)
    ]
