"""SECOND as a network, and beside a teacher: the same loop, methods and checkpoints as PointPillars."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from pd_edge.config import (
    DetectorConfig,
    PointPillarsConfig,
    SecondConfig,
    dump_config,
    load_config,
    stage_strides,
)
from pd_edge.errors import ConfigError
from pd_edge.training.checkpoint import load_model, save_tensors
from pd_edge.training.config import SECOND_THRESHOLDS, CheckpointConfig, OptimiserConfig, TrainConfig
from pd_edge.training.data_config import DataConfig, SourceConfig
from pd_edge.training.distillation import DistillConfig, distil, load_teacher, make_method, method_names, parse_run
from pd_edge.training.loop import train
from pd_edge.training.networks import build_network, network_inputs
from pd_edge.training.rivals.guided_init import GuidedInit, GuidedInitConfig
from pd_edge.training.second import Second, student_4x_config, student_16x_config, teacher_config
from pd_edge.training.study import StudyConfig, cells

from .teaching import SECOND as TEACHER
from .teaching import OneScene, write_teacher

CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"
GRID = TEACHER.grid
STUDENT = TEACHER.model_copy(
    update={
        "sparse_channels": (4, 4, 8, 8),
        "folded_channels": 8,
        "backbone_channels": (8, 16),
        "neck_channels": 8,
    }
)
PLACES = ((7.0, 1.0), (10.0, -2.0))
"""Of the car and the pedestrian, within the grid."""
OVER_STAGES: dict[str, dict[str, Any]] = {
    "pointdistiller": {"where": "stages", "pillars": 64, "neighbours": 16},
    "attention-transfer": {"layers": ["stage1", "stage2"]},
    "overhaul": {"layers": ["stage1", "stage2"]},
    "attention-nonlocal": {"layers": ["stage1", "stage2"]},
    "similarity": {"layers": ["stage1", "stage2"]},
}
"""What methods have to be told of a detector with two stages and no pillars."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's weights with its configuration beside them; it sees objects everywhere."""
    torch.manual_seed(5)
    return write_teacher(Second(TEACHER), tmp_path_factory.mktemp("second-teacher"))


def settings(**changes: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "model": STUDENT.model_dump(),
        "data": DataConfig(sources=(SourceConfig(root=Path("unused")),)),
        "samples": 8,
        "batch_size": 2,
        "workers": 0,
        "log_every": 1,
        "checkpoint": CheckpointConfig(every_steps=2),
    }
    return common | changes


def taught(teacher: Path, method: str, **changes: Any) -> DistillConfig:
    distillation = {"method": method, **OVER_STAGES.get(method, {})}
    return DistillConfig.model_validate(settings(teacher=teacher, distillation=distillation) | changes)


