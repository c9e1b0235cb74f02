"""``pd-edge view``: what it reads, where boxes come from, and what it refuses."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

import pd_edge
from pd_edge.boxes import Detections
from pd_edge.cli import main
from pd_edge.clouds import write_cloud
from pd_edge.config import dump_config
from pd_edge.files import write_bytes
from pd_edge.kitti import (
    Calibration,
    Label,
    RawDrive,
    boxes_to_lidar,
    crop_to_image,
    write_object_frame,
    write_raw_drive,
    write_split,
)
from pd_edge.own_labels import objects_of, write_objects
from pd_edge.sensors import SensorProfile, mount_of
from pd_edge.view import sources
from pd_edge.view.sources import Choice, is_bag

from .helpers import boxes, clouds_of, scene_of

if TYPE_CHECKING:
    from pd_edge.bundle import Bundle

TIMES = [1_767_225_600_000_000_000 + n * 100_000_000 for n in range(5)]


@pytest.fixture
def drive(
    tmp_path: Path, tiny_cloud: npt.NDArray[np.float32], calibration: Calibration, car: Label, dont_care: Label
) -> Path:
    """Five scans, with a car and a DontCare region in each."""
    path = tmp_path / "2026_01_01" / "2026_01_01_drive_0001_sync"
    write_raw_drive(
        path,
        [tiny_cloud] * 5,
        TIMES,
        calibration,
        poses=np.tile(np.eye(4), (5, 1, 1)),
        labels=[[car, dont_care]] * 5,
    )
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Runner":
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pd_edge.view.rerun_log.has_rerun", lambda: False)
    return Runner(tmp_path)


class Runner:
    """Runs the command and reads what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.page = folder, folder / "out.html"

    def __call__(self, *arguments: object, page: str = "out.html") -> None:
        self.page = self.folder / page
        with pytest.raises(SystemExit) as exit_:
            main(["view", *map(str, arguments), "--out", str(self.page)])
        assert not exit_.value.code

    @property
    def frames(self) -> list[dict[str, Any]]:
        frames: list[dict[str, Any]] = scene_of(self.page)["frames"]
        return frames


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["view", *map(str, arguments)])
    return exit_.value.code, re.sub(r"\s+", " ", capsys.readouterr().err)


def test_a_drive_has_a_time_line_and_ground_truth(
    run: Runner, drive: Path, tiny_cloud: npt.NDArray[np.float32], calibration: Calibration, car: Label
) -> None:
    run(drive, "--no-detect", "--every", 2)
    assert [frame["time"] for frame in run.frames] == [0.0, 0.2, 0.4]
    assert [frame["name"] for frame in run.frames] == ["0000000000", "0000000002", "0000000004"]
    assert not any(frame["found"] for frame in run.frames)
    (truth,) = run.frames[0]["truth"]
    np.testing.assert_allclose(
        truth[2:9], boxes_to_lidar([car], RawDrive(drive).calibration or calibration)[0], atol=1e-3
    )
    np.testing.assert_allclose(clouds_of(run.page)[0], tiny_cloud, atol=0.51 / 255)


def test_own_data_have_a_time_line_and_are_level_once(
    run: Runner, tmp_path: Path, tiny_cloud: npt.NDArray[np.float32]
) -> None:
    own, box = tmp_path / "own", [12.0, 3, -1, 4, 1.7, 1.5, 0.4]
    for number in range(2):
        write_cloud(own / "points" / f"{number}.npy", tiny_cloud)
        write_objects(own / "labels" / f"{number}.json", objects_of([box], ["Car"]))
    (own / "times.txt").write_text("0 1000000000\n1 1250000000\n")
    for settings, height in (("{}\n", 0.0), ("sensor: high.yaml\n", 1.0)):
        (own / "dataset.yaml").write_text(settings)
        (own / "high.yaml").write_text("name: high\nheight: 2.73\n")
        run(own, "--no-detect")
        assert [frame["time"] for frame in run.frames] == [0.0, 0.25]
        (truth,) = run.frames[0]["truth"]
        np.testing.assert_allclose(truth[2:9], np.add(box, [0, 0, height, 0, 0, 0, 0]), atol=1e-3)
        shown = clouds_of(run.page)[0]
        np.testing.assert_allclose(shown[:, 2], tiny_cloud[:, 2] + height, atol=0.01)


