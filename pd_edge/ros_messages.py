"""ROS messages from boxes and back, the same for rclpy's classes and for those of ``rosbags``.

Functions take ``kinds``, which gives the class of a type's name: :func:`bag_types` for bags, an import in a node. The
five types of vision_msgs that are used here are written out below, since they come with neither.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import SHOWN_SCORE, Floats
from pd_edge.errors import DataError, MissingExtraError

Kinds = Callable[[str], Any]
"""The class of a message type such as ``std_msgs/msg/Header``."""

DETECTIONS = "vision_msgs/msg/Detection3DArray"
MARKERS = "visualization_msgs/msg/MarkerArray"
VISION_TYPES = {
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n",
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\n",
    "vision_msgs/msg/Detection3D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox3D bbox\nstring id\n"
    ),
    DETECTIONS: "std_msgs/Header header\nDetection3D[] detections\n",
}
"""Fields of vision_msgs 4, the version of Humble and later."""

NANOSECONDS = 10**9
ADD, DELETE_ALL = 0, 3
ARROW, CUBE, TEXT = 0, 1, 9
"""Actions and shapes of visualization_msgs/Marker."""
COLOURS = ((0.15, 0.55, 0.95), (0.95, 0.45, 0.1), (0.2, 0.75, 0.35), (0.75, 0.3, 0.85), (0.9, 0.8, 0.2))
"""Red, green and blue of the classes, in turn."""
TEXT_HEIGHT, ARROW_WIDTH = 0.6, 0.15
"""[m]"""
MOST_LEANING = math.cos(math.radians(45))
"""Least part of a box's upward axis along the frame's z axis."""


class Objects(NamedTuple):
    """Boxes with what is known of them.

    Attributes:
        boxes: (K, 7) x y z length width height yaw, in metres and radians.
        names: (K,) classes.
        scores: (K,) in 0..1.
    """

    boxes: Floats
    names: Sequence[str]
    scores: npt.NDArray[np.floating]


def bag_types() -> Any:
    """The message types of ROS 2 and vision_msgs as a typestore of ``rosbags``.

    Its ``types.__getitem__`` is a ``kinds``.

    Raises:
        MissingExtraError: ``rosbags`` is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: PLC0415 - not needed in a node
    except ModuleNotFoundError as error:
        raise MissingExtraError("rosbags", "bags") from error
    store = get_typestore(Stores.LATEST)
    for name, fields in VISION_TYPES.items():
        store.register(get_types_from_msg(fields, name))
    return store


def header(kinds: Kinds, time_ns: int, frame_id: str) -> Any:
    """A header; time in nanoseconds since 1970, or since whatever the clock counts from."""
    seconds, rest = divmod(int(time_ns), NANOSECONDS)
    stamp = kinds("builtin_interfaces/msg/Time")(sec=seconds, nanosec=rest)
    return kinds("std_msgs/msg/Header")(stamp=stamp, frame_id=frame_id)


def time_of(message: Any) -> int:
    """A message's time stamp [ns]."""
    stamp = message.header.stamp
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def detection_array(kinds: Kinds, head: Any, objects: Objects) -> Any:
    """Boxes as a Detection3DArray; every detection has the array's header and its place in the array as id."""
    hypothesis, with_pose, box_kind, detection = (
        kinds(f"vision_msgs/msg/{name}")
        for name in ("ObjectHypothesis", "ObjectHypothesisWithPose", "BoundingBox3D", "Detection3D")
    )
    posed = kinds("geometry_msgs/msg/PoseWithCovariance")
    found, unknown = [], np.zeros(36)
    for place, (box, name, score) in enumerate(_each(objects)):
        centre = _pose(kinds, box)
        guess = with_pose(
            hypothesis=hypothesis(class_id=name, score=score), pose=posed(pose=centre, covariance=unknown)
        )
        extent = box_kind(center=centre, size=_vector(kinds, box[3:6]))
        found.append(detection(header=head, results=[guess], bbox=extent, id=str(place)))
    return kinds(DETECTIONS)(header=head, detections=found)


