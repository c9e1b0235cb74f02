"""A detector over bags, and KITTI's AP from what it recorded."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("mcap", reason="needs the bags extra")

from pd_edge.bag_pictures import draw_pairs
from pd_edge.bag_truth import chain, pairs_of
from pd_edge.bags import BagReader, BagWriter
from pd_edge.boxes import SHOWN_SCORE, Detections
from pd_edge.bundle import Bundle
from pd_edge.cli import main
from pd_edge.detector import Detector, load
from pd_edge.errors import DataError
from pd_edge.evaluate import evaluate
from pd_edge.kitti import Calibration, Frame, Label, RawDrive, boxes_to_lidar, write_raw_drive
from pd_edge.kitti_bag import CLOUDS, LABELS, TF_STATIC, TRUTH, write_drive
from pd_edge.pointcloud2 import points_of
from pd_edge.replay import DETECTIONS, MARKERS, Replayed, replay
from pd_edge.ros_messages import Objects, bag_types, detection_array, header, objects_of
from pd_edge.sensors import MODEL_HEIGHT, SensorProfile, mount_of

SCANS, PERIOD = 4, 100_000_000
TIMES = [1_767_225_600_000_000_000 + n * PERIOD for n in range(SCANS)]
Change = Callable[[int, Any], Any]


@pytest.fixture(scope="module")
def detector(tiny_bundle: Bundle) -> Detector:
    return load(str(tiny_bundle.folder), "onnxruntime")


@pytest.fixture(scope="module")
def drive(
    tmp_path_factory: pytest.TempPathFactory,
    calibration: Calibration,
    car: Label,
    dont_care: Label,
    tiny_cloud: "np.ndarray[Any, np.dtype[np.float32]]",
) -> Path:
    path = tmp_path_factory.mktemp("raw") / "2026_01_01" / "2026_01_01_drive_0001_sync"
    clouds = [tiny_cloud[number:] for number in range(SCANS)]
    write_raw_drive(path, clouds, TIMES, calibration, labels=[[car, dont_care]] * SCANS)
    return path


@pytest.fixture(scope="module")
def bag(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "drive.mcap"
    write_drive(RawDrive(drive), path)
    return path


def changed(bag: Path, out: Path, change: Change) -> Path:
    """A bag with its clouds changed: ``change`` gets the scan's number and message, and gives a message or None."""
    number = 0
    with BagReader(bag) as source, BagWriter(out, bag_types()) as copy:
        for record in source.records():
            if record.topic != CLOUDS:
                copy.copy(record, source.types)
                continue
            message = change(number, source.message(record))
            number += 1
            if message is not None:
                data = source.types.serialize_cdr(message, record.kind)
                copy.copy(record._replace(data=data), source.types)
    return out


