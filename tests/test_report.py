"""What tables, JSON, reports and pictures say."""

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.batch import BatchResult, Failure, FrameResult
from pd_edge.bench import BenchResult, BenchSkipped, Case, stage_latencies
from pd_edge.boxes import Detections
from pd_edge.bundle import ModelSummary
from pd_edge.config import GridConfig
from pd_edge.detector import Timing
from pd_edge.drive_report import choose_frames, found_overlay, notes_on, report_markdown, result_tables, truth_overlay
from pd_edge.errors import DataError, MissingExtraError
from pd_edge.evaluate import Evaluation, bootstrap, evaluate
from pd_edge.kitti import Calibration, Frame, Label, boxes_to_labels
from pd_edge.pictures import DETECTION, TRUTH, Extent, Overlay, draw_bird_eye, extent_of, place_labels
from pd_edge.report import (
    ap_json,
    ap_table,
    batch_json,
    bench_json,
    bench_table,
    detections_table,
    json_text,
    latency_json,
    latency_table,
    models_table,
    write_json,
)
from pd_edge.sensors import MODEL_HEIGHT, SensorProfile, mount_of
from pd_edge.tables import Table, markdown_table
from pd_edge.terminal import show

BOX = np.array([[20.0, 2.0, -0.8, 4.0, 1.7, 1.5, 0.5]], np.float32)
CAR = Label("Car", 0.0, 0, -1.97, (370.0, 195.0, 480.0, 260.0), 1.5, 1.7, 4.0, (-2.0, 1.5, 20.0), -2.07)
"""An object as KITTI counts it among the easy ones."""
EXTENT = Extent(0.0, 40.0, -10.0, 10.0)
TIMINGS = [Timing(float(ms), 10.0 * ms, 1.0) for ms in range(101)]


def found(boxes: npt.NDArray[np.float32], scores: list[float]) -> Detections:
    return Detections(boxes, np.zeros(len(boxes), np.int64), np.array(scores, np.float32))


def frame_result(
    name: str, detections: Detections, truth: list[Label] | None = None, in_view: bool = True
) -> FrameResult:
    scored = [CAR._replace(score=float(score)) for score in detections.scores]
    return FrameResult(name, 100, in_view, detections, Timing(1.0, 2.0, 3.0), scored, truth, ())


def batch(frames: list[FrameResult], failures: tuple[Failure, ...] = ()) -> BatchResult:
    return BatchResult("tiny", "openvino", "fp32", ("Car", "Pedestrian"), tuple(frames), failures)


def perfect(count: int) -> Evaluation:
    """One car in each of ``count`` frames, found as it is."""
    guesses = [[CAR._replace(score=0.5 + 0.001 * k)] for k in range(count)]
    return evaluate([[CAR]] * count, guesses, {"Car": 0.7, "Pedestrian": 0.5})


def cells(table: Table) -> dict[tuple[str, ...], list[str]]:
    """Rows by their text columns, with the first cell of the group filled in."""
    rows, group = {}, ""
    for row in table.rows:
        group = row[0] or group
        rows[(group, *row[1 : table.text_columns])] = list(row[table.text_columns :])
    return rows


def test_markdown_table_escapes_bars_and_keeps_notes() -> None:
    text = markdown_table(Table("Times", ("stage", "p50 [ms]"), [("a|b", "1.0")], ("A note.",)))
    assert text == "### Times\n\n| stage | p50 [ms] |\n| --- | ---: |\n| a\\|b | 1.0 |\n\nA note.\n"


def test_terminal_table_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show(Table("Times [1]", ("stage", "p50 [ms]"), [("[bold]x", "[1.0, 2.0]")], ("Note [red].",)))
    out = capsys.readouterr().out
    for text in ("Times [1]", "p50 [ms]", "[bold]x", "[1.0, 2.0]", "Note [red]."):
        assert text in out


