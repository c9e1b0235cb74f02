"""Validation of a network in memory."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")

from pd_edge.batch import detect_batch
from pd_edge.config import DetectorConfig, GridConfig
from pd_edge.detector import load
from pd_edge.engines.onnx_export import export_bundle
from pd_edge.errors import DataError
from pd_edge.kitti import DONT_CARE, Calibration, ObjectDataset, boxes_to_labels, write_object_frame
from pd_edge.revised import WithinGrid
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.pointpillars import PointPillars
from pd_edge.training.validate import validate

BOXES = np.array([[9.0, 1.0, -1.0, 3.9, 1.6, 1.56, 0.2], [14.0, -2.0, -1.0, 3.9, 1.6, 1.56, 1.6]])


@pytest.fixture
def folder(tmp_path: Path, calibration: Calibration) -> Path:
    """Three frames with a car at 9 m and one at 14 m."""
    for number in range(3):
        cloud = np.random.default_rng(number).uniform((0, -5, -1.8, 0), (20, 5, 0, 1), (900, 4)).astype(np.float32)
        labels = boxes_to_labels(BOXES, ["Car", "Car"], calibration, occlusion=[0, 0])
        write_object_frame(tmp_path / "data", f"{number:06d}", cloud, calibration, labels)
    return tmp_path / "data"


def test_figures_are_those_of_the_exported_model(tiny_model: PointPillars, folder: Path, tmp_path: Path) -> None:
    config = DetectorConfig(model=tiny_model.config)
    export_bundle(tiny_model, config, tmp_path / "bundle", weights="fp32")
    expected = detect_batch(load(tmp_path / "bundle", "torch"), ObjectDataset(folder), crop=True).evaluation()
    found = validate(tiny_model, config, SourceConfig(root=folder))
    assert expected is not None
    assert found["bev"]["Car"] == pytest.approx(expected.result("Car", "bev", "moderate").ap, abs=1e-3)
    assert found["3d"].keys() == {*expected.classes, "mean"}


def test_objects_beyond_the_grid_are_regions_not_judged(folder: Path) -> None:
    near = WithinGrid(ObjectDataset(folder), GridConfig(x_max=10.24, y_min=-5.12, y_max=5.12))
    everything = ObjectDataset(folder)
    assert near.ids == everything.ids
    for seen, whole in zip(near, everything, strict=True):
        assert seen.labels is not None
        assert whole.labels is not None
        assert [label.name for label in seen.labels] == ["Car", DONT_CARE]
        assert seen.labels[0] == whole.labels[0]
        assert seen.labels[1].bbox == whole.labels[1].bbox


def test_a_frame_without_labels_is_an_error(tiny_model: PointPillars, folder: Path) -> None:
    (folder / "training" / "label_2" / "000001.txt").unlink()
    with pytest.raises(DataError, match="1 of 3 frames failed: frame 000001"):
        validate(tiny_model, DetectorConfig(model=tiny_model.config), SourceConfig(root=folder))
