"""The model card says what was measured, and under which licence weights are."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")

from pd_edge.batch import BatchResult, Failure
from pd_edge.bundle import SHIPPED, Bundle, read_manifest, shipped_models, summarize
from pd_edge.cli import main
from pd_edge.clouds import write_cloud
from pd_edge.config import dump_config, load_config
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.evaluate import bootstrap, evaluate
from pd_edge.kitti import Label
from pd_edge.kitti_frames import PROFILE
from pd_edge.own_labels import objects_of, write_objects
from pd_edge.sensors import KITTI
from pd_edge.training.checkpoint import State
from pd_edge.training.config import TrainConfig
from pd_edge.training.data_config import DataConfig, SourceConfig
from pd_edge.training.distillation import DistillConfig, parse_run
from pd_edge.training.model_card import (
    CONFIGS,
    VAL_SET,
    Measured,
    comparison,
    licence_of,
    markdown,
    measured,
    write_model_card,
)
from pd_edge.training.pointpillars import student_16x_config
from pd_edge.training.provenance import Provenance, Seen, provenance, write_provenance
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


def run_of(tmp_path: Path, config: TrainConfig, record: dict[str, Any] | None = None) -> Path:
    """A finished run; without a record, one of before runs told how far they went."""
    run = tmp_path / "run"
    run.mkdir()
    dump_config(config, run / "train.yaml")
    (run / "model.safetensors").write_bytes(b"weights")
    if record is not None:
        (run / "run.json").write_text(json.dumps({"git": "abc", "device": "a machine", **record}))
    return run


@pytest.fixture
def model(tmp_path: Path, tiny_bundle: Bundle) -> Bundle:
    """A model folder of its own."""
    shutil.copytree(tiny_bundle.folder, tmp_path / "tiny")
    return Bundle.load(tmp_path / "tiny")


def card_of(model: Bundle, run: Path, *results: Measured) -> tuple[str, dict[str, Any]]:
    """The card's text, and what results.json says of the training."""
    text = write_model_card(model, run, results).read_text(encoding="utf-8")
    training: dict[str, Any] = json.loads((model.folder / "results.json").read_text(encoding="utf-8"))["training"]
    return text, training


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


@pytest.mark.parametrize("licence", ["Apache-2.0", "CC-BY-NC-SA-3.0"])
def test_a_teacher_s_boxes_teach_without_a_method(tmp_path: Path, licence: str) -> None:
    simulated = simulated_source(tmp_path / "sim")
    (tmp_path / "results.json").write_text(json.dumps({"summary": {"licence": licence}}))
    fields = config_of(simulated).model_dump()
    fields |= {"teacher": tmp_path, "distillation": {"method": "none"}}
    fields["unlabelled"] = {"sources": [{"path": simulated.root}]}
    assert licence_of(DistillConfig.model_validate(fields)) == licence


def test_own_data_are_not_called_kitti_s(model: Bundle, tmp_path: Path) -> None:
    (tmp_path / "own" / "points").mkdir(parents=True)
    own = config_of(SourceConfig(root=tmp_path / "own"), simulated_source(tmp_path / "sim"))
    assert licence_of(own) == "of its data"
    card, _ = card_of(model, run_of(tmp_path, own))
    assert "That of the data that it was trained on" in card
    assert "KITTI" not in card
    (tmp_path / "kitti" / "training" / "velodyne").mkdir(parents=True)
    assert licence_of(config_of(*own.data.sources, SourceConfig(root=tmp_path / "kitti"))) == "CC-BY-NC-SA-3.0"


@pytest.mark.parametrize(("licence", "free"), [("Apache-2.0", True), ("CC-BY-NC-SA-3.0", False), (None, False)])
def test_weights_inherit_the_licence_of_those_they_started_from(
    model: Bundle, tmp_path: Path, licence: str | None, free: bool
) -> None:
    start = tmp_path / "first-one"
    start.mkdir()
    (start / "model.safetensors").write_bytes(b"weights")
    if licence is not None:
        (start / "results.json").write_text(json.dumps({"summary": {"licence": licence}}))
    for init in (start, start / "model.safetensors"):
        config = config_of(simulated_source(tmp_path / f"sim-{init.name}")).model_copy(update={"init": init})
        assert licence_of(config) == ("Apache-2.0" if free else "CC-BY-NC-SA-3.0")
    card, training = card_of(model, run_of(tmp_path, config))
    assert "starting from the weights of first-one, without a teacher" in card
    assert training["init"] == "first-one"
    assert ("the weights learnt from first-one, which saw, or may have seen, KITTI frames" in card) is not free


