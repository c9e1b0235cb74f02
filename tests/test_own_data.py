"""Own data in the plain layout: what is read, what is refused, and how it is judged."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.batch import detect_batch, points_to_use
from pd_edge.boxes import Detections
from pd_edge.bundle import Bundle
from pd_edge.cli import main
from pd_edge.clouds import write_cloud
from pd_edge.config import GridConfig
from pd_edge.detector import load
from pd_edge.drive_report import truth_overlay
from pd_edge.errors import ConfigError, DataError
from pd_edge.evaluate import bootstrap, evaluate, overlaps_of
from pd_edge.kitti import Calibration, Frame, boxes_to_labels, boxes_to_lidar, open_dataset, write_labels
from pd_edge.kitti_calibration import write_object_calibration
from pd_edge.own_data import OwnDataset
from pd_edge.own_labels import AXES, found_labels, objects_of, read_objects, to_be_found, to_labels, write_objects
from pd_edge.own_truth import reaches
from pd_edge.sectors import Sectors, coverage_named
from pd_edge.sensors import load_profile, mount_of

BOXES = np.array([[12.0, 2.0, -1.0, 4.0, 1.7, 1.5, 0.4], [-15.0, -3.0, -0.5, 8.0, 2.5, 3.0, 2.0]])


def cloud_in(boxes: npt.NDArray[np.float64], counts: list[int], seed: int = 0) -> npt.NDArray[np.float32]:
    """So many points around the middle of each box, and one far away."""
    rng = np.random.default_rng(seed)
    parts = [box[:3] + rng.uniform(-0.3, 0.3, (count, 3)) for box, count in zip(boxes, counts, strict=True)]
    points = np.concatenate([*parts, [[60.0, 0.0, 5.0]]])
    return np.column_stack([points, rng.random(len(points))]).astype(np.float32)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    for number, suffix in enumerate((".bin", ".npy", ".pcd")):
        write_cloud(root / "points" / f"{number:03d}{suffix}", cloud_in(BOXES, [60, 12], number))
        write_objects(root / "labels" / f"{number:03d}.json", objects_of(BOXES, ["car", "truck"]))
    (root / "splits").mkdir()
    (root / "splits" / "val.txt").write_text("002\n000\n")
    (root / "dataset.yaml").write_text("classes: {car: Car}\n")
    return root


def test_frames_come_with_their_boxes_in_the_clouds_frame(own: Path) -> None:
    data = open_dataset(own)
    assert isinstance(data, OwnDataset)
    assert data.ids == ["000", "001", "002"]
    for frame in data:
        assert frame.labels is not None
        assert frame.around
        np.testing.assert_allclose(boxes_to_lidar(frame.labels, AXES), BOXES, atol=1e-9)
        assert [label.name for label in frame.labels] == ["Car", "truck"]
        assert [label.occlusion for label in frame.labels] == [0, 1]
    np.testing.assert_array_equal(data.frame(1).points, cloud_in(BOXES, [60, 12], 1))
    assert open_dataset(own, "val").ids == ["002", "000"]
    assert open_dataset(own, own / "splits" / "val.txt").ids == ["002", "000"]


def test_no_point_is_cut_off(own: Path) -> None:
    frame = open_dataset(own).frame(0)
    points, in_view = points_to_use(frame)
    assert len(points) == 73
    assert not in_view
    with pytest.raises(DataError, match="no calibration to crop it"):
        points_to_use(frame, crop=True)


def test_a_frame_without_a_label_file_has_no_labels(own: Path) -> None:
    (own / "labels" / "001.json").unlink()
    assert [frame.labels is None for frame in open_dataset(own)] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"objects": [{"class": "Car", "centre": [1, 2, 3], "size": [4, 2, 0], "yaw": 0}]}', "4 x 2 x 0 m"),
        ('{"objects": [{"class": "Car", "center": [1, 2, 3], "size": [4, 2, 1], "yaw": 0}]}', "objects.0.cent"),
        ('{"objects": [{"class": "Car", "centre": [1, 2], "size": [4, 2, 1], "yaw": 0}]}', "objects.0.centre"),
        ('{"objects": [{"class": "Car", "centre": [1, 2, NaN], "size": [4, 2, 1], "yaw": 0}]}', "objects.0.centre"),
        ('{"boxes": []}', "boxes: unknown key"),
        ("[]", "a JSON object of named values"),
        ("{", "not valid JSON"),
    ],
)
def test_wrong_labels_are_named(own: Path, text: str, said: str) -> None:
    (own / "labels" / "000.json").write_text(text)
    with pytest.raises(DataError, match=rf"frame 000 of .*labels/000.json.*{said}"):
        open_dataset(own).frame(0)


def test_text_labels_of_both_kinds(tmp_path: Path, calibration: Calibration) -> None:
    lines = tmp_path / "a.txt"
    lines.write_text("12 2 -1 4 1.7 1.5 0.4 Car\n\n-15 -3 -0.5 8 2.5 3 2 Truck\n")
    found = read_objects(lines, tmp_path / "none.txt")
    np.testing.assert_allclose(found.boxes, BOXES)
    assert found.names == ["Car", "Truck"]
    write_labels(tmp_path / "b.txt", boxes_to_labels(BOXES, ["Car", "Truck"], calibration))
    write_object_calibration(tmp_path / "c.txt", calibration)
    np.testing.assert_allclose(read_objects(tmp_path / "b.txt", tmp_path / "c.txt").boxes, BOXES, atol=0.01)
    lines.write_text("12 2 -1 4 1.7 1.5 0.4\n")
    with pytest.raises(DataError, match=r"a.txt, line 1: 7 fields; expected 8"):
        read_objects(lines, tmp_path / "none.txt")


def test_written_labels_come_back(tmp_path: Path) -> None:
    objects = objects_of(BOXES, ["Car", "Lkw groß"], [False, True])
    write_objects(tmp_path / "a.json", objects)
    back = read_objects(tmp_path / "a.json", tmp_path)
    np.testing.assert_allclose(back.boxes, objects.boxes, atol=1e-4)
    assert (back.names, back.ignored) == (objects.names, objects.ignored)
    write_objects(tmp_path / "b.json", objects_of([], []))
    assert read_objects(tmp_path / "b.json", tmp_path).names == []


def test_a_profile_brings_points_and_boxes_to_the_models_frame(own: Path) -> None:
    profile = "name: mine\nheight: 2.4\npitch: 10\nyaw: 30\nintensity_max: 2\n"
    (own / "tilted.yaml").write_text(profile)
    (own / "dataset.yaml").write_text("sensor: tilted.yaml\n")
    frame, as_written = open_dataset(own).frame(0), cloud_in(BOXES, [60, 12])
    mount = mount_of(load_profile(str(own / "tilted.yaml")))
    as_written[:, 3] /= 2
    assert "points and boxes are level, 1.73 m above the ground, by the sensor of dataset.yaml" in frame.notes
    np.testing.assert_allclose(frame.points, mount.points(as_written), atol=1e-6)
    assert frame.labels is not None
    boxes = boxes_to_lidar(frame.labels, AXES)
    there = Detections(boxes.astype(np.float32), np.zeros(2, np.int64), np.ones(2, np.float32))
    back = mount.boxes(there).boxes
    np.testing.assert_allclose(back[:, :6], BOXES[:, :6], atol=1e-5)
    np.testing.assert_allclose(back[:, 6], BOXES[:, 6], atol=0.02)
    with pytest.raises(DataError, match=r"names the sensor 'tilted\.yaml'; leave --sensor out"):
        open_dataset(own, sensor=load_profile("vlp-16"))


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda root: (root / "splits" / "val.txt").write_text("007\n"), DataError, "lists '007'"),
        (lambda root: (root / "splits" / "val.txt").write_text("000\n000\n"), DataError, "frame 000 is listed twice"),
        (lambda root: (root / "splits" / "val.txt").unlink(), DataError, "no split 'val'; splits has no list"),
        (lambda root: (root / "dataset.yaml").write_text("class: {}\n"), ConfigError, "did you mean classes?"),
        (lambda root: write_cloud(root / "points/000.ply", cloud_in(BOXES, [1, 1])), DataError, "two clouds of the"),
    ],
)
def test_wrong_folders_are_named(own: Path, change: Any, kind: type[Exception], said: str) -> None:
    change(own)
    with pytest.raises(kind, match=said.replace("?", r"\?")):
        open_dataset(own, "val")


def test_difficulty_is_by_points_in_the_box() -> None:
    boxes = np.tile(BOXES[:1], (4, 1))
    boxes[:, 0] += 10 * np.arange(4)
    counts = [50, 49, 9, 0]
    truth = to_labels(objects_of(boxes, ["Bus"] * 4), cloud_in(boxes, counts))
    found = Detections(boxes.astype(np.float32), np.zeros(4, np.int64), np.ones(4, np.float32))
    evaluation = evaluate([truth] * 20, [found_labels(found, ["Bus"])] * 20, {"Bus": 0.5}, ("bev", "3d"))
    assert [evaluation.result("Bus", "3d", level).objects for level in ("easy", "moderate", "hard")] == [20, 40, 60]
    assert [each.ap for each in evaluation.results] == pytest.approx([each.ceiling for each in evaluation.results])
    assert set(evaluation.metrics) == {"bev", "3d", "aos_bev", "aos_3d"}
    intervals = bootstrap(evaluation, 10)
    for each in evaluation.results:
        assert intervals.interval(*each[:4]) == pytest.approx((each.ap, each.ap))


def test_ignored_objects_are_neither_missed_nor_wrong() -> None:
    cloud = cloud_in(BOXES, [60, 60])
    objects = objects_of(BOXES, ["Car", "Car"], [False, True])
    best_last = Detections(BOXES[::-1].astype(np.float32), np.zeros(2, np.int64), np.array([0.9, 0.8], np.float32))
    for found in (best_last, Detections(best_last.boxes[1:], best_last.labels[1:], best_last.scores[1:])):
        labels = found_labels(found, ["Car"])
        evaluation = evaluate([to_labels(objects, cloud)] * 20, [labels] * 20, {"Car": 0.5}, ("3d",))
        assert evaluation.result("Car", "3d", "easy").objects == 20
        assert evaluation.result("Car", "3d", "easy").ap == pytest.approx(
            evaluation.result("Car", "3d", "easy").ceiling
        )


def test_ignored_objects_are_not_drawn() -> None:
    cloud = cloud_in(BOXES, [60, 60])
    labels = to_labels(objects_of(BOXES, ["Car", "Truck"], [False, True]), cloud)
    assert [each.name for each in to_be_found(labels, around=True)] == ["Car"]
    frame = Frame("0", cloud, AXES, labels, None, (), around=True)
    shown = truth_overlay(frame, ("Car",))
    assert shown is not None
    assert len(shown.boxes) == 1
    cut = [each._replace(truncation=1.0) for each in labels]
    assert len(to_be_found(cut, around=False)) == 2, "in KITTI, 1 says that an object leaves the image"


def test_overlaps_by_class() -> None:
    assert overlaps_of(("Car", "Truck"), {"Truck": 0.6}) == {"Car": 0.7, "Truck": 0.6}
    assert overlaps_of(("Car", "Truck")) == {"Car": 0.7, "Truck": 0.5}
    with pytest.raises(ConfigError, match="min_overlap of Bus: no such class; the model knows Car"):
        overlaps_of(("Car",), {"Bus": 0.6})


def test_only_what_the_grid_reaches_is_judged(own: Path, tiny_bundle: Bundle) -> None:
    result = detect_batch(load(tiny_bundle.folder), open_dataset(own))
    evaluation = result.complete_evaluation({"Car": 0.3})
    assert evaluation.result("Car", "3d", "easy").objects == 3
    assert "2d" not in evaluation.metrics
    labels = result.frames[0].ground_truth
    assert labels is not None
    assert [label.truncation for label in labels] == [0, 1]


def test_full_coverage_is_judged_all_around(own: Path, tiny_bundle: Bundle) -> None:
    (own / "dataset.yaml").write_text("classes: {car: Car, truck: Car}\n")
    for coverage, objects in (("front", 3), ("full", 6)):
        spread = np.array([[3, 1, -1, 4, 1.7, 1.5, 0], [-4, 0, -1, 4, 1.7, 1.5, 0]])
        for number, suffix in enumerate((".bin", ".npy", ".pcd")):
            write_cloud(own / "points" / f"{number:03d}{suffix}", cloud_in(spread, [60, 60], number))
            write_objects(own / "labels" / f"{number:03d}.json", objects_of(spread, ["car", "truck"]))
        result = detect_batch(load(tiny_bundle.folder, coverage=coverage_named(coverage)), open_dataset(own))
        assert result.complete_evaluation().result("Car", "3d", "easy").objects == objects


def test_the_command_takes_an_overlap_for_each_class(
    own: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", str(own), "--split", "val", "--model", str(tiny_bundle.folder), "--json", "-"]
    for overlap, code, said in (
        ("Car=0.3", 0, "Own data: every point counts"),
        ("Truck=0.3", 1, "min_overlap of Truck: no such class; the model knows Car"),
        ("Car=much", 2, "expected CLASS=IOU"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--min-overlap", overlap])
        assert exit_.value.code == code
        assert said in " ".join(capsys.readouterr().err.split())


def test_full_coverage_reaches_all_around() -> None:
    grid = GridConfig()
    centres = np.array([[10.0, 0, 0], [-10, 0, 0], [0, -30, 0], [50, 50, 0]])
    assert reaches(centres, Sectors(grid)).tolist() == [True, False, True, False]
    assert reaches(centres, Sectors(grid, 4)).tolist() == [True, True, True, False]


def test_yaw_comes_within_half_a_turn(tmp_path: Path) -> None:
    objects = objects_of([[1, 2, 3, 4, 2, 1, 3 * math.pi]], ["Car"])
    write_objects(tmp_path / "a.json", objects)
    assert abs(read_objects(tmp_path / "a.json", tmp_path).boxes[0, 6]) == pytest.approx(math.pi, abs=1e-4)


def test_time_stamps(own: Path) -> None:
    assert OwnDataset(own).times_ns() is None
    (own / "times.txt").write_text("000 5\n002 1700000000000000007\n001 6\n")
    assert OwnDataset(own).times_ns() == [5, 6, 1700000000000000007]
    assert OwnDataset(own, "val").times_ns() == [1700000000000000007, 5]
    for text, said in (("000 5\n001 6\n", "lacks frame 002"), ("000 soon\n", "'000 soon' is no time stamp")):
        (own / "times.txt").write_text(text)
        with pytest.raises(DataError, match=said):
            OwnDataset(own).times_ns()
