"""Random changes of a training scene: pure functions of a scene and a generator, which they alone draw from.

No function writes into the arrays it is given. A box keeps its points: what lies in a box before a geometric change
lies in the changed box after it.

Source: SECOND (Yan, Mao, Li; Sensors 2018, section 3.2) for sampling, per-object noise and the global changes; the
ranges of the reference recipe are the defaults of :class:`~pd_edge.training.data_config.AugmentConfig`. Deviations:
objects are noised in x, y and yaw only, so that they stay on their ground; mirrored scenes are mirrored exactly.
"""

import numpy as np
import numpy.typing as npt

from pd_edge.boxes import bev_iou, points_in_boxes, wrap_angle
from pd_edge.training.data_config import AugmentConfig
from pd_edge.training.object_bank import ObjectBank
from pd_edge.training.scene import Scene
from pd_edge.training.sim.beams import nearest_beam

CLEARANCE = 0.1
"""Space that a pasted object keeps free on each side of its box [m]."""

BEAM_SPACING = np.deg2rad(26.9 / 64)
"""Mean angle between the beams of an HDL-64E [rad]: 26.9 degrees of vertical field of view, 64 lasers (data sheet)."""

FEWEST = 4
"""Greatest number of beams of which one is kept: 16 of an HDL-64E's 64 are left."""

NOISE_TRIES = 5
"""How often an object looks for a free place of its own before it stays where it is."""


def augment(scene: Scene, config: AugmentConfig, bank: ObjectBank | None, rng: np.random.Generator) -> Scene:
    """Applies every change that is switched on, in the order of the functions below.

    Args:
        scene: The frame as recorded.
        config: Ranges; a zero skips its function and draws no random number.
        bank: Objects to paste; without a bank none are.
        rng: Where all randomness comes from.
    """
    if config.sampled_objects and bank is not None:
        scene = sample_objects(scene, bank, config.sampled_objects, rng)
    if config.beam_dropout:
        scene = drop_beams(scene, rng.uniform(0, config.beam_dropout), rng)
    if config.fewer_beams and rng.random() < config.fewer_beams:
        every = int(rng.integers(2, FEWEST + 1))
        scene = thin_beams(scene, every, int(rng.integers(every)))
    if config.object_shift or config.object_turn:
        scene = move_objects(scene, config.object_shift, config.object_turn, rng)
    if config.flip and rng.random() < config.flip:
        scene = flip(scene)
    if config.rotation:
        scene = rotate(scene, rng.uniform(-config.rotation, config.rotation))
    if config.scaling:
        scene = rescale(scene, rng.uniform(1 - config.scaling, 1 + config.scaling))
    if config.translation:
        scene = translate(scene, rng.normal(0, config.translation, 3))
    if config.intensity_jitter:
        scene = jitter_intensity(scene, config.intensity_jitter, rng)
    return scene


def sample_objects(scene: Scene, bank: ObjectBank, per_class: int, rng: np.random.Generator) -> Scene:
    """Pastes objects from the bank, at the place where they were recorded, until each class has ``per_class``.

    An object that would overlap another box (bird's-eye view, with :data:`CLEARANCE` around it) is left out, so a
    crowded scene gets fewer. Scene points inside the pasted boxes, enlarged by the clearance, are removed.
    """
    drawn = np.concatenate([
        bank.draw(label, per_class - int(np.count_nonzero(scene.labels == label)), rng)
        for label in range(bank.class_count)
    ])  # fmt: skip
    drawn = drawn[_free(bank.boxes[drawn], scene.boxes)]
    if not len(drawn):
        return scene
    boxes = bank.boxes[drawn]
    background = scene.points[points_in_boxes(scene.points, _enlarged(boxes)) < 0]
    return Scene(
        np.concatenate([background, *(bank.points_of(index) for index in drawn)]),
        np.concatenate([scene.boxes, boxes]),
        np.concatenate([scene.labels, bank.labels[drawn]]),
    )