def test_detections_are_the_detector_s_with_their_cloud_s_header(bag: Path, detector: Detector, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = replay(bag, detector, tmp_path / "out.mcap", advance=lambda *counts: seen.append(counts))
    assert seen == [(number + 1, SCANS) for number in range(SCANS)]
    with BagReader(bag) as source:
        clouds = [source.message(each) for each in source.records([CLOUDS])]
        others = [each for each in source.records() if each.topic != CLOUDS]
    with BagReader(tmp_path / "out.mcap") as found:
        records = list(found.records())
        messages = [found.message(each) for each in records if each.topic == DETECTIONS]
        markers = [found.message(each) for each in records if each.topic == MARKERS]
    assert [each.time_ns for each in records if each.topic == DETECTIONS] == TIMES
    count = 0
    for cloud, message, shown in zip(clouds, messages, markers, strict=True):
        expected = detector.detect(points_of(cloud).points)
        objects = objects_of(message)
        assert len(expected.boxes) > 0
        np.testing.assert_allclose(objects.boxes, expected.boxes, atol=1e-6)
        np.testing.assert_allclose(objects.scores, expected.scores)
        assert list(objects.names) == [detector.classes[label] for label in expected.labels]
        assert repr(message.header) == repr(cloud.header)
        assert len(shown.markers) == 1 + 3 * int((expected.scores >= SHOWN_SCORE).sum())
        count += len(expected.boxes)
    handed_on = [each for each in records if each.topic not in {DETECTIONS, MARKERS}]
    assert [(*each[:3], bytes(each.data)) for each in handed_on] == [(*each[:3], bytes(each.data)) for each in others]
    assert (done.topic, done.boxes, len(done.timings), done.failures, done.cut) == (CLOUDS, count, SCANS, [], None)


def test_a_mounted_sensor_gets_boxes_in_its_own_frame(
    bag: Path, detector: Detector, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    def lifted(_: int, message: Any) -> Any:
        points = points_of(message).points - np.array([0, 0, 1, 0], np.float32)
        return dataclasses.replace(message, data=np.ascontiguousarray(points).reshape(-1).view(np.uint8))

    high = changed(bag, tmp_path / "high.mcap", lifted)
    profile = tmp_path / "high.yaml"
    profile.write_text(f"name: high\nheight: {MODEL_HEIGHT + 1}\n", encoding="utf-8")
    out = ["--model", str(tiny_bundle.folder), "--runtime", "onnxruntime", "--out", str(tmp_path / "out.mcap")]
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(high), *out, "--sensor", str(profile)])
    assert not ended.value.code
    with BagReader(bag) as source, BagReader(tmp_path / "out.mcap") as found:
        clouds = [source.message(each) for each in source.records([CLOUDS])]
        messages = [found.message(each) for each in found.records([DETECTIONS])]
        markers = [found.message(each) for each in found.records([MARKERS])]
    for cloud, message, shown in zip(clouds, messages, markers, strict=True):
        expected = detector.detect(points_of(cloud).points).boxes - [0, 0, 1, 0, 0, 0, 0]
        np.testing.assert_allclose(objects_of(message).boxes, expected, atol=2e-3)
        heights = {round(each.bbox.center.position.z, 3) for each in message.detections}
        assert {round(each.pose.position.z, 3) for each in shown.markers if each.ns == "boxes"} <= heights


