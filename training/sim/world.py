"""The surroundings: a sloping road with curbs, and along it buildings, walls, fences, hedges and woods."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pd_edge.config import Config
from pd_edge.training.sim.layouts import GroundLayout
from pd_edge.training.sim.materials import Material
from pd_edge.training.sim.mesh import Mesh, box, merge, move, of_material, quad, scattered

FloatArray = npt.NDArray[np.float64]
Span = tuple[float, float]


class WorldConfig(Config):
    """What the simulated streets look like."""

    heading_sd: float = Field(2.0, ge=0, description="Standard deviation of the road's heading [degrees].")
    bend_sd: float = Field(0.0015, ge=0, description="Standard deviation of the road's curvature [1/m].")
    undulation: float = Field(0.05, ge=0, description="Greatest amplitude of the ground's waves [m].")
    curb_min: float = Field(3.0, gt=0, description="Least distance of a curb from the sensor's path [m].")
    curb_max: float = Field(9.0, gt=0, description="Greatest distance of a curb from the sensor's path [m].")
    curb_height_max: float = Field(0.13, ge=0, description="Greatest height of a curb [m].")
    furniture_mean: float = Field(40.0, ge=0, description="Mean number of poles, trees, bins and the like in view.")
    backdrop: float = Field(0.95, ge=0, le=1, description="Share of frames with a farther row of buildings or trees.")
    open_side: float = Field(0.05, ge=0, le=1, description="Share of road sides with nothing beyond the pavement.")


class Ground(NamedTuple):
    """Height of the ground and the course of the road, both as functions of the position."""

    height: float
    slope: tuple[float, float]
    """Along x and y."""
    sag: float
    """Second derivative of the height along x [1/m]."""
    waves: FloatArray
    """(W, 4): amplitude [m], wave numbers along x and y [1/m], phase [rad]."""
    road: tuple[float, float]
    """Slope dy/dx and curvature [1/m] of the road."""
    curbs: tuple[float, float]
    """Distance of the right and the left curb from the road's axis [m], right one negative."""
    curb_heights: tuple[float, float]
    """Rise at the right and the left curb [m]."""
    banks: tuple[float, float]
    """Slope of the land beyond the pavements, right and left."""

    def across(self, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Distance from the road's axis, left positive [m]."""
        along = np.asarray(x, np.float64)
        return np.asarray(y, np.float64) - self.axis(along)

    def axis(self, x: npt.ArrayLike) -> FloatArray:
        """Lateral position of the road's axis at x [m]."""
        along = np.asarray(x, np.float64)
        return np.asarray(self.road[0] * along + 0.5 * self.road[1] * along * np.abs(along))

    def z(self, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Height of the ground in the sensor frame [m]."""
        along, aside = np.asarray(x, np.float64), np.asarray(y, np.float64)
        level = self.height + self.slope[0] * along + self.slope[1] * aside + 0.5 * self.sag * along**2
        for amplitude, kx, ky, phase in self.waves:
            level = level + amplitude * np.sin(kx * along + ky * aside + phase)
        return level + self._raised(self.across(along, aside))

    def _raised(self, across: FloatArray) -> FloatArray:
        right, left = self.curbs
        rise = np.where(across < right, self.curb_heights[0], 0.0) + np.where(across > left, self.curb_heights[1], 0.0)
        bank_right = self.banks[0] * np.clip(right - 4.0 - across, 0.0, 12.0)
        bank_left = self.banks[1] * np.clip(across - left - 4.0, 0.0, 12.0)
        return np.asarray(rise + bank_right + bank_left, np.float64)


def draw_ground(rng: np.random.Generator, config: WorldConfig, layout: GroundLayout) -> Ground:
    """A random piece of land around a road along x."""
    waves = [
        (config.undulation * rng.random(), *rng.uniform(-0.25, 0.25, 2), rng.uniform(0, 2 * np.pi)) for _ in range(3)
    ]
    curbs = rng.uniform(config.curb_min, config.curb_max, 2)
    banks = [rng.normal(0, 0.05) if rng.random() < 0.5 else 0.0 for _ in range(2)]
    return Ground(
        height=rng.normal(*layout.height),
        slope=(rng.normal(*layout.slope_x), rng.normal(*layout.slope_y)),
        sag=rng.normal(-0.0001, 0.0002),
        waves=np.array(waves),
        road=(np.radians(config.heading_sd) * rng.standard_normal(), config.bend_sd * rng.standard_normal()),
        curbs=(-float(curbs[0]), float(curbs[1])),
        curb_heights=(config.curb_height_max * rng.random(), config.curb_height_max * rng.random()),
        banks=(float(banks[0]), float(banks[1])),
    )


def ground_mesh(rng: np.random.Generator, ground: Ground, span: Span) -> list[Mesh]:
    """The ground as strips of road, pavement and land on either side, a mesh each."""
    right, left = ground.curbs
    x = np.arange(span[0] - 4.0, span[1] + 12.0, 2.2)
    walk = rng.uniform(1.2, 4.0, 2)
    soft = [Material.GRASS if rng.random() < 0.6 else Material.PAVEMENT for _ in range(2)]
    strips = [
        (np.linspace(right + 1e-3, left - 1e-3, 7), Material.ROAD),
        (np.array([left - 1e-3, left + 1e-3, left + 0.5 * walk[1], left + walk[1]]), Material.PAVEMENT),
        (left + np.array([walk[1], 4.0, 5.5, 8.0, 12.0, 16.0, 30.0, 90.0]).clip(walk[1]), soft[1]),
        (np.array([right - walk[0], right - 0.5 * walk[0], right - 1e-3, right + 1e-3]), Material.PAVEMENT),
        (right - np.array([90.0, 30.0, 16.0, 12.0, 8.0, 5.5, 4.0, walk[0]]).clip(walk[0]), soft[0]),
    ]
    pieces = [_strip(ground, x, np.asarray(lines), material) for lines, material in strips]
    return pieces + _markings(rng, ground, span)


def _markings(rng: np.random.Generator, ground: Ground, span: Span) -> list[Mesh]:
    """Painted lines along the road, whole or broken, a centimetre above it."""
    right, left = ground.curbs
    pieces = []
    for across in (right + 0.5, left - 0.5, rng.uniform(1.2, 2.2), -rng.uniform(1.2, 2.2)):
        if rng.random() < 0.55 or not right < across < left:
            continue
        dash, gap = (6.0, rng.uniform(3.0, 12.0)) if rng.random() < 0.6 else (6.0, 0.0)
        starts = np.arange(span[0], span[1], dash + gap)
        lines = np.array([across - 0.07, across + 0.07])
        parts = [_strip(ground, np.array([x, x + dash]), lines, Material.MARKING) for x in starts]
        pieces.append(move(merge(parts), (0.0, 0.0, 0.01)))
    return pieces


def _strip(ground: Ground, x: FloatArray, lines: FloatArray, material: Material) -> Mesh:
    along, aside = np.meshgrid(x, lines, indexing="ij")
    y = aside + ground.axis(along)
    vertices = np.stack([along, y, ground.z(along, y)], axis=-1).reshape(-1, 3)
    row = len(lines)
    base = (row * np.arange(len(x) - 1)[:, None] + np.arange(row - 1)).reshape(-1)
    faces = np.concatenate(
        [np.column_stack([base, base + row, base + row + 1]), np.column_stack([base, base + row + 1, base + 1])]
    )
    return of_material(vertices, faces, material)


def surroundings(
    rng: np.random.Generator, config: WorldConfig, ground: Ground, taken: FloatArray, span: Span
) -> list[Mesh]:
    """Buildings, walls, fences, hedges and woods on either side of the road.

    Args:
        rng: Source of all choices.
        config: What streets look like.
        ground: The land they stand on.
        taken: (K, 2) positions of objects [m]; what would stand on or before one is moved behind it.
        span: Range of x [m] to fill.

    Returns:
        One mesh a piece.
    """
    pieces: list[Mesh] = []
    for side in (-1, 1):
        curb = abs(ground.curbs[0 if side < 0 else 1])
        if rng.random() >= config.open_side:
            near = _Row(side, curb + rng.uniform(0.8, 1.5) * rng.gamma(2.0, 1.4), 0.09)
            pieces += _road_side(rng, ground, near, taken, span)
        if rng.random() < config.backdrop:
            pieces += _road_side(rng, ground, _Row(side, curb + rng.uniform(10.0, 26.0), 0.15), taken, span)
    if rng.random() < config.backdrop:
        pieces += _road_end(rng, ground, taken, span[1])
    return pieces


class _Row(NamedTuple):
    """A line of buildings, fences and plants along the road."""

    side: int
    """-1 right, 1 left."""
    setback: float
    """Distance from the road's axis [m]."""
    gaps: float
    """Share of it left open."""


class _Stretch(NamedTuple):
    """One piece of a row."""

    kind: int
    start: float
    """Least x [m]."""
    length: float
    """[m]"""


def _road_side(rng: np.random.Generator, ground: Ground, row: _Row, taken: FloatArray, span: Span) -> list[Mesh]:
    pieces: list[Mesh] = []
    kind = int(rng.choice(5, p=(0.42, 0.14, 0.12, 0.14, 0.18)))
    start = span[0]
    while start < span[1]:
        length = rng.uniform(5.0, 16.0)
        if rng.random() < 0.15:
            kind = int(rng.integers(5))
        if rng.random() >= row.gaps:
            pieces.append(_piece(rng, ground, row, _Stretch(kind, start, length), taken))
        start += length + (rng.uniform(0, 5) if rng.random() < 0.4 else 0.0)
    return pieces


def _road_end(rng: np.random.Generator, ground: Ground, taken: FloatArray, end: float) -> list[Mesh]:
    """What closes the view ahead, at a junction or a bend, behind every object before it."""
    pieces = []
    distance = end - rng.uniform(2.0, 54.0)
    y = -45.0
    while y < 45.0:
        length = rng.uniform(6.0, 16.0)
        beside = np.abs(taken[:, 1] - y - length / 2) < length / 2 + 2
        x = max(distance + rng.normal(0, 1.0), float(taken[beside, 0].max(initial=0.0)) + 3.5)
        if x < end and rng.random() > 0.2:
            middle = y + length / 2
            builder = (_building, _wall, _hedge, _wood)[int(rng.choice(4, p=(0.4, 0.05, 0.15, 0.4)))]
            foot = (x, middle, float(ground.z(x, middle)) - 0.1)
            pieces.append(move(builder(rng, length, -1), foot, np.pi / 2 + rng.normal(0, 0.08)))
        y += length
    return pieces


def _piece(rng: np.random.Generator, ground: Ground, row: _Row, stretch: _Stretch, taken: FloatArray) -> Mesh:
    """One stretch of a row, behind every object that stands beside it."""
    distance = row.setback + abs(rng.normal(0, 0.8))
    across = row.side * ground.across(taken[:, 0], taken[:, 1])
    end = stretch.start + stretch.length
    beside = (taken[:, 0] > stretch.start - 3) & (taken[:, 0] < end + 3) & (across > 0)
    if beside.any():
        distance = max(distance, float(across[beside].max()) + rng.uniform(1.8, 4.0))
    middle = stretch.start + stretch.length / 2
    y = float(ground.axis(middle)) + row.side * distance
    yaw = float(np.arctan(ground.road[0] + ground.road[1] * abs(middle)))
    builder = (_building, _wall, _fence, _hedge, _wood)[stretch.kind]
    return move(builder(rng, stretch.length, row.side), (middle, y, float(ground.z(middle, y)) - 0.1), yaw)


def _building(rng: np.random.Generator, length: float, side: int) -> Mesh:
    """A facade with windows, a door and sometimes a bay; the street lies towards -side."""
    height = rng.uniform(4.0, 11.0)
    depth = 8.0
    parts = [box((0, side * depth / 2, height / 2), (length, depth, height), Material.WALL)]
    pitch, sill = rng.uniform(1.8, 3.5), rng.uniform(0.7, 1.6)
    for x in np.arange(-length / 2 + pitch / 2, length / 2 - 0.6, pitch):
        wide, tall = rng.uniform(0.8, 1.5), rng.uniform(1.0, 1.8)
        for floor in range(2):
            low = sill + 3.0 * floor
            face = -side * 0.02
            corners = [(x - wide / 2, face, low), (x + wide / 2, face, low)]
            corners += [(x + wide / 2, face, low + tall), (x - wide / 2, face, low + tall)]
            parts.append(quad(corners, Material.GLASS))
            if rng.random() < 0.3:
                parts.append(box((x, -side * 0.08, low - 0.06), (wide + 0.2, 0.18, 0.1), Material.WALL))
    if rng.random() < 0.5:
        at = rng.uniform(-0.3, 0.3) * length
        bay = (rng.uniform(1.0, 3.0), rng.uniform(0.3, 1.4), rng.uniform(0.4, height))
        parts.append(box((at, -side * bay[1] / 2, bay[2] / 2), bay, Material.WALL))
    return merge(parts)


def _wall(rng: np.random.Generator, length: float, side: int) -> Mesh:
    height = rng.uniform(0.5, 2.4)
    return box((0, side * 0.15, height / 2), (length, 0.3, height), Material.WALL)


def _fence(rng: np.random.Generator, length: float, side: int) -> Mesh:
    height = rng.uniform(0.8, 2.0)
    ends = [(-length / 2, 0, 0.1), (length / 2, 0, 0.1), (length / 2, 0, height), (-length / 2, 0, height)]
    posts = [
        box((x, side * 0.05, height / 2), (0.08, 0.08, height), Material.WOOD)
        for x in np.arange(-length / 2, length / 2, rng.uniform(1.5, 3.0))
    ]
    mesh = Material.FENCE if rng.random() < 0.7 else Material.WOOD
    return merge([quad(ends, mesh), *posts])


def _hedge(rng: np.random.Generator, length: float, side: int) -> Mesh:
    height, depth = rng.uniform(0.7, 2.3), rng.uniform(0.5, 1.4)
    core = box((0, side * depth / 2, height / 2), (length, 0.8 * depth, 0.94 * height), Material.LEAF)
    count = int(45 * length)
    centres = rng.uniform((-length / 2, -0.08, 0.0), (length / 2, 0.12, height), (count, 3)) * (1, -side, 1)
    tops = rng.uniform((-length / 2, 0, -0.1), (length / 2, depth, 0.15), (count // 3, 3)) * (1, side, 1)
    tops[:, 2] += height
    leaves = np.concatenate([centres, tops])
    return merge([core, scattered(rng, leaves, 0.1, Material.LEAF)])


def _wood(rng: np.random.Generator, length: float, side: int) -> Mesh:
    """The edge of a wood: undergrowth and stems, thinning towards the road."""
    count = int(90 * length)
    depth = rng.gamma(2.0, 1.3, count)
    height = rng.uniform(0, 1, count) ** 1.3 * (1.0 + 1.4 * depth)
    centres = np.column_stack([rng.uniform(-length / 2, length / 2, count), side * depth, height])
    stems = [
        box((rng.uniform(-0.5, 0.5) * length, side * rng.uniform(0.5, 5.0), 2.5), (0.2, 0.2, 5.0), Material.WOOD)
        for _ in range(int(length / 3))
    ]
    return merge([scattered(rng, centres, 0.16, Material.LEAF), *stems])