def _enlarged(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Boxes with :data:`CLEARANCE` added on every side."""
    grown = boxes.copy()
    grown[:, 3:6] += 2 * CLEARANCE
    return grown


def _free(candidates: npt.NDArray[np.float32], obstacles: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Candidates, in their order, that overlap no obstacle and no candidate taken before them."""
    clash = bev_iou(_enlarged(candidates), np.concatenate([obstacles, candidates])) > 0
    against_obstacles, among = clash[:, : len(obstacles)].any(axis=1), clash[:, len(obstacles) :]
    among = among | among.T
    taken: list[int] = []
    for index in np.flatnonzero(~against_obstacles):
        if not among[index, taken].any():
            taken.append(int(index))
    return np.array(taken, dtype=np.int64)


def drop_beams(scene: Scene, share: float, rng: np.random.Generator) -> Scene:
    """Removes each laser beam's points with probability ``share``.

    The beam is estimated from the elevation of the point in steps of :data:`BEAM_SPACING`; the real beams of an
    HDL-64E leave from different heights and are not evenly spaced, so near the vehicle a step holds parts of two.
    """
    x, y, z = scene.points[:, :3].T
    beam = np.floor(np.arctan2(z, np.hypot(x, y)) / BEAM_SPACING).astype(np.int64)
    first = int(beam.min(initial=0))
    dropped = rng.random(int(beam.max(initial=0)) - first + 1) < share
    return scene._replace(points=scene.points[~dropped[beam - first]])


def thin_beams(scene: Scene, every: int, first: int) -> Scene:
    """Keeps every so-many-th laser beam, as of a sensor with fewer: beams ``first``, ``first + every``, ...

    A point's beam is the one of KITTI's HDL-64E that passes nearest, by elevation and the height that it leaves from;
    clouds carry no number of it. Of a cloud of another sensor rows as wide as these are kept.
    """
    return scene._replace(points=scene.points[nearest_beam(scene.points) % every == first])


def move_objects(scene: Scene, shift: float, turn: float, rng: np.random.Generator) -> Scene:
    """Shifts every object in x and y and turns it about its own vertical axis, points and all.

    An object that would run into another one draws again, at most :data:`NOISE_TRIES` times in all, then stays.

    Args:
        scene: The scene.
        shift: Standard deviation of the shift along each axis [m].
        turn: Greatest turn [rad], drawn evenly from both directions.
        rng: Where all randomness comes from.
    """
    boxes = _moved_boxes(scene.boxes, shift, turn, rng)
    owner = points_in_boxes(scene.points, scene.boxes)
    of_object = np.flatnonzero(owner >= 0)
    owner = owner[of_object]
    points = scene.points.copy()
    points[of_object, :2] = _carried(points[of_object, :2], scene.boxes[owner], boxes[owner])
    return scene._replace(points=points, boxes=boxes)


def _moved_boxes(
    boxes: npt.NDArray[np.float32], shift: float, turn: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Boxes after their own shift and turn, where that is free.

    All objects propose at once and a proposal has to be clear of the others' old and new places, so whichever
    proposals are accepted, they do not meet.
    """
    count = len(boxes)
    placed = boxes.copy()
    waiting = np.ones(count, dtype=bool)
    for _ in range(NOISE_TRIES):
        proposed = placed.copy()
        proposed[:, :2] += rng.normal(0, shift, (count, 2)).astype(np.float32)
        proposed[:, 6] = wrap_angle(proposed[:, 6] + rng.uniform(-turn, turn, count).astype(np.float32))
        proposed[~waiting] = placed[~waiting]
        overlap = bev_iou(proposed, placed) + bev_iou(proposed, proposed)
        np.fill_diagonal(overlap, 0)
        accepted = waiting & ~(overlap > 0).any(axis=1)
        placed[accepted] = proposed[accepted]
        waiting &= ~accepted
        if not waiting.any():
            break
    return placed


def _carried(
    xy: npt.NDArray[np.float32], old: npt.NDArray[np.float32], new: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Positions (N, 2) taken along from their old boxes (N, 7) to the new ones."""
    return _turned(xy - old[:, :2], new[:, 6] - old[:, 6]) + new[:, :2]


def _turned(xy: npt.NDArray[np.float32], angle: npt.NDArray[np.float32] | np.float32) -> npt.NDArray[np.float32]:
    """Positions (N, 2) turned about the origin by one angle or one each [rad]."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = xy.T
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)


def flip(scene: Scene) -> Scene:
    """Mirrors the scene in the xz plane: left becomes right."""
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, 1] *= -1
    boxes[:, 1] *= -1
    boxes[:, 6] = wrap_angle(-boxes[:, 6])
    return scene._replace(points=points, boxes=boxes)


def rotate(scene: Scene, angle: float) -> Scene:
    """Turns the scene about the sensor's vertical axis by ``angle`` [rad], counter-clockwise seen from above."""
    turn = np.float32(angle)
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, :2] = _turned(points[:, :2], turn)
    boxes[:, :2] = _turned(boxes[:, :2], turn)
    boxes[:, 6] = wrap_angle(boxes[:, 6] + turn)
    return scene._replace(points=points, boxes=boxes)


def rescale(scene: Scene, factor: float) -> Scene:
    """Multiplies every length by ``factor``, from the sensor's origin."""
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, :3] *= np.float32(factor)
    boxes[:, :6] *= np.float32(factor)
    return scene._replace(points=points, boxes=boxes)


def translate(scene: Scene, offset: npt.ArrayLike) -> Scene:
    """Shifts the scene by ``offset`` (3,) [m]."""
    shift = np.asarray(offset, dtype=np.float32)
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, :3] += shift
    boxes[:, :3] += shift
    return scene._replace(points=points, boxes=boxes)


def jitter_intensity(scene: Scene, amount: float, rng: np.random.Generator) -> Scene:
    """Multiplies all intensities by 1 +- ``amount`` and adds +- half of it; saturates at 0 and 1."""
    gain, offset = rng.uniform(1 - amount, 1 + amount), rng.uniform(-amount / 2, amount / 2)
    points = scene.points.copy()
    points[:, 3] = np.clip(points[:, 3] * np.float32(gain) + np.float32(offset), 0, 1)
    return scene._replace(points=points)