def test_the_card_of_a_distilled_student_names_teacher_method_and_command(model: Bundle, tmp_path: Path) -> None:
    fields = config_of(simulated_source(tmp_path / "sim")).model_dump() | {"teacher": "some/big-one"}
    card, training = card_of(model, run_of(tmp_path, DistillConfig.model_validate(fields)))
    assert "beside its teacher big-one (method pointdistiller)" in card
    assert "pd-edge distill models/tiny/train.yaml --teacher some/big-one --out runs/tiny" in card
    assert (training["teacher"], training["distillation"]["mode"]) == ("big-one", "paper")


def test_the_card_tells_samples_and_steps_that_were_seen(model: Bundle, tmp_path: Path) -> None:
    config = config_of(simulated_source(tmp_path / "sim"))
    card, training = card_of(model, run_of(tmp_path, config, {"samples": 1200, "processes": 3}))
    assert "**Training.** 1,200 samples (100 steps of 4 on each of 3 processes)" in card
    assert "torchrun --nproc_per_node=3 -m pd_edge train models/tiny/train.yaml --out runs/tiny\n" in card
    assert (training["samples"], training["processes"]) == (1200, 3)


def test_the_card_of_an_unfinished_run_claims_no_more_than_was_seen(model: Bundle, tmp_path: Path) -> None:
    config = config_of(simulated_source(tmp_path / "sim"))
    run = run_of(tmp_path, config, {})
    (run / "model.safetensors").unlink()
    checkpoint = run / "checkpoints" / "0000000040"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    state = State(samples=40, processes=2, average_updates=5, scaler={}, config={})
    (checkpoint / "state.json").write_text(state.model_dump_json())
    card, training = card_of(model, run)
    assert "40 of the 1,200 planned samples (5 steps of 4 on each of 2 processes)" in card
    assert "--out runs/tiny --stop-after 40\n" in card
    assert (training["samples"], training["planned_samples"]) == (40, 1200)


def test_the_model_tells_what_it_saw_though_its_run_went_on(model: Bundle, tmp_path: Path) -> None:
    config = config_of(simulated_source(tmp_path / "sim"))
    write_provenance(Provenance(config, {"samples": 40, "processes": 1}), model.folder)
    card, _ = card_of(model, run_of(tmp_path, config, {"samples": 1200, "processes": 1}))
    assert "40 of the 1,200 planned samples (10 steps of 4)" in card


@pytest.mark.parametrize(("log", "steps"), [(None, "300 steps of 4"), (8, "150 steps of 4 on each of 2 processes")])
def test_a_finished_run_without_a_record_saw_what_was_configured(
    model: Bundle, tmp_path: Path, log: int | None, steps: str
) -> None:
    run = run_of(tmp_path, config_of(simulated_source(tmp_path / "sim")))
    if log is not None:
        (run / "train.log").write_text(f"2026-01-01 00:00:00 steps 0 .. 1 of {log} samples in runs/x\n")
    assert f"1,200 samples ({steps})" in card_of(model, run)[0]


def test_the_card_alone_makes_the_model_again(model: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = SimulateConfig().model_copy(update={"min_points": 7})
    for name, config in (
        ("sim-train", SimulateConfig()),
        ("sim-val", load_config(VAL_SET, SimulateConfig)),
        ("own", own),
    ):
        (tmp_path / name).mkdir()
        recipe = Recipe(kind="object", generator=GENERATOR_VERSION, seed=len(name), frames=40, config=config)
        dump_config(recipe, tmp_path / name / RECIPE)
    sources = (SourceConfig(root=Path("sim-train")), SourceConfig(root=Path("own")))
    results = [
        car_results()._replace(root=tmp_path / "kitti", runtime="torch"),
        car_results()._replace(key="simulated", root=Path("sim-val")),
    ]
    card, _ = card_of(model, run_of(tmp_path, config_of(*sources)), *results)
    commands = [line.strip() for line in card.splitlines() if line.startswith("    pd-edge ")]
    assert commands == [
        "pd-edge simulate sim-train --frames 40 --seed 9",
        "pd-edge simulate own --frames 40 --seed 3 --config own.yaml",
        "pd-edge simulate sim-val --frames 40 --seed 7 --config training/sim/val_set.yaml",
        "pd-edge train models/tiny/train.yaml --out runs/tiny",
        "pd-edge bundle runs/tiny models/tiny --weights fp32",
        "pd-edge card models/tiny --run runs/tiny --real kitti --simulated sim-val --runtime torch",
    ]
    assert "`own.yaml` holds\n\n    min_points: 7\n" in card
    assert parse_run(model.folder / "train.yaml") == config_of(*sources)


@pytest.mark.parametrize(("name", "command"), [("pointpillars-4x-nokd", "train"), ("pointpillars-4x", "distill")])
def test_a_configuration_of_the_package_is_named_where_it_is_the_run_s(
    name: str, command: str, model: Bundle, tmp_path: Path
) -> None:
    folder = model.folder.rename(tmp_path / name)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"name": name}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    config = parse_run(CONFIGS / f"{name}.yaml")
    run = run_of(tmp_path, config.model_copy(update={"workers": 7}))
    assert f"pd-edge {command} training/configs/{name}.yaml" in card_of(Bundle.load(folder), run)[0]
    dump_config(config.model_copy(update={"seed": 5}), run / "train.yaml")
    assert f"pd-edge {command} models/{name}/train.yaml" in card_of(Bundle.load(folder), run)[0]


