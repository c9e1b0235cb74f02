"""Boxes of labelling tools, in their own formats, written here."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.boxes import wrap_angle
from pd_edge.cli import main
from pd_edge.clouds import write_cloud
from pd_edge.data_from_labels import from_labelcloud, from_sustechpoints
from pd_edge.errors import DataError
from pd_edge.own_data import OwnDataset

BOXES = np.array([[12.0, 2.0, -1.0, 4.0, 1.7, 1.5, 0.4], [-15.0, -3.0, -0.5, 8.0, 2.5, 3.0, -2.0]])
NAMES = ["Car", "Truck"]
Cloud = npt.NDArray[np.float32]


def labelcloud(turn: Any) -> dict[str, Any]:
    objects = [
        {
            "name": name,
            "centroid": dict(zip("xyz", box[:3], strict=True)),
            "dimensions": {"length": box[3], "width": box[4], "height": box[5]},
            "rotations": {"x": 0, "y": 0, "z": turn(box[6])},
        }
        for name, box in zip(NAMES, BOXES.tolist(), strict=True)
    ]
    return {"folder": "pointclouds", "filename": "a.pcd", "path": "x/a.pcd", "objects": objects}


def sustech(*, old: bool = False, tilt: float = 0.0) -> list[dict[str, Any]]:
    found = []
    for name, (x, y, z, length, width, height, yaw) in zip(NAMES, BOXES.tolist(), strict=True):
        scale = {"x": width, "y": length, "z": height} if old else {"x": length, "y": width, "z": height}
        rotation = {"x": tilt, "y": 0, "z": yaw - math.pi / 2 if old else yaw}
        psr = {"position": {"x": x, "y": y, "z": z}, "scale": scale, "rotation": rotation}
        found.append({"psr": psr, "obj_type": name, "obj_id": "1"})
    return found


def write(root: Path, clouds: str, labels: str, data: Any, cloud: Cloud) -> Path:
    for name in ("a", "b"):
        write_cloud(root / clouds / f"{name}.pcd", cloud)
        (root / labels).mkdir(exist_ok=True)
        (root / labels / f"{name}.json").write_text(json.dumps(data))
    (root / labels / "_classes.json").write_text("{}")
    write_cloud(root / clouds / "unlabelled.pcd", cloud)
    return root


def check(out: Path, cloud: Cloud) -> None:
    data = OwnDataset(out)
    assert data.ids == ["a", "b"]
    for name in data.ids:
        objects = data.objects(name)
        assert objects is not None
        np.testing.assert_allclose(objects.boxes[:, :6], BOXES[:, :6], atol=1e-3)
        np.testing.assert_allclose(wrap_angle(objects.boxes[:, 6] - BOXES[:, 6]), 0, atol=1e-3)
        assert objects.names == NAMES
    np.testing.assert_allclose(data.frame(0).points, cloud)


@pytest.mark.parametrize(
    ("turn", "said"), [(lambda yaw: math.degrees(yaw) % 360, "in degrees"), (lambda yaw: yaw, "taken for radians")]
)
def test_labelcloud(tmp_path: Path, clouds: list[Cloud], turn: Any, said: str) -> None:
    source = write(tmp_path / "project", "pointclouds", "labels", labelcloud(turn), clouds[0])
    imported = from_labelcloud(source, tmp_path / "out")
    assert imported[:2] == (2, 4)
    assert len(imported.notes) == 1
    assert said in imported.notes[0]
    check(tmp_path / "out", clouds[0])


@pytest.mark.parametrize("old", [False, True])
def test_sustechpoints(tmp_path: Path, clouds: list[Cloud], old: bool) -> None:
    source = write(tmp_path / "scene", "lidar", "label", sustech(old=old), clouds[0])
    imported = from_sustechpoints(source, tmp_path / "out")
    assert imported[:2] == (2, 4)
    assert [("exchanged" in note) for note in imported.notes] == [True] * old
    check(tmp_path / "out", clouds[0])


def test_newer_files_and_tilted_boxes(tmp_path: Path, clouds: list[Cloud]) -> None:
    data = {"frame": "a", "objs": sustech(tilt=0.3)}
    source = write(tmp_path / "scene", "lidar", "label", data, clouds[0])
    assert from_sustechpoints(source, tmp_path / "out").notes == (
        "4 boxes are turned about x or y by more than 0.1 rad; only the turn about z is kept",
    )
    check(tmp_path / "out", clouds[0])


def test_what_does_not_belong(tmp_path: Path, clouds: list[Cloud]) -> None:
    source = write(tmp_path / "scene", "lidar", "label", sustech(), clouds[0])
    with pytest.raises(DataError, match=r"a\.json: not as this tool writes labels .*is it of another one"):
        from_labelcloud(source, tmp_path / "out")
    (source / "lidar" / "b.pcd").unlink()
    with pytest.raises(DataError, match=r"no cloud for the labels b\.json"):
        from_sustechpoints(source, tmp_path / "out")
    with pytest.raises(DataError, match="no label files"):
        from_sustechpoints(tmp_path, tmp_path / "out")
    flat = sustech()
    flat[1]["psr"]["scale"]["z"] = 0
    (source / "label" / "a.json").write_text(json.dumps(flat))
    with pytest.raises(DataError, match=r"a\.json: object 1 \(Truck\)"):
        from_sustechpoints(source, tmp_path / "out")


def test_nuscenes_needs_its_devkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nuscenes", None)
    monkeypatch.setitem(sys.modules, "nuscenes.nuscenes", None)
    for arguments, code, said in (
        (["--version", "v1.0-mini"], 1, "pip install 'pd-edge[nuscenes]'"),
        ([], 2, "nuscenes needs --version"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["data", "import", "nuscenes", str(tmp_path), str(tmp_path / "out"), *arguments])
        assert exit_.value.code == code
        assert said in " ".join(capsys.readouterr().err.split())


def test_the_command_refuses_to_mix(tmp_path: Path, clouds: list[Cloud], capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "scene", "lidar", "label", sustech(), clouds[0])
    for code, said in ((0, "2 frames, 4 objects"), (1, "holds points already")):
        with pytest.raises(SystemExit) as exit_:
            main(["data", "import", "sustechpoints", str(source), str(tmp_path / "out")])
        assert exit_.value.code == code
        assert said in "".join(capsys.readouterr())
