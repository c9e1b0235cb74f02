"""Puts objects where real ones stand: counts, positions, headings and rows drawn from the learnt table."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pd_edge.config import Config
from pd_edge.training.sim import people, vehicles
from pd_edge.training.sim.layouts import ClassLayout, LayoutStats, RowLayout
from pd_edge.training.sim.vehicles import Shape, Size

FloatArray = npt.NDArray[np.float64]


class PlacementConfig(Config):
    """How many objects a frame gets, relative to real frames."""

    car_factor: float = Field(1.5, ge=0, description="Factor on the number of cars; some end up hidden.")
    pedestrian_factor: float = Field(2.5, ge=0, description="Factor on the number of pedestrians.")
    cyclist_factor: float = Field(4.0, ge=0, description="Factor on the number of cyclists.")
    other_factor: float = Field(1.0, ge=0, description="Factor on vans, trucks, trams and other vehicles.")
    clearance: float = Field(0.3, ge=0, description="Least gap between two objects [m].")
    sink_max: float = Field(0.09, ge=0, description="Greatest depth of a label's box below the ground [m].")
    attempts: int = Field(12, gt=0, description="Positions tried for an object before it is left out.")


class Actor(NamedTuple):
    """One labelled object on the ground plan."""

    name: str
    shape: Shape
    x: float
    y: float
    yaw: float
    sink: float
    """How far the label's box reaches below the ground [m]; people draw it a little loosely."""


ORDER = ("Tram", "Truck", "Van", "Car", "Misc", "Cyclist", "Pedestrian", "Person_sitting")


def place(rng: np.random.Generator, config: PlacementConfig, stats: LayoutStats, full: bool) -> list[Actor]:
    """All labelled objects of one frame, without overlap.

    Args:
        rng: Source of all choices.
        config: How many objects.
        stats: Where real ones stand.
        full: True also fills the half behind the sensor, with a mirrored draw.
    """
    plan = _Plan(config.clearance)
    for name in ORDER:
        for half in (1.0, -1.0) if full else (1.0,):
            wanted = _count(rng, stats.classes[name], _factor(config, name))
            while wanted > 0:
                placed = _place_group(rng, config, stats, name, wanted=wanted, half=half, plan=plan)
                wanted -= max(placed, 1)
    return plan.actors


def build(rng: np.random.Generator, name: str, layout: ClassLayout) -> Shape:
    """A shape of the class with a size as real ones have it."""
    mean, spread = np.array(layout.size_mean), np.array(layout.size_sd)
    common = rng.standard_normal()
    draw = mean + spread * np.clip(0.5 * common + 0.87 * rng.standard_normal(3), -2.3, 2.3)
    length, width, height = (float(value) for value in draw)
    if name == "Misc":
        return _misc(rng)
    return _BUILDERS[name](rng, (length, width, height))


def _misc(rng: np.random.Generator) -> Shape:
    """Trailers and motorcycles: KITTI's Misc."""
    if rng.random() < 0.5:
        return vehicles.motorcycle(rng, (rng.uniform(1.6, 2.2), rng.uniform(0.6, 0.85), rng.uniform(1.05, 1.3)))
    return vehicles.trailer(rng, (rng.uniform(2.0, 5.0), rng.uniform(1.3, 2.2), rng.uniform(1.0, 2.5)))


_BUILDERS: dict[str, Callable[[np.random.Generator, Size], Shape]] = {
    "Car": vehicles.car,
    "Van": vehicles.van,
    "Truck": vehicles.truck,
    "Tram": vehicles.tram,
    "Pedestrian": people.pedestrian,
    "Person_sitting": people.sitting,
    "Cyclist": people.cyclist,
}


class _Plan:
    """The ground plan so far; keeps every object and the sensor's own car clear of one another."""

    def __init__(self, clearance: float) -> None:
        self.actors: list[Actor] = []
        self._clearance = clearance
        self._discs = [np.array([[x, 0.0, 1.2] for x in (-1.5, 0.0, 1.5)])]

    def add(self, actor: Actor) -> bool:
        """Takes the object in if its place is free."""
        discs = _discs(actor)
        standing = np.concatenate(self._discs)
        apart = np.linalg.norm(discs[:, None, :2] - standing[None, :, :2], axis=-1)
        if (apart < discs[:, None, 2] + standing[None, :, 2] + self._clearance).any():
            return False
        self._discs.append(discs)
        self.actors.append(actor)
        return True


def _discs(actor: Actor) -> FloatArray:
    """(D, 3) x, y, radius of discs along the object's axis that cover its footprint."""
    length, width, _ = actor.shape.size
    radius = 0.5 * min(length, width)
    count = max(1, int(np.ceil(max(length, width) / max(radius, 0.1))))
    reach = 0.5 * max(length, width) - radius
    steps = np.linspace(-reach, reach, count)
    yaw = actor.yaw if length >= width else actor.yaw + np.pi / 2
    return np.column_stack([actor.x + steps * np.cos(yaw), actor.y + steps * np.sin(yaw), np.full(count, radius)])


