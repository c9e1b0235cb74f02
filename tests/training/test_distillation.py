"""Runs beside a teacher: every method trains, resumes and leaves a student that holds nothing of it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pd_edge.config import GridConfig, PointPillarsConfig, dump_config, parse_config
from pd_edge.errors import ConfigError, EngineError
from pd_edge.pillars import pillarize
from pd_edge.training.checkpoint import list_checkpoints, load_checkpoint, save_tensors, tensors_sha256
from pd_edge.training.config import CheckpointConfig, TrainConfig
from pd_edge.training.data_config import DataConfig, SourceConfig
from pd_edge.training.distill import PointDistillerConfig
from pd_edge.training.distillation import METHODS, DistillConfig, distil, load_teacher, method_names, read_config
from pd_edge.training.loop import train
from pd_edge.training.network import Activations
from pd_edge.training.pointpillars import PillarBatch, PointPillars, batch_pillars
from pd_edge.training.run_log import read_record

from .teaching import OneScene, write_teacher

GRID = GridConfig(x_max=20.48, y_min=-5.12, y_max=5.12)
TEACHER = PointPillarsConfig(
    grid=GRID, pillar_channels=16, backbone_channels=(16, 32, 32), backbone_layers=(1, 1, 1), neck_channels=16
)
STUDENT = TEACHER.model_copy(update={"pillar_channels": 8, "backbone_channels": (8, 16, 16), "neck_channels": 8})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's weights with its configuration beside them; it sees objects everywhere."""
    torch.manual_seed(5)
    return write_teacher(PointPillars(TEACHER), tmp_path_factory.mktemp("teacher"))


def configure(teacher: Path, method: str, **changes: Any) -> DistillConfig:
    settings: dict[str, Any] = {
        "model": STUDENT.model_dump(),
        "data": DataConfig(sources=(SourceConfig(root=Path("unused")),)),
        "samples": 8,
        "batch_size": 2,
        "workers": 0,
        "log_every": 1,
        "checkpoint": CheckpointConfig(every_steps=2),
        "teacher": teacher,
        "distillation": {"method": method},
    }
    return DistillConfig.model_validate(settings | changes)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "guided-init", "tau": 1}, "distillation.tau: unknown key; it goes with method: pointdistiller"),
        (
            {"method": "fitnets", "layers": ["neck"]},
            "similarity or overhaul or attention-nonlocal; or did you mean layer?",
        ),
    ],
)
def test_a_key_of_other_methods_is_told_with_all_of_them(settings: dict[str, object], told: str) -> None:
    data = {"model": STUDENT.model_dump(), "data": {"sources": [{"root": "x"}]}, "samples": 1, "teacher": "t"}
    with pytest.raises(ConfigError) as error:
        parse_config({**data, "distillation": settings}, DistillConfig, "file.yaml")
    assert told in str(error.value)


