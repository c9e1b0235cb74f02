"""One simulated frame: a world, objects in it, a scan of both, and its labels."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pd_edge.config import Config
from pd_edge.kitti import Label, crop_to_image
from pd_edge.training.sim.annotate import annotate, visibility
from pd_edge.training.sim.camera import camera_calibration
from pd_edge.training.sim.clutter import furniture
from pd_edge.training.sim.layouts import layout_stats
from pd_edge.training.sim.mesh import Mesh, move
from pd_edge.training.sim.placement import Actor, PlacementConfig, place
from pd_edge.training.sim.scan import draw_reflectivity, scan
from pd_edge.training.sim.sensor import SensorConfig, draw_sensor, turn_rays
from pd_edge.training.sim.world import Ground, Span, WorldConfig, draw_ground, ground_mesh, surroundings

FloatArray = npt.NDArray[np.float64]

FURNISHED = 86.0
"""Length of road [m] that the configured number of pieces of furniture belongs to."""


class SimulateConfig(Config):
    """Everything a simulated data set depends on, apart from its seed."""

    sensor: SensorConfig = SensorConfig()
    placement: PlacementConfig = PlacementConfig()
    world: WorldConfig = WorldConfig()
    full_cloud: bool = Field(
        default=False, description="Also scan behind the camera and write the cloud of the whole turn."
    )
    min_points: int = Field(1, ge=0, description="Objects with fewer points become DontCare regions.")
    val_share: float = Field(0.0, ge=0, le=1, description="Share of the frames, the last ones, listed as val.")


class SimulatedFrame(NamedTuple):
    """Points, the points the camera sees, and the labels."""

    points: npt.NDArray[np.float32]
    """(N, 4) float32, the sensor's own frame [m], intensity as the sensor writes it."""
    in_image: npt.NDArray[np.bool_]
    """(N,) bool."""
    labels: list[Label]


def simulate_frame(rng: np.random.Generator, config: SimulateConfig) -> SimulatedFrame:
    """Makes up a frame; the same generator state gives the same frame."""
    stats = layout_stats()
    ground = draw_ground(rng, config.world, stats.ground)
    actors = place(rng, config.placement, stats, config.full_cloud)
    boxes = np.array([box_of(actor, ground) for actor in actors]).reshape(-1, 7)
    pieces = [stand(actor, ground) for actor in actors]
    pieces += scenery(rng, config.world, ground, boxes, (-80.0 if config.full_cloud else -6.0, 80.0))
    sensor = draw_sensor(rng, config.sensor)
    rays = turn_rays(rng, config.sensor, sensor, config.full_cloud)
    result = scan(rng, config.sensor, sensor, rays, pieces, reflectivity=draw_reflectivity(rng, len(pieces)))
    in_image = crop_to_image(result.points, camera_calibration(config.sensor.lift))
    share = visibility(boxes, rays, result.hits)
    points = result.points_on(len(actors), in_image)
    labels = annotate([actor.name for actor in actors], boxes, share, points, config.min_points)
    return SimulatedFrame(result.points, in_image, labels)


def box_of(actor: Actor, ground: Ground) -> FloatArray:
    """(7,) box of an object that stands on the ground."""
    length, width, height = actor.shape.size
    bottom = float(ground.z(actor.x, actor.y)) - actor.sink
    return np.array([actor.x, actor.y, bottom + height / 2, length, width, height, actor.yaw])


def stand(actor: Actor, ground: Ground) -> Mesh:
    """The object's mesh at its place."""
    height = actor.shape.size[2]
    foot = (actor.x, actor.y, float(ground.z(actor.x, actor.y)))
    return move(actor.shape.mesh, foot, actor.yaw, (1.0, 1.0, (height - actor.sink) / height))


def scenery(rng: np.random.Generator, config: WorldConfig, ground: Ground, boxes: FloatArray, span: Span) -> list[Mesh]:
    """Ground, road sides and street furniture around the objects' boxes, for a range of x [m]."""
    pieces = ground_mesh(rng, ground, span)
    pieces += surroundings(rng, config, ground, boxes[:, :2], span)
    for _ in range(rng.poisson(config.furniture_mean * (span[1] - span[0]) / FURNISHED)):
        spot = _furniture_spot(rng, ground, boxes, span)
        if spot is not None:
            x, y = spot
            pieces.append(move(furniture(rng), (x, y, float(ground.z(x, y))), rng.uniform(0, 2 * np.pi)))
    return pieces


def _furniture_spot(
    rng: np.random.Generator, ground: Ground, boxes: FloatArray, span: Span
) -> tuple[float, float] | None:
    """A free place beside the road, most often near the curb; None where the one drawn is taken."""
    side = int(rng.integers(2))
    outward = rng.exponential(2.5) + 0.3 if rng.random() < 0.9 else -rng.uniform(0.0, 1.0)
    x = rng.uniform(span[0] + 9.0, span[1] - 15.0)
    across = ground.curbs[side] + (outward if side else -outward)
    y = float(ground.axis(x)) + across
    reach = 0.5 * np.hypot(boxes[:, 3], boxes[:, 4]) + 1.0
    if abs(across) < 2.0 or (np.hypot(boxes[:, 0] - x, boxes[:, 1] - y) < reach).any():
        return None
    return x, y
