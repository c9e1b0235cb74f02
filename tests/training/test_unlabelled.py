"""A teacher's boxes as labels: the band, the cache, every kind of source, and a run that learns from them alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pd_edge.boxes import Detections
from pd_edge.cli import main
from pd_edge.config import DetectorConfig, ModelConfig, dump_config
from pd_edge.detector import Detector
from pd_edge.errors import ConfigError, DataError
from pd_edge.runtimes.torch import ModuleRuntime
from pd_edge.sensors import KITTI, MODEL_HEIGHT
from pd_edge.training import unlabelled
from pd_edge.training.checkpoint import save_tensors
from pd_edge.training.config import TrainConfig
from pd_edge.training.data_config import AugmentConfig
from pd_edge.training.distillation import DistillConfig, distil, read_config
from pd_edge.training.model_card import licence_of
from pd_edge.training.pointpillars import PointPillars
from pd_edge.training.provenance import shared
from pd_edge.training.scene import Scene, ignored_label, keep_targets
from pd_edge.training.unlabelled import PseudoScenes, agreed, clouds_of, describe_scenes, pseudo_scenes
from pd_edge.training.unlabelled_config import UnlabelledConfig, UnlabelledSource
from pd_edge.training.validate import InMemory

Cloud = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def clouds(tiny_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clouds of a sensor at 2.4 m with intensities of 0..255, and its profile."""
    folder = tmp_path_factory.mktemp("clouds")
    for number in range(3):
        cloud = tiny_cloud.copy()
        cloud[:, 1] *= 1 - 0.1 * number
        cloud[:, 2] -= 2.4 - MODEL_HEIGHT
        cloud[:, 3] = (cloud[:, 3] * 255).round()
        np.save(folder / f"{number}.npy", cloud)
    dump_config(KITTI.model_copy(update={"height": 2.4, "intensity_max": 255.0}), folder / "mine.yaml")
    return folder


def settings(folder: Path, **changes: Any) -> UnlabelledConfig:
    source = {"path": folder, "sensor": str(folder / "mine.yaml")}
    return UnlabelledConfig.model_validate({"sources": [source], "low": 0.1, "high": 0.12} | changes)


def test_boxes_are_the_detectors_in_the_models_frame(clouds: Path, tiny_model: PointPillars, tmp_path: Path) -> None:
    config = settings(clouds)
    (scenes,) = pseudo_scenes(config, tiny_model, tmp_path)
    detector = Detector(
        InMemory("tiny", DetectorConfig(model=tiny_model.config), tiny_model.fold_encoder()),
        ModuleRuntime(tiny_model),
    )
    for index, (_, cloud, total) in enumerate(clouds_of(config.sources[0])):
        assert total == len(scenes) == 3
        assert cloud[:, 3].max() <= 1
        assert cloud[:, 2].max() == pytest.approx(0.9, abs=0.01)
        found, scene = detector.detect(cloud), scenes[index]
        np.testing.assert_allclose(scene.boxes, found.boxes, atol=1e-4)
        expected = np.where(found.scores >= config.high, found.labels, ignored_label(found.labels))
        np.testing.assert_array_equal(scene.labels, expected)
        assert (scene.labels >= 0).any()
        assert (scene.labels < -1).any()
        assert 0 <= scene.points[:, 0].min() < scene.points[:, 0].max() < 20.48
        assert np.abs(scene.points[:, 1]).max() <= 5.12
    labelled, unsure = scenes.counts(3)
    assert (labelled.sum(), unsure.sum()) == tuple(
        sum(int((scenes[index].labels >= 0).sum() if sure else (scenes[index].labels < 0).sum()) for index in range(3))
        for sure in (True, False)
    )
    assert f"Car {labelled[0]} labels, {unsure[0]} ignored" in describe_scenes(scenes, ("Car", "Pedestrian", "Cyclist"))