def _factor(config: PlacementConfig, name: str) -> float:
    factors = {"Car": config.car_factor, "Cyclist": config.cyclist_factor}
    factors |= dict.fromkeys(("Pedestrian", "Person_sitting"), config.pedestrian_factor)
    return factors.get(name, config.other_factor)


def _count(rng: np.random.Generator, layout: ClassLayout, factor: float) -> int:
    """A number of objects: drawn as often as the factor says, the rest of it at random."""
    shares = np.array(layout.counts)
    whole, rest = divmod(factor, 1.0)
    draws = int(whole) + int(rng.random() < rest)
    return int(rng.choice(len(shares), size=draws, p=shares / shares.sum()).sum())


def _place_group(
    rng: np.random.Generator,
    config: PlacementConfig,
    stats: LayoutStats,
    name: str,
    *,
    wanted: int,
    half: float,
    plan: _Plan,
) -> int:
    """One object and those that stand with it; returns how many were tried."""
    layout = stats.classes[name]
    x, y, yaw = _position(rng, stats, layout)
    x, yaw = half * x, (yaw if half > 0 else np.pi - yaw)
    companions = _companions(rng, stats, name)[:wanted]
    for ahead, aside, turn in companions:
        shape, sink = build(rng, name, layout), rng.uniform(0.0, config.sink_max)
        for attempt in range(config.attempts):
            shift = np.array([ahead, aside]) + 0.2 * attempt * rng.standard_normal(2)
            cosine, sine = np.cos(yaw), np.sin(yaw)
            east, north = cosine * shift[0] - sine * shift[1], sine * shift[0] + cosine * shift[1]
            if plan.add(Actor(name, shape, x + east, y + north, float(yaw + turn), sink)):
                break
    return len(companions)


def _position(rng: np.random.Generator, stats: LayoutStats, layout: ClassLayout) -> tuple[float, float, float]:
    """x, y [m] and heading [rad] of one object."""
    shares = np.array(layout.cells)
    cell = int(rng.choice(shares.size, p=shares.ravel() / shares.sum()))
    row, column = divmod(cell, shares.shape[1])
    x = rng.uniform(stats.x_edges[row], stats.x_edges[row + 1])
    y = x * rng.uniform(stats.ratio_edges[column], stats.ratio_edges[column + 1])
    band = int(np.clip(np.digitize(abs(y), stats.band_edges) - 1, 0, len(layout.yaw) - 1))
    headings = np.array(layout.yaw[band])
    sector = int(rng.choice(len(headings), p=headings / headings.sum()))
    yaw = -np.pi + 2 * np.pi * (sector + rng.random()) / len(headings)
    return float(x), float(y), float(yaw)


def _companions(rng: np.random.Generator, stats: LayoutStats, name: str) -> list[tuple[float, float, float]]:
    """Places of a group relative to its first member: ahead [m], aside [m], turn [rad]."""
    if name == "Car":
        return _row(rng, stats)
    near = stats.near_another.get(name, 0.0)
    places = [(0.0, 0.0, 0.0)]
    while rng.random() < 0.5 * near + 0.25 * near * (len(places) > 1):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.5)
        last = places[-1]
        turn = rng.normal(0, 0.3) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
        places.append((last[0] + reach * np.cos(angle), last[1] + reach * np.sin(angle), float(turn)))
    return places


def _row(rng: np.random.Generator, stats: LayoutStats) -> list[tuple[float, float, float]]:
    """A single car, or a row of cars lengthwise or abreast; the first may stand anywhere in it."""
    single = 1.0 - stats.lengthwise.share - stats.abreast.share
    mean_length, mean_width = stats.classes["Car"].size_mean[:2]
    weights = [single, *(row.share / _mean_length(row) for row in (stats.lengthwise, stats.abreast))]
    kind = int(rng.choice(3, p=np.array(weights) / sum(weights)))
    if kind == 0:
        return [(0.0, 0.0, 0.0)]
    row, body = ((stats.lengthwise, mean_length), (stats.abreast, mean_width))[kind - 1]
    count = 2 + int(rng.choice(len(row.lengths), p=np.array(row.lengths) / sum(row.lengths)))
    gaps = np.clip(rng.normal(row.gap[0], row.gap[1], count - 1), 0.45, None)
    along = np.concatenate([[0.0], np.cumsum(body + gaps)])
    along -= along[int(rng.integers(count))]
    across = rng.normal(0, row.offset_sd, count)
    turns = rng.normal(0, 0.03, count) + np.pi * (rng.random(count) < (0.03 if kind == 1 else 0.25))
    pairs = zip(along, across, turns, strict=True)
    return [(float(a), float(c), float(t)) if kind == 1 else (float(c), float(a), float(t)) for a, c, t in pairs]


def _mean_length(row: RowLayout) -> float:
    return float(np.average(2 + np.arange(len(row.lengths)), weights=row.lengths))