def test_a_bag_of_a_tilted_sensor_is_evaluated(
    bag: Path, detector: Detector, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    profile = SensorProfile(name="tilted", height=MODEL_HEIGHT, roll=-3, pitch=4)
    mount = mount_of(profile)

    def tilted(_: int, message: Any) -> Any:
        points = mount._replace(to_model=mount.to_cloud).points(points_of(message).points)
        return dataclasses.replace(message, data=np.ascontiguousarray(points).reshape(-1).view(np.uint8))

    around = load(str(tiny_bundle.folder), "onnxruntime", sensor=profile, coverage="full")
    done = replay(changed(bag, tmp_path / "tilted.mcap", tilted), around, tmp_path / "out.mcap")
    pairs = pairs_of(tmp_path / "out.mcap", DETECTIONS)
    assert sum(len(each.boxes) for each in pairs.detections) == done.boxes > 0
    assert evaluate(pairs.truth, pairs.found).classes
    with BagReader(bag) as source:
        first = source.message(next(iter(source.records([CLOUDS]))))
    expected = mount.boxes(detector.detect(points_of(first).points))
    ahead = expected.boxes[expected.boxes[:, 0] > 10][:, :3]
    distance = np.linalg.norm(ahead[:, None] - pairs.detections[0].boxes[:, :3], axis=2).min(axis=1)
    assert np.median(distance) < 0.05


def test_boxes_of_a_bag_with_swapped_axes_lie_on_its_points(
    bag: Path, detector: Detector, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """As they were written, for whoever reads both from the result; and level in the viewer, which mends the points."""
    from pd_edge.view.bag_source import bag_moments, read_recorded
    from pd_edge.view.sources import Choice

    def swapped(_: int, message: Any) -> Any:
        points = points_of(message).points[:, [1, 0, 2, 3]]
        return dataclasses.replace(message, data=np.ascontiguousarray(points).reshape(-1).view(np.uint8))

    profile = SensorProfile(name="swapped", height=MODEL_HEIGHT, axes=("y", "x", "z"))
    mended = load(str(tiny_bundle.folder), "onnxruntime", sensor=profile)
    out = tmp_path / "out.mcap"
    replay(changed(bag, tmp_path / "swapped.mcap", swapped), mended, out, clouds=True)
    with BagReader(bag) as source, BagReader(out) as found:
        plain = detector.detect(points_of(source.message(next(iter(source.records([CLOUDS]))))).points).boxes
        boxes = objects_of(found.message(next(iter(found.records([DETECTIONS]))))).boxes
    np.testing.assert_allclose(boxes[:, :6], plain[:, [1, 0, 2, 3, 4, 5]], atol=1e-5)
    np.testing.assert_allclose(np.exp(1j * boxes[:, 6]), np.exp(1j * (np.pi / 2 - plain[:, 6])), atol=1e-5)
    moment = next(bag_moments(out, read_recorded(out), None, profile, Choice(), on_error=pytest.fail))
    np.testing.assert_allclose(moment.found.boxes[:, :6], plain[:, :6], atol=1e-5)


def test_clouds_are_copied_where_asked_for(bag: Path, detector: Detector, tmp_path: Path) -> None:
    replay(bag, detector, tmp_path / "out", clouds=True, compression="zstd")
    with BagReader(bag) as source, BagReader(tmp_path / "out") as found:
        expected, copied = (list(each.records([CLOUDS])) for each in (source, found))
    assert [bytes(each.data) for each in copied] == [bytes(each.data) for each in expected]


def test_a_cloud_that_cannot_be_used_is_passed_over(bag: Path, detector: Detector, tmp_path: Path) -> None:
    def spoil(number: int, message: Any) -> Any:
        if number == 1:
            message.width *= 1000
        if number == 2:
            message.fields = message.fields[:2]
        return message

    done = replay(changed(bag, tmp_path / "bad.mcap", spoil), detector, tmp_path / "out.mcap")
    assert len(done.timings) == 2
    assert [time_ns for time_ns, _ in done.failures] == TIMES[1:3]
    assert "the message was cut or its sizes are wrong" in done.failures[0][1]
    assert "no field z among ['x', 'y']" in done.failures[1][1]


def test_without_intensity_and_with_missing_returns(bag: Path, detector: Detector, tmp_path: Path) -> None:
    def spoil(number: int, message: Any) -> Any:
        message.fields = message.fields[:3]
        if number == 0:
            message.data = np.concatenate([np.zeros(32, np.uint8), message.data[32:]])
        return message

    done = replay(changed(bag, tmp_path / "bad.mcap", spoil), detector, tmp_path / "out.mcap")
    assert done.without_intensity
    assert done.points_removed == 2


def test_of_a_cut_bag_what_could_be_read_is_written(bag: Path, detector: Detector, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    size = bag.stat().st_size
    with BagWriter(tmp_path / "long.mcap", bag_types()) as long, BagReader(bag) as source:
        for _ in range(40):
            for record in source.records():
                long.copy(record, source.types)
    whole = (tmp_path / "long.mcap").read_bytes()
    assert len(whole) > 20 * size
    cut.write_bytes(whole[: len(whole) // 2])
    done = replay(cut, detector, tmp_path / "out.mcap")
    assert 0 < len(done.timings) < 40 * SCANS
    assert done.cut is not None
    assert "cut off or damaged; all before it was read" in done.cut
    with BagReader(tmp_path / "out.mcap") as found:
        assert found.count(DETECTIONS) == len(done.timings)


def test_detections_of_an_earlier_replay_are_replaced(bag: Path, detector: Detector, tmp_path: Path) -> None:
    replay(bag, detector, tmp_path / "first.mcap", clouds=True)
    replay(tmp_path / "first.mcap", detector, tmp_path / "second.mcap", clouds=True)
    with BagReader(tmp_path / "second.mcap") as found:
        assert [found.count(topic) for topic in (CLOUDS, DETECTIONS, MARKERS)] == [SCANS] * 3


def test_the_topic_is_named_where_there_are_more(bag: Path, detector: Detector, tmp_path: Path) -> None:
    with BagReader(bag) as source, BagWriter(tmp_path / "two.mcap", bag_types()) as two:
        for record in source.records([CLOUDS]):
            two.copy(record._replace(topic="/front"), source.types)
            two.copy(record._replace(topic="/rear"), source.types)
    with pytest.raises(DataError, match="PointCloud2 on /front, /rear; name one topic"):
        replay(tmp_path / "two.mcap", detector, tmp_path / "out.mcap")
    with pytest.raises(DataError, match=r"no PointCloud2 on /side; it has /front \(sensor_msgs/msg/PointCloud2\)"):
        replay(tmp_path / "two.mcap", detector, tmp_path / "out.mcap", topic="/side")
    assert replay(tmp_path / "two.mcap", detector, tmp_path / "out.mcap", topic="/rear").topic == "/rear"


def test_a_bag_with_nothing_to_detect_in_leaves_none(bag: Path, detector: Detector, tmp_path: Path) -> None:
    empty = changed(bag, tmp_path / "empty.mcap", lambda _number, _message: None)
    with pytest.raises(DataError, match="no PointCloud2 in it; it has /camera/camera_info"):
        replay(empty, detector, tmp_path / "out.mcap")

    def spoil(_number: int, message: Any) -> Any:
        message.fields = []
        return message

    with pytest.raises(DataError, match=r"no cloud of /velodyne_points could be used; the first of 4: .*no field"):
        replay(changed(bag, tmp_path / "bad.mcap", spoil), detector, tmp_path / "out.mcap")
    assert not (tmp_path / "out.mcap").exists()


def test_rate(bag: Path, detector: Detector, tmp_path: Path) -> None:
    start = time.perf_counter()
    done: Replayed = replay(bag, detector, tmp_path / "out.mcap", rate=0.5)
    assert time.perf_counter() - start >= (SCANS - 1) * PERIOD / 1e9 / 0.5
    assert len(done.timings) == SCANS


def recorded(bag: Path, out: Path, calibration: Calibration, truth: list[Label], *, late_ns: int = 0) -> Path:
    """The bag with detections that are the ground truth, but for the last scan, which has none."""
    boxes = boxes_to_lidar(truth, calibration)
    types = bag_types()
    kinds = types.types.__getitem__
    objects = Objects(boxes, [each.name for each in truth], np.linspace(0.9, 0.5, len(truth)))
    with BagReader(bag) as source, BagWriter(out, types) as written:
        for record in source.records():
            written.copy(record, source.types)
        for stamp in TIMES[:-1]:
            message = detection_array(kinds, header(kinds, stamp + late_ns, "velodyne"), objects)
            written.write("/found", message, stamp + 50_000_000)
    return out


@pytest.mark.parametrize("late_ns", [0, 500])
def test_ap_of_a_recorded_topic(late_ns: int, bag: Path, drive: Path, calibration: Calibration, tmp_path: Path) -> None:
    car = RawDrive(drive).frame(0).labels[0]  # type: ignore[index]
    path = recorded(bag, tmp_path / "found.mcap", calibration, [car], late_ns=late_ns)
    for source in (None, RawDrive(drive)):
        pairs = pairs_of(path, drive=source)
        assert [[each.name for each in labels] for labels in pairs.truth] == [["Car", "DontCare"]] * (SCANS - 1)
        assert (pairs.without_detections, pairs.without_truth) == (1, 0)
        found = pairs.found[0][0]
        np.testing.assert_allclose(found.location, car.location, atol=1e-5)
        assert found.score == pytest.approx(0.9)
        best = evaluate(pairs.truth, pairs.found).result("Car", "3d", "moderate")
        assert best.objects == SCANS - 1
        assert best.ap == pytest.approx(best.ceiling)


def test_what_evaluation_lacks_is_named(
    bag: Path, drive: Path, calibration: Calibration, car: Label, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no Detection3DArray"):
        pairs_of(bag)
    path = recorded(bag, tmp_path / "found.mcap", calibration, [car])
    with pytest.raises(DataError, match="Detection3DArray on /found; name one"):
        pairs_of(path, "/other")
    for left_out, message in (
        (LABELS, "no ground truth on /ground_truth/labels; add -"),
        (TF_STATIC, "no camer"),
    ):
        with BagReader(path) as source, BagWriter(tmp_path / f"{message[:9]}.mcap", bag_types()) as copy:
            for record in source.records():
                if record.topic != left_out:
                    copy.copy(record, source.types)
        with pytest.raises(DataError, match=message):
            pairs_of(tmp_path / f"{message[:9]}.mcap")
        assert len(pairs_of(tmp_path / f"{message[:9]}.mcap", drive=RawDrive(drive)).found) == SCANS - 1


def without_clouds(bag: Path, out: Path) -> Path:
    return changed(bag, out, lambda _number, _message: None)


@pytest.mark.parametrize("late_ns", [0, 500])
@pytest.mark.parametrize("of_drive", [False, True])
def test_pictures_show_a_scan_s_own_cloud_boxes_and_truth(
    *,
    late_ns: int,
    of_drive: bool,
    bag: Path,
    drive: Path,
    calibration: Calibration,
    car: Label,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    path = recorded(bag, tmp_path / "found.mcap", calibration, [car], late_ns=late_ns)
    source = RawDrive(drive) if of_drive else None
    if of_drive:
        path = without_clouds(path, tmp_path / "alone.mcap")
    pairs, shown = pairs_of(path, drive=source), []

    def draw(picture: Path, frame: Frame, detections: Detections, *_: Any, **__: Any) -> Path:
        shown.append((frame, detections))
        return picture

    monkeypatch.setattr("pd_edge.bag_pictures.draw_scan", draw)
    drawn = draw_pairs(tmp_path, path, pairs, SCANS, drive=source)
    assert [each.name for each in drawn] == [f"{stamp + late_ns}.png" for stamp in TIMES[:-1]]
    assert len(shown) == SCANS - 1
    for number, (frame, detections) in enumerate(shown):
        np.testing.assert_array_equal(frame.points, RawDrive(drive).frame(number).points)
        assert frame.labels == pairs.truth[number]
        np.testing.assert_allclose(detections.boxes, boxes_to_lidar([car], calibration), atol=1e-5)


def test_pictures_without_clouds_say_where_to_get_them(
    bag: Path, calibration: Calibration, car: Label, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("pd_edge.bag_pictures.draw_scan", lambda picture, *_, **__: picture)
    path = recorded(bag, tmp_path / "found.mcap", calibration, [car])

    def of_another_sensor(number: int, message: Any) -> Any:
        message.header.frame_id = "rear" if number == 1 else "velodyne"
        return message

    others = changed(path, tmp_path / "others.mcap", of_another_sensor)
    for given, first in ((others, TIMES[1]), (without_clouds(path, tmp_path / "alone.mcap"), TIMES[0])):
        with pytest.raises(DataError, match=rf"no cloud in frame 'velodyne' at {first} ns.*`pd-edge replay --clouds`"):
            draw_pairs(tmp_path, given, pairs_of(given), SCANS)


def test_transforms_are_followed_both_ways() -> None:
    def moved(x: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
        matrix = np.eye(4)
        matrix[0, 3] = x
        return matrix

    known = {("base", "lidar"): moved(1), ("base", "mount"): moved(5), ("mount", "camera"): moved(10)}
    found = chain(known, "lidar", "camera")
    assert found is not None
    assert found[0, 3] == pytest.approx(1 - 5 - 10)
    assert chain(known, "lidar", "elsewhere") is None


def test_commands(bag: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.mcap"
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(bag), "--out", str(out), "--model", str(tiny_bundle.folder), "--runtime", "onnxruntime"])
    assert ended.value.code == 0
    assert f"boxes in {SCANS} clouds" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--bag", str(out)])
    assert ended.value.code == 0
    assert f"{SCANS} frames" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--bag", str(bag), "--topic", TRUTH])
    assert ended.value.code == 1
    assert "no Detection3DArray" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(bag), "--bag", str(out)])
    assert ended.value.code == 2


def test_command_draws_pictures(
    bag: Path, calibration: Calibration, car: Label, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path, out = recorded(bag, tmp_path / "found.mcap", calibration, [car]), tmp_path / "pictures"
    alone = without_clouds(path, tmp_path / "alone.mcap")
    for given, code, said in (
        (["--bag", str(path), "--pictures", "1", "--out", str(out)], 0, f"picture: {out / str(TIMES[0])}.png"),
        (["--bag", str(alone), "--pictures", "1", "--out", str(out)], 1, "`pd-edge replay --clouds`"),
        (["--bag", str(path), "--pictures", "1"], 2, "go together"),
        (["--bag", str(path), "--out", str(out)], 2, "go together"),
        ([str(bag), "--pictures", "1", "--out", str(out)], 2, "belong to --bag"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["eval", *given])
        assert ended.value.code == code
        assert said in "".join(capsys.readouterr()).replace("\n", "")
    assert (out / f"{TIMES[0]}.png").stat().st_size > 10_000