def test_latency_table_and_json() -> None:
    table = latency_table(TIMINGS, "Latency")
    assert cells(table)["network",] == ["500.0", "950.0", "990.0", "0.0"]
    assert all("[ms]" in column for column in table.columns[1:])
    assert "101 frames" in table.notes[0]
    assert latency_json(TIMINGS)["encoder"] == {"min": 0, "p50": 50, "p95": 95, "p99": 99}
    assert latency_json([]) == {}


def test_ap_table_names_objects_and_the_ceiling_of_few() -> None:
    rows = cells(ap_table(perfect(5)))
    assert rows["Car", "objects"] == ["5", "5", "5"]
    assert rows["Car", "ceiling"] == rows["Car", "3D"] == ["10.0", "10.0", "10.0"]
    assert rows["Pedestrian", "3D"] == ["-", "-", "-"]
    assert rows["mean", "BEV"] == ["10.0", "10.0", "10.0"]


def test_ap_table_without_ceiling_where_objects_are_many() -> None:
    table = ap_table(evaluate([[CAR]] * 60, [[CAR._replace(score=0.5)]] * 60))
    assert ("Car", "ceiling") not in cells(table)
    assert cells(table)["Car", "3D"] == ["100.0"] * 3


def test_intervals_stand_beside_the_figures() -> None:
    evaluation = perfect(5)
    intervals = bootstrap(evaluation, 20)
    table = ap_table(evaluation, "r11", intervals)
    low, high = intervals.interval("Car", "3d", "easy", "r11")
    ap = evaluation.result("Car", "3d", "easy", "r11").ap
    assert cells(table)["Car", "3D"][0] == f"{ap:.1f} [{low:.1f}, {high:.1f}]"
    assert any("95% of 20" in note for note in table.notes)
    results = ap_json(evaluation, intervals)["results"]
    by_class = {each["class_name"]: each["interval"] for each in results if each["metric"] == "3d"}
    assert by_class["Car"] == list(intervals.interval("Car", "3d", "hard", "r11"))
    assert by_class["Pedestrian"] is None
    json_text(results)


def test_batch_json_has_the_documented_keys() -> None:
    result = batch([frame_result("7", found(BOX, [0.75]))], (Failure("8", "broken"),))
    data = json.loads(json_text(batch_json(result, None)))
    named = {"model", "runtime", "precision", "coverage", "sensor", "classes", "latency_ms", "ap", "frames", "failures"}
    assert set(data) == named
    assert data["failures"] == [{"frame": "8", "error": "broken"}]
    (frame,) = data["frames"]
    assert frame["timing_ms"] == {"encoder": 1, "network": 2, "decode": 3, "total": 6}
    (detection,) = frame["detections"]
    assert (detection["class"], detection["score"]) == ("Car", 0.75)
    assert detection["box"] == pytest.approx(BOX[0].tolist())


def test_json_refuses_nan_and_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_text([math.nan])
    with pytest.raises(DataError, match="cannot be written"):
        write_json(tmp_path, [])


def test_detections_table_is_in_degrees_and_says_when_empty() -> None:
    table = detections_table(found(BOX, [0.75]), ("Car",), "Found")
    assert table.rows == [("Car", "0.75", "20.00", "2.00", "-0.80", "4.00", "1.70", "1.50", "29")]
    assert detections_table(found(BOX[:0], []), ("Car",), "Found").notes == ("Nothing found.",)


def test_bench_table_and_json_name_what_was_skipped() -> None:
    done = BenchResult(Case("tiny"), 10, 2e4, 3.0, 1500.0, 99.6, stage_latencies(TIMINGS))
    skipped = BenchSkipped(Case("tiny", "torch"), "no torch")
    table = bench_table([done, skipped])
    rows = cells(table)
    assert rows["tiny openvino fp32", "encoder"] == ["50.0", "95.0", "99.0", "100", "1.5"]
    assert rows["tiny torch fp32", "skipped"] == [""] * 5
    assert any("no torch" in note for note in table.notes)
    first, second = json.loads(json_text(bench_json([done, skipped])))
    assert first["stages_ms"]["network"]["p95"] == 950
    assert second["skipped"] == "no torch"


