"""Street furniture and plants: what stands around, is no labelled class, and often looks like one."""

from collections.abc import Callable

import numpy as np

from pd_edge.training.sim.materials import Material
from pd_edge.training.sim.mesh import Mesh, box, ellipsoid, limb, merge, move, quad, scattered
from pd_edge.training.sim.people import bicycle


def pole(rng: np.random.Generator) -> Mesh:
    """A lamp post or a traffic light."""
    radius, height = rng.uniform(0.05, 0.14), rng.uniform(3.0, 8.0)
    parts = [limb([(0, 0, 0), (0, 0, height)], (radius, 0.7 * radius), Material.METAL)]
    if rng.random() < 0.3:
        parts.append(box((0, 0, rng.uniform(1.8, 2.6)), (0.3, 0.3, rng.uniform(0.5, 0.9)), Material.METAL))
    return merge(parts)


def sign(rng: np.random.Generator) -> Mesh:
    """A traffic sign on a thin post."""
    height, side = rng.uniform(1.7, 3.0), rng.uniform(0.4, 0.9)
    low, half = height - side, side / 2
    plate = [(0.04, -half, low), (0.04, half, low), (0.04, half, height), (0.04, -half, height)]
    post = limb([(0, 0, 0), (0, 0, height)], (0.035, 0.035), Material.METAL)
    return merge([post, quad(plate, Material.SIGN)])


def tree(rng: np.random.Generator) -> Mesh:
    """A trunk with a crown, low enough now and then to be hit."""
    radius, bottom = rng.uniform(0.08, 0.3), rng.uniform(1.6, 4.0)
    lean = rng.normal(0, 0.04, 2)
    trunk = limb([(0, 0, 0), (*(lean * 4), 4.5)], (1.15 * radius, 0.8 * radius), Material.WOOD, 7)
    spread = rng.uniform(0.8, 2.2)
    centres = rng.normal(0, 1, (220, 3)) * (spread, spread, 0.8) + (*(lean * 4), bottom + 1.6)
    return merge([trunk, scattered(rng, centres[centres[:, 2] > bottom - 0.5], 0.16, Material.LEAF)])


