"""The model card says what was measured, and under which licence weights are."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the train extra")

from pd_edge.batch import BatchResult, Failure
from pd_edge.bundle import Bundle, summarize
from pd_edge.config import dump_config
from pd_edge.errors import ConfigError, DataError
from pd_edge.evaluate import bootstrap, evaluate
from pd_edge.kitti import Label
from pd_edge.training.config import TrainConfig
from pd_edge.training.data_config import DataConfig, SourceConfig
from pd_edge.training.distillation import DistillConfig
from pd_edge.training.model import student_16x_config
from pd_edge.training.model_card import Measured, licence_of, measured, write_model_card
from pd_edge.training.sim.scene import SimulateConfig
from pd_edge.training.simulate import GENERATOR_VERSION, RECIPE, Recipe

CAR = Label("Car", 0.0, 0, 0.0, (100.0, 100.0, 200.0, 200.0), 1.5, 1.6, 4.0, (1.0, 1.5, 12.0), 0.0, None)


def simulated_source(folder: Path) -> SourceConfig:
    folder.mkdir()
    recipe = Recipe(kind="object", generator=GENERATOR_VERSION, seed=9, frames=40, config=SimulateConfig())
    dump_config(recipe, folder / RECIPE)
    return SourceConfig(root=folder, weight=3.0)


def config_of(*sources: SourceConfig) -> TrainConfig:
    return TrainConfig(model=student_16x_config(), data=DataConfig(sources=sources), samples=1200)


def run_of(tmp_path: Path, *sources: SourceConfig) -> Path:
    dump_config(config_of(*sources), tmp_path / "train.yaml")
    return tmp_path


def car_results() -> Measured:
    evaluation = evaluate([[CAR]] * 50, [[CAR._replace(score=0.9)]] * 25 + [[]] * 25)
    return Measured("Real frames", "real", evaluation, bootstrap(evaluation, 20))


def test_weights_that_saw_kitti_inherit_its_licence(tmp_path: Path) -> None:
    simulated, real = simulated_source(tmp_path / "sim"), SourceConfig(root=tmp_path / "kitti")
    assert licence_of(config_of(simulated)) == "Apache-2.0"
    assert licence_of(config_of(simulated, real)) == "CC-BY-NC-SA-3.0"


@pytest.mark.parametrize("licence", ["Apache-2.0", "CC-BY-NC-SA-3.0"])
def test_a_student_inherits_its_teacher_s_licence(tmp_path: Path, licence: str) -> None:
    simulated = simulated_source(tmp_path / "sim")
    (tmp_path / "results.json").write_text(json.dumps({"summary": {"licence": licence}}))
    fields = config_of(simulated).model_dump() | {"teacher": tmp_path}
    assert licence_of(DistillConfig.model_validate(fields)) == licence
    alone = DistillConfig.model_validate(fields | {"distillation": {"method": "none"}})
    assert licence_of(alone) == "Apache-2.0"


def test_the_card_of_a_distilled_student_names_teacher_method_and_command(tmp_path: Path, tiny_bundle: Bundle) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bundle.folder, folder)
    fields = config_of(simulated_source(tmp_path / "sim")).model_dump()
    dump_config(DistillConfig.model_validate(fields | {"teacher": "some/big-one"}), tmp_path / "train.yaml")
    card = write_model_card(Bundle.load(folder), tmp_path, []).read_text(encoding="utf-8")
    assert "beside its teacher big-one (method pointdistiller)" in card
    assert "pd-edge distill training/configs/tiny.yaml" in card
    training = json.loads((folder / "results.json").read_text(encoding="utf-8"))["training"]
    assert (training["teacher"], training["distillation"]["mode"]) == ("big-one", "paper")


def test_card_and_results_tell_the_same_measured_figures(tmp_path: Path, tiny_bundle: Bundle) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bundle.folder, folder)
    run = run_of(tmp_path, simulated_source(tmp_path / "sim"), SourceConfig(root=tmp_path / "kitti", split="train"))
    results = car_results()
    card = write_model_card(Bundle.load(folder), run, [results]).read_text(encoding="utf-8")

    ap = results.evaluation.result("Car", "3d", "moderate").ap
    assert 0 < ap < 100
    summary = summarize(folder).results["summary"]
    assert summary == {"Car 3D, real": f"{ap:.1f}", "Car BEV, real": f"{ap:.1f}", "licence": "CC-BY-NC-SA-3.0"}
    assert f"{ap:.1f} [" in card
    assert "40 simulated frames, seed 9" in card
    assert ": 75%" in card
    assert ": 25%" in card
    assert "1,200 samples" in card
    assert str(tmp_path) not in card, "where the data lay on this machine is nobody's business"
    entries = json.loads((folder / "results.json").read_text(encoding="utf-8"))["ap"]["real"]["results"]
    found = [each["ap"] for each in entries if (each["class_name"], each["metric"]) == ("Car", "3d")]
    assert ap in found


def test_a_failed_frame_makes_no_card() -> None:
    result = BatchResult("tiny", "openvino", "fp32", ("Car",), (), (Failure("000001", "000001.bin is cut short"),))
    with pytest.raises(DataError, match=r"Real frames: .* every frame evaluated, but 000001.bin is cut short"):
        measured("Real frames", "real", result)


def test_a_run_without_its_configuration_is_named(tmp_path: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"train\.yaml"):
        write_model_card(tiny_bundle, tmp_path, [])