def test_models_table_takes_figures_from_the_summary() -> None:
    sizes = ("fp16", 1_500_000, 2_000_000)
    one = ModelSummary("one", 1_234_567, 5_000_000_000, *sizes, {"summary": {"Car 3D": 71.2}})
    two = ModelSummary("two", 10_000, 10_000_000, *sizes, {})
    table = models_table([one, two])
    assert table.columns[-1] == "Car 3D"
    assert [row[1:] for row in table.rows] == [
        ("1.23", "5.0", "fp16", "1.5", "71.2"),
        ("0.01", "0.0", "fp16", "1.5", "-"),
    ]


def test_report_tells_ap_latency_pictures_and_failures() -> None:
    result = batch([frame_result("7", found(BOX, [0.9]), [CAR])], (Failure("8", "broken cloud"),))
    evaluation = result.evaluation()
    assert evaluation is not None
    text = report_markdown("Detections", result, evaluation, [Path("pictures/7.png")])
    for part in ("# Detections", "1 frames failed", "R40 [%]", "p99 [ms]", "(pictures/7.png)", "- 8: broken cloud"):
        assert part in text
    assert "cut to its field of view" in text


def test_no_ap_of_clouds_that_were_not_cut_and_it_is_said() -> None:
    result = batch([frame_result("7", found(BOX, [0.9]), [CAR], in_view=False)])
    assert result.evaluation() is None
    assert "not cut to the camera's view" in notes_on(result)[0]
    assert len(result_tables(result, None)) == 1


def test_changes_on_reading_are_told() -> None:
    changed = frame_result("7", found(BOX, [0.9]))._replace(notes=("intensity 0..255 scaled to 0..1",))
    assert notes_on(batch([changed]))[0] == "1 frames changed on reading; 7: intensity 0..255 scaled to 0..1"


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 15))
def test_chosen_frames_are_the_best_of_equal_parts(counts: list[int], wanted: int) -> None:
    chosen = choose_frames([found(np.repeat(BOX, count, axis=0), [0.5] * count) for count in counts], wanted)
    assert len(chosen) == min(wanted, len(counts))
    assert chosen == sorted(set(chosen))
    if wanted == 1 and counts:
        assert counts[chosen[0]] == max(counts)