def objects_of(message: Any) -> Objects:
    """The boxes of a Detection3DArray, each with its likeliest class; boxes of no class are left out.

    A box that leans, as those of a tilted sensor do in its frame, is taken for an upright one: its yaw is that of its
    heading seen along z, as :meth:`pd_edge.sensors.Mount.boxes` gives it.

    Raises:
        DataError: A box leans by more than 45 degrees.
    """
    kept = [(each.bbox, max(each.results, key=_score).hypothesis) for each in message.detections if each.results]
    boxes = np.array([_box(box) for box, _ in kept]).reshape(-1, 7)
    scores = np.array([guess.score for _, guess in kept])
    return Objects(boxes, [guess.class_id for _, guess in kept], scores)


def marker_array(
    kinds: Kinds,
    head: Any,
    objects: Objects,
    classes: Sequence[str],
    lifetime: float,
    *,
    shown: float = SHOWN_SCORE,
) -> Any:
    """Boxes as markers: a cube, an arrow along the heading and a label for each, after an order to delete all others.

    Args:
        kinds: Message classes.
        head: The header of all.
        objects: What to show.
        classes: The order of the classes, which gives their colours.
        lifetime: Seconds after which a viewer forgets them; 0 for ever.
        shown: Score from which a box is shown.
    """
    marker = _marker(kinds, head, lifetime)
    found = [marker(action=DELETE_ALL)]
    for place, (box, name, score) in enumerate(each for each in _each(objects) if each[2] >= shown):
        colour = COLOURS[classes.index(name) % len(COLOURS)]
        x, y, z, length, _, height, yaw = box
        front = (x, y, z, length / 2 + 1, ARROW_WIDTH, ARROW_WIDTH, yaw)
        above = (x, y, z + height / 2 + TEXT_HEIGHT, 0.0, 0.0, TEXT_HEIGHT, yaw)
        text = f"{name} {score:.2f}"
        found += [
            marker(ns="boxes", id=place, type=CUBE, box=box, colour=(*colour, 0.4)),
            marker(ns="headings", id=place, type=ARROW, box=front, colour=(*colour, 1.0)),
            marker(ns="labels", id=place, type=TEXT, box=above, colour=(1.0, 1.0, 1.0, 1.0), text=text),
        ]
    return kinds(MARKERS)(markers=found)


def _each(objects: Objects) -> Iterator[tuple[list[float], str, float]]:
    """Box, class and score of each object, as Python's own numbers: messages take no others, and one by one is slow."""
    boxes = np.asarray(objects.boxes, np.float64).reshape(-1, 7)
    return zip(boxes.tolist(), objects.names, np.asarray(objects.scores, np.float64).tolist(), strict=True)


def transform(kinds: Kinds, head: Any, child: str, matrix: npt.NDArray[np.float64]) -> Any:
    """A TransformStamped: the pose (4, 4) of the frame ``child`` in the header's frame [m]."""
    moved = kinds("geometry_msgs/msg/Transform")(
        translation=_vector(kinds, matrix[:3, 3].tolist()),
        rotation=_quaternion(kinds, quaternion_of(matrix[:3, :3]).tolist()),
    )
    return kinds("geometry_msgs/msg/TransformStamped")(header=head, child_frame_id=child, transform=moved)


