"""Studies: cells are run once, compared in pairs of a seed, and reported."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")

from pd_edge.config import DetectorConfig, GridConfig, PointPillarsConfig, dump_config, parse_config
from pd_edge.errors import ConfigError, DataError, PdEdgeError
from pd_edge.kitti import Calibration, boxes_to_labels, write_object_frame
from pd_edge.training.checkpoint import list_checkpoints, save_tensors
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.interrupt import StopRequest
from pd_edge.training.pointpillars import PointPillars
from pd_edge.training.study import StudyConfig, cells, finished, run_cell, run_study
from pd_edge.training.study_report import Column, rows, table, write_report

GRID = GridConfig(x_max=20.48, y_min=-5.12, y_max=5.12)
MODEL = PointPillarsConfig(
    grid=GRID, pillar_channels=4, backbone_channels=(4, 8, 8), backbone_layers=(1, 1, 1), neck_channels=4
)
CALIBRATION = Calibration(
    P2=np.array([[400.0, 0, 800, 0], [0, 400, 400, 0], [0, 0, 1, 0]]),
    R0_rect=np.eye(3),
    Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
    image_size=(1600, 800),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """Two methods and two seeds on two frames, beside a random teacher."""
    root = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for number in range(2):
        boxes = np.array([[9.0, 1.0, -1.0, 3.9, 1.6, 1.56, 0.2], [14.0, -2.0, -1.0, 3.9, 1.6, 1.56, 1.6]])
        cloud = rng.uniform((0, -5, -1.8, 0), (20, 5, 0, 1), (800, 4)).astype(np.float32)
        labels = boxes_to_labels(boxes, ["Car", "Car"], CALIBRATION, occlusion=[0, 0])
        write_object_frame(root / "data", f"{number:06d}", cloud, CALIBRATION, labels)
    teacher = PointPillars(MODEL)
    (root / "teacher").mkdir()
    save_tensors(teacher.state_dict(), root / "teacher" / "model.safetensors")
    dump_config(DetectorConfig(model=MODEL), root / "teacher" / "config.yaml")
    data = {"root": str(root / "data")}
    return parse_config(
        {
            "train": {
                "model": MODEL.model_dump(),
                "data": {"sources": [data]},
                "augment": {"sampled_objects": 0},
                "samples": 4,
                "batch_size": 2,
                "workers": 0,
            },
            "students": {"tiny": MODEL.model_dump()},
            "teacher": str(root / "teacher"),
            "methods": {"none": {"method": "none"}, "paper": {"method": "pointdistiller", "neighbours": 4}},
            "seeds": [3, 4],
            "val": {"small": data},
        },
        StudyConfig,
        "the test",
    )


def results_of(study: StudyConfig, gain: dict[int, float]) -> list[dict[str, Any]]:
    """Results as cells write them, with 50 + seed for the baseline and a gain for the other method."""
    return [
        {
            "student": cell.student,
            "method": cell.method,
            "seed": cell.seed,
            "ap": {
                "small": {
                    metric: {"mean": 50.0 + cell.seed + (gain[cell.seed] if cell.method == "paper" else 0), "Car": 1.0}
                    for metric in ("3d", "bev")
                }
            },
            "seconds": {"training": 1800.0, "evaluation": 0.0},
            "ran": {"device": "a machine"},
        }
        for cell in cells(study)
    ]


def test_cells_go_seed_by_seed_and_differ_in_nothing_else(study: StudyConfig) -> None:
    found = cells(study)
    assert [(cell.method, cell.seed) for cell in found] == [("none", 3), ("paper", 3), ("none", 4), ("paper", 4)]
    assert all(cell.config.seed == cell.seed for cell in found)
    first, second = (cell.config.model_dump(exclude={"distillation"}) for cell in found[:2])
    assert first == second


def test_every_field_of_a_study_is_read(study: StudyConfig, tmp_path: Path, fields_read: set[tuple[str, str]]) -> None:
    pytest.importorskip("matplotlib", reason="needs the viz extra")
    first = cells(study)[0]
    run_cell(first, study, tmp_path)
    write_report(study, finished(study, tmp_path), tmp_path)
    assert not {("StudyConfig", name) for name in StudyConfig.model_fields} - fields_read


@pytest.mark.slow
def test_a_study_runs_once_and_reports(study: StudyConfig, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the viz extra")
    told: list[tuple[int, int]] = []
    first = list(run_study(study, tmp_path, advance=lambda done, all_: told.append((done, all_))))
    assert not [each for each in first if isinstance(each, PdEdgeError)]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    results = finished(study, tmp_path)
    assert len(results) == 4
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    again = list(run_study(study, tmp_path))
    assert {json.dumps(each, sort_keys=True) for each in again} == {
        json.dumps(each, sort_keys=True) for each in results
    }
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert not list(tmp_path.rglob("checkpoints"))
    paths = write_report(study, results, tmp_path)
    assert [path.name for path in paths] == ["study.md", "study.json", "study.csv", "study.png"]
    assert all(path.stat().st_size > 100 for path in paths)
    lines = list(csv.reader(paths[2].read_text().splitlines()))
    assert len(lines) == 1 + 4
    assert lines[0][3] == "mAP 3D, small"
    changed = study.model_copy(update={"train": study.train.model_copy(update={"samples": 6})})
    with pytest.raises(DataError, match="made with another samples; give the study another output folder"):
        finished(changed, tmp_path)


def test_a_cell_stopped_while_it_is_measured_is_not_trained_again(study: StudyConfig, tmp_path: Path) -> None:
    def stop(done: int, wanted: int) -> None:
        raise SystemExit(f"{done} of {wanted}")

    first = cells(study)[0]
    with pytest.raises(SystemExit, match="1 of 2"):
        run_cell(first, study, tmp_path, advance=stop)
    assert not finished(study, tmp_path)
    log = first.folder(tmp_path) / "train.log"
    steps = log.read_text().count("samples/s")
    result = run_cell(first, study, tmp_path)
    assert finished(study, tmp_path) == [result]
    assert log.read_text().count("samples/s") == steps > 0


def test_a_signal_is_noted_once_or_as_often_as_it_comes() -> None:
    with StopRequest(every=True) as patient:
        with StopRequest() as first:
            signal.raise_signal(signal.SIGTERM)
            assert (first.signal, patient.signal) == (signal.SIGTERM, None)
            signal.raise_signal(signal.SIGTERM)
        assert patient.signal == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        patient.raise_if_asked()


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_others_go_on(study: StudyConfig, tmp_path: Path) -> None:
    config = study.model_dump()
    config["students"]["other"] = MODEL.model_copy(
        update={"grid": GridConfig(x_max=20.48, y_min=-5.12, y_max=5.12, cell=0.32)}
    ).model_dump()
    config["methods"] = {"none": {"method": "none"}}
    found = list(run_study(StudyConfig.model_validate(config), tmp_path))
    failed = [each for each in found if isinstance(each, PdEdgeError)]
    assert len(found) == 4
    assert len(failed) == 2
    assert all("other, none, seed" in str(each) and "its grid.cell is" in str(each) for each in failed)


@pytest.mark.slow
def test_a_stopped_study_ends_with_its_processes_and_goes_on(study: StudyConfig, tmp_path: Path) -> None:
    for number in range(2000):
        write_object_frame(tmp_path / "data", f"{number:06d}", np.zeros((1, 4), np.float32), CALIBRATION, [])
    train = study.train.model_copy(update={"samples": 1000, "log_every": 1})
    longer = study.model_copy(update={"train": train, "val": {"large": SourceConfig(root=tmp_path / "data")}})
    with pytest.raises(SystemExit):  # trained, and so the first one that is measured
        run_cell(cells(longer)[0], longer, tmp_path / "out", advance=lambda *_: sys.exit())
    dump_config(longer, tmp_path / "study.yaml")
    command = [sys.executable, "-m", "pd_edge", "study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--processes", "3"], stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    for _ in range(1200):
        logs = [path.read_text() for path in (tmp_path / "out").rglob("train.log")]
        if sum("step 3/" in log for log in logs) == 3:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as timeout(1) does: the first process passes it on once more
    assert process.wait(60) == 128 + signal.SIGTERM
    stopped = list((tmp_path / "out" / "cells").iterdir())
    assert len(stopped) == 3
    assert all(list_checkpoints(folder) for folder in stopped)
    assert not list(tmp_path.rglob("result.json"))


def test_gains_are_paired_and_their_interval_is_student_s(study: StudyConfig) -> None:
    results = results_of(study, {3: 1.0, 4: 3.0})
    baseline, paper = rows(study, results, Column("small", "3d", "mean"))
    assert baseline.gains.tolist() == [0, 0]
    assert paper.values.tolist() == [54.0, 57.0]
    assert paper.gains.tolist() == [1.0, 3.0]
    # t(0.975, 1 degree of freedom) is 12.706; the standard error of 1 and 3 is 1.
    assert paper.interval == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)
    line = table(study, results, Column("small", "3d", "mean")).rows[1]
    assert line == ["tiny paper", "2", "55.50", "2.12", "+2.00", "-10.71 .. +14.71"]


def test_only_seeds_that_both_have_are_compared(study: StudyConfig) -> None:
    results = [each for each in results_of(study, {3: 1.0, 4: 3.0}) if (each["method"], each["seed"]) != ("paper", 4)]
    assert [row.method for row in rows(study, results, Column("small", "3d", "mean"))] == ["none"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"baseline": "nothing"}, "baseline 'nothing' is none of the methods"), ({"seeds": [1, 1]}, "name one twice")],
)
def test_a_study_that_compares_nothing_is_refused(study: StudyConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(study.model_dump() | change, StudyConfig, "the test")
