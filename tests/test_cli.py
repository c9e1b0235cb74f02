"""The command line: what it prints and writes, how it fails, and that it starts light."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pd_edge
from pd_edge.batch import JoinedDataset, detect_batch, label_frames
from pd_edge.boxes import Detections
from pd_edge.bundle import Bundle
from pd_edge.cli import COMMANDS, EXTRAS, main
from pd_edge.clouds import write_cloud
from pd_edge.commands.bench import STANDARD
from pd_edge.config import dump_config
from pd_edge.errors import DataError
from pd_edge.files import write_bytes
from pd_edge.kitti import (
    Calibration,
    Label,
    boxes_to_labels,
    boxes_to_lidar,
    crop_to_image,
    open_dataset,
    read_labels,
    write_labels,
    write_object_frame,
    write_split,
)
from pd_edge.own_labels import objects_of, write_objects
from pd_edge.pictures import Extent
from pd_edge.sensors import load_profile

HEAVY = ("torch", "openvino", "matplotlib", "open3d", "onnx", "onnxruntime", "numpy")
# The focal length and centre of a KITTI day, from which readers know the size of its images.
CALIBRATION = Calibration(
    P2=np.array([[721.5377, 0, 609.5593, 0], [0, 721.5377, 172.854, 0], [0, 0, 1, 0]]),
    R0_rect=np.eye(3),
    Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
    image_size=(1242, 375),
)
DISTILLED = Path(__file__).resolve().parent.parent / "training" / "configs" / "pointpillars-4x.yaml"
CARS = np.array([[10.0, 1.0, -1.0, 3.9, 1.6, 1.5, 0.2], [15.0, -3.0, -1.0, 4.2, 1.7, 1.5, 3.0]])


class Outcome:
    """What a run of the command line left."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class CommandLine:
    """Runs ``pd-edge`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(each) for each in arguments])
        return Outcome(exit_.value.code or 0, *self._capsys.readouterr())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def kitti(tmp_path: Path, tiny_cloud: npt.NDArray[np.float32]) -> Path:
    """Three labelled frames in KITTI's object layout, full clouds, split val."""
    root = tmp_path / "kitti"
    labels = boxes_to_labels(CARS, ["Car", "Car"], CALIBRATION, occlusion=[0, 0])
    for index in range(3):
        write_object_frame(root, f"{index:06d}", tiny_cloud[index * 500 :], CALIBRATION, labels)
    write_split(root, "val", ["000000", "000002"])
    return root


def modules_after(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["detect", "--help"], ["train", "--help"], ["--version"]])
def test_help_starts_light(arguments: list[str]) -> None:
    code = f"""
import sys
from pd_edge.cli import main
try:
    main({arguments})
finally:
    print(*sys.modules, file=sys.stderr)
    sys.stderr.flush()
    import os
    os._exit(0)
"""
    loaded = modules_after(code)
    assert "pd_edge.commands.detect" in loaded
    assert not loaded.intersection(HEAVY)


