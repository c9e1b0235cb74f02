"""KITTI raw's ``tracklet_labels.xml``: one object with its box in the LiDAR frame at every scan it is seen in."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

from pd_edge.errors import DataError
from pd_edge.files import parse_floats, read_text, write_bytes
from pd_edge.kitti_boxes import boxes_to_labels
from pd_edge.kitti_calibration import Calibration, ImageSize
from pd_edge.kitti_labels import Label

# Tracklets and labels spell one class differently.
_SITTING = {"Person (sitting)": "Person_sitting"}
_SPELLED = {label: tracklet for tracklet, label in _SITTING.items()}
# Occlusion states of tracklets (unset: -1 or 255) and what a label calls them.
_OCCLUSION = {0: 0, 1: 1, 2: 2, -1: 3, 255: 3}
_POSE_TAGS = ("tx", "ty", "tz", "rx", "ry", "rz")


class Tracklet(NamedTuple):
    """One object through a drive, in the LiDAR frame."""

    name: str
    """Class as KITTI's label files write it."""
    size: tuple[float, float, float]
    """Length, width, height [m]."""
    first_scan: int
    """Number of the first scan it is in; it is in every following scan until its poses end."""
    poses: npt.NDArray[np.float64]
    """(n, 4) float64: centre of the box's bottom x y z [m], yaw [rad]."""
    occlusion: npt.NDArray[np.int64]
    """(n,) int64: 0 visible, 1 partly, 2 largely occluded, 3 unknown."""

    def box(self, scan: int) -> npt.NDArray[np.float64] | None:
        """The box (7,) float64 about its geometric centre at a scan; None where the object is not in it."""
        index = scan - self.first_scan
        if not 0 <= index < len(self.poses):
            return None
        x, y, z, yaw = self.poses[index]
        length, width, height = self.size
        return np.array([x, y, z + height / 2, length, width, height, yaw])


def tracklet_labels(
    tracklets: Sequence[Tracklet], scan: int, calibration: Calibration, image_size: ImageSize | None = None
) -> list[Label]:
    """Labels of the objects that the left colour camera sees at a scan; KITTI's labels hold no others.

    Raises:
        DataError: The image size is neither given nor known.
    """
    present = [(tracklet, box) for tracklet in tracklets if (box := tracklet.box(scan)) is not None]
    labels = boxes_to_labels(
        np.array([box for _, box in present]).reshape(-1, 7),
        [tracklet.name for tracklet, _ in present],
        calibration,
        image_size,
        [int(tracklet.occlusion[scan - tracklet.first_scan]) for tracklet, _ in present],
    )
    return [label for label in labels if label.truncation < 1]


def read_tracklets(path: Path) -> list[Tracklet]:
    """Reads ``tracklet_labels.xml``.

    Raises:
        DataError: The file is missing, is not XML of that kind, or a value is malformed.
    """
    text = read_text(path, "KITTI tracklets (XML)")
    if "<!ENTITY" in text:
        raise DataError(
            f"{path}: declares XML entities, which tracklets never do; expected KITTI's tracklet_labels.xml"
        )
    try:
        # A str, so that no declared encoding can hide an entity from the check above.
        root = ET.fromstring(text)  # noqa: S314 - cannot expand anything: no entities
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"{path}: not valid XML ({error}); expected KITTI's tracklet_labels.xml") from error
    tracklets = root.find("tracklets")
    if tracklets is None:
        raise DataError(f"{path}: no <tracklets> inside <{root.tag}>; expected KITTI's tracklet_labels.xml")
    items = tracklets.findall("item")
    return [_parse_tracklet(item, f"{path}, tracklet {number}") for number, item in enumerate(items, 1)]


def write_tracklets(path: Path, tracklets: Iterable[Tracklet]) -> None:
    """Writes ``tracklet_labels.xml``."""
    items = [_format_tracklet(tracklet) for tracklet in tracklets]
    lines = [
        '<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>',
        "<!DOCTYPE boost_serialization>",
        '<boost_serialization signature="serialization::archive" version="9">',
        '<tracklets class_id="0" tracking_level="0" version="0">',
        f"<count>{len(items)}</count>",
        "<item_version>1</item_version>",
        *items,
        "</tracklets>",
        "</boost_serialization>",
    ]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _parse_tracklet(item: ET.Element, where: str) -> Tracklet:
    name = _text(item, "objectType", where)
    height, width, length = _numbers(item, ("h", "w", "l"), where)
    if min(height, width, length) < 0:
        raise DataError(f"{where}: size {height:g} x {width:g} x {length:g} m; expected sizes of at least 0")
    poses = item.findall("poses/item")
    values = np.array([_numbers(pose, _POSE_TAGS, where) for pose in poses]).reshape(-1, 6)
    if np.abs(values[:, 3:5]).max(initial=0) > 1e-3:
        raise DataError(f"{where}: rolled or pitched (rx, ry not 0); boxes here have only a yaw (rz)")
    return Tracklet(
        name=_SITTING.get(name, name.replace(" ", "_")),
        size=(length, width, height),
        first_scan=_whole(item, "first_frame", where),
        poses=values[:, [0, 1, 2, 5]],
        occlusion=np.array([_occlusion(pose, where) for pose in poses], np.int64),
    )


def _occlusion(pose: ET.Element, where: str) -> int:
    state = _whole(pose, "occlusion", where)
    if state not in _OCCLUSION:
        raise DataError(f"{where}: occlusion {state}; expected 0, 1, 2, or -1 where it is unknown")
    return _OCCLUSION[state]


def _whole(element: ET.Element, tag: str, where: str) -> int:
    (value,) = _numbers(element, (tag,), where)
    if not value.is_integer():
        raise DataError(f"{where}: {tag} {value:g}; expected a whole number")
    return int(value)


def _numbers(element: ET.Element, tags: Sequence[str], where: str) -> list[float]:
    return parse_floats([_text(element, tag, where) for tag in tags], where, f"numbers in {', '.join(tags)}")


def _text(element: ET.Element, tag: str, where: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise DataError(f"{where}: no <{tag}>; expected KITTI's tracklet_labels.xml")
    return text


def _format_tracklet(tracklet: Tracklet) -> str:
    length, width, height = tracklet.size
    poses = [
        f"<item><tx>{x:.9g}</tx><ty>{y:.9g}</ty><tz>{z:.9g}</tz><rx>0</rx><ry>0</ry><rz>{yaw:.9g}</rz>"
        f"<state>2</state><occlusion>{-1 if occlusion == 3 else occlusion}</occlusion></item>"
        for (x, y, z, yaw), occlusion in zip(tracklet.poses.tolist(), tracklet.occlusion.tolist(), strict=True)
    ]
    return "\n".join(
        [
            f"<item><objectType>{escape(_SPELLED.get(tracklet.name, tracklet.name))}</objectType>",
            f"<h>{height:.9g}</h><w>{width:.9g}</w><l>{length:.9g}</l><first_frame>{tracklet.first_scan}</first_frame>",
            f"<poses><count>{len(poses)}</count><item_version>2</item_version>",
            *poses,
            "</poses><finished>1</finished></item>",
        ]
    )
