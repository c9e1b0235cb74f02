"""People on foot, seated and on bicycles, built from limbs; bicycles without a rider too."""

import numpy as np
import numpy.typing as npt

from pd_edge.training.sim.materials import Material
from pd_edge.training.sim.mesh import Mesh, box, ellipsoid, limb, loft, merge, move
from pd_edge.training.sim.vehicles import Shape, Size

Point = tuple[float, float, float]


def pedestrian(rng: np.random.Generator, size: Size) -> Shape:
    """A person standing or walking, with arms, legs in stride, sometimes a bag or a coat.

    The height [m] is the person's; length and width [m] are the least of the label box, which people draw once for
    the longest stride of a walk.
    """
    height = size[2]
    stride = rng.uniform(0.05, 0.5) if rng.random() < 0.75 else 0.04
    lean = 0.03 * rng.standard_normal()
    girth = rng.uniform(0.85, 1.2)
    parts = [
        *_legs(rng, height, stride, girth),
        _torso(height, lean, girth),
        _head(rng, height, lean),
        *_arms(rng, height, stride, lean, girth),
        *_belongings(rng, height, lean),
    ]
    return _boxed(rng, merge(parts), size)


def sitting(rng: np.random.Generator, size: Size) -> Shape:
    """A person on a bench or a chair; the height [m] is that of the seated figure."""
    height = size[2]
    hip, knee = 0.42, 0.45
    parts = [move(_torso(height / 0.76, 0.0, 1.0), (0.0, 0.0, hip - 0.47 * height / 0.76))]
    parts.append(ellipsoid((0.02, 0, height - 0.11), (0.10, 0.08, 0.12), Material.SKIN))
    for side in (-0.1, 0.1):
        parts.append(limb([(0, side, hip + 0.05), (knee, side, hip + 0.05)], (0.09, 0.07), Material.CLOTH))
        parts.append(limb([(knee, side, hip + 0.05), (knee, side, 0.02)], (0.07, 0.05), Material.CLOTH))
    if rng.random() < 0.7:
        parts.append(box((-0.05, 0, hip - 0.04), (0.45, 1.2, 0.06), Material.WOOD))
    return _boxed(rng, merge(parts), size)


def cyclist(rng: np.random.Generator, size: Size) -> Shape:
    """A person riding; length of the bicycle and height of the head [m] as given."""
    length, _, height = size
    wheel = rng.uniform(0.31, 0.36)
    saddle = (-0.2 * length, 0.0, 0.52 * height + 0.05)
    bars = (0.27 * length, 0.0, 0.60 * height)
    lean = rng.uniform(0.1, 0.42)
    shoulder = (saddle[0] + lean, 0.0, height - 0.32)
    parts = [*bicycle_parts(length, wheel, saddle, bars)]
    parts.append(_trunk(saddle, shoulder, rng.uniform(0.9, 1.15)))
    parts.append(ellipsoid((shoulder[0] + 0.1, 0, height - 0.12), (0.11, 0.085, 0.125), Material.SKIN))
    if rng.random() < 0.4:
        parts.append(ellipsoid((shoulder[0] + 0.09, 0, height - 0.06), (0.13, 0.1, 0.07), Material.PAINT))
    crank = rng.uniform(0, 2 * np.pi)
    for side, phase in ((-0.15, 0.0), (0.15, np.pi)):
        parts += _pedalling_leg(saddle, side, crank + phase)
        parts.append(
            limb([(shoulder[0], 1.25 * side, shoulder[2]), (bars[0], 1.8 * side, bars[2])], (0.055, 0.04), _dress(rng))
        )
    if rng.random() < 0.3:
        parts.append(box((saddle[0] + 0.3 * lean - 0.17, 0, 0.7 * height), (0.2, 0.3, 0.4), Material.CLOTH))
    return _boxed(rng, merge(parts), size)