def test_version(run: CommandLine) -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"pd-edge {pd_edge.__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(run: CommandLine, name: str) -> None:
    outcome = run(name, "--help")
    assert outcome.code == 0
    assert "Example" in outcome.out
    assert f"    pd-edge {name}" in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["detect"],
        ["detect", "x.bin", "--score", "2"],
        ["detect", "x.bin", "--pictures", "1"],
        ["eval"],
        ["eval", "kitti", "--predictions", "a", "--labels", "b"],
        ["eval", "--predictions", "a"],
        ["bench", "--runs", "0"],
        ["simulate", "out"],
        ["build", "pointpillars-4x"],
        ["build", "pointpillars-4x", "--out", "out", "--runtime", "ncnn"],
        ["compare", "pointpillars-4x", "--data", "."],
    ],
)
def test_wrong_usage_exits_with_2(run: CommandLine, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["detect", "nowhere.bin"], "nowhere.bin: does not exist"),
        (["eval", "nowhere"], "nowhere"),
        (["models", "nowhere"], "nowhere"),
        (["train", "nowhere.yaml", "--out", "run"], "nowhere.yaml: cannot be read"),
        (["train", str(DISTILLED), "--out", "run"], "names a teacher; train it with `pd-edge distill`"),
        (["detect", ".", "--model", "nothing"], "."),
        (["bench", "--model", "nothing"], "no model named 'nothing'"),
        (["bench", "--runtimes", "openvino:int4"], "runtime 'openvino:int4': choose of openvino, onnxruntime, torch"),
        (["bundle", "nowhere", "out"], "nowhere: no weights there"),
        (["build", "nothing.onnx", "--out", "out"], "nothing.onnx: cannot be read"),
        (["build", "pointpillars-4x", "--target", "tx2", "--out", "out"], "target 'tx2' is unknown"),
        (["build", "pointpillars-4x", "--max-points", "5", "--out", "out"], "must not descend"),
        (["compare", "pointpillars-4x", "nothing", "--data", "nowhere"], "nowhere"),
        (["simulate", "out", "--frames", "1", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["realism", "nowhere", "nowhere", "--out", "out"], "nowhere"),
        (["demo", "--kitti", "nowhere"], "nowhere"),
    ],
)
def test_an_error_is_one_line_and_exits_with_1(
    run: CommandLine, arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    outcome = run(*arguments)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("pd-edge: error: ")
    assert text in outcome.err


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("torch", ["train", "x", "--out", "y"]), ("open3d", ["simulate", "sim", "--frames", "1"])],
)
def test_a_missing_extra_names_what_to_install(package: str, arguments: list[str], tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from pd_edge.cli import main; main({arguments})"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    expected = f"pd-edge: error: {package} is not installed; it comes with: pip install 'pd-edge[{EXTRAS[package]}]'\n"
    assert done.stderr == expected


def test_extras_are_those_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(line.startswith(package) for line in extras[extra])


def test_detect_in_one_cloud_prints_what_the_library_finds(
    run: CommandLine, tiny_bundle: Bundle, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    write_cloud(tmp_path / "scan.pcd", tiny_cloud)
    outcome = run("detect", tmp_path / "scan.pcd", "--model", tiny_bundle.folder, "--json", "-")
    assert outcome.code == 0
    (frame,) = json.loads(outcome.out)["frames"]
    expected = pd_edge.load(tiny_bundle.folder).detect(tiny_cloud)
    assert len(expected.boxes)
    assert np.array([each["box"] for each in frame["detections"]]) == pytest.approx(expected.boxes, abs=1e-4)
    assert [each["score"] for each in frame["detections"]] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert "Detections in scan" in outcome.err
    assert "p99 [ms]" in outcome.err


def test_weak_detections_are_counted_below_the_table(
    run: CommandLine, tiny_bundle: Bundle, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    write_cloud(tmp_path / "scan.npy", tiny_cloud)
    scores = pd_edge.load(tiny_bundle.folder).detect(tiny_cloud).scores
    weak = int(np.count_nonzero(scores < 0.3))
    assert weak
    short = run("detect", tmp_path / "scan.npy", "--model", tiny_bundle.folder).out
    whole = run("detect", tmp_path / "scan.npy", "--model", tiny_bundle.folder, "--score", 0.1).out
    assert f"{weak} weaker ones, scoring less than 0.3, are not shown" in " ".join(short.split())
    assert "are not shown" not in whole
    rows = [
        sum(line.split()[0] in {"Car", "Pedestrian", "Cyclist"} for line in text.splitlines() if line.split())
        for text in (short, whole)
    ]
    assert rows == [len(scores) - weak, len(scores)]
    assert "Nothing found" not in short


def test_detect_takes_a_least_score(
    run: CommandLine, tiny_bundle: Bundle, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    write_cloud(tmp_path / "scan.npy", tiny_cloud)
    scores = pd_edge.load(tiny_bundle.folder).detect(tiny_cloud).scores
    least = float(np.median(scores))
    file = tmp_path / "found.json"
    run("detect", tmp_path / "scan.npy", "--model", tiny_bundle.folder, "--json", file, "--score", least)
    kept = [each["score"] for each in json.loads(file.read_text())["frames"][0]["detections"]]
    assert 0 < len(kept) < len(scores)
    assert min(kept) >= least


def test_detect_and_eval_take_a_sensor(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    profile = tmp_path / "high.yaml"
    profile.write_text("name: high\nheight: 2.73\nintensity_max: 255\n", encoding="utf-8")
    write_cloud(
        tmp_path / "scan.npy", tiny_cloud * np.array([1, 1, 1, 255], np.float32) - np.array([0, 0, 1, 0], np.float32)
    )
    arguments = [tmp_path / "scan.npy", "--model", tiny_bundle.folder, "--json", "-", "--sensor", profile]
    found = json.loads(run("detect", *arguments).out)["frames"][0]["detections"]
    expected = pd_edge.load(tiny_bundle.folder).detect(tiny_cloud).boxes - [0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_allclose([each["box"] for each in found], expected, atol=2e-3)
    assert run("bench", "--model", tiny_bundle.folder, "--sensor", "vlp-16").code == 2
    outcome = run("eval", kitti, "--model", tiny_bundle.folder, "--sensor", "nothing")
    assert "no profile 'nothing'; shipped are hdl-64e" in outcome.err
    for option in (("--sensor", "vlp-16"), ("--coverage", "full"), ("--within-grid",)):
        assert run("eval", "--bag", "x.mcap", *option).code == 2


def test_detect_goes_past_bad_frames_and_leaves_everything(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    (kitti / "training" / "velodyne" / "000001.bin").write_bytes(b"short")
    out = tmp_path / "out"
    outcome = run("detect", kitti, "--model", tiny_bundle.folder, "--out", out, "--pictures", 1)
    assert outcome.code == 0
    assert "1 of 3 frames failed" in outcome.err
    assert "000001.bin" in outcome.err
    assert "Average precision R40 [%], 2 frames" in outcome.out
    assert sorted(path.name for path in (out / "labels").iterdir()) == ["000000.txt", "000002.txt"]
    assert len(list((out / "pictures").glob("*.png"))) == 1
    data = json.loads((out / "detections.json").read_text())
    boxes = np.array([each["box"] for each in data["frames"][0]["detections"]])
    assert boxes_to_lidar(read_labels(out / "labels" / "000000.txt"), CALIBRATION)[:, :6] == pytest.approx(
        boxes[:, :6], abs=1e-4
    )
    report = json.loads((out / "report.json").read_text())
    assert report["failures"][0]["frame"] == "000001"
    assert "frames" not in report
    assert report["ap"]["frames"] == 2
    assert "000001" in (out / "report.md").read_text()
    assert Bundle.load(tiny_bundle.folder).config == pd_edge.load(tiny_bundle.folder).config
    assert (out / "detector.yaml").is_file()


def test_a_second_run_leaves_nothing_of_the_first(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    run("detect", kitti, "--model", tiny_bundle.folder, "--out", out, "--pictures", 3)
    (kitti / "training" / "velodyne" / "000001.bin").write_bytes(b"short")
    run("detect", kitti, "--model", tiny_bundle.folder, "--out", out, "--pictures", 1)
    assert sorted(path.name for path in (out / "labels").iterdir()) == ["000000.txt", "000002.txt"]
    assert len(list((out / "pictures").iterdir())) == 1


def test_files_of_somebody_else_are_left_alone(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "mine.txt").write_text("dear diary")
    outcome = run("detect", kitti, "--model", tiny_bundle.folder, "--out", tmp_path)
    assert outcome.code == 1
    assert "mine.txt: is of no run of this detector" in outcome.err
    assert (tmp_path / "labels" / "mine.txt").read_text() == "dear diary"


def test_detect_exits_with_1_where_no_frame_could_be_used(
    run: CommandLine, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "b.bin").write_bytes(b"odd")
    outcome = run(
        "detect", tmp_path / "a.bin", tmp_path / "b.bin", "--model", tiny_bundle.folder, "--out", tmp_path / "o"
    )
    assert outcome.code == 1
    assert "2 of 2 frames failed" in outcome.err
    assert not (tmp_path / "o").exists()


def test_labelled_frames_are_cut_to_the_camera_unless_told_otherwise(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path
) -> None:
    frame = open_dataset(kitti).frame(0)
    seen = int(crop_to_image(frame.points, CALIBRATION).sum())
    assert seen < len(frame.points)
    for option, points, has_ap in (([], seen, True), (["--no-crop"], len(frame.points), False)):
        outcome = run("detect", kitti, "--model", tiny_bundle.folder, "--json", "-", *option)
        data = json.loads(outcome.out)
        assert data["frames"][0]["points"] == points
        assert (data["ap"] is not None) == has_ap
        assert ("without AP" in outcome.err) == (not has_ap)


def test_full_coverage_finds_what_the_library_finds_all_around(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path, tmp_path: Path
) -> None:
    """Of whole clouds, also where there are labels, with pictures of the whole circle."""
    pytest.importorskip("matplotlib")
    frame = open_dataset(kitti).frame(0)
    expected = pd_edge.load(tiny_bundle.folder, coverage="full").detect(frame.points)
    assert (expected.boxes[:, 0] < -5).sum() + (np.abs(expected.boxes[:, 1]) > 5.2).sum() > 0
    arguments = ("detect", kitti, "--model", tiny_bundle.folder, "--coverage", "full")
    outcome = run(*arguments, "--out", tmp_path / "out", "--pictures", 1)
    assert outcome.code == 0, outcome.err
    assert "4 sectors; a car is whole in one of them from" in " ".join(outcome.err.split())
    assert "Average precision" not in outcome.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["coverage"] == "full"
    assert "coverage full" in (tmp_path / "out" / "report.md").read_text()
    frames = json.loads((tmp_path / "out" / "detections.json").read_text())["frames"]
    assert frames[0]["points"] == len(frame.points)
    found = np.array([each["box"] for each in frames[0]["detections"]])
    assert found == pytest.approx(expected.boxes, abs=1e-4)


def test_what_a_turned_sensor_sees_is_drawn_and_its_profile_kept(
    run: CommandLine,
    tiny_bundle: Bundle,
    tiny_cloud: npt.NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    shown: list[Extent] = []

    def draw(path: Path, *_: Any, extent: Extent, **__: Any) -> Path:
        shown.append(extent)
        write_bytes(path, b"")
        return path

    monkeypatch.setattr("pd_edge.drive_report.draw_bird_eye", draw)
    write_cloud(tmp_path / "scan.npy", tiny_cloud * np.array([-1, -1, 1, 255], np.float32))
    (tmp_path / "rear.yaml").write_text("name: rear\nheight: 1.73\nyaw: 180\nintensity_max: 255\n", encoding="utf-8")
    arguments = ("detect", tmp_path / "scan.npy", "--model", tiny_bundle.folder, "--out", tmp_path / "out")
    outcome = run(*arguments, "--pictures", 1, "--sensor", tmp_path / "rear.yaml")
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "out" / "detections.json").read_text())["frames"][0]["detections"]
    boxes = np.array([each["box"] for each in found])
    assert len(boxes) > 0
    assert shown[0].contains(boxes).any()
    assert shown[0] == pytest.approx((-20.48, 3.0, -5.12, 5.12))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["sensor"] == "rear"
    assert "sensor rear, as sensor.yaml says" in (tmp_path / "out" / "report.md").read_text()
    assert load_profile(str(tmp_path / "out" / "sensor.yaml")).intensity_max == 255
    run(*arguments)
    assert not (tmp_path / "out" / "sensor.yaml").exists()


def test_eval_judges_own_data_all_around(
    run: CommandLine, tiny_bundle: Bundle, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """A car ahead and one behind, of which the front reaches the first alone."""
    both = np.array([[3.5, 0, -1, 4, 2, 3.5, 0], [-3.5, 0, -1, 4, 2, 3.5, 0]])
    (tmp_path / "points").mkdir()
    write_cloud(
        tmp_path / "points" / "a.npy", np.concatenate([tiny_cloud, tiny_cloud * np.array([-1, -1, 1, 1], np.float32)])
    )
    write_objects(tmp_path / "labels" / "a.json", objects_of(both, ["Car", "Car"]))
    for coverage, objects in (("front", 1), ("full", 2)):
        outcome = run("eval", tmp_path, "--model", tiny_bundle.folder, "--json", "-", "--coverage", coverage)
        assert outcome.code == 0, outcome.err
        results = [each for each in json.loads(outcome.out)["results"] if each["class_name"] == "Car"]
        assert {each["objects"] for each in results if each["difficulty"] == "hard"} == {objects}


def test_eval_leaves_out_what_the_grid_does_not_reach(
    run: CommandLine, tiny_bundle: Bundle, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """A car within the grid's 20 m and one beyond."""
    boxes = np.array([[9.0, 0, -1, 3.9, 1.6, 1.56, 0.2], [24.0, 0, -1, 3.9, 1.6, 1.56, 0.2]])
    labels = boxes_to_labels(boxes, ["Car", "Car"], CALIBRATION, occlusion=[0, 0])
    write_object_frame(tmp_path, "000000", tiny_cloud, CALIBRATION, labels)
    arguments = ["eval", tmp_path, "--model", tiny_bundle.folder, "--json", "-"]
    for option, objects in (((), 2), (("--within-grid",), 1)):
        outcome = run(*arguments, *option)
        assert outcome.code == 0, outcome.err
        results = [each for each in json.loads(outcome.out)["results"] if each["class_name"] == "Car"]
        assert {each["objects"] for each in results if each["difficulty"] == "hard"} == {objects}
    assert run(*arguments, "--within-grid", "--coverage", "full").code == 2
    (tmp_path / "own" / "points").mkdir(parents=True)
    write_cloud(tmp_path / "own" / "points" / "a.npy", tiny_cloud)
    own = run("eval", tmp_path / "own", "--model", tiny_bundle.folder, "--within-grid")
    assert (own.code, "own data is judged within the grid anyway" in " ".join(own.err.split())) == (2, True)


def test_a_coverage_that_cannot_be_is_refused(run: CommandLine, tiny_bundle: Bundle, kitti: Path) -> None:
    unknown = run("detect", kitti, "--model", tiny_bundle.folder, "--coverage", "rear")
    assert (unknown.code, "coverage 'rear': choose one of front, full" in unknown.err) == (1, True)
    cropped = run("detect", kitti, "--model", tiny_bundle.folder, "--coverage", "full", "--crop")
    assert cropped.code == 2
    assert "the camera sees the front alone" in " ".join(cropped.err.split())


def test_crop_without_calibration_is_an_error_of_the_frame(
    run: CommandLine, tiny_bundle: Bundle, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    write_cloud(tmp_path / "scan.bin", tiny_cloud)
    outcome = run("detect", tmp_path / "scan.bin", "--model", tiny_bundle.folder, "--crop")
    assert outcome.code == 1
    assert "no calibration to crop it" in outcome.err


def test_inputs_are_joined_under_names_of_their_own(tiny_cloud: npt.NDArray[np.float32], tmp_path: Path) -> None:
    for name in ("a/1.bin", "a/2.npy", "b/1.bin"):
        write_cloud(tmp_path / name, tiny_cloud[:10])
    assert JoinedDataset([tmp_path / "a"]).ids == ["1", "2"]
    joined = JoinedDataset([tmp_path / "a", tmp_path / "b"])
    assert joined.ids == ["a_1", "a_2", "b_1"]
    assert [frame.id for frame in joined] == joined.ids
    assert np.array_equal(joined.frame(2).points, tiny_cloud[:10])
    with pytest.raises(DataError, match="two inputs hold a frame a_1"):
        JoinedDataset([tmp_path / "a", tmp_path / "a"])


def test_progress_is_told_for_each_frame(tiny_bundle: Bundle, kitti: Path) -> None:
    (kitti / "training" / "calib" / "000002.txt").unlink()
    told: list[tuple[int, int]] = []
    result = detect_batch(
        pd_edge.load(tiny_bundle.folder), open_dataset(kitti), advance=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [failure.frame for failure in result.failures] == ["000002"]


def scored(labels: list[Label], score: float) -> list[Label]:
    return [label._replace(score=score) for label in labels]


def test_eval_of_files(run: CommandLine, kitti: Path, tmp_path: Path) -> None:
    labels, found = kitti / "training" / "label_2", tmp_path / "found"
    for index in (0, 2):
        write_labels(found / f"{index:06d}.txt", scored(read_labels(labels / f"{index:06d}.txt"), 0.5 + index / 10))
    file = tmp_path / "ap.json"
    outcome = run(
        "eval", "--predictions", found, "--labels", labels, "--split", "val", "--json", file, "--bootstrap", 10
    )
    assert outcome.code == 0, outcome.err
    for text in ("R40", "R11", "objects", "ceiling", "AOS", "10 evaluations"):
        assert text in outcome.out
    results = json.loads(file.read_text())["results"]
    (car,) = [
        r
        for r in results
        if (r["class_name"], r["metric"], r["difficulty"], r["recall"]) == ("Car", "3d", "easy", "r40")
    ]
    assert (car["objects"], car["ap"]) == (4, car["ceiling"])
    assert car["interval"][0] <= car["ap"] <= car["interval"][1]


def test_eval_of_files_wants_a_prediction_for_every_frame(kitti: Path, tmp_path: Path) -> None:
    labels, found = kitti / "training" / "label_2", tmp_path / "found"
    with pytest.raises(DataError, match="no such folder"):
        label_frames(found, labels)
    write_labels(found / "000000.txt", [])
    with pytest.raises(DataError, match=r"no prediction file for 2 of 3 frames, such as 000001.txt; .*--split"):
        label_frames(found, labels)
    (tmp_path / "list.txt").write_text("000000\n")
    assert label_frames(found, labels, str(tmp_path / "list.txt")) == ["000000"]
    with pytest.raises(DataError, match="no label files"):
        label_frames(found, labels.parent)


def test_eval_of_a_model_equals_eval_of_its_label_files(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path, tmp_path: Path
) -> None:
    model, out = tiny_bundle.folder, tmp_path / "out"
    by_model, by_files = tmp_path / "model.json", tmp_path / "files.json"
    assert run("eval", kitti, "--split", "val", "--model", model, "--json", by_model).code == 0
    assert run("detect", kitti, "--split", "val", "--model", model, "--out", out).code == 0
    labels = kitti / "training" / "label_2"
    run("eval", "--predictions", out / "labels", "--labels", labels, "--split", "val", "--json", by_files)
    first, second = (json.loads(path.read_text()) for path in (by_model, by_files))
    assert first["frames"] == second["frames"] == 2
    for one, other in zip(first["results"], second["results"], strict=True):
        assert one["objects"] == other["objects"]
        assert one["ap"] == pytest.approx(other["ap"], abs=0.1)


def test_eval_stops_at_a_bad_frame_and_without_labels(run: CommandLine, tiny_bundle: Bundle, kitti: Path) -> None:
    label = kitti / "training" / "label_2" / "000001.txt"
    label.write_text("Car 1 2\n")
    outcome = run("eval", kitti, "--model", tiny_bundle.folder)
    assert outcome.code == 1
    assert "1 of 3 frames failed" in outcome.err
    assert "000001.txt, line 1" in outcome.err
    for path in label.parent.iterdir():
        path.unlink()
    label.parent.rmdir()
    outcome = run("eval", kitti, "--model", tiny_bundle.folder)
    assert outcome.code == 1
    assert "frame 000000 has no labels" in outcome.err


def test_bench_side_by_side(run: CommandLine, tiny_bundle: Bundle, kitti: Path) -> None:
    outcome = run(
        "bench",
        *("--model", tiny_bundle.folder, "--runtimes", "openvino, torch:bf16", "--runs", 2),
        *("--frames", kitti, "--json", "-", "--sensor", "vlp-16"),
    )
    assert outcome.code == 0, outcome.err
    done, skipped = json.loads(outcome.out)
    assert done["case"]["sensor"] == "vlp-16"
    assert done["case"]["runtime"] == "openvino"
    assert done["stages_ms"]["total"]["p50"] > 0
    assert "torch runs the network in fp32 only" in skipped["skipped"]
    assert "peak memory [MiB]" in outcome.err


def test_bench_compares_the_standard_cases() -> None:
    from pd_edge.bench import STANDARD_CASES

    assert ",".join(f"{runtime}:{precision}" for runtime, precision in STANDARD_CASES) == STANDARD


def test_models_lists_folders(run: CommandLine, tiny_bundle: Bundle) -> None:
    outcome = run("models", tiny_bundle.folder, "--json", "-")
    assert outcome.code == 0
    (entry,) = json.loads(outcome.out)
    assert entry["name"] == "tiny"
    assert entry["parameters"] == tiny_bundle.manifest.parameters
    assert "files [MB]" in outcome.err
    assert run("models").code == 0


def test_bundle_of_trained_weights_detects_the_same(
    run: CommandLine, tiny_bundle: Bundle, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    outcome = run("bundle", tiny_bundle.folder, out, "--weights", "fp32")
    assert outcome.code == 0, outcome.err
    assert "copy" in outcome.out
    one, other = (pd_edge.load(folder).detect(tiny_cloud) for folder in (tiny_bundle.folder, out))
    assert one.boxes == pytest.approx(other.boxes, abs=1e-4)


def test_train_writes_weights_and_resumes_only_when_told(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from pd_edge.training.config import TrainConfig
    from pd_edge.training.data_config import AugmentConfig, DataConfig, SourceConfig

    config = TrainConfig(
        model=tiny_bundle.config.model,
        data=DataConfig(sources=(SourceConfig(root=kitti),)),
        augment=AugmentConfig(sampled_objects=0),
        samples=4,
        batch_size=2,
        workers=0,
        amp=False,
    )
    dump_config(config, tmp_path / "train.yaml")
    command = ("train", tmp_path / "train.yaml", "--out", tmp_path / "run")
    refused = run(*command, "--resume")
    assert refused.code == 1
    assert "leave --resume out" in refused.err
    assert run(*command, "--stop-after", 2).code == 0
    refused = run(*command)
    assert refused.code == 1
    assert "add --resume" in refused.err
    outcome = run(*command, "--resume")
    assert outcome.code == 0, outcome.err
    assert f"weights: {tmp_path / 'run' / 'model.safetensors'}" in outcome.out
    assert run("bundle", tmp_path / "run", tmp_path / "model").code == 0


def test_simulate_and_realism(run: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    pytest.importorskip("matplotlib")
    out = tmp_path / "sim"
    outcome = run("simulate", out, "--frames", 2, "--seed", 3)
    assert outcome.code == 0, outcome.err
    assert len(open_dataset(out, "train")) == 2
    outcome = run("realism", out, out, "--out", tmp_path / "realism")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "realism" / "realism.md").is_file()


def test_demo_on_a_simulated_drive(run: CommandLine, tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    pytest.importorskip("matplotlib")
    out = tmp_path / "demo"
    outcome = run("demo", "--model", tiny_bundle.folder, "--out", out, "--frames", 2)
    assert outcome.code == 0, outcome.err
    for name in ("report.md", "report.json", "detections.json"):
        assert (out / name).is_file()
    assert str(out / "report.md") in outcome.out
    assert len(list((out / "pictures").glob("*.png"))) == 2
    assert len(list((out / "labels").glob("*.txt"))) == 2
    report = json.loads((out / "report.json").read_text())
    assert report["ap"]["frames"] == 2
    assert set(report["latency_ms"]) == {"encoder", "network", "decode", "total"}


def test_demo_takes_the_val_frames_of_a_kitti_folder(
    run: CommandLine, tiny_bundle: Bundle, kitti: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    outcome = run("demo", "--kitti", kitti, "--model", tiny_bundle.folder, "--out", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    data = json.loads((tmp_path / "demo" / "detections.json").read_text())
    assert [frame["id"] for frame in data["frames"]] == ["000000", "000002"]
    assert "field of view" in outcome.out


def test_demo_finds_no_fault_with_a_real_drive(
    run: CommandLine, tiny_bundle: Bundle, kitti_root: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    drive = kitti_root / "raw" / "2011_09_26" / "2011_09_26_drive_0005_sync"
    outcome = run("demo", "--kitti", drive, "--model", tiny_bundle.folder, "--out", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["ap"]["frames"] == 54
    assert isinstance(pd_edge.load(tiny_bundle.folder).detect(open_dataset(drive).frame(0).points), Detections)