@pytest.mark.parametrize("name", shipped_models())
def test_the_cards_that_come_along_tell_sizes_as_the_code_does(name: str, tmp_path: Path) -> None:
    config = config_of(simulated_source(tmp_path / "sim"))
    written = markdown(read_manifest(SHIPPED / name), config, Seen(1200, 1), []).splitlines()[2]
    assert (SHIPPED / name / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()[2] == written
    assert ("those of the BEV part: the sparse layers come on top" in written) == name.startswith("second")


def test_a_model_folder_says_where_it_came_from_and_not_where_data_lay(model: Bundle, tmp_path: Path) -> None:
    sources = (SourceConfig(root=Path("/home/someone/kitti"), split="train"), SourceConfig(root=Path("data/sim")))
    fields = config_of(*sources).model_dump()
    config = DistillConfig.model_validate(fields | {"teacher": "/home/someone/big", "init": "/home/someone/first"})
    run = run_of(tmp_path, config, {"samples": 1200, "processes": 1})
    write_provenance(provenance(run), model.folder)
    assert "someone" not in (model.folder / "train.yaml").read_text()
    kept = parse_run(model.folder / "train.yaml")
    assert isinstance(kept, DistillConfig)
    assert [str(each.root) for each in kept.data.sources] == ["kitti", "data/sim"]
    assert (str(kept.teacher), str(kept.init)) == ("big", "first")
    record = json.loads((model.folder / "run.json").read_text())
    assert record == {"git": "abc", "device": "a machine", "samples": 1200, "processes": 1}
    assert Bundle.load(model.folder).name == "tiny"
    assert provenance(model.folder) == Provenance(kept, record), "a model made of a model keeps its papers"
    write_provenance(None, model.folder)
    assert not (model.folder / "run.json").exists(), "papers of an earlier model are not those of this one"


def test_a_damaged_record_is_named(model: Bundle, tmp_path: Path) -> None:
    run = run_of(tmp_path, config_of(SourceConfig(root=tmp_path)))
    for text in ("{", "[]"):
        (run / "run.json").write_text(text)
        with pytest.raises(DataError, match=r"run\.json: .*; delete it if the record may be lost"):
            write_model_card(model, run, [])


def test_card_and_results_tell_the_same_measured_figures(model: Bundle, tmp_path: Path) -> None:
    sources = (simulated_source(tmp_path / "sim"), SourceConfig(root=tmp_path / "kitti", split="train"))
    folder, results = model.folder, car_results()._replace(root=tmp_path / "kitti")
    card, _ = card_of(model, run_of(tmp_path, config_of(*sources)), results)

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


def test_a_card_tells_how_far_it_was_judged(tmp_path: Path, tiny_bundle: Bundle) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bundle.folder, folder)
    run = run_of(tmp_path, config_of(simulated_source(tmp_path / "sim")))
    near = car_results()._replace(within_grid=True)
    card = write_model_card(Bundle.load(folder), run, [near]).read_text(encoding="utf-8")
    grid = tiny_bundle.config.model.grid
    assert f"beyond the model's grid (x {grid.x_min:g} .. {grid.x_max:g} m, y" in card
    assert " --within-grid" in card
    assert summarize(folder).results["summary"]["Car 3D, real"].endswith(" in grid")


