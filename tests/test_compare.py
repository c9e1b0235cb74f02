"""The comparison measures what it says, and the gate opens and shuts where it should."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.boxes import Detections
from pd_edge.bundle import Bundle
from pd_edge.cli import main
from pd_edge.commands.compare import parse_detector
from pd_edge.compare import GATES, Difference, Gate, compare, head_difference, precision_kind, twins
from pd_edge.compare_ap import Ap, loss_interval
from pd_edge.config import dump_config
from pd_edge.decode import Heads
from pd_edge.detector import Detector, load
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.errors import ConfigError, EngineError
from pd_edge.kitti import Dataset, ObjectDataset, boxes_to_labels, write_object_frame, write_split
from pd_edge.sensors import KITTI
from pd_edge.training.sim.camera import camera_calibration

if TYPE_CHECKING:
    from pd_edge.runtimes import Runtime

Cloud = npt.NDArray[np.float32]
Turn = Callable[[Heads], Heads]


class Changed:
    """A runtime whose heads are changed on the way out."""

    precision = "fp32"

    def __init__(self, inner: "Runtime", change: Turn) -> None:
        self.name, self.layout = inner.name, inner.layout
        self._inner, self._change = inner, change

    def infer(self, canvas: Cloud) -> Heads:
        return self._change(Heads(*(head.copy() for head in self._inner.infer(canvas))))


@pytest.fixture
def kitti(tmp_path: Path, tiny_cloud: Cloud) -> Path:
    """Two labelled frames."""
    root, calibration = tmp_path / "kitti", camera_calibration()
    cars = np.array([[12.0, 0, -0.9, 4, 1.7, 1.5, 0.0]])
    labels = boxes_to_labels(cars, ["Car"], calibration, occlusion=[0])
    for index in range(2):
        write_object_frame(root, f"{index:06d}", tiny_cloud[index * 500 :], calibration, labels)
    write_split(root, "val", ["000000", "000001"])
    return root


def test_nothing_changed_is_no_difference(tiny_bundle: Bundle, kitti: Path) -> None:
    pytest.importorskip("onnxruntime")
    detectors = {name: load(tiny_bundle.folder, name) for name in ("openvino", "onnxruntime")}
    first, second = compare(detectors, ObjectDataset(kitti, "val"))
    assert (first.frames, second.frames) == (2, 2)
    assert first.head == 0 < second.head < 1e-4
    assert second.matched == 100 or second.boxes == 0
    assert math.isnan(second.ap)
    assert second.beyond(GATES["float32"]) == []


def logits_up(heads: Heads) -> Heads:
    return heads._replace(logits=heads.logits + 3)


def turned_round(heads: Heads) -> Heads:
    return heads._replace(logits=heads.logits + 3, directions=-heads.directions)


def test_turned_boxes_are_flips_and_nothing_else(tiny_bundle: Bundle, kitti: Path) -> None:
    dataset = ObjectDataset(kitti, "val")
    reference = Detector(tiny_bundle, Changed(load(tiny_bundle.folder).runtime, logits_up))  # type: ignore[arg-type]
    other = Detector(tiny_bundle, Changed(load(tiny_bundle.folder).runtime, turned_round))  # type: ignore[arg-type]
    _, difference = compare({"a": reference, "b": other}, dataset)
    assert difference.boxes > 5
    assert (difference.matched, difference.flips) == (100, 100)
    assert difference.score_max == 0
    assert difference.yaw_max < 1e-3
    assert difference.head == pytest.approx(2)
    assert difference.beyond(GATES["int8"]) == ["100.0 % point the other way, allowed are 5 %"]


def test_twins_are_of_one_class_and_used_once() -> None:
    box = np.array([10.0, 0, -1, 4, 1.6, 1.5, 0.1], np.float32)
    moved = box + np.array([0.5, 0, 0, 0, 0, 0, 0], np.float32)
    far = box + np.array([20, 0, 0, 0, 0, 0, 0], np.float32)
    found = Detections(np.stack([moved, box, far]), np.array([0, 0, 1]), np.array([0.9, 0.8, 0.7], np.float32))
    expected = Detections(np.stack([box, far]), np.array([0, 0]), np.array([0.9, 0.7], np.float32))
    assert twins(found, expected) == [(1, 0)]
    nothing = Detections(np.empty((0, 7), np.float32), np.empty(0, np.int64), np.empty(0, np.float32))
    assert twins(nothing, expected) == twins(found, nothing) == []


def test_heads_are_compared_relative_to_the_largest_of_each() -> None:
    expected = Heads(*(np.full((1, 2, 2, 2), value, np.float32) for value in (10, 1, 2)))
    found = expected._replace(logits=expected.logits + 1, directions=expected.directions - np.float32(0.5))
    assert head_difference(found, expected) == pytest.approx(0.25)
    assert head_difference(None, None) == 0
    with pytest.raises(EngineError, match=r"head logits has shapes .*compare detectors of one grid and classes"):
        head_difference(expected._replace(logits=expected.logits[:, :1]), expected)


def test_ap_is_of_classes_with_enough_objects(
    tiny_bundle: Bundle, kitti: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pd_edge.compare_ap.ENOUGH", 2)
    dataset = ObjectDataset(kitti, "val")
    runtime: Any = load(tiny_bundle.folder).runtime
    silent = Changed(runtime, lambda heads: heads._replace(logits=heads.logits - 99))
    detectors = {"a": load(tiny_bundle.folder), "b": Detector(tiny_bundle, silent)}
    first, second = compare(detectors, dataset)
    assert list(first.classes) == ["Car"]
    assert first.ap == first.classes["Car"]
    assert second.classes == {"Car": 0}
    assert (first.ap_loss, second.ap_loss) == (0, first.ap)
    assert (first.ap_loss_low, first.ap_loss_high) == (0, 0)
    assert 0 <= second.ap_loss_low <= second.ap_loss_high <= 100


def test_the_interval_is_that_of_the_differences_frame_by_frame() -> None:
    drawn = np.array([40.0, 50.0, 60.0])
    found, expected = Ap({"Car": 47.0}, 47.0, drawn - 3), Ap({"Car": 50.0}, 50.0, drawn)
    assert loss_interval(found, expected) == (3, 3)
    low, high = loss_interval(expected._replace(samples=drawn[::-1]), expected)
    assert (low, high) == pytest.approx((-19, 19))
    assert all(map(math.isnan, loss_interval(Ap({}, math.nan, np.empty(0)), expected)))


MEASURED = Difference("b", "int8-cpu", 9, 0.1, 50, 95.0, 0.02, 0.1, 1.0, 5.0, 2.0, {"Car": 60.0}, 60.0, 0.5, 0.45, 0.6)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ({"head": 0.05}, "heads differ by 0.1 of"),
        ({"matched": 96.0}, "95.0 % of the boxes have a twin, expected 96 %"),
        ({"score": 0.01}, "scores differ by 0.020, allowed are 0.01"),
        ({"yaw": 0.5}, "yaws differ by 1.0 deg, allowed are 0.5"),
        ({"flips": 1.0}, "2.0 % point the other way"),
        ({"ap": 0.4}, "AP falls by 0.50, allowed are 0.4"),
        ({"ap": 0.48}, "AP falls by 0.50, allowed are 0.48; 9 frames do not decide it (95 % interval 0.45 .. 0.60)"),
    ],
)
def test_every_limit_of_the_gate_acts(limit: dict[str, float], text: str) -> None:
    wide = Gate(matched=0, score=1, yaw=90, flips=100, ap=100)
    assert MEASURED.beyond(wide) == []
    (reason,) = MEASURED.beyond(wide.model_copy(update=limit))
    assert reason.startswith(text)
    assert ("do not decide" in reason) == ("do not decide" in text)
    unknown = MEASURED._replace(
        ap_loss=math.nan, matched=math.nan, score_p95=math.nan, yaw_p95=math.nan, flips=math.nan
    )
    assert unknown._replace(head=0).beyond(Gate(head=1e-9, matched=100, score=0, yaw=0, flips=0, ap=0)) == []


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("fp32", "float32"), ("bf16", "16 bit"), ("fp16", "16 bit"), ("int8-trt", "int8"), ("int8-cpu+bf16", "int8")],
)
def test_the_gate_is_of_the_precision(precision: str, kind: str) -> None:
    assert precision_kind(precision) == kind


def test_a_detector_is_named_with_runtime_and_precision(tmp_path: Path) -> None:
    assert parse_detector("pointpillars-4x") == ("pointpillars-4x", None, None)
    assert parse_detector("pointpillars-4x:torch") == ("pointpillars-4x", "torch", None)
    assert parse_detector("m:openvino:bf16") == ("m", "openvino", "bf16")
    odd = tmp_path / "a:b"
    odd.mkdir()
    assert parse_detector(str(odd)) == (str(odd), None, None)
    with pytest.raises(ConfigError, match="expected MODEL:RUNTIME:PRECISION"):
        parse_detector("a:b:c:d")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(each) for each in arguments])
    return int(exit_.value.code or 0)


def test_the_command_takes_frames_of_another_sensor(
    tiny_bundle: Bundle, kitti: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engine(tiny_bundle.folder, tmp_path / "engine", BuildOptions("openvino"))
    dump_config(KITTI.model_copy(update={"height": 2.23, "intensity_max": 2.0}), tmp_path / "high.yaml")
    heights: list[float] = []
    brightest: list[float] = []

    def look(opened: dict[str, Detector], dataset: Dataset, *more: Any) -> list[Difference]:
        heights.extend(each.mount.to_model[2, 3] for each in opened.values())
        brightest.append(dataset.frame(0).points[:, 3].max())
        return compare(opened, dataset, *more)

    monkeypatch.setattr("pd_edge.compare.compare", look)
    sensor = ("--sensor", tmp_path / "high.yaml")
    assert run("compare", tiny_bundle.folder, tmp_path / "engine", "--data", kitti, "--frames", 1, *sensor) == 0
    assert heights == pytest.approx([0.5, 0.5])
    assert brightest == pytest.approx([0.5], abs=0.01)


def test_the_command_holds_and_shuts(
    tiny_bundle: Bundle, kitti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_engine(tiny_bundle.folder, tmp_path / "engine", BuildOptions("openvino"))
    pair = (tiny_bundle.folder, tmp_path / "engine")
    assert run("compare", *pair, "--data", kitti, "--frames", 1, "--json", "-") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["frames"], second["name"], second["beyond"]) == (1, str(tmp_path / "engine"), [])
    assert second["gate"] == GATES["float32"].model_dump()
    half = f"{tiny_bundle.folder}:openvino:bf16"
    if run("compare", tiny_bundle.folder, half, "--data", kitti) == 0:
        capsys.readouterr()
        assert run("compare", tiny_bundle.folder, half, "--data", kitti, "--head", "1e-9") == 1
        assert "beyond the gate: " in capsys.readouterr().err
    else:
        assert "no bfloat16" in capsys.readouterr().err


def test_an_ap_gate_that_cannot_be_judged_is_said(
    tiny_bundle: Bundle, kitti: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pair = (tiny_bundle.folder, f"{tiny_bundle.folder}:onnxruntime")
    assert run("compare", *pair, "--data", kitti) == 0
    assert "No AP: the frames have no labels, or of no class 50 objects." in capsys.readouterr().out
    assert run("compare", *pair, "--data", kitti, "--ap", "0.5") == 1
    assert "no class with 50 labelled objects; leave it out or give more frames" in capsys.readouterr().err


def test_wrong_usage_and_other_grids_are_said(
    tiny_bundle: Bundle, kitti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", tiny_bundle.folder, "--data", kitti) == 2
    assert run("compare", tiny_bundle.folder, tiny_bundle.folder, "--data", kitti) == 2
    copy = shutil.copytree(tiny_bundle.folder, tmp_path / "copy")
    capsys.readouterr()
    assert run("compare", copy, "pointpillars-16x", "--data", kitti) == 1
    assert "compare detectors of one grid and classes" in capsys.readouterr().err
    with pytest.raises(EngineError, match="1 detectors to compare"):
        compare({"a": load(tiny_bundle.folder)}, ObjectDataset(kitti, "val"))
