"""nuScenes as own data: keyframes with the sweeps before them, moved by the car's own motion, and their boxes.

The clouds' frame is that of the LiDAR at the keyframe, turned so that x looks ahead: nuScenes has x to the right and y
ahead. The sweeps' time lags are not written: the models here read x, y, z and intensity.

Source: the schema of nuScenes (its devkit, ``docs/schema_nuscenes.md``); the names are those of its detection task.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import Cloud
from pd_edge.data_from_labels import Imported
from pd_edge.errors import DataError, MissingExtraError
from pd_edge.files import read_bytes, write_bytes
from pd_edge.own_data import SPLITS
from pd_edge.own_labels import Objects, objects_of
from pd_edge.own_writer import OwnWriter
from pd_edge.sensors import SensorProfile

NAMES = {
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""Classes by category; objects of other categories are kept as ignored ones."""
LIDAR = "LIDAR_TOP"
GREATEST = 255.0
"""Intensity that nuScenes' sensor writes at most."""
CLOSE = 1.0
"""Points this near in x and y lie on the car that carries the sensor [m]."""
AHEAD = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""From nuScenes' LiDAR frame (x right, y ahead) to x ahead, y left."""
_SPLITS = {"v1.0-trainval": ("train", "val"), "v1.0-mini": ("mini_train", "mini_val")}
Matrix = npt.NDArray[np.float64]


def from_nuscenes(
    root: Path, out: Path, version: str, sweeps: int = 10, advance: Callable[[int, int], None] | None = None
) -> Imported:
    """Converts a nuScenes database.

    Args:
        root: The folder that holds ``samples``, ``sweeps``, ``maps`` and the version's folder.
        out: The folder to write.
        version: ``v1.0-mini``, ``v1.0-trainval``.
        sweeps: Clouds to join, the keyframe's among them.
        advance: Called with the frames done and all frames, after each.

    Raises:
        DataError: There is no such version, or a table or cloud is missing or damaged.
        MissingExtraError: ``nuscenes-devkit`` is not installed.
    """
    base = _open(root, version)
    first = base.get("sample_data", base.sample[0]["data"][LIDAR])
    height = float(base.get("calibrated_sensor", first["calibrated_sensor_token"])["translation"][2])
    profile = SensorProfile(name=f"nuScenes {LIDAR}", height=height, intensity_max=GREATEST)
    writer, others, of_scene = OwnWriter(out, profile), Counter[str](), dict[str, list[str]]()
    for name, scene, sample in _samples(base):
        reference = base.get("sample_data", sample["data"][LIDAR])
        to_frame = AHEAD @ np.linalg.inv(_pose(base, reference))
        objects, strange = _objects(base, sample["anns"], to_frame)
        others.update(strange)
        of_scene.setdefault(scene, []).append(name)
        writer.add(name, _joined(base, root, reference, to_frame, sweeps), objects, 1000 * int(sample["timestamp"]))
        if advance is not None:
            advance(writer.frames, len(base.sample))
    writer.finish()
    _write_splits(out, version, of_scene)
    known = [f"ignored, as nuScenes' detection task does: {name} ({count})" for name, count in others.most_common()]
    return Imported(writer.frames, writer.objects, (*known, "velocities, attributes and time lags were left out"))


def _open(root: Path, version: str) -> Any:
    try:
        from nuscenes.nuscenes import NuScenes  # noqa: PLC0415 - extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("nuscenes-devkit", "nuscenes") from error
    if not (root / version).is_dir():
        raise DataError(f"{root}: no {version}; it holds {', '.join(sorted(each.name for each in root.glob('v*')))}")
    try:
        base = NuScenes(version=version, dataroot=str(root), verbose=False)
    except (AssertionError, KeyError, OSError, ValueError) as error:
        raise DataError(f"{root / version}: cannot be read as nuScenes ({type(error).__name__}: {error})") from error
    if not base.sample:
        raise DataError(f"{root / version}: has no samples")
    return base


def _samples(base: Any) -> Iterator[tuple[str, str, Any]]:
    """Name of the frame, name of the scene and the sample of every keyframe."""
    for scene in base.scene:
        token, number = scene["first_sample_token"], 0
        while token:
            sample = base.get("sample", token)
            yield f"{scene['name']}_{number:03d}", scene["name"], sample
            token, number = sample["next"], number + 1


def _joined(base: Any, root: Path, reference: Any, to_frame: Matrix, sweeps: int) -> Cloud:
    """The keyframe's cloud and those before it, each seen from where the car was at the keyframe."""
    parts, record = [], reference
    for _ in range(sweeps):
        points = _sweep(root / record["filename"])
        moved = to_frame @ _pose(base, record)
        points[:, :3] = points[:, :3] @ moved[:3, :3].T + moved[:3, 3]
        parts.append(points)
        if not record["prev"]:
            break
        record = base.get("sample_data", record["prev"])
    return np.concatenate(parts).astype(np.float32)


def _sweep(path: Path) -> Matrix:
    """(N, 4) x y z [m], intensity as written, without the points on the car itself."""
    data = read_bytes(path, "a sweep of nuScenes")
    if len(data) % 20 or not data:
        raise DataError(f"{path}: {len(data)} bytes are no whole number of points of 20 bytes; truncated?")
    points = np.frombuffer(data, "<f4").reshape(-1, 5)[:, :4].astype(np.float64)
    return points[(np.abs(points[:, :2]) >= CLOSE).any(axis=1)]


def _pose(base: Any, record: Any) -> Matrix:
    """(4, 4) from a sweep's LiDAR to the world."""
    car = base.get("ego_pose", record["ego_pose_token"])
    sensor = base.get("calibrated_sensor", record["calibrated_sensor_token"])
    return _matrix(car["translation"], car["rotation"]) @ _matrix(sensor["translation"], sensor["rotation"])


def _matrix(translation: Sequence[float], rotation: Sequence[float]) -> Matrix:
    """(4, 4) of a translation [m] and a quaternion w x y z."""
    w, x, y, z = np.asarray(rotation, np.float64) / np.linalg.norm(rotation)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return matrix


def _objects(base: Any, tokens: Sequence[str], to_frame: Matrix) -> tuple[Objects, list[str]]:
    """The annotations of a sample in the cloud's frame, and the categories of those to ignore."""
    boxes, names, ignored, strange = [], [], [], []
    for token in tokens:
        each = base.get("sample_annotation", token)
        placed = to_frame @ _matrix(each["translation"], each["rotation"])
        width, length, height = each["size"]
        category = each["category_name"]
        boxes.append([*placed[:3, 3], length, width, height, np.arctan2(placed[1, 0], placed[0, 0])])
        names.append(NAMES.get(category, category))
        ignored.append(category not in NAMES)
        strange += [category] if category not in NAMES else []
    return objects_of(boxes, names, ignored), strange


def _write_splits(out: Path, version: str, of_scene: dict[str, list[str]]) -> None:
    """NuScenes' own division into scenes to train and to validate on, where it has one for the version."""
    from nuscenes.utils.splits import create_splits_scenes  # noqa: PLC0415 - extra

    scenes = create_splits_scenes()
    for target, name in zip(("train", "val"), _SPLITS.get(version, ()), strict=False):
        frames = [frame for scene, frames in of_scene.items() if scene in scenes[name] for frame in frames]
        if frames:
            write_bytes(out / SPLITS[0] / f"{target}.txt", "\n".join([*frames, ""]).encode())