def test_a_failed_frame_makes_no_card() -> None:
    result = BatchResult("tiny", "openvino", "fp32", ("Car",), (), (Failure("000001", "000001.bin is cut short"),))
    with pytest.raises(
        DataError, match=r"Real frames: .* every frame evaluated, but 1 of 1 frames failed: 000001.bin is cut short"
    ):
        measured("Real frames", "real", result)


def test_a_run_without_its_configuration_is_named(tmp_path: Path, tiny_bundle: Bundle) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ConfigError, match=r"train\.yaml: missing; give the folder of the run"):
        write_model_card(tiny_bundle, tmp_path, [])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="no weights there"):
        write_model_card(tiny_bundle, tmp_path, [])


def test_models_stand_side_by_side() -> None:
    def results(figure: str, *sources: tuple[str, float]) -> dict[str, Any]:
        return {
            "summary": {"Car 3D, real": figure, "licence": "x"},
            "training": {"sources": [{"data": data, "weight": weight} for data, weight in sources]},
        }

    table = comparison([("both", results("80.0", ("a", 3.0), ("b", 1.0))), ("one", results("60.0", ("a", 1.0)))])
    assert table.columns == ("", "both", "one")
    assert table.rows == [
        ("trained on", "75% a; 25% b", "100% a"),
        ("Car 3D, real", "80.0", "60.0"),
        ("licence", "x", "x"),
    ]
    taught = results("81.0", ("a", 1.0))
    taught["training"] |= {"teacher": "big", "distillation": {"method": "fitnets"}}
    table = comparison([("plain", results("80.0", ("a", 1.0))), ("taught", taught)])
    assert table.rows[1] == ("taught by", "", "big, fitnets")


def test_a_card_compares_with_models_named(tmp_path: Path, tiny_bundle: Bundle) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bundle.folder, folder)
    run = run_of(tmp_path, config_of(simulated_source(tmp_path / "sim")))
    first = write_model_card(Bundle.load(folder), run, [car_results()])
    other = summarize(folder)._replace(name="the-other")
    assert "Side by side" not in first.read_text(encoding="utf-8")
    text = write_model_card(Bundle.load(folder), run, [car_results()], [other]).read_text(encoding="utf-8")
    assert "| the-other |" in text.split("Side by side")[1]
    assert "--beside the-other" in text


@pytest.fixture
def of_tiny(tiny_bundle: Bundle, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the tiny model's folder, and the run that it could be of."""
    shutil.copytree(tiny_bundle.folder, tmp_path / "tiny")
    record: dict[str, Any] = {"samples": 1200, "processes": 1}
    return tmp_path / "tiny", run_of(tmp_path, config_of(simulated_source(tmp_path / "sim")), record)


def test_a_card_of_own_data_has_every_point_and_no_image(of_tiny: tuple[Path, Path], tmp_path: Path) -> None:
    model, run = of_tiny
    rng = np.random.default_rng(0)
    own = tmp_path / "own"
    write_cloud(
        own / "points" / "a.bin", np.column_stack([rng.uniform((8, -2, -1.7), (14, 2, 0), (200, 3)), rng.random(200)])
    )
    write_objects(own / "labels" / "a.json", objects_of([[11, 0, -1, 4, 1.7, 1.5, 0]], ["Car"]))
    (own / "splits").mkdir()
    (own / "splits" / "val.txt").write_text("a\n")
    with pytest.raises(SystemExit) as ended:
        main(["card", str(model), "--run", str(run), "--real", str(own)])
    assert ended.value.code == 0
    text = (model / "MODEL_CARD.md").read_text()
    assert "Own frames" in text
    assert "KITTI frames" not in text


def test_a_card_reads_simulated_frames_with_their_profile(
    of_tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = of_tiny
    dump_config(KITTI.model_copy(update={"height": 2.4}), tmp_path / "sim" / PROFILE)
    seen: list[Any] = []
    monkeypatch.setattr("pd_edge.kitti.open_dataset", lambda *given: seen.append(given))
    monkeypatch.setattr("pd_edge.batch.detect_batch", lambda detector, *_, **__: seen.append(detector))
    monkeypatch.setattr("pd_edge.training.model_card.measured", lambda *_, **__: None)
    monkeypatch.setattr("pd_edge.training.model_card.write_model_card", lambda *_: "card")
    with pytest.raises(SystemExit) as ended:
        main(["card", str(model), "--run", str(run), "--simulated", str(tmp_path / "sim")])
    assert ended.value.code == 0
    assert [seen[0][2].height, seen[1].sensor.height] == [2.4, 2.4]
