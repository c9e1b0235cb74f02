"""Between boxes in the LiDAR frame and KITTI's labels in the rectified camera frame."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import Detections, Floats, check_boxes, wrap_angle
from pd_edge.errors import DataError
from pd_edge.kitti_calibration import Calibration, ImageSize, Matrix, known_image_size
from pd_edge.kitti_labels import Label

# What lies nearer to the image plane than this [m] is cut off before projecting: nothing sensible is seen there.
NEAR = 0.1
# Corners of a box about the centre of its bottom, in lengths, heights and widths (camera frame, y down).
_CORNERS = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-1.0, 0.0) for z in (-0.5, 0.5)])
_EDGES = np.array([(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)])
_UNKNOWN = -1


def boxes_to_lidar(labels: Sequence[Label], calibration: Calibration) -> npt.NDArray[np.float64]:
    """Boxes of labels in the LiDAR frame.

    The centre goes through the calibration exactly. The two frames' vertical axes differ by up to a degree; a box
    keeps its sizes, stands upright in either frame, and its heading differs by the direction of the camera, so that
    :func:`boxes_to_labels` is the exact inverse.

    Args:
        labels: Labels with a 3D box.
        calibration: The frame's calibration.

    Returns:
        (K, 7) float64, x y z length width height yaw, geometric centre [m], yaw in [-pi, pi) [rad].

    Raises:
        DataError: A label has no 3D box (DontCare).
    """
    for label in labels:
        if min(label.height, label.width, label.length) < 0:
            raise DataError(f"a {label.name} label has no 3D box; leave such labels out before converting")
    if not labels:
        return np.empty((0, 7))
    sizes = np.array([(label.length, label.width, label.height) for label in labels])
    centres = np.array([label.location for label in labels])
    centres[:, 1] -= sizes[:, 2] / 2
    rotation_y = np.array([label.rotation_y for label in labels])
    yaw = wrap_angle(calibration.camera_yaw - np.pi / 2 - rotation_y)
    return np.column_stack([calibration.camera_to_lidar(centres), sizes, yaw])


def detections_to_labels(
    detections: Detections, class_names: Sequence[str], calibration: Calibration, image_size: ImageSize | None = None
) -> list[Label]:
    """Detections as KITTI labels with a score, one each and in order; see :func:`boxes_to_labels`.

    Truncation and occlusion are -1: a detector does not say.
    """
    names = [class_names[index] for index in detections.labels]
    labels = boxes_to_labels(detections.boxes, names, calibration, image_size)
    return [
        label._replace(truncation=_UNKNOWN, score=float(score))
        for label, score in zip(labels, detections.scores, strict=True)
    ]


def boxes_to_labels(
    boxes: Floats,
    names: Sequence[str],
    calibration: Calibration,
    image_size: ImageSize | None = None,
    occlusion: Sequence[int] | None = None,
) -> list[Label]:
    """Boxes in the LiDAR frame as KITTI labels.

    The 2D box bounds the projected 3D box, cut at the image's edges; truncation is the share of its area cut off. A
    box outside the image keeps its label, with truncation 1 and the 2D box 0 0 0 0.

    Args:
        boxes: (K, 7) x y z length width height yaw, geometric centre [m], [rad].
        names: K class names.
        calibration: The frame's calibration.
        image_size: Width, height [px]; the calibration's own when left out.
        occlusion: K occlusion states (0..3); -1, unknown, when left out.

    Raises:
        DataError: The boxes are malformed, or the image size is neither given nor known.
    """
    rows = check_boxes(boxes)
    size = image_size or known_image_size(calibration)
    bottoms = calibration.lidar_to_camera(rows[:, :3])
    bottoms[:, 1] += rows[:, 5] / 2
    rotation_y = wrap_angle(calibration.camera_yaw - np.pi / 2 - rows[:, 6])
    alpha = wrap_angle(rotation_y - np.arctan2(bottoms[:, 0], bottoms[:, 2]))
    corners = camera_corners(bottoms, rows[:, 3:6], rotation_y)
    boxes_2d, truncation = image_boxes(corners, calibration, size)
    states = occlusion if occlusion is not None else [_UNKNOWN] * len(rows)
    return [
        Label(
            name=name,
            truncation=float(truncation[i]),
            occlusion=int(state),
            alpha=float(alpha[i]),
            bbox=_four(boxes_2d[i]),
            height=float(rows[i, 5]),
            width=float(rows[i, 4]),
            length=float(rows[i, 3]),
            location=_three(bottoms[i]),
            rotation_y=float(rotation_y[i]),
        )
        for i, (name, state) in enumerate(zip(names, states, strict=True))
    ]


def camera_corners(bottoms: Matrix, sizes: Matrix, rotation_y: Matrix) -> Matrix:
    """Corners of boxes in the rectified camera frame.

    Args:
        bottoms: (K, 3) centres of the bottoms [m].
        sizes: (K, 3) length, width, height [m].
        rotation_y: (K,) [rad].

    Returns:
        (K, 8, 3) float64 [m].
    """
    local = _CORNERS * sizes[:, None, [0, 2, 1]]
    cos, sin = np.cos(rotation_y)[:, None], np.sin(rotation_y)[:, None]
    x = cos * local[..., 0] + sin * local[..., 2]
    z = cos * local[..., 2] - sin * local[..., 0]
    corners: Matrix = np.stack([x, local[..., 1], z], axis=-1) + bottoms[:, None]
    return corners


def image_boxes(corners: Matrix, calibration: Calibration, image_size: ImageSize) -> tuple[Matrix, Matrix]:
    """Bounds of projected boxes in the image.

    Args:
        corners: (K, 8, 3) in the rectified camera frame [m], as :func:`camera_corners` orders them.
        calibration: The frame's calibration.
        image_size: Width, height [px].

    Returns:
        (K, 4) float64 left, top, right, bottom [px], cut at the image's edges (0 0 0 0 outside the image), and
        (K,) float64 truncation, the share of the area cut off, 0..1.
    """
    outline, ahead = _cut_near(corners)
    pixels, _ = calibration.camera_to_image(outline.reshape(-1, 3))
    pixels = pixels.reshape(*outline.shape[:2], 2)
    low = np.where(ahead[..., None], pixels, np.inf).min(axis=1, initial=np.inf)
    high = np.where(ahead[..., None], pixels, -np.inf).max(axis=1, initial=-np.inf)
    edge = np.array(image_size, np.float64) - 1
    cut_low, cut_high = np.clip(low, 0, edge), np.clip(high, 0, edge)
    seen = ((cut_high > cut_low) & (high > low)).all(axis=1)
    kept = np.prod(cut_high - cut_low, axis=1, where=seen[:, None])
    whole = np.prod(high - low, axis=1, where=seen[:, None])
    boxes = np.where(seen[:, None], np.hstack([cut_low, cut_high]), 0.0)
    return boxes, np.where(seen, 1 - kept / whole, 1.0)


def _cut_near(corners: Matrix) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Corners and where edges meet the near plane, (K, 20, 3), and which of them bound the part ahead of it."""
    start, end = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]
    crosses = (start[..., 2] < NEAR) != (end[..., 2] < NEAR)
    run = np.where(crosses, end[..., 2] - start[..., 2], 1.0)
    cuts = start + ((NEAR - start[..., 2]) / run)[..., None] * (end - start)
    outline = np.concatenate([corners, cuts], axis=1)
    ahead = np.concatenate([corners[..., 2] >= NEAR, crosses], axis=1)
    # Points not ahead are never used; a harmless depth keeps their projection finite.
    outline[~ahead] = (0.0, 0.0, 1.0)
    return outline, ahead


def _three(row: Matrix) -> tuple[float, float, float]:
    x, y, z = row.tolist()
    return x, y, z


def _four(row: Matrix) -> tuple[float, float, float, float]:
    left, top, right, bottom = row.tolist()
    return left, top, right, bottom
