"""Training on own data: other classes, another sensor, no camera."""

import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")

from pd_edge.boxes import points_per_box
from pd_edge.clouds import write_cloud
from pd_edge.config import ClassConfig, DetectorConfig, GridConfig, PointPillarsConfig
from pd_edge.decode import anchors
from pd_edge.errors import DataError
from pd_edge.kitti import open_dataset
from pd_edge.own_labels import objects_of, write_objects
from pd_edge.training.config import Thresholds, TrainConfig
from pd_edge.training.data import FolderScenes, open_object_bank, open_source
from pd_edge.training.data_config import AugmentConfig, DataConfig, SourceConfig
from pd_edge.training.loop import train
from pd_edge.training.pointpillars import PointPillars
from pd_edge.training.scene import OTHER, ignored_label, keep_targets
from pd_edge.training.targets import TargetAssigner
from pd_edge.training.validate import validate

MODEL = PointPillarsConfig(
    grid=GridConfig(x_max=20.48, y_min=-10.24, y_max=10.24),
    classes=(
        ClassConfig(name="Truck", anchor_size=(8.0, 2.5, 3.0), anchor_z=-0.2),
        ClassConfig(name="Person", anchor_size=(0.7, 0.7, 1.7), anchor_z=-0.9),
    ),
    pillar_channels=8,
    backbone_channels=(8, 8, 8),
    backbone_layers=(1, 1, 1),
    neck_channels=8,
)
BOXES = np.array([[12.0, 3, 0, 8, 2.5, 3, 0.3], [7.0, -4, -0.5, 0.7, 0.7, 1.7, 1], [9.0, -8, 0, 8, 2.5, 3, 0]])


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    """Four frames of a sensor 2.5 m above the ground: a truck, a person and a truck that is not to be learnt."""
    root = tmp_path / "mine"
    for number in range(4):
        rng = np.random.default_rng(number)
        inside = [box[:3] + rng.uniform(-0.2, 0.2, (60, 3)) for box in BOXES]
        points = np.concatenate([*inside, rng.uniform((0, -10, -2.5), (20, 10, -2.4), (500, 3))])
        write_cloud(root / "points" / f"{number}.bin", np.column_stack([points, rng.random(len(points))]))
        objects = objects_of(BOXES, ["lorry", "Person", "lorry"], [False, False, True])
        write_objects(root / "labels" / f"{number}.json", objects)
    (root / "dataset.yaml").write_text("sensor: high.yaml\nclasses: {lorry: Truck}\n")
    (root / "high.yaml").write_text("name: high\nheight: 2.5\n")
    return SourceConfig(root=root)


def config_of(source: SourceConfig) -> TrainConfig:
    limits = Thresholds(positive=0.5, negative=0.35)
    return TrainConfig(
        model=MODEL,
        data=DataConfig(sources=(source,)),
        augment=AugmentConfig(sampled_objects=2),
        thresholds={"Truck": limits, "Person": limits},
        samples=8,
        batch_size=2,
        workers=0,
        amp=False,
    )


def test_scenes_are_in_the_models_frame(source: SourceConfig) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what a profile asks for is nothing to warn of
        scene = FolderScenes(source, MODEL)[0]
    assert scene.labels.tolist() == [0, 1, int(ignored_label(np.array(0)))]
    np.testing.assert_allclose(scene.boxes[:, 2], BOXES[:, 2] + 2.5 - 1.73, atol=1e-5)
    assert points_per_box(scene.points, scene.boxes).tolist() == [60, 60, 60]
    (source.root / "labels" / "0.json").unlink()
    with pytest.raises(DataError, match="frame 0 has no labels"):
        FolderScenes(source, MODEL)[0]


def test_ignored_objects_are_neither_learnt_nor_background(source: SourceConfig) -> None:
    limits = Thresholds(positive=0.5, negative=0.35)
    scene = keep_targets(FolderScenes(source, MODEL)[0], MODEL.grid, 1)
    found = TargetAssigner(MODEL, {"Truck": limits, "Person": limits}).assign(scene.boxes, scene.labels)
    centres = anchors(MODEL).reshape(-1, 7)
    near = {
        name: int((np.hypot(*(centres[rows, :2] - BOXES[2, :2]).T) < 2).sum())
        for name, rows in (("positives", found.positives), ("ignored", found.ignored))
    }
    assert near["positives"] == 0
    assert near["ignored"] > 0


def test_ignored_objects_of_other_classes_are_only_solid(source: SourceConfig) -> None:
    (source.root / "dataset.yaml").write_text("{}\n")
    assert FolderScenes(source, MODEL)[0].labels.tolist() == [OTHER, 1, OTHER]


def test_changed_settings_get_a_new_bank(source: SourceConfig, tmp_path: Path) -> None:
    changes = (
        ("dataset.yaml", "classes: {lorry: Truck}\n"),
        ("dataset.yaml", "sensor: high.yaml\nclasses: {lorry: Person}\n"),
        ("high.yaml", "name: higher\nheight: 3.0\n"),
    )
    for count, (file, text) in enumerate(changes, 1):
        (source.root / file).write_text(text)
        open_object_bank(DataConfig(sources=(source,)), MODEL, AugmentConfig(), tmp_path / "bank")
        assert len(list((tmp_path / "bank").glob("*.npz"))) == count


def test_a_run_trains_and_is_validated(source: SourceConfig, tmp_path: Path) -> None:
    weights = train(config_of(source), tmp_path / "run")
    assert weights.is_file()
    found = validate(PointPillars(MODEL), DetectorConfig(model=MODEL), source)
    assert set(found["3d"]) == {"Truck", "Person", "mean"}
    assert open_source(source).ids == ["0", "1", "2", "3"]


def test_a_folder_that_could_be_both_is_to_training_what_it_is_to_evaluation(tmp_path: Path) -> None:
    cloud = np.ones((3, 4), np.float32)
    for name in ("points/a.bin", "velodyne/000000.bin"):
        (tmp_path / name).parent.mkdir()
        write_cloud(tmp_path / name, cloud)
    source, evaluated = open_source(SourceConfig(root=tmp_path)), open_dataset(tmp_path)
    assert (type(source), source.ids) == (type(evaluated), evaluated.ids)
