"""What surfaces do to a laser pulse: how much comes back, and how much passes through."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Material(IntEnum):
    """Surface kinds of the simulated world."""

    PAINT = 0
    GLASS = 1
    RUBBER = 2
    PLATE = 3
    LAMP = 4
    INTERIOR = 5
    CLOTH = 6
    SKIN = 7
    ROAD = 8
    PAVEMENT = 9
    GRASS = 10
    WALL = 11
    WOOD = 12
    METAL = 13
    LEAF = 14
    SIGN = 15
    FENCE = 16
    TARPAULIN = 17
    TRIM = 18
    MARKING = 19


class Optics(NamedTuple):
    """How a material answers a pulse; measured on real scans as far as those show it."""

    reflectivity: float
    """Mean intensity at normal incidence and short range; above 1 for retro-reflecting surfaces."""
    spread: float
    """Standard deviation of the reflectivity from one object to the next."""
    through: float
    """Probability that the pulse passes through (glass, mesh, gaps between leaves)."""
    gloss: float
    """0 for a matt surface; towards 1 the return fades faster with the angle of incidence."""
    depth: float
    """Standard deviation of the extra range of a return [m]: blades of grass, leaves."""


OPTICS = {
    Material.PAINT: Optics(0.32, 0.18, 0.0, 0.85, 0.0),
    Material.GLASS: Optics(0.05, 0.03, 0.62, 0.8, 0.0),
    Material.RUBBER: Optics(0.20, 0.08, 0.0, 0.1, 0.0),
    Material.PLATE: Optics(8.0, 2.0, 0.0, 0.0, 0.0),
    Material.LAMP: Optics(0.6, 0.5, 0.1, 0.3, 0.0),
    Material.INTERIOR: Optics(0.04, 0.03, 0.0, 0.0, 0.25),
    Material.CLOTH: Optics(0.36, 0.13, 0.0, 0.0, 0.01),
    Material.SKIN: Optics(0.42, 0.06, 0.0, 0.0, 0.0),
    Material.ROAD: Optics(0.29, 0.05, 0.0, 0.0, 0.0),
    Material.PAVEMENT: Optics(0.35, 0.05, 0.0, 0.0, 0.0),
    Material.GRASS: Optics(0.38, 0.06, 0.0, 0.0, 0.04),
    Material.WALL: Optics(0.34, 0.10, 0.0, 0.0, 0.01),
    Material.WOOD: Optics(0.30, 0.08, 0.0, 0.0, 0.01),
    Material.METAL: Optics(0.28, 0.14, 0.0, 0.4, 0.0),
    Material.LEAF: Optics(0.36, 0.08, 0.1, 0.0, 0.02),
    Material.SIGN: Optics(6.0, 3.0, 0.0, 0.0, 0.0),
    Material.FENCE: Optics(0.28, 0.10, 0.5, 0.0, 0.0),
    Material.TARPAULIN: Optics(0.36, 0.14, 0.0, 0.2, 0.0),
    Material.TRIM: Optics(0.14, 0.08, 0.0, 0.3, 0.0),
    Material.MARKING: Optics(0.62, 0.12, 0.0, 0.0, 0.0),
}


def optics_table() -> npt.NDArray[np.float64]:
    """The optics of every material as (M, 5) float64, rows in the order of :class:`Material`."""
    return np.array([OPTICS[kind] for kind in Material], np.float64)
