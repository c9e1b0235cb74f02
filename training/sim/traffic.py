"""A street with traffic over time: parked rows, oncoming and leading cars, cyclists, people on the pavements.

Everything keeps to a lane of its own along the road, and everything in a lane moves at the lane's speed, so nothing
ever collides and every object has one continuous track.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.training.sim.layouts import LayoutStats
from pd_edge.training.sim.placement import Actor, build
from pd_edge.training.sim.world import Ground, Span

FloatArray = npt.NDArray[np.float64]

CURBS = (-5.6, 8.9)
"""Right and left curb of a street with room for all lanes [m]; the sensor drives at 0."""
PAVEMENT = 2.2
"""Distance of the walking lanes from the curbs [m]."""


class Lane(NamedTuple):
    """A line along the road on which objects stand or move."""

    across: float
    """Distance from the sensor's path, left positive [m]."""
    speed: float
    """Along the road [m/s]; negative against the sensor's direction, 0 for parked."""
    names: tuple[str, ...]
    shares: tuple[float, ...]
    """Classes and their shares."""
    gap: tuple[float, float]
    """Least and greatest gap between objects [m]."""


class Mover(NamedTuple):
    """An object and its motion along the road."""

    actor: Actor
    """At the start."""
    speed: float
    """[m/s] along the road."""
    across: float
    """Distance from the sensor's path [m]."""
    heading: float
    """Relative to the road [rad]."""


def at(mover: Mover, ground: Ground, time: float) -> Actor:
    """Where the object is after ``time`` [s]."""
    x = mover.actor.x + mover.speed * time
    yaw = road_yaw(ground, x) + mover.heading
    return mover.actor._replace(x=x, y=float(ground.axis(x)) + mover.across, yaw=yaw)


def road_yaw(ground: Ground, x: float) -> float:
    """Direction of the road at x [rad]."""
    return float(np.arctan(ground.road[0] + ground.road[1] * abs(x)))


def draw_traffic(
    rng: np.random.Generator, stats: LayoutStats, ground: Ground, span: Span, ego_speed: float
) -> list[Mover]:
    """All objects of a street.

    Args:
        rng: Source of all choices.
        stats: Sizes of the classes.
        ground: The road.
        span: Range of x that has to be filled at the start [m].
        ego_speed: Speed of the sensor [m/s].
    """
    movers = [mover for lane in _lanes(rng) for mover in _fill(rng, stats, ground, lane, span)]
    leading = Lane(0.0, ego_speed + rng.uniform(0.0, 0.6), ("Car", "Van"), (0.85, 0.15), (25.0, 60.0))
    start = rng.uniform(14.0, 30.0)
    return movers + list(_fill(rng, stats, ground, leading, (start, span[1])))


def _lanes(rng: np.random.Generator) -> list[Lane]:
    parked = (("Car", "Van", "Truck"), (0.88, 0.09, 0.03))
    right, left = CURBS
    lanes = [
        Lane(3.4, -rng.uniform(5.0, 13.0), ("Car", "Van", "Truck"), (0.85, 0.1, 0.05), (8.0, 45.0)),
        Lane(-2.1, rng.uniform(3.0, 5.5), ("Cyclist",), (1.0,), (8.0, 60.0)),
        Lane(5.4, -rng.uniform(3.0, 5.5), ("Cyclist",), (1.0,), (8.0, 60.0)),
        Lane(left + PAVEMENT, -rng.uniform(0.7, 1.6), ("Pedestrian",), (1.0,), (1.5, 40.0)),
        Lane(right - PAVEMENT, rng.uniform(0.7, 1.6), ("Pedestrian",), (1.0,), (1.5, 40.0)),
    ]
    sides = [across for across in (right + 1.1, left - 1.1) if rng.random() < 0.85]
    return lanes + [Lane(across, 0.0, *parked, (0.6, 2.4)) for across in sides]


def _fill(rng: np.random.Generator, stats: LayoutStats, ground: Ground, lane: Lane, span: Span) -> Iterator[Mover]:
    """Objects along a lane, gap after gap."""
    x = span[0] + rng.uniform(0.0, lane.gap[1])
    while x < span[1]:
        name = str(rng.choice(lane.names, p=lane.shares))
        shape = build(rng, name, stats.classes[name])
        x += shape.size[0] / 2
        yield _mover(rng, ground, lane, Actor(name, shape, x, 0.0, 0.0, rng.uniform(0.0, 0.1)))
        free = rng.uniform(5.0, 25.0) if lane.speed == 0 and rng.random() < 0.3 else 0.0
        x += shape.size[0] / 2 + rng.uniform(*lane.gap) + free


def _mover(rng: np.random.Generator, ground: Ground, lane: Lane, actor: Actor) -> Mover:
    against = lane.speed < 0 or (lane.speed == 0 and rng.random() < (0.1 if lane.across < 0 else 0.8))
    heading = np.pi * against + rng.normal(0.0, 0.02)
    mover = Mover(actor, lane.speed, lane.across + rng.normal(0.0, 0.1), float(heading))
    return mover._replace(actor=at(mover, ground, 0.0))
