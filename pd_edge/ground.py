"""Where the ground is in a cloud: height, roll and pitch of the sensor above it."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NEAR, FAR = 1.5, 30.0
"""Points nearer than this may lie on the own vehicle [m]; beyond the second, streets bend and climb."""
VOXEL = 0.35
"""One point is taken of each cube of this side, so that the dense rings near the sensor do not decide alone [m]."""
MOST_TILT = 35.0
"""Greatest angle between the ground's normal and the axis that it is looked for along [degrees]."""
BAND = 0.12
"""Points this near the plane lie on it [m]."""
CLEAR = 0.5
"""Of what lies lower than this below a plane, there is little where the plane is the ground [m]."""
LEAST_SHARE, MOST_BELOW = 0.12, 0.06
"""Shares of the cubes that a ground holds at least, and that lie below it at most; 132 real scans have 0.28 or more and
0.013 or less."""
_POINTS, _PLANES, _LEAST = 1500, 1500, 60
_REFINE = (0.3, 0.2, BAND, BAND)

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


class Ground(NamedTuple):
    """The ground's plane as the pose of the sensor above it.

    Attributes:
        height: Of the cloud's origin above the ground [m].
        roll: As a profile's: right side down is positive; near pi where the cloud stands on its head [rad].
        pitch: As a profile's: nose down is positive [rad].
        normal: (3,) unit vector upwards, in the cloud's frame.
        inliers: Share of the cubes with points, within 30 m, that hold ground, 0..1.
        below: Share of them that lies more than half a metre below it, 0..1.
    """

    height: float
    roll: float
    pitch: float
    normal: Doubles
    inliers: float
    below: float


def find_ground(points: Floats, axis: int = 2, seed: int = 0) -> Ground | None:
    """Finds the ground in a cloud.

    Planes through three random points, within 35 degrees of level, are compared: the ground holds many points and has
    next to none on one side of it. Least squares on the points near the best one give the result.

    Args:
        points: (N, 3 or more) x y z [m] in any frame whose third axis points up or down, to 35 degrees.
        axis: Another axis to look along, 0..2.
        seed: Of the random choice; the same one gives the same plane.

    Returns:
        The ground; None where there are too few points, or no plane holds many and has one side to itself.
    """
    cubes = _one_a_cube(np.asarray(points[:, :3], np.float64))
    if len(cubes) < _LEAST:
        return None
    rng = np.random.default_rng(seed)
    normal, offset = _best_plane(cubes, axis, rng)
    for band in _REFINE:
        near = np.abs(cubes @ normal + offset) < band
        if np.count_nonzero(near) < _LEAST // 2:
            return None
        normal, offset = _fit(cubes[near], normal)
    above = cubes @ normal + offset
    pitch, roll = math.asin(-normal[0]), math.atan2(normal[1], normal[2])
    inliers, below = (float(np.mean(chosen)) for chosen in (np.abs(above) < BAND, above < -CLEAR))
    if inliers < LEAST_SHARE or below > MOST_BELOW:
        return None
    return Ground(float(offset), roll, pitch, normal, inliers, below)


def _one_a_cube(points: Doubles) -> Doubles:
    """The mean of the points in each cube within reach: (M, 3)."""
    reach = np.linalg.norm(points, axis=1)
    points = points[(reach > NEAR) & (reach < FAR)]
    cells = np.floor(points / VOXEL).astype(np.int64) + 512
    key = (cells[:, 0] << 20) | (cells[:, 1] << 10) | cells[:, 2]
    _, place, count = np.unique(key, return_inverse=True, return_counts=True)
    sums = [np.bincount(place.ravel(), points[:, each], len(count)) for each in range(3)]
    return np.asarray(np.column_stack(sums) / count[:, None], np.float64)


def _best_plane(points: Doubles, axis: int, rng: np.random.Generator) -> tuple[Doubles, float]:
    """Normal, upwards, and offset of the plane that most points lie on and few below."""
    some = points[rng.permutation(len(points))[:_POINTS]]
    a, b, c = (some[rng.integers(len(some), size=_PLANES)] for _ in range(3))
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    level = np.abs(normals[:, axis]) > math.cos(math.radians(MOST_TILT)) * np.maximum(length, 1e-9)
    unit = np.eye(3)[axis]
    if not level.any():
        return unit, -float(np.median(some[:, axis]))
    normals = normals[level] / length[level, None]
    above = some @ normals.T - np.einsum("ij,ij->i", normals, a[level])
    # The ground has the rest of the world on one side, wherever the origin is.
    up = np.where((above > CLEAR).sum(axis=0) >= (above < -CLEAR).sum(axis=0), 1.0, -1.0)
    above *= up
    score = (np.abs(above) < BAND).sum(axis=0) - 2.0 * (above < -CLEAR).sum(axis=0)
    best = int(np.argmax(score))
    normal = normals[best] * up[best]
    return normal, -float(normal @ a[level][best])


def _fit(points: Doubles, upwards: Doubles) -> tuple[Doubles, float]:
    """The plane of least squares: its normal, to the side of ``upwards``, and its offset."""
    centre = points.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov((points - centre).T))
    normal = vectors[:, 0] * (1.0 if vectors[:, 0] @ upwards >= 0 else -1.0)
    return normal, -float(normal @ centre)