def bicycle(rng: np.random.Generator) -> Shape:
    """A parked bicycle: nobody on it, so it is no Cyclist."""
    length = rng.uniform(1.6, 1.85)
    parts = bicycle_parts(length, 0.34, (-0.16 * length, 0.0, 0.95), (0.27 * length, 0.0, 1.03))
    return _boxed(rng, merge(parts), (0.0, 0.0, 0.0))


def bicycle_parts(length: float, wheel: float, saddle: Point, bars: Point) -> list[Mesh]:
    """Wheels, frame, handlebar and saddle [m]."""
    rear, front = (-length / 2 + wheel, 0.0, wheel), (length / 2 - wheel, 0.0, wheel)
    pedals = (-0.05 * length, 0.0, 0.29)
    tubes = [(rear, pedals), (rear, saddle), (pedals, saddle), (pedals, bars), (saddle, bars), (front, bars)]
    parts = [limb([start, end], (0.018, 0.018), Material.METAL, 4) for start, end in tubes]
    parts += [_rim(end[0], wheel) for end in (rear, front)]
    parts.append(limb([(bars[0], -0.29, bars[2]), (bars[0], 0.29, bars[2])], (0.02, 0.02), Material.METAL, 4))
    parts.append(box((saddle[0], 0, saddle[2]), (0.25, 0.16, 0.08), Material.TRIM))
    return parts


def _legs(rng: np.random.Generator, height: float, stride: float, girth: float) -> list[Mesh]:
    hip = 0.50 * height
    parts = []
    for side, swing in ((-0.09, stride), (0.09, -stride)):
        foot = np.sin(swing) * hip
        bend = 0.08 if swing < 0 else 0.03
        path = [(0, side, hip), (0.5 * foot + bend, side, 0.52 * hip), (foot, side, 0.06)]
        parts.append(limb(path, (0.115 * girth, 0.092 * girth, 0.07 * girth), Material.CLOTH))
        parts.append(box((foot + 0.06, side, 0.04), (0.26, 0.095, 0.08), Material.TRIM))
    if rng.random() < 0.2:
        skirt = [(0, 0, hip + 0.05), (0, 0, rng.uniform(0.35, 0.75) * hip)]
        parts.append(limb(skirt, (0.16, 0.22), Material.CLOTH, 8))
    return parts


def _torso(height: float, lean: float, girth: float) -> Mesh:
    """An oval trunk from hip to neck."""
    levels = np.array([0.47, 0.55, 0.63, 0.74, 0.81, 0.85]) * height
    across = np.array([0.175, 0.155, 0.145, 0.155, 0.15, 0.065]) * girth
    deep = np.array([0.11, 0.105, 0.11, 0.125, 0.105, 0.065]) * girth
    return _tube(levels, across, deep, lean)


def _tube(
    levels: npt.NDArray[np.float64], across: npt.NDArray[np.float64], deep: npt.NDArray[np.float64], lean: float
) -> Mesh:
    angle = 2 * np.pi * np.arange(8) / 8
    x = deep[:, None] * np.cos(angle) + lean * (levels - levels[0])[:, None]
    rings = np.stack([x, across[:, None] * np.sin(angle), np.repeat(levels[:, None], 8, axis=1)], axis=-1)
    return loft(rings, np.full((len(levels) - 1, 8), int(Material.CLOTH)), Material.CLOTH)


def _head(rng: np.random.Generator, height: float, lean: float) -> Mesh:
    x = lean * 0.45 * height + 0.02
    parts = [ellipsoid((x, 0, height - 0.115), (0.10, 0.08, 0.115), Material.SKIN)]
    if rng.random() < 0.3:
        parts.append(ellipsoid((x - 0.02, 0, height - 0.07), (0.12, 0.1, 0.07), Material.CLOTH))
    return merge(parts)


