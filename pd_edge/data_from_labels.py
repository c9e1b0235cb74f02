"""Boxes of the labelling tools labelCloud and SUSTechPOINTS, with their clouds, as own data.

Source of the formats: what the tools write. labelCloud (``centroid_abs``, ``centroid_rel``): ``labels/ID.json`` with
``objects`` of name, centroid, dimensions (length, width, height) and rotations about x, y, z, in degrees or radians.
SUSTechPOINTS: ``label/ID.json`` with a list of ``obj_type`` and ``psr``: position, scale (length, width, height as x,
y, z) and rotation [rad], in newer files under ``objs``; early versions have the length as y, and the heading with it.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pd_edge.clouds import SUFFIXES
from pd_edge.errors import DataError
from pd_edge.files import read_text
from pd_edge.own_labels import Boxes, objects_of
from pd_edge.own_writer import OwnWriter

TILT = 0.1
"""Boxes that are turned about x or y by more are counted in a note [rad]."""
LONG = 1.3
_CLOUDS = ("pointclouds", "lidar", "points", ".")
_LABELS = ("labels", "label", ".")


class Imported(NamedTuple):
    """What was written: frames, objects, and what is to be known about them."""

    frames: int
    objects: int
    notes: tuple[str, ...]


class _Rows(NamedTuple):
    """Boxes (K, 9): centre, sizes, rotations about x, y, z; and their classes."""

    rows: Boxes
    names: list[str]


def from_labelcloud(source: Path, out: Path) -> Imported:
    """Converts a labelCloud project: ``pointclouds`` and ``labels`` in one folder, or all in one.

    Raises:
        DataError: There are no labels, one is malformed or has no cloud.
    """

    def mend(rows: Boxes) -> tuple[Boxes, tuple[str, ...]]:
        turns = rows[:, 6:9]
        if not turns.any() or (np.abs(turns) <= math.pi + 0.01).all():
            return rows, (("rotations are within +-3.15: taken for radians (centroid_rel)",) if turns.any() else ())
        rows[:, 6:9] = np.radians(turns)
        return rows, ("rotations are in degrees (centroid_abs)",)

    return _convert(source, out, _labelcloud_rows, mend)


def from_sustechpoints(source: Path, out: Path) -> Imported:
    """Converts a scene of SUSTechPOINTS: ``lidar`` and ``label`` in one folder.

    Raises:
        DataError: There are no labels, one is malformed or has no cloud.
    """

    def mend(rows: Boxes) -> tuple[Boxes, tuple[str, ...]]:
        ratio = rows[:, 3] / rows[:, 4]
        if np.sum(ratio > LONG) >= np.sum(ratio < 1 / LONG):
            return rows, ()
        rows[:, [3, 4]] = rows[:, [4, 3]]
        rows[:, 8] += math.pi / 2
        return rows, ("boxes are longest along y, as of old versions: length and width were exchanged, yaws turned",)

    return _convert(source, out, _sustech_rows, mend)


def _convert(
    source: Path,
    out: Path,
    read: Callable[[Any], list[tuple[str, list[float]]]],
    mend: Callable[[Boxes], tuple[Boxes, tuple[str, ...]]],
) -> Imported:
    """All frames, judged together: one file alone does not tell conventions."""
    frames = [(file, _cloud_of(source, file.stem), _rows(file, read)) for file in _label_files(source)]
    everything, notes = mend(np.concatenate([frame.rows for *_, frame in frames]))
    tilted = int((np.abs(everything[:, 6:8]) > TILT).any(axis=1).sum())
    if tilted:
        notes += (f"{tilted} boxes are turned about x or y by more than {TILT:g} rad; only the turn about z is kept",)
    writer, first = OwnWriter(out), 0
    for file, cloud, frame in frames:
        rows = everything[first : first + len(frame.rows)]
        first += len(rows)
        writer.add_file(file.stem, cloud, objects_of(rows[:, [0, 1, 2, 3, 4, 5, 8]], frame.names))
    return Imported(writer.frames, writer.objects, notes)


def _label_files(source: Path) -> list[Path]:
    for folder in (source / name for name in _LABELS if (source / name).is_dir()):
        files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("_"))
        if files:
            return files
    raise DataError(f"{source}: no label files; looked for *.json in it and in {', '.join(_LABELS[:-1])}")


def _cloud_of(source: Path, name: str) -> Path:
    files = (source / folder / f"{name}{suffix}" for folder in _CLOUDS for suffix in SUFFIXES)
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise DataError(
            f"{source}: no cloud for the labels {name}.json; looked for {name}{{{','.join(SUFFIXES)}}} in it and in "
            f"{', '.join(_CLOUDS[:-1])}"
        )
    return found


def _rows(file: Path, read: Callable[[Any], list[tuple[str, list[float]]]]) -> _Rows:
    try:
        objects = read(json.loads(read_text(file, "labels")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}: not as this tool writes labels ({type(error).__name__}: {error}); is it of another one?"
        ) from error
    rows = np.array([row for _, row in objects], dtype=np.float64).reshape(-1, 9)
    bad = ~np.isfinite(rows).all(axis=1) | (rows[:, 3:6] <= 0).any(axis=1)
    if bad.any():
        place = int(np.argmax(bad))
        raise DataError(
            f"{file}: object {place} ({objects[place][0]}) has {rows[place].tolist()}; expected sizes above 0"
        )
    return _Rows(rows, [name for name, _ in objects])


def _labelcloud_rows(data: Any) -> list[tuple[str, list[float]]]:
    parts = (("centroid", "xyz"), ("dimensions", ("length", "width", "height")), ("rotations", "xyz"))
    return [(str(each["name"]), _numbers(each, parts)) for each in data["objects"]]


def _sustech_rows(data: Any) -> list[tuple[str, list[float]]]:
    parts = (("position", "xyz"), ("scale", "xyz"), ("rotation", "xyz"))
    objects = data["objs"] if isinstance(data, dict) else data
    return [(str(each["obj_type"]), _numbers(each["psr"], parts)) for each in objects]


def _numbers(data: Any, parts: Sequence[tuple[str, Sequence[str]]]) -> list[float]:
    return [float(data[part][key]) for part, keys in parts for key in keys]
