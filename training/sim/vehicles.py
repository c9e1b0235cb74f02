"""Vehicles: lofted bodies with hood, cabin and glass, wheels, lamps, plates and seats; trucks and motorcycles.

Every builder returns a mesh that stands on z = 0 with its length along x, and the size of its label box.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.training.sim.materials import Material
from pd_edge.training.sim.mesh import Mesh, box, limb, loft, merge, of_material, quad

FloatArray = npt.NDArray[np.float64]
Size = tuple[float, float, float]
"""Length, width, height [m]."""


class Shape(NamedTuple):
    """One object before it is put into a world."""

    mesh: Mesh
    """Stands on z = 0, faces +x, centred on the label box in x and y."""
    size: Size
    """Label box: length, width, height [m]."""


class Style(NamedTuple):
    """Silhouette of a car as fractions: of the length from the rear for x, of the height for z."""

    hood_end: float
    """Where the windscreen meets the hood."""
    roof_front: float
    roof_rear: float
    deck_start: float
    """Where the rear window meets the boot lid or, for a hatch, the tailgate."""
    hood: float
    """Height of the hood."""
    deck: float
    """Height of the boot lid."""
    clearance: float
    """Height of the sill above the road."""


STYLES = {
    "sedan": Style(0.71, 0.54, 0.27, 0.13, 0.60, 0.65, 0.10),
    "hatch": Style(0.75, 0.56, 0.11, 0.02, 0.60, 0.60, 0.10),
    "wagon": Style(0.73, 0.56, 0.08, 0.01, 0.59, 0.60, 0.10),
    "suv": Style(0.73, 0.56, 0.09, 0.02, 0.61, 0.60, 0.14),
    "mpv": Style(0.80, 0.60, 0.07, 0.01, 0.57, 0.58, 0.11),
    "coupe": Style(0.69, 0.50, 0.30, 0.06, 0.62, 0.68, 0.10),
}
CAR_STYLES = ("sedan", "hatch", "wagon", "suv", "mpv", "coupe")
CAR_STYLE_SHARE = (0.18, 0.40, 0.20, 0.08, 0.11, 0.03)


def car(rng: np.random.Generator, size: Size) -> Shape:
    """A car of the given length, width and height [m], of a random style."""
    name = str(rng.choice(CAR_STYLES, p=CAR_STYLE_SHARE))
    style = _vary(rng, STYLES[name])
    wheels = _wheels(size, 0.31 + 0.03 * rng.random())
    return Shape(merge([_body(rng, style, size), *wheels, *_fittings(rng, style, size), *_seats(rng, size)]), size)


def van(rng: np.random.Generator, size: Size) -> Shape:
    """A delivery van or minibus: short nose, tall box, glass at the sides only now and then."""
    nose = rng.uniform(0.80, 0.89)
    style = Style(nose, nose - rng.uniform(0.10, 0.16), 0.03, 0.01, rng.uniform(0.46, 0.56), 0.55, 0.13)
    windows = 1.0 if rng.random() < 0.4 else 0.45
    body = _body(rng, style, size, glazed=windows)
    return Shape(merge([body, *_wheels(size, 0.34), *_fittings(rng, style, size), *_seats(rng, size)]), size)


def truck(rng: np.random.Generator, size: Size) -> Shape:
    """A lorry: cab, and a box body, a tarpaulin or a flat bed behind it."""
    length, width, height = size
    cab = min(2.2, 0.35 * length)
    floor = rng.uniform(0.7, 1.1)
    load = Material.TARPAULIN if rng.random() < 0.5 else Material.PAINT
    top = height if rng.random() < 0.8 else floor + 0.5
    rear = length - cab - 0.2
    parts = [
        _cab(cab, width, height * rng.uniform(0.72, 0.95), length / 2),
        box((-length / 2 + rear / 2, 0, (floor + top) / 2), (rear, width, top - floor), load),
        box((0, 0, floor - 0.15), (length * 0.95, 0.9, 0.2), Material.TRIM),
    ]
    for position in (0.5 * length - 0.6 * cab, -0.32 * length, -0.42 * length):
        parts += _axle(position, width, 0.48)
    return Shape(merge(parts), size)


def tram(rng: np.random.Generator, size: Size) -> Shape:
    """A tram or bus: a long glazed box with slanted ends."""
    style = Style(0.88, 0.87, 0.05, 0.03, 0.42, 0.42, 0.05)
    return Shape(_body(rng, style, size), size)


def motorcycle(rng: np.random.Generator, size: Size) -> Shape:
    """A parked motorcycle or scooter."""
    length, width, height = size
    radius = 0.29
    parts = [_disc(end * (length / 2 - radius), 0.0, radius, 0.12) for end in (-1, 1)]
    parts.append(box((-0.1, 0, 0.55), (0.9 * length - 2 * radius, 0.28, 0.45), Material.PAINT))
    parts.append(box((-0.25 * length, 0, 0.78), (0.6, 0.26, 0.14), Material.TRIM))
    parts.append(limb([(0.3 * length, 0, 0.4), (0.22 * length, 0, height)], (0.06, 0.05), Material.METAL))
    bar = height - 0.06
    parts.append(limb([(0.22 * length, -width / 2, bar), (0.22 * length, width / 2, bar)], (0.03, 0.03), Material.TRIM))
    if rng.random() < 0.5:
        parts.append(box((-0.42 * length, 0, 0.95), (0.35, 0.36, 0.3), Material.PAINT))
    return Shape(merge(parts), size)


def trailer(rng: np.random.Generator, size: Size) -> Shape:
    """A small trailer or caravan."""
    length, width, height = size
    floor = 0.45
    cover = Material.TARPAULIN if rng.random() < 0.5 else Material.PAINT
    parts = [box((-0.1 * length, 0, (floor + height) / 2), (0.8 * length, width, height - floor), cover)]
    parts.append(limb([(0.3 * length, 0, floor), (0.5 * length, 0, floor)], (0.05, 0.05), Material.METAL))
    return Shape(merge(parts + _axle(-0.1 * length, width, 0.3)), size)


def _vary(rng: np.random.Generator, style: Style) -> Style:
    return Style(*(value * (1 + 0.03 * rng.standard_normal()) for value in style))


class _Sections(NamedTuple):
    """Cross sections of a body, from the rear to the front; each array is (S,) float64 [m]."""

    x: FloatArray
    top: FloatArray
    shoulder: FloatArray
    """Where the side glass starts."""
    sill: FloatArray
    half: FloatArray
    """Half width at the side."""
    roof_half: FloatArray
    """Half width at the top."""


def _body(rng: np.random.Generator, style: Style, size: Size, glazed: float = 1.0) -> Mesh:
    """The painted and glazed skin; glass behind ``glazed`` (fraction of the cabin from the front) is sheet metal."""
    sections = _sections(rng, style, size)
    return loft(_outline(sections), _skin(len(sections.x), glazed), Material.PAINT)


def _stations(rng: np.random.Generator, style: Style) -> FloatArray:
    """(S, 3): fraction of the length from the rear, of the height, and of the half width."""
    nose, bumper = rng.uniform(0.40, 0.50), rng.uniform(0.36, 0.46)
    rear, front = style.roof_rear, style.roof_front
    cabin = front - rear
    return np.array(
        [
            (0.0, bumper, 0.62),
            (0.012, bumper * 1.12, 0.80),
            (0.035, style.deck * 0.88, 0.89),
            (style.deck_start + 0.04, style.deck, 0.96),
            (rear + 0.03, 0.955, 0.985),
            (rear + 0.3 * cabin, 1.0, 1.0),
            (rear + 0.36 * cabin, 1.0, 1.0),
            (rear + 0.7 * cabin, 1.0, 1.0),
            (front, 0.955, 1.0),
            (style.hood_end, style.hood, 1.0),
            (0.5 * (style.hood_end + 0.91), style.hood * 0.97, 0.98),
            (0.90, style.hood * 0.91, 0.93),
            (0.945, style.hood * 0.80, 0.84),
            (0.975, nose, 0.70),
            (0.99, nose * 0.82, 0.50),
        ]
    )


def _sections(rng: np.random.Generator, style: Style, size: Size) -> _Sections:
    """The stations in metres; bodies are a little smaller than the boxes people draw around them."""
    length, width, height = size
    table = _stations(rng, style)
    belt = min(style.hood, style.deck) + 0.03
    x = (table[:, 0] - 0.5) * length * rng.uniform(0.96, 0.995)
    top = table[:, 1] * height * rng.uniform(0.96, 1.0)
    half = table[:, 2] * width / 2 * rng.uniform(0.92, 0.97)
    roof_half = np.where(top > (belt + 0.1) * height, half * rng.uniform(0.70, 0.78), half * 0.9)
    sill = np.full_like(x, style.clearance * height)
    sill[[0, -1]] += 0.05
    return _Sections(x, top, np.minimum(top - 0.03 * height, belt * height), sill, half, roof_half)


def _outline(body: _Sections) -> FloatArray:
    """(S, 10, 3) cross sections, counter-clockwise from the right sill."""
    half, roof_half = body.half, body.roof_half
    y = [-half * 0.90, -half, -half * 0.95, -roof_half, -roof_half * 0.45]
    z = [body.sill, 0.5 * (body.sill + body.shoulder), body.shoulder, body.top - 0.05, body.top]
    right = np.stack([np.stack([body.x, aside, up], axis=-1) for aside, up in zip(y, z, strict=True)], axis=1)
    return np.concatenate([right, right[:, ::-1] * np.array([1.0, -1.0, 1.0])], axis=1)


def _skin(sections: int, glazed: float) -> npt.NDArray[np.int64]:
    """Material of every patch: glass around the cabin, except for roof, pillars and panelled sides."""
    skin = np.full((sections - 1, 10), int(Material.PAINT))
    skin[:, 9] = Material.TRIM
    side = [2, 6]
    windscreen, pillar, rear_window = 8, 5, 3
    first = rear_window if glazed >= 1 else windscreen - 1
    skin[first : windscreen + 1, side] = Material.GLASS
    skin[pillar, side] = Material.PAINT
    skin[windscreen, 2:7] = Material.GLASS
    if glazed >= 1:
        skin[rear_window, 2:7] = Material.GLASS
    return skin


def _disc(x: float, y: float, radius: float, width: float, rim: bool = False) -> Mesh:
    tyre = limb([(x, y - width / 2, radius), (x, y + width / 2, radius)], (radius, radius), Material.RUBBER, 12)
    if not rim:
        return tyre
    outer = np.sign(y) * (abs(y) + width / 2 + 0.004)
    angle = 2 * np.pi * np.arange(8) / 8
    hub = np.stack([x + 0.62 * radius * np.cos(angle), np.full(8, outer), radius + 0.62 * radius * np.sin(angle)], -1)
    fan = [(0, i, i + 1) for i in range(1, 7)]
    return merge([tyre, of_material(hub, fan, Material.METAL)])


def _axle(x: float, width: float, radius: float) -> list[Mesh]:
    return [_disc(x, side * (width / 2 - 0.12), radius, 0.22, rim=True) for side in (-1, 1)]


def _wheels(size: Size, radius: float) -> list[Mesh]:
    length, width, _ = size
    return _axle(-0.29 * length, width, radius) + _axle(0.31 * length, width, radius)


def _fittings(rng: np.random.Generator, style: Style, size: Size) -> list[Mesh]:
    """Plates, lamps, mirrors."""
    length, width, height = size
    front, rear = 0.985 * length / 2, -length / 2 - 0.004
    lamp_z, tail_z = style.hood * height * rng.uniform(0.72, 0.85), height * rng.uniform(0.5, 0.6)
    parts = [_upright((front, 0.0, 0.32 * height), 0.52, 0.11, Material.PLATE)]
    parts.append(_upright((rear, 0.0, rng.uniform(0.3, 0.55) * height), 0.52, 0.11, Material.PLATE))
    for side in (-1, 1):
        parts.append(_upright((front - 0.04 * length, side * 0.36 * width, lamp_z), 0.3, 0.16, Material.LAMP))
        parts.append(_upright((rear, side * 0.39 * width, tail_z), 0.24, 0.2, Material.LAMP))
        mirror = ((style.hood_end - 0.53) * length, side * (width / 2 + 0.08), (style.hood + 0.06) * height)
        parts.append(box(mirror, (0.12, 0.2, 0.14), Material.PAINT))
    return parts


def _upright(centre: Size, width: float, height: float, material: Material) -> Mesh:
    """A patch facing along x."""
    x, y, z = centre
    low, high, left, right = z - height / 2, z + height / 2, y + width / 2, y - width / 2
    return quad([(x, left, low), (x, right, low), (x, right, high), (x, left, high)], material)


def _seats(rng: np.random.Generator, size: Size) -> list[Mesh]:
    """What a pulse meets behind the glass: seat rows, a dashboard, sometimes a driver."""
    length, width, height = size
    parts = []
    for row in (0.02, -0.19):
        for side in (-1, 1):
            x = (row + rng.uniform(-0.03, 0.03)) * length
            path = [(x, side * 0.2 * width, 0.35 * height), (x - 0.2, side * 0.2 * width, 0.74 * height)]
            parts.append(limb(path, (0.2, 0.15), Material.INTERIOR))
    parts.append(box((0.17 * length, 0, 0.54 * height), (0.25, 0.7 * width, 0.06 * height), Material.INTERIOR))
    if rng.random() < 0.3:
        parts.append(box((0.06 * length, 0.22 * width, 0.68 * height), (0.2, 0.22, 0.3 * height), Material.CLOTH))
    return parts


def _cab(length: float, width: float, height: float, front: float) -> Mesh:
    """A driver's cab whose front face lies at x = ``front``."""
    middle = front - length / 2
    parts = [box((middle, 0, 0.55 * height + 0.2), (length, width, 0.9 * height - 0.4), Material.PAINT)]
    glass = _upright((front + 0.01, 0.0, 0.72 * height), 0.85 * width, 0.28 * height, Material.GLASS)
    return merge([*parts, glass])
