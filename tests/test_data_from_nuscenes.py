"""A nuScenes database of two keyframes, written here, as own data."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("nuscenes", reason="needs the nuscenes extra")

from pd_edge.data_from_nuscenes import NAMES, from_nuscenes
from pd_edge.errors import DataError
from pd_edge.own_data import OwnDataset

SPEED, TURN = 2.0, 0.1
"""Of the car from one sweep to the next: metres ahead, radians to the left."""
POST = np.array([20.0, 5.0, 1.0])
"""A post that stands still, in the world [m]."""
QUARTER = [math.cos(-math.pi / 4), 0, 0, math.sin(-math.pi / 4)]
"""nuScenes' LiDAR looks along its y: turned to the right by a quarter."""
Doubles = npt.NDArray[np.float64]


def about_z(angle: float) -> list[float]:
    return [math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)]


def seen(point: Doubles, number: int) -> Doubles:
    """A point of the world from the car at a sweep, from the sensor 1.84 m up and 0.9 m ahead, x ahead."""
    yaw = TURN * number
    x, y, z = point - [SPEED * number, 0, 0]
    ahead, left = math.cos(yaw) * x + math.sin(yaw) * y, math.cos(yaw) * y - math.sin(yaw) * x
    return np.array([ahead - 0.9, left, z - 1.84])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four sweeps, of which the second and the last are keyframes; one car and one animal in each of those."""
    root = tmp_path / "nuscenes"
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in ("attribute", "visibility", "image_annotations")}
    tables.pop("image_annotations")
    tables["category"] = [{"token": "c0", "name": "vehicle.car"}, {"token": "c1", "name": "animal"}]
    tables["instance"] = [{"token": f"i{n}", "category_token": f"c{n}"} for n in range(2)]
    tables["sensor"] = [{"token": "lidar", "modality": "lidar", "channel": "LIDAR_TOP"}]
    mount = {"token": "cs", "sensor_token": "lidar", "translation": [0.9, 0, 1.84], "rotation": QUARTER}
    tables["calibrated_sensor"] = [mount]
    tables["log"] = [{"token": "log"}]
    tables["map"] = [{"token": "map", "log_tokens": ["log"], "filename": "maps/m.png"}]
    tables["scene"] = [{"token": "s", "name": "scene-0061", "first_sample_token": "k0", "log_token": "log"}]
    tables["sample"] = [
        {"token": "k0", "timestamp": 1_100_000, "next": "k1", "prev": "", "scene_token": "s"},
        {"token": "k1", "timestamp": 1_300_000, "next": "", "prev": "k0", "scene_token": "s"},
    ]
    tables["ego_pose"], tables["sample_data"], tables["sample_annotation"] = [], [], []
    for number in range(4):
        pose = {"token": f"e{number}", "translation": [SPEED * number, 0, 0], "rotation": about_z(TURN * number)}
        tables["ego_pose"].append(pose)
        folder = "samples" if number % 2 else "sweeps"
        name = f"{folder}/LIDAR_TOP/{number}.pcd.bin"
        ahead, left, up = seen(POST, number)
        points = [[-left, ahead, up, 255.0 - number, 7], [0.1, 0.2, 0, 9, 1]]
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.array(points, "<f4").tofile(root / name)
        record: dict[str, Any] = {
            "token": f"d{number}",
            "sample_token": f"k{number // 2}",
            "ego_pose_token": f"e{number}",
        }
        record |= {"calibrated_sensor_token": "cs", "filename": name, "timestamp": 10**6 + number * 10**5}
        links = {"prev": f"d{number - 1}" if number else "", "next": f"d{number + 1}" if number < 3 else ""}
        tables["sample_data"].append({**record, **links, "is_key_frame": number % 2 == 1})
    for sample in range(2):
        for kind in range(2):
            where = {"translation": [30.0, -4.0, 0.8], "rotation": about_z(1.0), "size": [1.8, 4.2, 1.6]}
            names = {"token": f"a{sample}{kind}", "sample_token": f"k{sample}", "instance_token": f"i{kind}"}
            tables["sample_annotation"].append({**names, **where})
    (root / "maps").mkdir()
    (root / "maps" / "m.png").write_bytes(b"not looked at")
    (root / "v1.0-mini").mkdir()
    for table, rows in tables.items():
        (root / "v1.0-mini" / f"{table}.json").write_text(json.dumps(rows))
    return root


def test_sweeps_are_joined_where_the_car_was_at_the_keyframe(root: Path, tmp_path: Path) -> None:
    imported = from_nuscenes(root, tmp_path / "out", "v1.0-mini", sweeps=3)
    assert imported[:2] == (2, 4)
    assert "animal (2)" in imported.notes[0]
    data = OwnDataset(tmp_path / "out")
    assert data.ids == ["scene-0061_000", "scene-0061_001"]
    for name, number, count in zip(data.ids, (1, 3), (2, 3), strict=True):
        cloud = data.cloud(name).points
        np.testing.assert_allclose(cloud[:, :3], np.tile(seen(POST, number), (count, 1)), atol=1e-4)
        np.testing.assert_allclose(cloud[:, 3], (255 - number + np.arange(count)) / 255, atol=1e-6)
    assert data.profile.height == 1.84
    assert (tmp_path / "out" / "times.txt").read_text().splitlines()[0] == "scene-0061_000 1100000000"


def test_boxes_are_in_the_clouds_frame(root: Path, tmp_path: Path) -> None:
    from_nuscenes(root, tmp_path / "out", "v1.0-mini")
    objects = OwnDataset(tmp_path / "out").objects("scene-0061_001")
    assert objects is not None
    assert (objects.names, objects.ignored) == (["car", "animal"], [False, True])
    expected = [*seen(np.array([30.0, -4.0, 0.8]), 3), 4.2, 1.8, 1.6, 1.0 - 3 * TURN]
    np.testing.assert_allclose(objects.boxes[0], expected, atol=1e-3)


def test_scenes_keep_their_split(root: Path, tmp_path: Path) -> None:
    from_nuscenes(root, tmp_path / "out", "v1.0-mini")
    assert OwnDataset(tmp_path / "out", "train").ids == ["scene-0061_000", "scene-0061_001"]
    assert not (tmp_path / "out" / "splits" / "val.txt").exists()


def test_names_are_those_of_the_detection_task() -> None:
    from nuscenes.eval.detection.utils import category_to_detection_name

    assert all(category_to_detection_name(category) == name for category, name in NAMES.items())


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no v1\.0-trainval; it holds v1\.0-mini"):
        from_nuscenes(root, tmp_path / "out", "v1.0-trainval")
    (root / "sweeps" / "LIDAR_TOP" / "0.pcd.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"0\.pcd\.bin: 3 bytes are no whole number of points"):
        from_nuscenes(root, tmp_path / "out", "v1.0-mini")
    (root / "v1.0-mini" / "sample.json").write_text("[")
    with pytest.raises(DataError, match="cannot be read as nuScenes"):
        from_nuscenes(root, tmp_path / "other", "v1.0-mini")
