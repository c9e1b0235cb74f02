"""One simulated drive: the sensor goes down a street; scans, poses and tracks belong together."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.kitti import Label, crop_to_image
from pd_edge.kitti_calibration import homogeneous
from pd_edge.kitti_tracklets import Tracklet
from pd_edge.training.sim.annotate import annotate, occlusion_states, visibility
from pd_edge.training.sim.camera import camera_calibration
from pd_edge.training.sim.layouts import layout_stats
from pd_edge.training.sim.mesh import Mesh, move
from pd_edge.training.sim.scan import draw_reflectivity, scan
from pd_edge.training.sim.scene import SimulateConfig, box_of, scenery, stand
from pd_edge.training.sim.sensor import Sensor, draw_sensor, turn_rays
from pd_edge.training.sim.traffic import CURBS, PAVEMENT, Mover, at, draw_traffic, road_yaw
from pd_edge.training.sim.world import Ground, draw_ground

FloatArray = npt.NDArray[np.float64]

PERIOD = 0.1
"""Time between scans [s]."""
REACH = 90.0
"""Distance from the sensor to which the street is built [m]."""


class Street(NamedTuple):
    """What stays the same throughout a drive, in the frame of the first scan without its heading."""

    ground: Ground
    movers: list[Mover]
    pieces: list[Mesh]
    """Everything that never moves and is no object."""
    extents: FloatArray
    """(pieces, 2) least and greatest x of each [m]."""
    reflectivity: FloatArray
    """(movers + pieces, M)."""
    sensor: Sensor
    speed: float
    """Of the sensor [m/s]."""


class DriveScan(NamedTuple):
    """One scan of a drive with its ground truth."""

    points: npt.NDArray[np.float32]
    """(N, 4) float32, the sensor's own frame, the whole turn."""
    labels: list[Label]
    """What the camera sees."""
    boxes: FloatArray
    """(K, 7) of every object of the street, the sensor's own frame."""
    seen: npt.NDArray[np.bool_]
    """(K,) bool: the object has points in this scan."""
    occlusion: npt.NDArray[np.int64]
    """(K,) int64, KITTI's states."""


@lru_cache(maxsize=1)
def draw_street(seed: int, frames: int, config: SimulateConfig) -> Street:
    """The street of a drive; each process keeps the last one."""
    rng = np.random.default_rng([seed, 0])
    stats = layout_stats()
    speed = rng.uniform(5.0, 11.0)
    span = (-REACH, REACH + speed * PERIOD * frames)
    ground = draw_ground(rng, config.world, stats.ground)._replace(curbs=CURBS, sag=0.0)
    movers = draw_traffic(rng, stats, ground, span, speed)
    kept_free = np.concatenate([_parked(movers, ground), _pavements(ground, span)])
    pieces = scenery(rng, config.world, ground, kept_free, span)
    extents = np.array([(piece.vertices[:, 0].min(), piece.vertices[:, 0].max()) for piece in pieces])
    reflectivity = draw_reflectivity(rng, len(movers) + len(pieces))
    return Street(ground, movers, pieces, extents, reflectivity, draw_sensor(rng, config.sensor), speed)


def _parked(movers: list[Mover], ground: Ground) -> FloatArray:
    """(K, 7) boxes of what never moves."""
    return np.array([box_of(mover.actor, ground) for mover in movers if mover.speed == 0]).reshape(-1, 7)


def _pavements(ground: Ground, span: tuple[float, float]) -> FloatArray:
    """(K, 7) small boxes along the walking lanes, where nothing may stand."""
    x = np.arange(span[0], span[1], 0.7)
    lanes = [ground.axis(x) + across for across in (CURBS[0] - PAVEMENT, CURBS[1] + PAVEMENT)]
    rows = [np.column_stack([x, y, np.zeros_like(x), np.full((len(x), 3), 0.2), np.zeros_like(x)]) for y in lanes]
    return np.concatenate(rows)