@pytest.mark.parametrize(
    ("config", "millions"), [(teacher_config(), 5.3), (student_4x_config(), 1.4), (student_16x_config(), 0.4)]
)
def test_the_sizes_are_the_paper_s(config: SecondConfig, millions: float) -> None:
    """Parameters as PointDistiller's table gives them, to its one digit."""
    model = Second(config)
    assert sum(each.numel() for each in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_maps_have_the_strides_that_the_configuration_says(tiny_cloud: npt.NDArray[np.float32]) -> None:
    model = Second(STUDENT).eval()
    with torch.inference_mode():
        found = model.activations(network_inputs([tiny_cloud, tiny_cloud[:100]], STUDENT))
    assert stage_strides(STUDENT) == [8, 16]
    assert [tuple(each.shape) for each in found.stages] == [(2, 8, 16, 32), (2, 16, 8, 16)]
    assert found.neck.shape == (2, 16, 16, 32)
    assert [each.shape[1] for each in found.heads] == [18, 42, 12]
    assert found.pillars is None


def test_frames_of_a_batch_do_not_see_each_other(tiny_cloud: npt.NDArray[np.float32]) -> None:
    torch.manual_seed(1)
    model = Second(STUDENT).eval()
    clouds = [tiny_cloud, tiny_cloud[::3] * np.array([1, -1, 1, 1], np.float32)]
    with torch.inference_mode():
        together = model(network_inputs(clouds, STUDENT))
        for row, cloud in enumerate(clouds):
            for whole, alone in zip(together, model(network_inputs([cloud], STUDENT)), strict=True):
                torch.testing.assert_close(whole[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_run_learns_and_goes_on_where_it_stopped(tiny_cloud: npt.NDArray[np.float32], tmp_path: Path) -> None:
    config, scenes = TrainConfig.model_validate(settings(samples=16)), OneScene(tiny_cloud, *PLACES)
    whole = load_file(train(config, tmp_path / "whole", scenes=scenes))
    train(config, tmp_path / "parts", scenes=scenes, stop_after=8)
    parts = load_file(train(config, tmp_path / "parts", scenes=scenes))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    totals = [float(each) for each in re.findall(r"total (\S+)", (tmp_path / "whole" / "train.log").read_text())]
    assert totals[-1] < totals[0]
    model, detector = load_model(tmp_path / "whole")
    assert isinstance(model, Second)
    assert detector.model == STUDENT


def test_a_run_uses_the_detector_s_own_assignment() -> None:
    config = TrainConfig.model_validate(settings())
    assert config.thresholds == SECOND_THRESHOLDS
    assert config.thresholds["Pedestrian"].positive == 0.35


@pytest.mark.parametrize("method", method_names())
def test_every_method_teaches_a_detector_of_voxels(
    method: str, teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    student = load_file(
        distil(taught(teacher, method, samples=4), tmp_path / "run", scenes=OneScene(tiny_cloud, *PLACES))
    )
    plain = Second(STUDENT).state_dict()
    assert {name: value.shape for name, value in student.items()} == {name: each.shape for name, each in plain.items()}
    log = (tmp_path / "run" / "train.log").read_text()
    assert ("distillation 0.0000" in log) == (method in {"none", "label-kd", "guided-init"})


def test_pointdistiller_compares_both_stages_with_weights_that_act(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    distil(taught(teacher, "pointdistiller", samples=2), tmp_path / "run", scenes=OneScene(tiny_cloud, *PLACES))
    log = (tmp_path / "run" / "train.log").read_text()
    for stage in range(2):
        selected, effective = (
            float(re.findall(rf"distillation/stage{stage}/{name} (\S+)", log)[0]) for name in ("selected", "effective")
        )
        assert selected == 64
        assert 6.4 < effective < 63.9


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"method": "pointdistiller"}, "second has no pillars to compare.*where: stages"),
        (
            {"method": "pointdistiller", "mode": "released-code"},
            "mode 'released-code' .* PointPillars alone has, not second; use mode 'paper' with where: stages",
        ),
        ({"method": "fitnets", "layer": "stage3"}, "stage3: second has 2 stages; name stage1, stage2 or neck"),
        ({"method": "crd", "layer": "pillars"}, "second has no pillars"),
    ],
)
def test_what_the_detector_does_not_have_is_refused(
    method: dict[str, Any], message: str, teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    config = taught(teacher, "none", distillation=method)
    with pytest.raises(ConfigError, match=message):
        distil(config, tmp_path / "run", scenes=OneScene(tiny_cloud, *PLACES))


def test_a_teacher_of_another_kind_is_refused(teacher: Path, tmp_path: Path) -> None:
    pillars = PointPillarsConfig(pillar_channels=8, backbone_channels=(8, 8, 8), neck_channels=8)
    with pytest.raises(ConfigError, match="its detector is second, the student's pointpillars"):
        distil(taught(teacher, "none", model=pillars.model_dump()), tmp_path / "run")


def test_a_teacher_sees_the_same_on_a_part_of_its_grid(tmp_path: Path, tiny_cloud: npt.NDArray[np.float32]) -> None:
    """Where anchors stand at the locations' centres, so that nothing but the ground differs."""
    whole = TEACHER.model_copy(update={"anchor_range": None})
    near = whole.model_copy(update={"grid": GRID.model_copy(update={"x_max": 6.4})})
    save_tensors(Second(whole).state_dict(), tmp_path / "model.safetensors")
    dump_config(DetectorConfig(model=whole), tmp_path / "config.yaml")
    inside = tiny_cloud[tiny_cloud[:, 0] < 6.0]
    with torch.inference_mode():
        first, second = (
            load_teacher(tmp_path, model).encode(network_inputs([inside], model)).canvas for model in (whole, near)
        )
    assert second.shape == near.canvas_shape
    torch.testing.assert_close(second, first[..., : second.shape[-1]])


def test_a_student_starts_from_a_teacher_of_less_ground(
    teacher: Path, tiny_cloud: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """Anchors spread over the ground stand elsewhere then, which counts where the teacher is asked, and only there."""
    wide = STUDENT.model_copy(
        update={"grid": GRID.model_copy(update={"x_max": 19.2}), "anchor_range": (0, -3.2, 19.2, 3.2)}
    )
    scenes = OneScene(tiny_cloud, *PLACES)
    told = r"its anchor_range is \(0.0, -3.2, 12.8, 3.2\), the student's .*, together with grid\.x_max 12\.8, or"
    with pytest.raises(ConfigError, match=told):
        distil(taught(teacher, "fitnets", model=wide.model_dump()), tmp_path / "asked", scenes=scenes)
    still = OptimiserConfig(start_lr=1e-12, peak_lr=1e-12, weight_decay=0)
    config = taught(teacher, "guided-init", model=wide.model_dump(), samples=2, ema_decay=0, optimiser=still)
    student = load_file(distil(config, tmp_path / "started", scenes=scenes))
    kept = [*range(STUDENT.neck_channels), *range(TEACHER.neck_channels, TEACHER.neck_channels + STUDENT.neck_channels)]
    torch.testing.assert_close(
        student["head.weight"], load_file(teacher / "model.safetensors")["head.weight"][:, kept], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("channels", ["first", "scale"])
def test_a_student_as_wide_as_its_teacher_starts_as_its_copy(
    channels: str, tiny_cloud: npt.NDArray[np.float32]
) -> None:
    torch.manual_seed(2)
    teacher, student = Second(TEACHER).eval(), Second(TEACHER).eval()
    GuidedInit(GuidedInitConfig.model_validate({"channels": channels}), TEACHER, TEACHER).initialise(student, teacher)
    inputs = network_inputs([tiny_cloud], TEACHER)
    with torch.inference_mode():
        for ours, theirs in zip(student(inputs), teacher(inputs), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_student_starts_from_the_channels_it_keeps(tiny_cloud: npt.NDArray[np.float32]) -> None:
    """A teacher whose other channels put out nothing equals the student that has the first of each layer."""
    torch.manual_seed(3)
    teacher, student = Second(TEACHER).eval(), Second(STUDENT).eval()
    sparse = STUDENT.sparse_channels
    widths = [sparse[0]] * 2 + [each for width in sparse[1:] for each in [width] * 3] + [STUDENT.folded_channels]
    widths += [8, 8, 16, 16] + [STUDENT.neck_channels] * 2
    norms = [each for each in teacher.modules() if isinstance(each, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm, width in zip(norms, widths, strict=True):
            norm.weight[width:] = 0
            norm.bias[width:] = 0
    GuidedInit(GuidedInitConfig(), TEACHER, STUDENT).initialise(student, teacher)
    clouds = [tiny_cloud]
    with torch.inference_mode():
        for ours, theirs in zip(
            student(network_inputs(clouds, STUDENT)), teacher(network_inputs(clouds, TEACHER)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_configuration_of_second_builds_its_network() -> None:
    assert isinstance(build_network(STUDENT), Second)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("second-teacher", teacher_config()),
        ("second-4x", student_4x_config()),
        ("second-4x-nokd", student_4x_config()),
        ("second-16x", student_16x_config()),
    ],
)
def test_the_configurations_that_come_along_are_of_these_sizes(name: str, model: SecondConfig) -> None:
    config = parse_run(CONFIGS / f"{name}.yaml")
    assert config.model == model
    assert config.thresholds == SECOND_THRESHOLDS
    assert config.optimiser.clip_norm == 10


@pytest.mark.parametrize("name", ["screening", "confirmation"])
def test_the_studies_teach_on_their_teacher_s_ground(name: str) -> None:
    study = load_config(CONFIGS / f"study-second-4x-{name}.yaml", StudyConfig)
    teacher = load_config(CONFIGS / "second-teacher-near.yaml", TrainConfig).model
    (student,) = study.students.values()
    assert student.grid == teacher.grid
    assert student.anchor_range == teacher.anchor_range
    for cell in cells(study):
        make_method(cell.config.distillation, teacher, student)