def matrix_of(moved: Any) -> npt.NDArray[np.float64]:
    """The matrix (4, 4) of a Transform [m]."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_of(moved.rotation)
    matrix[:3, 3] = moved.translation.x, moved.translation.y, moved.translation.z
    return matrix


def rotation_of(q: Any) -> npt.NDArray[np.float64]:
    """The rotation matrix (3, 3) of a Quaternion of any length; of one that was never set, all zeros, no turn."""
    x, y, z, w = np.array([q.x, q.y, q.z, q.w]) / (math.sqrt(q.x**2 + q.y**2 + q.z**2 + q.w**2) or 1.0)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of(rotation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The quaternion (x, y, z, w) of a rotation matrix (3, 3), w not negative.

    Source: Bar-Itzhack, New method for extracting the quaternion from a rotation matrix (JGCD 2000): the eigenvector of
    the largest eigenvalue, which is the nearest rotation where the matrix is only nearly one.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    found: npt.NDArray[np.float64] = np.linalg.eigh(symmetric).eigenvectors[:, -1]
    return found if found[3] >= 0 else -found


def placed_detections(message: Any, pose: npt.NDArray[np.float64] | None) -> Any:
    """A Detection3DArray in another frame, changed in place.

    Args:
        message: The message.
        pose: (4, 4) from its frame to the other [m]; None where they are the same.
    """
    if pose is not None:
        for each in message.detections:
            _move(each.bbox.center, pose)
            each.results[0].pose.pose = each.bbox.center
    return message


def placed_markers(message: Any, pose: npt.NDArray[np.float64] | None) -> Any:
    """A MarkerArray of :func:`marker_array` in another frame; see :func:`placed_detections`."""
    if pose is not None:
        for each in message.markers[1:]:
            _move(each.pose, pose)
    return message


def _move(pose: Any, matrix: npt.NDArray[np.float64]) -> None:
    """Brings the geometry_msgs/Pose of a box to another frame, in place.

    Args:
        pose: The pose.
        matrix: (4, 4) from its frame to the other [m]. In a mirrored frame a box is the box whose left and right are
            exchanged, which looks the same.
    """
    p, q = pose.position, pose.orientation
    p.x, p.y, p.z = map(float, matrix[:3, :3] @ (p.x, p.y, p.z) + matrix[:3, 3])
    turn, own = matrix[:3, :3], np.array([q.x, q.y, q.z, q.w])
    if np.linalg.det(turn) < 0:
        turn, own = turn * (1, -1, 1), own * (-1, 1, -1, 1)
    q.x, q.y, q.z, q.w = map(float, _product(quaternion_of(turn), own))


def _product(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The quaternion (x, y, z, w) of the turn ``b``, then ``a``."""
    vector = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    return np.append(vector, a[3] * b[3] - a[:3] @ b[:3])


def _score(result: Any) -> float:
    return float(result.hypothesis.score)


def _pose(kinds: Kinds, box: Sequence[float]) -> Any:
    x, y, z, _, _, _, yaw = box
    turned = _quaternion(kinds, (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)))
    return kinds("geometry_msgs/msg/Pose")(position=kinds("geometry_msgs/msg/Point")(x=x, y=y, z=z), orientation=turned)


def _box(box: Any) -> tuple[float, ...]:
    p, q, s = box.center.position, box.center.orientation, box.size
    turn = rotation_of(q)
    if abs(turn[2, 2]) < MOST_LEANING:
        raise DataError(
            f"a box at {p.x:g} {p.y:g} {p.z:g} m is turned by the quaternion {q.x:g} {q.y:g} {q.z:g} {q.w:g}; expected "
            "one that stands on the frame's x and y axes, or leans by up to 45 degrees: give boxes in a frame whose z "
            "axis points up"
        )
    return p.x, p.y, p.z, s.x, s.y, s.z, math.atan2(turn[1, 0], turn[0, 0])


def _vector(kinds: Kinds, values: Sequence[float]) -> Any:
    x, y, z = values
    return kinds("geometry_msgs/msg/Vector3")(x=x, y=y, z=z)


def _quaternion(kinds: Kinds, values: Sequence[float]) -> Any:
    x, y, z, w = values
    return kinds("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w)


def _marker(kinds: Kinds, head: Any, lifetime: float) -> Callable[..., Any]:
    """A function that makes a marker of what differs between them."""
    kind, colour_kind = kinds("visualization_msgs/msg/Marker"), kinds("std_msgs/msg/ColorRGBA")
    seconds, rest = divmod(round(lifetime * NANOSECONDS), NANOSECONDS)
    duration = kinds("builtin_interfaces/msg/Duration")(sec=seconds, nanosec=rest)
    nothing = np.empty(0, np.uint8)
    usual = {
        "header": head,
        "ns": "",
        "id": 0,
        "type": ARROW,
        "action": ADD,
        "lifetime": duration,
        "frame_locked": False,
        "points": [],
        "colors": [],
        "texture_resource": "",
        "texture": kinds("sensor_msgs/msg/CompressedImage")(header=head, format="", data=nothing),
        "uv_coordinates": [],
        "text": "",
        "mesh_resource": "",
        "mesh_file": kinds("visualization_msgs/msg/MeshFile")(filename="", data=nothing),
        "mesh_use_embedded_materials": False,
    }

    def make(*, box: Sequence[float] = (0.0,) * 7, colour: Sequence[float] = (0.0,) * 4, **fields: Any) -> Any:
        red, green, blue, alpha = colour
        shown = {"pose": _pose(kinds, box), "scale": _vector(kinds, box[3:6])}
        return kind(color=colour_kind(r=red, g=green, b=blue, a=alpha), **shown, **{**usual, **fields})

    return make