def ego_pose(street: Street, index: int) -> FloatArray:
    """(4, 4) pose of the LiDAR at a scan, x east, y north, z up [m]; level, and turned with the road."""
    x = street.speed * PERIOD * index
    y = float(street.ground.axis(x))
    yaw = road_yaw(street.ground, x)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = x, y, float(street.ground.z(x, y)) - street.ground.height
    return pose


def imu_poses(street: Street, frames: int) -> FloatArray:
    """(frames, 4, 4) poses of the inertial unit."""
    to_lidar = camera_calibration().Tr_imu_to_velo
    unit = np.eye(4) if to_lidar is None else homogeneous(to_lidar)
    return np.array([ego_pose(street, index) @ unit for index in range(frames)])


def drive_scan(seed: int, frames: int, config: SimulateConfig, index: int) -> DriveScan:
    """One scan; depends on nothing but its arguments."""
    street = draw_street(seed, frames, config)
    rng = np.random.default_rng([seed, 1 + index])
    pose = ego_pose(street, index)
    actors = [at(mover, street.ground, PERIOD * index) for mover in street.movers]
    boxes = _to_sensor(np.array([box_of(actor, street.ground) for actor in actors]), pose)
    near = np.flatnonzero(np.hypot(boxes[:, 0], boxes[:, 1]) < REACH)
    standing = [stand(actors[index], street.ground) for index in near]
    around = np.flatnonzero((street.extents[:, 0] < pose[0, 3] + REACH) & (street.extents[:, 1] > pose[0, 3] - REACH))
    pieces = [_seen_from(mesh, pose) for mesh in (*standing, *(street.pieces[index] for index in around))]
    bright = street.reflectivity[np.concatenate([near, len(actors) + around])]
    rays = turn_rays(rng, config.sensor, street.sensor, full=True)
    result = scan(rng, config.sensor, street.sensor, rays, pieces, reflectivity=bright)
    in_image = crop_to_image(result.points, camera_calibration(config.sensor.lift))
    share = visibility(boxes[near], rays, result.hits)
    names = [actors[index].name for index in near]
    labels = annotate(names, boxes[near], share, result.points_on(len(near), in_image), config.min_points)
    has_points, occlusion = np.zeros(len(actors), bool), np.full(len(actors), 3)
    has_points[near], occlusion[near] = result.points_on(len(near)) >= config.min_points, occlusion_states(share)
    boxes[:, 2] -= config.sensor.lift
    return DriveScan(result.points, labels, boxes, has_points, occlusion)


def _to_sensor(boxes: FloatArray, pose: FloatArray) -> FloatArray:
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    moved = boxes.copy()
    moved[:, :3] = (boxes[:, :3] - pose[:3, 3]) @ pose[:3, :3]
    moved[:, 6] = (boxes[:, 6] - yaw + np.pi) % (2 * np.pi) - np.pi
    return moved


def _seen_from(mesh: Mesh, pose: FloatArray) -> Mesh:
    yaw = float(np.arctan2(pose[1, 0], pose[0, 0]))
    return move(mesh, -pose[:3, 3] @ pose[:3, :3], -yaw)


def tracklets(
    street: Street, boxes: FloatArray, seen: npt.NDArray[np.bool_], occlusion: npt.NDArray[np.int64]
) -> list[Tracklet]:
    """Tracks of all objects that ever have points, from the first to the last scan in which they do.

    Args:
        street: The drive's street.
        boxes: (scans, K, 7).
        seen: (scans, K).
        occlusion: (scans, K).
    """
    tracks = []
    for index, mover in enumerate(street.movers):
        scans = np.flatnonzero(seen[:, index])
        if not len(scans):
            continue
        part = slice(int(scans[0]), int(scans[-1]) + 1)
        poses = boxes[part, index][:, [0, 1, 2, 6]]
        poses[:, 2] -= mover.actor.shape.size[2] / 2
        tracks.append(Tracklet(mover.actor.name, mover.actor.shape.size, int(scans[0]), poses, occlusion[part, index]))
    return tracks