def test_a_model_s_boxes_are_what_it_finds(
    run: Runner, tiny_bundle: "Bundle", tiny_cloud: npt.NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    write_cloud(run.folder / "scan.npy", tiny_cloud)
    run(run.folder / "scan.npy", "--model", tiny_bundle.folder, "--threads", 1)
    expected = pd_edge.load(tiny_bundle.folder, threads=1).detect(tiny_cloud)
    rows = np.array(run.frames[0]["found"], float)[:, 1:9]
    np.testing.assert_allclose(rows, np.column_stack([expected.scores, expected.boxes]), atol=2e-3)
    scene = scene_of(run.page)
    assert [each["name"] for each in scene["classes"]] == ["Car", "Pedestrian", "Cyclist"]
    assert scene["volume"] == [0.0, 20.48, -5.12, 5.12]
    assert f"1 scans, {len(rows)} boxes of tiny (openvino fp32)" in capsys.readouterr().out
    least = float(np.median(expected.scores))
    run(run.folder / "scan.npy", "--model", tiny_bundle.folder, "--score", least)
    assert scene_of(run.page)["score"] == least
    assert 0 < len(run.frames[0]["found"]) < len(rows)


def test_an_earlier_run_s_boxes_need_no_model(run: Runner, drive: Path) -> None:
    found = {"id": "", "detections": [{"class": "Car", "score": 0.7, "box": boxes()[0].tolist()}]}
    data = {"classes": ["Van", "Car"], "frames": [{**found, "id": f"{place:010d}"} for place in range(3)]}
    write_bytes(run.folder / "found" / "detections.json", json.dumps(data).encode())
    run(drive, "--results", run.folder / "found", "--frames", 3)
    assert [len(frame["found"]) for frame in run.frames] == [1, 1, 1]
    np.testing.assert_allclose(run.frames[0]["found"][0][:9], [1, 0.7, *boxes()[0]], atol=1e-3)


def test_scans_that_an_earlier_run_lacks_are_passed_over(
    run: Runner, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"classes": [], "frames": [{"id": "0000000001", "detections": []}]}
    write_bytes(run.folder / "found" / "detections.json", json.dumps(data).encode())
    run(drive, "--results", run.folder / "found", "--frames", 2)
    assert [frame["name"] for frame in run.frames] == ["0000000001"]
    assert "passed over" in (err := capsys.readouterr().err)
    assert "no frame 0000000000" in err
    code, text = fails(capsys, drive, "--results", run.folder / "found", "--frames", 1, "--out", "none.html")
    assert code == 1
    assert "no scan could be used; the first of 1:" in text
    assert not (run.folder / "none.html").exists()


def test_a_tilted_sensor_s_cloud_is_shown_level(run: Runner, tiny_cloud: npt.NDArray[np.float32]) -> None:
    profile = SensorProfile(name="mine", height=2.5, roll=180.0, pitch=5.0, unit=0.001)
    mount = mount_of(profile)
    seen = tiny_cloud.copy()
    seen[:, :3] = 1000 * (tiny_cloud[:, :3] @ mount.to_cloud[:3, :3].T + mount.to_cloud[:3, 3])
    write_cloud(run.folder / "scan.npy", seen)
    dump_config(profile, run.folder / "mine.yaml")
    written = mount.boxes(Detections(boxes()[:1].astype(np.float32), np.zeros(1, np.int64), np.ones(1, np.float32)))
    detection = {"class": "Car", "score": 0.7, "box": written.boxes[0].tolist()}
    data = {"classes": ["Car"], "frames": [{"id": "scan", "detections": [detection]}]}
    write_bytes(run.folder / "found" / "detections.json", json.dumps(data).encode())
    run(run.folder / "scan.npy", "--sensor", run.folder / "mine.yaml", "--results", run.folder / "found")
    np.testing.assert_allclose(clouds_of(run.page)[0][:, :3], tiny_cloud[:, :3], atol=2e-3)
    np.testing.assert_allclose(run.frames[0]["found"][0][2:8], boxes()[0, :6], atol=2e-3)
    assert "sensor mine" in scene_of(run.page)["subtitle"]


def test_a_split_and_the_camera_s_view(
    run: Runner, tiny_cloud: npt.NDArray[np.float32], calibration: Calibration, car: Label
) -> None:
    for index in range(3):
        write_object_frame(run.folder / "kitti", f"{index:06d}", tiny_cloud, calibration, [car])
    write_split(run.folder / "kitti", "val", ["000000", "000002"])
    run(run.folder / "kitti", "--split", "val", "--no-detect")
    assert [frame["name"] for frame in run.frames] == ["000000", "000002"]
    assert len(clouds_of(run.page)[0]) == len(tiny_cloud)
    known = calibration._replace(P2=np.array([[721.5377, 0, 609.5593, 0], [0, 721.5377, 172.854, 0], [0, 0, 1, 0]]))
    write_object_frame(run.folder / "seen", "000000", tiny_cloud, known._replace(image_size=(1242, 375)), [car])
    run(run.folder / "seen", "--no-detect", "--crop")
    inside = crop_to_image(tiny_cloud, known._replace(image_size=(1242, 375)))
    assert 0 < len(clouds_of(run.page)[0]) == np.count_nonzero(inside) < len(tiny_cloud)


def test_a_bag_s_recorded_boxes_are_shown(
    run: Runner, drive: Path, tiny_bundle: "Bundle", capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rosbags", reason="needs the bags extra")
    pytest.importorskip("mcap", reason="needs the bags extra")
    bag, replayed = run.folder / "drive.mcap", run.folder / "replayed.mcap"
    for arguments in (
        ["bag", "from-kitti", drive, bag],
        ["replay", bag, "--out", replayed, "--clouds", "--model", tiny_bundle.folder],
    ):
        with pytest.raises(SystemExit) as exit_:
            main([str(each) for each in arguments])
        assert not exit_.value.code
    run(drive, "--model", tiny_bundle.folder)
    expected = run.frames
    run(replayed)
    assert "recorded on /detections" in scene_of(run.page)["subtitle"]
    assert [frame["time"] for frame in run.frames] == [frame["time"] for frame in expected]
    for frame, other in zip(run.frames, expected, strict=True):
        np.testing.assert_allclose(np.array(frame["found"])[:, 1:9], np.array(other["found"])[:, 1:9], atol=2e-3)
        np.testing.assert_allclose(frame["truth"][0][2:9], other["truth"][0][2:9], atol=2e-3)
    run(bag, "--model", tiny_bundle.folder, "--frames", 1)
    assert len(run.frames[0]["found"]) == len(expected[0]["found"])
    for wrong, text in (
        ([replayed, "--precision", "bf16"], "its boxes are recorded; --model NAME runs one; leave --precision out"),
        ([replayed, "--split", "val"], "it is a bag; leave --split out"),
        ([replayed, drive], "a bag is shown by itself"),
        ([replayed, "--boxes-topic", "/tracks"], "no Detection3DArray on /tracks; there is /detections"),
        ([bag, "--no-detect", "--topic", "/front"], "no PointCloud2 on /front"),
    ):
        code, error = fails(capsys, *wrong)
        assert code == 1
        assert text in error


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--out", "view.pdf"], "expected a name ending in .html or .rrd"),
        (["--points", "10", "--out", "a.rrd"], "add --out FILE.html"),
        (["--model", "pointpillars-4x", "--results", "found"], "name one"),
        (["--no-detect", "--threads", "2"], "leave --threads out"),
        (["--results", "found", "--coverage", "full"], "leave --coverage out"),
        (["--coverage", "full", "--crop"], "the camera sees the front alone"),
    ],
)
def test_options_that_would_do_nothing_are_wrong_usage(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    code, error = fails(capsys, "scan.bin", *arguments)
    assert code == 2
    assert text in error


def test_what_cannot_be_read_is_told_in_a_line(
    tmp_path: Path, tiny_cloud: npt.NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    write_cloud(tmp_path / "scan.npy", tiny_cloud)
    for data, text in (("{}", "KeyError"), ('{"classes": [], "frames": [{"id": 1, "detections": [{}]}]}', "box")):
        write_bytes(tmp_path / "detections.json", data.encode())
        code, error = fails(capsys, tmp_path / "scan.npy", "--results", tmp_path)
        assert code == 1
        assert text in error
        assert "detect again into a new folder" in error
    assert fails(capsys, tmp_path / "scan.npy", "--no-detect", "--topic", "/points")[1].endswith("leave --topic out ")


def test_without_rerun_a_page_is_written_and_it_is_said(
    run: Runner, tiny_cloud: npt.NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    write_cloud(run.folder / "scan.npy", tiny_cloud)
    code, error = fails(capsys, run.folder / "scan.npy", "--no-detect")
    assert not code
    assert "Rerun is not installed" in error
    assert len(scene_of(run.folder / "view.html")["frames"]) == 1


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(), [0, 1, 2, 3, 4, 5, 6]),
        (Choice(3), [0, 3, 6]),
        (Choice(3, 2), [0, 3]),
        (Choice(1, 9), [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_scans_are_chosen_without_reading_on(choice: Choice, expected: list[int]) -> None:
    things = iter(range(7))
    assert list(choice.of(things)) == expected
    assert choice.count(7) == len(expected)
    if choice.frames == 2:
        assert next(things) == 4


def test_bags_are_known_by_their_names(tmp_path: Path) -> None:
    bags = pytest.importorskip("pd_edge.bags", reason="needs the bags extra")
    assert bags.SUFFIXES == sources.BAG_SUFFIXES
    (tmp_path / "scan.bin").touch()
    assert not is_bag(tmp_path)
    assert not is_bag(tmp_path / "nothing")
    assert is_bag(tmp_path / "nothing.mcap")
    (tmp_path / "a.db3").touch()
    assert is_bag(tmp_path)
    (tmp_path / "points").mkdir()
    assert not is_bag(tmp_path)