@pytest.mark.parametrize("method", method_names())
def test_every_method_trains_goes_on_and_leaves_a_plain_student(
    method: str, teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    scenes = OneScene(tiny_cloud)
    config = configure(teacher, method)
    whole = distil(config, tmp_path / "whole", scenes=scenes)
    distil(config, tmp_path / "parts", scenes=scenes, stop_after=4)
    parts = distil(config, tmp_path / "parts", scenes=scenes)
    first, second = load_file(whole), load_file(parts)
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = PointPillars(STUDENT).state_dict()
    assert {name: value.shape for name, value in first.items()} == {name: value.shape for name, value in plain.items()}
    log = (tmp_path / "whole" / "train.log").read_text()
    assert ("distillation 0.0000" in log) == (method in {"none", "label-kd", "guided-init"})
    assert re.search(r"step 4/4 .* classes \d.* distillation \d", log)


def test_without_a_method_the_run_is_plain_training(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    config = configure(teacher, "none")
    distilled = distil(config, tmp_path / "none", scenes=OneScene(tiny_cloud))
    trained = train(plain_of(config), tmp_path / "plain", scenes=OneScene(tiny_cloud))
    first, second = load_file(distilled), load_file(trained)
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_pointdistiller_may_start_from_the_teacher_as_guided_init_does(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """Without a rate nothing moves but batch norm's statistics, so that a run leaves what it began with."""
    still = {"optimiser": {"start_lr": 1e-12, "peak_lr": 1e-12}, "samples": 2}
    runs = {
        "guided": {"method": "guided-init"},
        "taught": {"method": "pointdistiller", "start": "teacher"},
        "random": {"method": "pointdistiller"},
    }
    began = {
        name: load_file(
            distil(
                configure(teacher, "none", distillation=method, **still), tmp_path / name, scenes=OneScene(tiny_cloud)
            )
        )["head.weight"]
        for name, method in runs.items()
    }
    assert torch.equal(began["guided"], began["taught"])
    assert not torch.allclose(began["guided"], began["random"], atol=1e-3)


@pytest.mark.parametrize("method", ["none", "guided-init", "fitnets"])
def test_the_teacher_is_run_where_it_is_of_use(
    method: str, teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = set()

    def watched(model: PointPillars, batch: PillarBatch) -> Activations:
        widths.add(model.config.pillar_channels)
        return activations(model, batch)

    activations = PointPillars.activations
    monkeypatch.setattr(PointPillars, "activations", watched)
    distil(configure(teacher, method), tmp_path / "run", scenes=OneScene(tiny_cloud), stop_after=4)
    assert widths == ({8, 16} if method == "fitnets" else {8})


def test_every_field_of_a_distillation_is_read(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path, fields_read: set[tuple[str, str]]
) -> None:
    config = configure(teacher, "pointdistiller")
    fields_read.clear()
    distil(config, tmp_path / "run", scenes=OneScene(tiny_cloud))
    wanted = {("DistillConfig", name) for name in set(DistillConfig.model_fields) - set(TrainConfig.model_fields)}
    wanted |= {("PointDistillerConfig", name) for name in PointDistillerConfig.model_fields} - {
        ("PointDistillerConfig", "method")  # chose the class
    }
    assert not wanted - fields_read


@pytest.mark.parametrize("method", ["none", "label-kd", "guided-init"])
def test_a_method_without_loss_has_no_weight(method: str, teacher: Path) -> None:
    with pytest.raises(ValidationError, match=r"weight 2\.0: this method has no loss that it could act on"):
        configure(teacher, method, distillation={"method": method, "weight": 2.0})


def plain_of(config: DistillConfig) -> TrainConfig:
    return TrainConfig.model_validate(config.model_dump(exclude={"teacher", "distillation"}))


def test_a_run_goes_on_only_with_its_own_kind(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    scenes, config = OneScene(tiny_cloud), configure(teacher, "fitnets")
    distil(config, tmp_path / "distilled", scenes=scenes, stop_after=4)
    train(plain_of(config), tmp_path / "plain", scenes=scenes, stop_after=4)
    with pytest.raises(ConfigError, match=r"another teacher, distillation; .*to pd-edge distill"):
        train(plain_of(config), tmp_path / "distilled", scenes=scenes)
    with pytest.raises(ConfigError, match=r"another teacher, distillation; .*to pd-edge train"):
        distil(config, tmp_path / "plain", scenes=scenes)
    with pytest.raises(ConfigError, match="another distillation;"):
        distil(configure(teacher, "none"), tmp_path / "distilled", scenes=scenes)


def test_another_teacher_under_the_same_path_is_refused(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    scenes, own = OneScene(tiny_cloud), tmp_path / "teacher"
    shutil.copytree(teacher, own)
    config = configure(own, "fitnets")
    distil(config, tmp_path / "run", scenes=scenes, stop_after=4)
    weights = load_file(own / "model.safetensors")
    assert read_record(tmp_path / "run")["teacher_sha256"] == tensors_sha256(weights)
    weights["head.bias"][0] += 1
    save_tensors(weights, own / "model.safetensors")
    with pytest.raises(ConfigError, match=r"another teacher, of weights with the SHA-256 .*put that teacher back"):
        distil(config, tmp_path / "run", scenes=scenes)
    shutil.copytree(teacher, own, dirs_exist_ok=True)
    distil(config, tmp_path / "run", scenes=scenes)


def test_companions_have_to_be_there(teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path) -> None:
    scenes, config = OneScene(tiny_cloud), configure(teacher, "fitnets")
    distil(config, tmp_path / "run", scenes=scenes, stop_after=4)
    newest = list_checkpoints(tmp_path / "run")[-1]
    (newest / "companions.safetensors").unlink()
    with pytest.raises(EngineError, match=r"companions\.safetensors: is missing; delete the folder"):
        distil(config, tmp_path / "run", scenes=scenes)


def test_a_run_of_before_the_teacher_s_hash_goes_on(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    scenes, config = OneScene(tiny_cloud), configure(teacher, "none")
    distil(config, tmp_path / "run", scenes=scenes, stop_after=4)
    path = list_checkpoints(tmp_path / "run")[-1] / "state.json"
    state = json.loads(path.read_text())
    del state["teacher_sha256"]
    path.write_text(json.dumps(state))
    distil(config, tmp_path / "run", scenes=scenes)


def test_the_teacher_is_neither_changed_nor_saved(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    before = load_file(teacher / "model.safetensors")
    distil(configure(teacher, "pointdistiller"), tmp_path / "run", scenes=OneScene(tiny_cloud), stop_after=4)
    after = load_file(teacher / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    checkpoint = load_checkpoint(list_checkpoints(tmp_path / "run")[-1])
    assert checkpoint.companions
    assert all(name.startswith("losses.") for name in checkpoint.companions)
    kept = [*checkpoint.model.values(), *checkpoint.companions.values()]
    wide = before["backbone.stages.1.0.conv.weight"].shape
    assert wide not in {tensor.shape for tensor in kept}


def test_a_teacher_of_other_cells_is_refused(teacher: Path, tmp_path: Path) -> None:
    coarse = STUDENT.model_copy(update={"grid": GridConfig(x_max=20.48, y_min=-5.12, y_max=5.12, cell=0.32)})
    with pytest.raises(ConfigError, match=r"its grid\.cell is 0\.16, the student's 0\.32"):
        distil(configure(teacher, "none", model=coarse.model_dump()), tmp_path / "run")


def test_a_teacher_sees_the_same_on_a_part_of_its_grid(teacher: Path, tiny_cloud: npt.NDArray[np.float32]) -> None:
    near = STUDENT.model_copy(update={"grid": GridConfig(x_max=10.24, y_min=-5.12, y_max=5.12)})
    pillars = {grid: load_teacher(teacher, model) for grid, model in (("whole", STUDENT), ("near", near))}
    features = {
        grid: model.encode(batch_pillars([pillarize(tiny_cloud, model.config.grid)], model.config.grid)).pillars
        for grid, model in pillars.items()
    }
    cells = pillarize(tiny_cloud, GRID).cells
    assert features["whole"] is not None
    torch.testing.assert_close(features["near"], features["whole"][torch.from_numpy(cells % GRID.nx < GRID.nx // 2)])


def test_a_training_configuration_becomes_a_distillation(teacher: Path, tmp_path: Path) -> None:
    plain = configure(teacher, "none").model_dump(mode="json", exclude={"teacher", "distillation"})
    dump_config(TrainConfig.model_validate(plain), tmp_path / "plain.yaml")
    config = read_config(tmp_path / "plain.yaml", teacher, "fitnets")
    assert (config.teacher, config.distillation.method) == (teacher, "fitnets")
    assert read_config(tmp_path / "plain.yaml", teacher, None).distillation.method == "pointdistiller"
    with pytest.raises(ConfigError, match="names no teacher; add --teacher"):
        read_config(tmp_path / "plain.yaml", None, None)
    with pytest.raises(ConfigError, match=r"method 'fitnet' is unknown; use one of none, pointdistiller, fitnets"):
        read_config(tmp_path / "plain.yaml", teacher, "fitnet")


def test_settings_of_the_file_stay_unless_another_method_is_asked_for(teacher: Path, tmp_path: Path) -> None:
    config = configure(teacher, "pointdistiller", distillation={"method": "pointdistiller", "tau": 0.7})
    dump_config(config, tmp_path / "own.yaml")
    assert read_config(tmp_path / "own.yaml", None, "pointdistiller").distillation == config.distillation
    assert read_config(tmp_path / "own.yaml", None, "none").distillation.method == "none"


def test_table_and_settings_name_the_same_methods() -> None:
    assert len(set(method_names())) == len(METHODS) == 13
