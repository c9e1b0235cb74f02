"""Checks of own data: clean data pass, and each mistake is named, mended, and leads to the same anchors."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.cli import main
from pd_edge.clouds import write_cloud
from pd_edge.config import ClassConfig, GridConfig
from pd_edge.data_check import DataReport, check_data, lines, wanted_from
from pd_edge.errors import ConfigError, DataError
from pd_edge.label_evidence import Wanted
from pd_edge.own_labels import objects_of, write_objects

GROUND = -1.73
SIZES = {"Car": (4.0, 1.7, 1.5), "Truck": (8.0, 2.5, 3.0)}
CLASSES = tuple(ClassConfig(name=name, anchor_size=size, anchor_z=GROUND + size[2] / 2) for name, size in SIZES.items())
WANTED = Wanted(GridConfig(z_max=2.0), CLASSES)
Doubles = npt.NDArray[np.float64]
Object = dict[str, Any]


def shell(box: Doubles, rng: np.random.Generator) -> Doubles:
    """120 points on the four sides of a box."""
    side, along = rng.integers(0, 4, 120), rng.uniform(-0.49, 0.49, 120)
    across = np.where(side % 2, 0.49, -0.49)
    local = np.where((side < 2)[:, None], np.column_stack([along, across]), np.column_stack([across, along])) * box[3:5]
    turn = np.array([[math.cos(box[6]), math.sin(box[6])], [-math.sin(box[6]), math.cos(box[6])]])
    return np.column_stack([local @ turn + box[:2], box[2] + rng.uniform(-0.49, 0.49, 120) * box[5]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four frames of five cars and a truck on flat ground, headings all around."""
    for number in range(4):
        rng = np.random.default_rng(number)
        names = ["Car"] * 5 + ["Truck"]
        sizes = np.array([SIZES[name] for name in names])
        x, y = np.array([8.0, 8, 18, 18, 27, 27]), np.array([-8.0, 6, -10, 3, -12, 8])
        yaw = rng.uniform(0.3, 1.2, 6) + rng.integers(0, 4, 6) * math.pi / 2
        boxes = np.column_stack([x, y, GROUND + sizes[:, 2] / 2, sizes, yaw])
        ground = np.column_stack([rng.uniform(-30, 30, (6000, 2)), rng.normal(GROUND, 0.02, 6000)])
        points = np.concatenate([ground, *(shell(box, rng) for box in boxes)])
        cloud = np.column_stack([points, rng.beta(2, 5, len(points))])
        write_cloud(tmp_path / "mine" / "points" / f"{number}.bin", cloud)
        write_objects(tmp_path / "mine" / "labels" / f"{number}.json", objects_of(boxes, names))
    return tmp_path / "mine"


def spoil(folder: Path, change: Callable[[Object], None]) -> None:
    for file in (folder / "labels").glob("*.json"):
        data = json.loads(file.read_text())
        for each in data["objects"]:
            change(each)
        file.write_text(json.dumps(data))


def names(report: DataReport) -> list[str]:
    """Findings about labels: the clouds' density and intensity are the doctor's matter."""
    return [each.name for each in report.findings if each.name not in ("density", "intensity scale", "axes")]


def as_metres_up(each: Object, by: float) -> None:
    each["centre"][2] += by


def test_ignored_objects_are_not_judged(folder: Path) -> None:
    def add_odd_car(each: Object) -> None:
        if each["class"] == "Truck":
            each.update({"size": [50, 2, 2], "class": "Car"})

    spoil(folder, add_odd_car)
    assert "sizes" in names(check_data(folder, WANTED))
    spoil(folder, lambda each: each.update({"ignore": each["size"][0] == 50}))
    report = check_data(folder, Wanted(GridConfig(z_max=2.0)))
    assert names(report) == []
    assert [row[:2] for row in report.objects] == [("Car", 20)]
    assert [each.name for each in report.classes] == ["Car"]


def test_clean_data_pass(folder: Path) -> None:
    report = check_data(folder, WANTED)
    assert names(report) == []
    assert [row[:4] for row in report.objects] == [("Car", 20, 0, 0), ("Truck", 4, 0, 0)]
    assert all(100 < points < 150 for *_, points in report.objects)
    assert report.classes == [each.model_copy(update={"anchor_z": round(each.anchor_z, 2)}) for each in CLASSES]
    assert "    - {name: Truck, anchor_size: [8, 2.5, 3], anchor_z: -0.23}" in list(lines(report))