def test_the_cache_is_of_teacher_band_and_data(
    clouds: Path, tiny_model: PointPillars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    (first,) = pseudo_scenes(settings(clouds), tiny_model, tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(unlabelled, "_look_through", lambda *_: pytest.fail("looked again"))
    (again,) = pseudo_scenes(settings(clouds, high=0.11), tiny_model, tmp_path)
    assert again.key == first.key
    assert again.counts(3)[0].sum() > first.counts(3)[0].sum()
    monkeypatch.undo()
    assert pseudo_scenes(settings(clouds, every=2), tiny_model, tmp_path)[0].key != first.key
    assert pseudo_scenes(settings(clouds, low=0.11), tiny_model, tmp_path)[0].key != first.key
    other = PointPillars(tiny_model.config).eval()
    other.load_state_dict({name: tensor * 1.001 for name, tensor in tiny_model.state_dict().items()})
    assert pseudo_scenes(settings(clouds), other, tmp_path)[0].key != first.key
    assert len(list(tmp_path.iterdir())) == 4


def test_a_bag_gives_what_its_clouds_in_files_give(clouds: Path, tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="needs the bags extra")
    pytest.importorskip("mcap", reason="needs the bags extra")
    from pd_edge.bags import BagWriter
    from pd_edge.pointcloud2 import layout_of
    from pd_edge.ros_messages import bag_types, header

    types = bag_types()
    kinds = types.types.__getitem__
    field = kinds("sensor_msgs/msg/PointField")
    bag = tmp_path / "drive.mcap"
    with BagWriter(bag, types) as writer:
        for number in range(3):
            layout = layout_of(np.load(clouds / f"{number}.npy"))._asdict()
            layout["fields"] = [field(*each) for each in layout["fields"]]
            message = kinds("sensor_msgs/msg/PointCloud2")(header=header(kinds, number, "lidar"), **layout)
            writer.write("/points", message, number)
    sensor = str(clouds / "mine.yaml")
    in_files = list(clouds_of(UnlabelledSource(path=clouds, sensor=sensor)))
    in_bag = list(clouds_of(UnlabelledSource(path=bag, sensor=sensor)))
    assert [total for _, _, total in in_bag] == [3, 3, 3]
    for (_, expected, _), (_, cloud, _) in zip(in_files, in_bag, strict=True):
        np.testing.assert_allclose(cloud, expected, atol=1e-6)
    assert len(list(clouds_of(UnlabelledSource(path=bag, sensor=sensor), every=2))) == 2
    with pytest.raises(DataError, match="no PointCloud2 on /other"):
        list(clouds_of(UnlabelledSource(path=bag, topic="/other")))
    with pytest.raises(DataError, match="clouds in files have no topic"):
        list(clouds_of(UnlabelledSource(path=clouds, topic="/points")))


def test_own_data_are_read_with_the_profile_that_they_name(
    clouds: Path, tiny_model: PointPillars, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(clouds, mine / "points", ignore=shutil.ignore_patterns("*.yaml"))
    shutil.copy(clouds / "mine.yaml", mine)
    named = UnlabelledSource(path=mine, sensor=str(mine / "mine.yaml"))
    told = list(clouds_of(named))
    (mine / "dataset.yaml").write_text("sensor: mine.yaml\n")
    for (_, cloud, _), (_, expected, _) in zip(clouds_of(UnlabelledSource(path=mine)), told, strict=True):
        np.testing.assert_allclose(cloud, expected, atol=1e-6)
    with pytest.raises(DataError, match="leave --sensor out"):
        list(clouds_of(named))
    band = UnlabelledConfig(sources=(UnlabelledSource(path=mine),), low=0.1, high=0.12)
    (first,) = pseudo_scenes(band, tiny_model, tmp_path / "cache")
    higher = KITTI.model_copy(update={"height": 2.45, "intensity_max": 255.0})
    dump_config(higher, mine / "mine.yaml")
    assert pseudo_scenes(band, tiny_model, tmp_path / "cache")[0].key != first.key


def test_a_box_that_both_looks_have_keeps_its_score() -> None:
    rows = [[10, 2, -1, 4, 1.6, 1.5, 0], [20, -3, -1, 4, 1.6, 1.5, 0], [30, 0, 0, 0.8, 0.6, 1.7, 0]]
    boxes = np.array(rows, np.float32)
    first = Detections(boxes, np.array([0, 0, 1]), np.array([0.8, 0.6, 0.4], np.float32))
    second = Detections(boxes[[0, 2]] + 0.05, np.array([0, 0]), np.array([0.6, 0.9], np.float32))
    np.testing.assert_allclose(agreed(first, second).scores, [0.7, 0.3, 0.2])
    nothing = Detections(boxes[:0], np.empty(0, np.int64), np.empty(0, np.float32))
    np.testing.assert_allclose(agreed(first, nothing).scores, [0.4, 0.3, 0.2])


def test_a_mirrored_look_is_asked_too(clouds: Path, tiny_model: PointPillars, tmp_path: Path) -> None:
    plain, mirrored = (
        pseudo_scenes(settings(clouds, low=0.02, high=0.05, mirrored=each), tiny_model, tmp_path)[0]
        for each in (False, True)
    )
    assert mirrored.key != plain.key
    assert mirrored.counts(3)[0].sum() < plain.counts(3)[0].sum()


def test_a_teacher_that_is_sure_of_nothing_is_an_error(clouds: Path, tiny_model: PointPillars, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"in 3 clouds the teacher has no box that scores 0.99 or more \(\d+ score 0.1"):
        pseudo_scenes(settings(clouds, high=0.99), tiny_model, tmp_path)


def test_a_damaged_cache_says_so(clouds: Path, tiny_model: PointPillars, tmp_path: Path) -> None:
    (scenes,) = pseudo_scenes(settings(clouds), tiny_model, tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "000001.npy").write_bytes(b"short")
    with pytest.raises(DataError, match="delete it and it is made again"):
        scenes[1]
    (folder / "boxes.npz").write_bytes(b"short")
    with pytest.raises(DataError, match="delete it and it is made again"):
        PseudoScenes(folder, 0.2)


def test_ignored_boxes_survive_until_the_targets(tiny_model: PointPillars) -> None:
    boxes = np.array([[10, 2, -1, 4, 1.6, 1.5, 0], [12, -3, -1, 4, 1.6, 1.5, 0], [14, 0, 0, 1, 1, 1, 0]], np.float32)
    scene = Scene(np.zeros((1, 4), np.float32), boxes, np.array([0, int(ignored_label(np.array(0))), -1]))
    assert keep_targets(scene, tiny_model.config.grid, 0).labels.tolist() == [0, -2]


@pytest.fixture
def teacher(tiny_model: PointPillars, tmp_path: Path) -> Path:
    """``tiny_model`` as a folder."""
    folder = tmp_path / "teacher"
    save_tensors(tiny_model.state_dict(), folder / "model.safetensors")
    dump_config(DetectorConfig(model=tiny_model.config), folder / "config.yaml")
    return folder


def student(model: ModelConfig) -> dict[str, Any]:
    return model.model_copy(update={"pillar_channels": 4, "neck_channels": 4}).model_dump()


@pytest.fixture
def config(teacher: Path, clouds: Path, tiny_model: PointPillars) -> DistillConfig:
    """Four samples of a student of clouds without labels."""
    return DistillConfig.model_validate({
        "model": student(tiny_model.config),
        "unlabelled": settings(clouds).model_dump(),
        "teacher": teacher,
        "distillation": {"method": "none"},
        "augment": AugmentConfig(sampled_objects=2),
        "samples": 4,
        "batch_size": 2,
        "workers": 0,
    })  # fmt: skip


@pytest.mark.parametrize("method", ["none", "pointdistiller"])
def test_a_run_without_a_label(
    method: str, config: DistillConfig, tmp_path: Path, fields_read: set[tuple[str, str]]
) -> None:
    config = DistillConfig.model_validate(config.model_dump() | {"distillation": {"method": method}})
    fields_read.clear()
    told: list[str] = []
    weights = distil(config, tmp_path / "run", tell=told.append)
    assert weights.is_file()
    assert len(told) == 1
    assert "3 clouds; Car" in told[0]
    assert {path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()} == {"unlabelled", "object_bank"}
    wanted = {("UnlabelledConfig", name) for name in UnlabelledConfig.model_fields}
    wanted |= {("UnlabelledSource", name) for name in UnlabelledSource.model_fields}
    assert not wanted - fields_read


def test_a_model_tells_what_it_learnt_from_and_no_folders(config: DistillConfig) -> None:
    told = shared(config)
    assert isinstance(told, DistillConfig)
    assert told.unlabelled is not None
    assert config.unlabelled is not None
    (source,) = told.unlabelled.sources
    assert (source.path, source.sensor) == (Path(config.unlabelled.sources[0].path.name), "mine.yaml")
    assert licence_of(config) != "Apache-2.0"


def test_one_seed_gives_one_student(config: DistillConfig, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    first, second = (distil(config, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_the_command_line_fills_the_section(teacher: Path, tiny_model: PointPillars, tmp_path: Path) -> None:
    plain = {"model": student(tiny_model.config), "samples": 4, "teacher": str(teacher)}
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=r"data\.sources is empty"):
        read_config(path, None, None)
    config = read_config(path, None, "none", {"sources": [{"path": "a.mcap", "sensor": "vlp-16"}], "high": 0.6})
    assert config.unlabelled is not None
    assert (config.unlabelled.high, config.unlabelled.low) == (0.6, 0.15)
    assert config.unlabelled.sources == (UnlabelledSource(path=Path("a.mcap"), sensor="vlp-16"),)
    with pytest.raises(ConfigError, match=r"high 0\.6 is for clouds without labels, and names none; add --unlabelled"):
        read_config(path, None, None, {"high": 0.6})
    with pytest.raises(ConfigError, match=r"low 0\.7 must not exceed high 0\.6"):
        read_config(path, None, None, {"sources": [{"path": "a.mcap"}], "high": 0.6, "low": 0.7})


def test_the_command(
    teacher: Path, clouds: Path, tiny_model: PointPillars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({"model": student(tiny_model.config), "samples": 2, "batch_size": 2, "workers": 0}))
    given = ["distill", str(path), "--teacher", str(teacher), "--out", str(tmp_path / "run"), "--method", "none"]
    band = ["--low", "0.1", "--high", "0.12"]
    profile = ["--sensor", str(clouds / "mine.yaml")]
    for more, code, said in (
        (profile, 2, "belong to --unlabelled"),
        (["--unlabelled", str(clouds), *profile, *band], 0, "3 clouds; Car"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*given, *more])
        told = capsys.readouterr()
        assert (ended.value.code or 0) == code
        assert said in " ".join((told.out + told.err).replace("│", " ").split())
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_training_without_a_teacher_needs_labels() -> None:
    with pytest.raises(ValueError, match=r"data\.sources is empty; name a folder"):
        TrainConfig.model_validate({"model": {"pillar_channels": 4, "backbone_channels": (4, 4, 4), "neck_channels": 4},
                                    "data": {"sources": []}, "samples": 1})  # fmt: skip
