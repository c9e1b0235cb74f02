"""Triangle meshes with a material per triangle, and the few solids every shape here is built from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.training.sim.materials import Material

FloatArray = npt.NDArray[np.float64]


class Mesh(NamedTuple):
    """Triangles in metres, x forward, y left, z up."""

    vertices: FloatArray
    """(V, 3) float64 [m]."""
    triangles: npt.NDArray[np.int64]
    """(T, 3) int64, rows of ``vertices``."""
    material: npt.NDArray[np.int64]
    """(T,) int64, values of :class:`Material`."""


def of_material(vertices: npt.ArrayLike, triangles: npt.ArrayLike, material: Material) -> Mesh:
    """A mesh made of one material throughout."""
    faces = np.asarray(triangles, np.int64).reshape(-1, 3)
    corners = np.asarray(vertices, np.float64).reshape(-1, 3)
    return Mesh(corners, faces, np.full(len(faces), int(material), np.int64))


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """All meshes as one; an empty sequence gives an empty mesh."""
    if not meshes:
        return of_material([], [], Material.PAINT)
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.material for mesh in meshes]),
    )


def move(mesh: Mesh, offset: npt.ArrayLike, yaw: float = 0.0, scale: npt.ArrayLike = 1.0) -> Mesh:
    """The mesh scaled, then turned by ``yaw`` [rad, counter-clockwise] about z, then moved by ``offset`` [m]."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return mesh._replace(vertices=(mesh.vertices * np.asarray(scale)) @ turn.T + np.asarray(offset, np.float64))


_BOX_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_BOX_FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
_BOX_TRIANGLES = np.array([[(a, b, c), (a, c, d)] for a, b, c, d in _BOX_FACES]).reshape(-1, 3)


def box(centre: npt.ArrayLike, size: npt.ArrayLike, material: Material) -> Mesh:
    """An axis-aligned box with its geometric centre and its full sizes [m]."""
    return of_material(_BOX_CORNERS * np.asarray(size) + np.asarray(centre), _BOX_TRIANGLES, material)


def quad(corners: npt.ArrayLike, material: Material) -> Mesh:
    """A flat patch with four corners in order."""
    return of_material(corners, [(0, 1, 2), (0, 2, 3)], material)


def loft(rings: npt.ArrayLike, material: npt.ArrayLike, caps: Material | None) -> Mesh:
    """A skin over cross sections.

    Args:
        rings: (S, R, 3) float [m]: S sections of R points each, every section closed on itself.
        material: (S - 1, R) values of :class:`Material`: one per four-cornered patch.
        caps: Material of the two ends, None for open ends.

    Returns:
        The mesh, two triangles a patch.
    """
    points = np.asarray(rings, np.float64)
    sections, ring = points.shape[:2]
    here = np.arange(ring)
    after = (here + 1) % ring
    base = ring * np.arange(sections - 1)[:, None]
    first = np.stack([base + here, base + after, base + ring + after], axis=-1)
    second = np.stack([base + here, base + ring + after, base + ring + here], axis=-1)
    faces = np.stack([first, second], axis=2).reshape(-1, 3)
    kinds = np.repeat(np.asarray(material, np.int64).reshape(-1), 2)
    if caps is not None:
        fan = np.stack([np.zeros(ring - 2, np.int64), here[1:-1], after[1:-1]], axis=-1)
        faces = np.concatenate([faces, fan, fan + ring * (sections - 1)])
        kinds = np.concatenate([kinds, np.full(2 * len(fan), int(caps))])
    return Mesh(points.reshape(-1, 3), faces, kinds)


def limb(points: npt.ArrayLike, radii: Sequence[float], material: Material, sides: int = 6) -> Mesh:
    """A round tube through (S, 3) points [m] with a radius [m] at each, closed at both ends."""
    path = np.asarray(points, np.float64)
    axis = path[-1] - path[0]
    axis /= np.linalg.norm(axis) + 1e-9
    a, b, c = (float(value) for value in axis)
    side = np.array([-c, 0.0, a]) if abs(b) < 0.9 else np.array([0.0, c, -b])
    side /= np.linalg.norm(side)
    p, q, r = (float(value) for value in side)
    other = np.array([b * r - c * q, c * p - a * r, a * q - b * p])
    angle = 2 * np.pi * np.arange(sides) / sides
    circle = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
    rings = path[:, None] + np.asarray(radii)[:, None, None] * circle
    return loft(rings, np.full((len(path) - 1, sides), int(material)), material)


def ellipsoid(centre: npt.ArrayLike, radii: npt.ArrayLike, material: Material, sides: int = 8) -> Mesh:
    """A faceted ellipsoid with its centre and half axes [m]."""
    polar = np.linspace(0.08, np.pi - 0.08, 5)
    angle = 2 * np.pi * np.arange(sides) / sides
    rings = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(angle),
            np.sin(polar)[:, None] * np.sin(angle),
            np.repeat(np.cos(polar)[:, None], sides, axis=1),
        ],
        axis=-1,
    )
    points = rings * np.asarray(radii) + np.asarray(centre)
    return loft(points, np.full((len(polar) - 1, sides), int(material)), material)


def scattered(
    rng: np.random.Generator, centres: FloatArray, size: float, material: Material, flatten: float = 1.0
) -> Mesh:
    """One small triangle of about ``size`` [m] at each of (N, 3) centres [m]: leaves, twigs, grass."""
    spread = rng.normal(0.0, size, (len(centres), 3, 3)) * np.array([1.0, 1.0, flatten])
    return of_material(centres[:, None] + spread, np.arange(3 * len(centres)), material)