@pytest.mark.parametrize(
    ("change", "name", "remedy"),
    [
        (lambda o: o.update(yaw=math.degrees(o["yaw"] % math.tau)), "yaw unit", "yaw * pi / 180"),
        (lambda o: o.update(size=[o["size"][1], o["size"][0], o["size"][2]]), "yaw", "length and width exchanged"),
        (lambda o: o.update(yaw=o["yaw"] + math.pi / 2), "yaw", "yaw: yaw + pi / 2"),
        (lambda o: o.update(yaw=-o["yaw"]), "yaw", "yaw: -yaw"),
        (lambda o: as_metres_up(o, -o["size"][2] / 2), "box bottoms", "z + height / 2"),
        (lambda o: as_metres_up(o, 3.5), "box bottoms", r"z -3.50"),
        (lambda o: o.update(centre=[-o["centre"][1], -o["centre"][2], o["centre"][0]]), "labels' frame", "[z, -x, -y]"),
        (lambda o: o.update(centre=[1000 * c for c in o["centre"]], size=[1000 * s for s in o["size"]]),
         "labels' frame", "times 0.001"),
        (lambda o: o.update(centre=[-o["centre"][0], *o["centre"][1:]]), "labels' frame", "[-x, y, z]"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_and_mended(folder: Path, change: Callable[[Object], None], name: str, remedy: str) -> None:
    spoil(folder, change)
    report = check_data(folder, WANTED)
    assert names(report) == [name]
    found = next(each for each in report.findings if each.name == name)
    assert found.blocks
    assert remedy in found.remedy
    for fitted, known in zip(report.classes, CLASSES, strict=True):
        assert fitted.anchor_size == known.anchor_size
        assert fitted.anchor_z == pytest.approx(known.anchor_z, abs=0.1)


def test_rotation_y_of_kitti_is_named(folder: Path) -> None:
    spoil(folder, lambda each: each.update(yaw=-each["yaw"] - math.pi / 2))
    found = [each for each in check_data(folder, WANTED).findings if each.name == "yaw"]
    assert len(found) == 1
    assert found[0].remedy in ("labels: yaw: -yaw - pi / 2", "labels: yaw: yaw + pi / 2")


def test_what_does_not_fit_the_model(folder: Path) -> None:
    bus = ClassConfig(name="Bus", anchor_size=(8, 2.5, 3), anchor_z=0)
    small = ClassConfig(name="Car", anchor_size=(1, 1, 1), anchor_z=-1)
    report = check_data(folder, Wanted(GridConfig(x_max=10.24, z_min=-1.0, z_max=0), (small, bus)))
    said = {each.name: each for each in report.findings}
    assert "no object of Bus; unknown to the model: Truck (4)" in said["classes"].measured
    assert "67% of the boxes are beyond the grid" in said["range"].measured
    assert said["heights"].measured.endswith("100% of Car")
    assert "z_min: -2.2, z_max: 0}" in said["heights"].remedy
    assert "Car is 4 x 1.7 x 1.5 m" in said["anchors"].measured


def test_boxes_one_by_one(folder: Path) -> None:
    file = folder / "labels" / "2.json"
    data = json.loads(file.read_text())
    first = data["objects"][0]
    data["objects"] += [first, {**first, "centre": [50, 0, GROUND + 5], "size": [20, 1.7, 10]}]
    file.write_text(json.dumps(data))
    said = {each.name: each for each in check_data(folder, WANTED).findings}
    assert "1 boxes lie on another one: Car in frame 2" in said["duplicates"].measured
    assert "Car in frame 2" in said["sizes"].measured
    spoil(folder, lambda each: each.update(centre=[60, 30, GROUND + each["size"][2] / 2]))
    said = {each.name: each for each in check_data(folder, WANTED).findings}
    assert said["boxes without points"].blocks


def test_files_that_do_not_belong(folder: Path) -> None:
    (folder / "labels" / "1.json").write_text("{")
    (folder / "labels" / "2.json").rename(folder / "labels" / "7.json")
    report = check_data(folder, WANTED)
    said = {each.name: each.measured for each in report.findings}
    assert said["reading"].startswith("1 of 4 frames cannot be read: ")
    assert said["label files"] == ("1 clouds have no label file, such as 2; 1 label files have no cloud, such as 7")
    assert (report.frames, report.labelled) == (4, 2)
    with pytest.raises(DataError, match="no own data"):
        check_data(folder / "labels", WANTED)


def test_a_profile_moves_boxes_into_the_grid(folder: Path) -> None:
    (folder / "high.yaml").write_text(f"name: high\nheight: {-GROUND - 1}\n")
    for file in (folder / "points").iterdir():
        cloud = np.fromfile(file, np.float32).reshape(-1, 4)
        (cloud + np.array([0, 0, 1, 0], np.float32)).tofile(file)
    spoil(folder, lambda each: as_metres_up(each, 1))
    assert "height" in names(check_data(folder, WANTED))
    (folder / "dataset.yaml").write_text("sensor: high.yaml\n")
    report = check_data(folder, WANTED)
    assert names(report) == []
    assert report.classes[0].anchor_z == pytest.approx(-0.98, abs=0.02)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs the viz extra")
    spoil(folder, lambda each: as_metres_up(each, -each["size"][2] / 2))
    with pytest.raises(SystemExit) as exit_:
        main(["data", "check", str(folder), "--out", str(tmp_path / "out"), "--pictures", "1", "--json", "-"])
    assert exit_.value.code == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["labelled"] == 4
    assert "BLOCKS box bottoms" in err
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".png"]


def test_the_configuration_to_check_against(tmp_path: Path) -> None:
    channels = "pillar_channels: 8, backbone_channels: [8, 8, 8], neck_channels: 8"
    (tmp_path / "a.yaml").write_text(f"model: {{{channels}, grid: {{x_max: 20.48}}}}\nsamples: 5\n")
    wanted = wanted_from(tmp_path / "a.yaml")
    assert wanted.grid.x_max == 20.48
    assert wanted.classes is not None
    (tmp_path / "b.yaml").write_text("samples: 5\n")
    with pytest.raises(ConfigError, match="no `model`"):
        wanted_from(tmp_path / "b.yaml")