def test_overlays_leave_out_weak_detections_and_dont_care(calibration: Calibration, dont_care: Label) -> None:
    boxes = np.repeat(BOX, 2, axis=0)
    assert found_overlay(found(boxes, [0.9, 0.1]), ("Car",)).texts == ["Car 0.90"]
    (car,) = boxes_to_labels(BOX, ["Car"], calibration)
    labels = [car, car._replace(name="Van"), dont_care]
    frame = Frame("7", np.empty((0, 4), np.float32), calibration, labels, (1000, 400))
    overlay = truth_overlay(frame, ("Car",))
    assert overlay is not None
    assert list(overlay.texts) == ["", "Van"]
    assert overlay.boxes[0] == pytest.approx(BOX[0], abs=1e-5)
    assert truth_overlay(frame._replace(labels=None), ("Car",)) is None


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 10_000))
def test_labels_keep_apart_where_there_is_room(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = rng.uniform((10, -4), (30, 4), (count, 2))
    sizes = np.tile([4.0, 0.8], (count, 1))
    placed = place_labels(anchors, sizes, np.empty((0, 4)), EXTENT)
    for i in range(count):
        apart = (np.abs(placed[:i] - placed[i]) >= sizes[i] - 1e-9).any(axis=1)
        assert apart.all()
    assert EXTENT.contains(placed).all()


def test_a_label_avoids_the_boxes() -> None:
    box = np.array([[10.0, -2, 20, 2]])
    (placed,) = place_labels(np.array([[15.0, 0]]), np.array([[3.0, 1.0]]), box, EXTENT)
    assert abs(placed[1]) >= 2.5


def test_extent_covers_boxes_within_the_grid() -> None:
    grid = GridConfig()
    assert extent_of(grid) == (-3.0, 69.12, -20.0, 20.0)
    aside = np.array([[20.0, 27.0, 0, 4, 2, 2, 0]])
    assert extent_of(grid, [Overlay(aside, ["Car"])]) == (-3.0, 69.12, -31.0, 31.0)
    far = np.array([[20.0, 90.0, 0, 4, 2, 2, 0], [-30.0, 35.0, 0, 4, 2, 2, 0]])
    assert extent_of(grid, [Overlay(far, ["Car"] * 2)]) == (-3.0, 69.12, -39.68, 39.68)


def test_extent_of_full_coverage_goes_all_around() -> None:
    grid = GridConfig()
    assert extent_of(grid, around=True) == (-69.12, 69.12, -20.0, 20.0)
    behind = np.array([[-30.0, -45.0, 0, 4, 2, 2, 0], [10.0, 90.0, 0, 4, 2, 2, 0]])
    assert extent_of(grid, [Overlay(behind[:1], ["Car"])], around=True) == (-69.12, 69.12, -49.0, 49.0)
    assert extent_of(grid, [Overlay(behind, ["Car"] * 2)], around=True) == (-69.12, 69.12, -69.12, 69.12)


@pytest.mark.parametrize(
    ("yaw", "expected"),
    [(180, (-69.12, 3.0, -20.0, 20.0)), (90, (-42.68, 39.68, -20.0, 0.0)), (-90, (-42.68, 39.68, 0.0, 20.0))],
)
def test_extent_of_a_turned_sensor_is_where_the_grid_is(yaw: float, expected: tuple[float, ...]) -> None:
    to_cloud = mount_of(SensorProfile(name="turned", height=MODEL_HEIGHT, yaw=yaw)).to_cloud
    assert extent_of(GridConfig(), to_cloud=to_cloud) == pytest.approx(expected, abs=1e-9)


def colours_in(path: Path) -> npt.NDArray[np.float64]:
    image = pytest.importorskip("matplotlib.image")
    pixels: npt.NDArray[np.float64] = image.imread(path)[..., :3]
    return pixels


def count_of(path: Path, colour: str) -> int:
    """Pixels of very nearly this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(colours_in(path) - wanted).max(axis=-1) < 0.03).sum())


def test_picture_shows_detections_and_truth_in_their_colours(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = np.random.default_rng(0).uniform((0, -10, -2, 0), (40, 10, 1, 1), (500, 4)).astype(np.float32)
    one, none = Overlay(BOX, ["Car 0.75"]), Overlay(BOX[:0], [])
    truth = Overlay(BOX + np.array([6, 0, 0, 0, 0, 0, 0], np.float32), [""])
    counts = {}
    for name, detections, labelled in (("both", one, truth), ("found", one, None), ("nothing", none, None)):
        path = tmp_path / "new" / f"{name}.png"
        assert draw_bird_eye(path, points, detections, labelled, extent=EXTENT, title="Frame 7") == path
        counts[name] = count_of(path, DETECTION), count_of(path, TRUTH)
    assert colours_in(tmp_path / "new" / "both.png").shape[1] == 2080
    assert counts["both"][0] > counts["nothing"][0] + 300
    assert counts["found"][0] > counts["nothing"][0] + 300
    assert counts["both"][1] > counts["found"][1] + 300
    assert counts["nothing"][1] == 0


def test_picture_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        draw_bird_eye(
            tmp_path / "file" / "x.png", np.empty((0, 4), np.float32), Overlay(BOX, ["Car"]), extent=EXTENT, title="x"
        )


def test_picture_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pd-edge\[viz\]'"):
        draw_bird_eye(tmp_path / "x.png", np.empty((0, 4), np.float32), Overlay(BOX, ["Car"]), extent=EXTENT, title="x")