def bush(rng: np.random.Generator) -> Mesh:
    """A shrub, from knee height to the size of a car."""
    radii = np.array([rng.uniform(0.3, 1.3), rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.0)])
    directions = rng.normal(0, 1, (int(150 + 200 * radii[0]), 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    centres = directions * radii * rng.uniform(0.75, 1.05, (len(directions), 1)) + (0, 0, 0.95 * radii[2])
    core = ellipsoid((0, 0, 0.9 * radii[2]), 0.72 * radii, Material.LEAF, 7)
    return merge([core, scattered(rng, centres, 0.09, Material.LEAF)])


def column_shrub(rng: np.random.Generator) -> Mesh:
    """A slim evergreen about as tall and as wide as a person."""
    height, radius = rng.uniform(1.3, 2.4), rng.uniform(0.2, 0.42)
    up = rng.uniform(0, height, 160)
    angle = rng.uniform(0, 2 * np.pi, 160)
    reach = radius * np.sqrt(np.clip(1.1 - up / height, 0.05, 1)) * rng.uniform(0.7, 1.1, 160)
    centres = np.column_stack([reach * np.cos(angle), reach * np.sin(angle), up])
    core = limb([(0, 0, 0), (0, 0, 0.9 * height)], (0.6 * radius, 0.3 * radius), Material.LEAF)
    return merge([core, scattered(rng, centres, 0.07, Material.LEAF)])


def litter_bin(rng: np.random.Generator) -> Mesh:
    """A bin, a post box or a wheeled dustbin."""
    width, height = rng.uniform(0.35, 0.7), rng.uniform(0.8, 1.3)
    foot = rng.uniform(0.0, 0.25)
    return box((0, 0, (foot + height) / 2), (width, width * rng.uniform(0.7, 1.2), height - foot), _sheet(rng))


def bollard(rng: np.random.Generator) -> Mesh:
    """A bollard, a hydrant or a milestone."""
    radius, height = rng.uniform(0.06, 0.18), rng.uniform(0.5, 1.2)
    return limb([(0, 0, 0), (0, 0, height)], (radius, radius), Material.METAL)


def dummy(rng: np.random.Generator) -> Mesh:
    """A post with things on it at a person's height: parking meter, letter boxes, a statue."""
    height = rng.uniform(1.4, 1.95)
    parts = [limb([(0, 0, 0), (0, 0, height)], (rng.uniform(0.05, 0.16), 0.05), Material.METAL)]
    wide = rng.uniform(0.25, 0.5)
    parts.append(box((0, 0, 0.75 * height), (0.22, wide, rng.uniform(0.3, 0.8)), _sheet(rng)))
    if rng.random() < 0.4:
        parts.append(ellipsoid((0, 0, height), (0.13, 0.13, 0.15), Material.WALL, 6))
    return merge(parts)


def cabinet(rng: np.random.Generator) -> Mesh:
    """A switch cabinet or a ticket machine."""
    size = (rng.uniform(0.3, 0.5), rng.uniform(0.6, 1.8), rng.uniform(0.9, 1.8))
    return box((0, 0, size[2] / 2), size, _sheet(rng))


def skip(rng: np.random.Generator) -> Mesh:
    """A container for waste or building material, about as large as a car."""
    length, width, height = rng.uniform(1.6, 4.5), rng.uniform(1.2, 2.0), rng.uniform(1.0, 1.7)
    parts = [box((0, 0, height / 2), (length * 0.8, width, height), _sheet(rng))]
    for end in (-1, 1):
        corner = [(end * 0.4 * length, side * width / 2, 0.1) for side in (-1, 1)]
        top = [(end * 0.5 * length, side * width / 2, height) for side in (1, -1)]
        parts.append(quad(corner + top, Material.METAL))
    return merge(parts)


def mound(rng: np.random.Generator) -> Mesh:
    """A heap of earth, a rock or a covered stack about as large as a car."""
    radii = (rng.uniform(0.8, 2.3), rng.uniform(0.6, 1.2), rng.uniform(0.7, 1.5))
    return ellipsoid((0, 0, 0.1), radii, Material.GRASS if rng.random() < 0.5 else Material.WALL, 9)


def stand(rng: np.random.Generator) -> Mesh:
    """Parked bicycles, one or a few side by side."""
    count = int(rng.integers(1, 5))
    rows = [move(bicycle(rng).mesh, (rng.normal(0, 0.1), 0.55 * index, 0)) for index in range(count)]
    return move(merge(rows), (0, -0.275 * (count - 1), 0))


def shelter(rng: np.random.Generator) -> Mesh:
    """A bus shelter: glass walls, a roof, a bench."""
    length = rng.uniform(2.5, 4.5)
    posts = [
        limb([(x, y, 0), (x, y, 2.4)], (0.05, 0.05), Material.METAL, 4)
        for x in (-length / 2, length / 2)
        for y in (-0.6, 0.6)
    ]
    back = [(-length / 2, -0.6, 0.3), (length / 2, -0.6, 0.3), (length / 2, -0.6, 2.1), (-length / 2, -0.6, 2.1)]
    roof = box((0, 0, 2.45), (length + 0.3, 1.6, 0.1), Material.METAL)
    bench = box((0, -0.35, 0.45), (0.7 * length, 0.4, 0.06), Material.WOOD)
    return merge([*posts, quad(back, Material.GLASS), roof, bench])


def umbrella(rng: np.random.Generator) -> Mesh:
    """A parasol, open or folded to the outline of a person."""
    parts = [limb([(0, 0, 0), (0, 0, 2.4)], (0.03, 0.03), Material.METAL, 4)]
    if rng.random() < 0.5:
        parts.append(limb([(0, 0, 2.0), (0, 0, 2.45)], (1.4, 0.1), Material.TARPAULIN, 8))
    else:
        parts.append(limb([(0, 0, 0.8), (0, 0, 1.5), (0, 0, 2.4)], (0.12, 0.2, 0.05), Material.TARPAULIN, 7))
    return merge(parts)


def _sheet(rng: np.random.Generator) -> Material:
    return (Material.PAINT, Material.METAL, Material.WALL, Material.WOOD)[int(rng.integers(4))]


Builder = Callable[[np.random.Generator], Mesh]

FURNITURE: tuple[tuple[Builder, float], ...] = (
    (pole, 0.16),
    (sign, 0.12),
    (tree, 0.24),
    (bush, 0.13),
    (column_shrub, 0.06),
    (litter_bin, 0.06),
    (bollard, 0.05),
    (dummy, 0.04),
    (cabinet, 0.04),
    (skip, 0.02),
    (mound, 0.02),
    (stand, 0.03),
    (shelter, 0.015),
    (umbrella, 0.015),
)
"""What stands along a street, with its share."""


def furniture(rng: np.random.Generator) -> Mesh:
    """One random piece, standing on z = 0 at the origin."""
    shares = np.array([share for _, share in FURNITURE])
    builder, _ = FURNITURE[int(rng.choice(len(FURNITURE), p=shares / shares.sum()))]
    return builder(rng)