def _arms(rng: np.random.Generator, height: float, stride: float, lean: float, girth: float) -> list[Mesh]:
    shoulder = 0.815 * height
    x = lean * (shoulder - 0.47 * height)
    raised = rng.random() < 0.15
    parts = []
    for side, swing in ((-1.0, -stride), (1.0, stride)):
        y = side * (0.19 * girth + 0.03)
        reach = np.sin(swing) * 0.33 * height
        hand = (x + 0.3, y, shoulder - 0.2) if raised and side > 0 else (x + reach + 0.05, 1.15 * y, 0.46 * height)
        elbow = (x + 0.5 * reach - 0.02, 1.12 * y, 0.63 * height)
        parts.append(limb([(x, y, shoulder), elbow, hand], (0.05, 0.042, 0.032), Material.CLOTH))
        parts.append(ellipsoid(hand, (0.05, 0.035, 0.06), Material.SKIN, 6))
    return parts


def _belongings(rng: np.random.Generator, height: float, lean: float) -> list[Mesh]:
    """A rucksack, a bag in the hand, or a pushchair now and then."""
    draw = rng.random()
    if draw < 0.18:
        return [box((-0.2 + lean * 0.3, 0, 0.7 * height), (0.2, 0.3, 0.42), Material.CLOTH)]
    if draw < 0.34:
        return [box((0.0, -0.33, 0.32 * height), (0.32, 0.12, 0.34), Material.CLOTH)]
    return []


def _trunk(saddle: Point, shoulder: Point, girth: float) -> Mesh:
    levels = np.linspace(saddle[2], shoulder[2] + 0.06, 5)
    slope = (shoulder[0] - saddle[0]) / (shoulder[2] - saddle[2])
    across = np.array([0.17, 0.16, 0.18, 0.2, 0.08]) * girth
    deep = np.array([0.13, 0.12, 0.13, 0.12, 0.07]) * girth
    return move(_tube(levels, across, deep, slope), (saddle[0], 0, 0))


def _pedalling_leg(saddle: Point, side: float, angle: float) -> list[Mesh]:
    pedal = (0.02 + 0.17 * np.cos(angle), side, 0.29 + 0.17 * np.sin(angle))
    hip = (saddle[0] + 0.02, side, saddle[2] + 0.02)
    middle = 0.5 * (np.array(hip) + np.array(pedal))
    knee = (middle[0] + 0.24, side, middle[2] + 0.12)
    foot = box((pedal[0] + 0.05, side, pedal[2]), (0.26, 0.09, 0.07), Material.CLOTH)
    return [limb([hip, knee, pedal], (0.10, 0.075, 0.055), Material.CLOTH), foot]


def _rim(x: float, radius: float) -> Mesh:
    """A wheel as a thin closed band; spokes return next to nothing."""
    angle = 2 * np.pi * np.arange(13) / 12
    inner, outer = radius - 0.035, radius
    corners = [(inner, -0.018), (outer, -0.018), (outer, 0.018), (inner, 0.018)]
    rings = np.stack(
        [np.stack([x + r * np.cos(angle), np.full(13, y), radius + r * np.sin(angle)], axis=-1) for r, y in corners],
        axis=1,
    )
    return loft(rings, np.full((12, 4), int(Material.METAL)), None)


def _dress(rng: np.random.Generator) -> Material:
    return Material.SKIN if rng.random() < 0.4 else Material.CLOTH


def _boxed(rng: np.random.Generator, mesh: Mesh, least: Size) -> Shape:
    """Centres the mesh, not quite, on its label box, which is no smaller in length and width than ``least``."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    length, width = np.maximum(high[:2] - low[:2] + 0.02, least[:2])
    height = high[2] + rng.uniform(0.0, 0.04)
    room = 0.25 * (np.array([length, width]) - (high[:2] - low[:2]))
    centre = 0.5 * (low + high)[:2] + rng.uniform(-room, room)
    moved = move(mesh, (-centre[0], -centre[1], 0.0))
    return Shape(moved, (float(length), float(width), float(height)))
