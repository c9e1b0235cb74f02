"""KITTI label files: one object a line, in the rectified camera frame."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pd_edge.errors import DataError
from pd_edge.files import parse_floats, read_text, write_bytes

DONT_CARE = "DontCare"
EXPECTED = (
    "type truncation occlusion alpha, 2D box (left top right bottom), height width length, "
    "location (x y z), rotation_y and, for a detection, a score"
)


class Label(NamedTuple):
    """One object as a KITTI label file has it.

    The camera frame is x right, y down, z forward [m]. A ``DontCare`` region has only its 2D box; its other fields
    hold KITTI's placeholders (-1, -10, -1000).

    Source: the data format in KITTI's object development kit (readme.txt).
    """

    name: str
    """Class as KITTI writes it: Car, Van, Truck, Pedestrian, Person_sitting, Cyclist, Tram, Misc, DontCare."""
    truncation: float
    """Share outside the image, 0..1; -1 where unknown (detections)."""
    occlusion: int
    """0 visible, 1 partly, 2 largely occluded, 3 unknown; -1 where not given (detections)."""
    alpha: float
    """Angle of observation [rad]."""
    bbox: tuple[float, float, float, float]
    """Left, top, right, bottom in the image [px], 0-based."""
    height: float
    """[m]"""
    width: float
    """[m]"""
    length: float
    """[m]"""
    location: tuple[float, float, float]
    """Centre of the box's bottom in the rectified camera frame [m]."""
    rotation_y: float
    """Heading about the camera's y axis [rad]; 0 looks along camera x (to the right)."""
    score: float | None = None
    """Confidence of a detection; None in ground truth."""


def read_labels(path: Path) -> list[Label]:
    """Reads a KITTI label or detection file; an empty file is a frame without objects.

    Raises:
        DataError: The file is missing or a line is malformed (file, line and value are named).
    """
    lines = read_text(path, "a KITTI label file").split("\n")
    return [parse_label(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def dont_care(label: Label) -> Label:
    """The part of the image that an object covers, as a region where detections are not judged."""
    return Label(DONT_CARE, -1, -1, -10, label.bbox, -1, -1, -1, (-1000, -1000, -1000), -10)


def parse_label(line: str, where: str) -> Label:
    """Parses one line of a label file; ``where`` names it in the error.

    Raises:
        DataError: The line has another number of fields, or a field is not what it should be.
    """
    name, *words = line.split()
    if len(words) not in (14, 15):
        raise DataError(f"{where}: {len(words) + 1} fields; expected 15 or 16: {EXPECTED}")
    values = parse_floats(words, where, EXPECTED)
    truncation, occlusion, alpha, left, top, right, bottom, height, width, length, x, y, z, rotation_y = values[:14]
    if occlusion not in (-1, 0, 1, 2, 3):
        raise DataError(f"{where}: occlusion {words[1]}; expected 0, 1, 2, 3, or -1 where it is unknown")
    if name != DONT_CARE and min(height, width, length) < 0 and not height == width == length == -1:
        raise DataError(
            f"{where}: height, width, length {' '.join(words[7:10])} m; expected sizes of at least 0, or -1 -1 -1"
        )
    return Label(
        name=name,
        truncation=truncation,
        occlusion=int(occlusion),
        alpha=alpha,
        bbox=(left, top, right, bottom),
        height=height,
        width=width,
        length=length,
        location=(x, y, z),
        rotation_y=rotation_y,
        score=values[14] if len(values) == 15 else None,
    )


def write_labels(path: Path, labels: Iterable[Label]) -> None:
    """Writes a KITTI label file; numbers have two to six decimals, so KITTI's own files come out byte for byte.

    Raises:
        DataError: The file cannot be written.
    """
    write_bytes(path, "".join(f"{format_label(label)}\n" for label in labels).encode())


def format_label(label: Label) -> str:
    """One line of a label file, without its end."""
    if label.name == DONT_CARE:
        numbers = [
            *map(_plain, (label.truncation, label.occlusion, label.alpha)),
            *map(_decimals, label.bbox),
            *map(_plain, (label.height, label.width, label.length, *label.location, label.rotation_y)),
        ]
    else:
        sizes = (label.height, label.width, label.length, *label.location, label.rotation_y)
        numbers = [
            _decimals(label.truncation),
            str(label.occlusion),
            *map(_decimals, (label.alpha, *label.bbox, *sizes)),
        ]
    if label.score is not None:
        numbers.append(_decimals(label.score))
    return " ".join([label.name, *numbers])


def _decimals(value: float) -> str:
    """Two to six decimals, without needless zeros."""
    whole, _, fraction = f"{value:.6f}".partition(".")
    return f"{whole}.{fraction.rstrip('0'):0<2}"


def _plain(value: float) -> str:
    return f"{value:.9g}"
