"""INT8: ranges are those of the maps, Q/DQ stand where each parser wants them, and the heads stay close."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
onnx = pytest.importorskip("onnx", reason="needs the train extra")

from onnx import TensorProto, numpy_helper  # noqa: E402

from pd_edge.bundle import Bundle  # noqa: E402
from pd_edge.cli import main  # noqa: E402
from pd_edge.config import DetectorConfig, dump_config  # noqa: E402
from pd_edge.engines.calibration_frames import spread_clouds, training_clouds  # noqa: E402
from pd_edge.engines.onnx_file import export_onnx  # noqa: E402
from pd_edge.engines.quantize import Calibration, calibrate  # noqa: E402
from pd_edge.errors import DataError, EngineError  # noqa: E402
from pd_edge.kitti import Calibration as CameraCalibration  # noqa: E402
from pd_edge.kitti import boxes_to_labels, open_dataset, write_object_frame, write_split  # noqa: E402
from pd_edge.pillars import PillarEncoder  # noqa: E402
from pd_edge.sensors import KITTI, SensorProfile  # noqa: E402
from pd_edge.training.config import TrainConfig  # noqa: E402
from pd_edge.training.data_config import DataConfig, SourceConfig  # noqa: E402
from pd_edge.training.pointpillars import PointPillars  # noqa: E402

Floats = npt.NDArray[np.float32]
PRECISIONS = ("int8-trt", "int8-cpu")


@pytest.fixture(scope="session")
def config(tiny_model: PointPillars) -> DetectorConfig:
    return DetectorConfig(model=tiny_model.config)


@pytest.fixture(scope="session")
def ranges(tiny_model: PointPillars, config: DetectorConfig, tiny_cloud: Floats) -> Calibration:
    return calibrate(tiny_model, config, [tiny_cloud, tiny_cloud[:1000]])


@pytest.fixture(scope="session")
def graphs(
    tiny_model: PointPillars, config: DetectorConfig, ranges: Calibration, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The dense form of the tiny model in both INT8 precisions."""
    folder = tmp_path_factory.mktemp("int8")
    return {
        each: onnx.load(
            export_onnx(tiny_model, config, folder / f"{each}.onnx", "dense", each, calibration=ranges)  # type: ignore[arg-type]
        )
        for each in PRECISIONS
    }


def maps_read(model: PointPillars, canvas: Floats) -> dict[str, Floats]:
    """What some layers read, step by step."""
    with torch.inference_mode():
        first = model.backbone.stages[0](torch.from_numpy(canvas))
        stages = model.backbone(torch.from_numpy(canvas))
        return {
            "backbone.stages.0.0": canvas,
            "backbone.stages.1.0": first.numpy(),
            "neck.upsamplings.2": stages[2].numpy(),
            "head": model.neck(stages).numpy(),
        }


def test_ranges_are_the_largest_values_that_layers_read(
    tiny_model: PointPillars, ranges: Calibration, tiny_cloud: Floats
) -> None:
    encoder = PillarEncoder(tiny_model.config.grid, tiny_model.fold_encoder())
    seen = [maps_read(tiny_model, encoder.encode(cloud).copy()) for cloud in (tiny_cloud, tiny_cloud[:1000])]
    for layer in seen[0]:
        assert ranges.ranges[layer] == pytest.approx(max(each[layer].max() for each in seen), rel=1e-5)
    assert ranges.ranges["neck.upsamplings.0"] == ranges.ranges["backbone.stages.1.0"]
    assert set(ranges.ranges) == {
        *(f"backbone.stages.{stage}.{layer}" for stage in range(3) for layer in range(2)),
        *(f"neck.upsamplings.{stage}" for stage in range(3)),
        "head",
    }


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_a_percentile_is_that_of_all_frames_together(
    percentile: float, tiny_model: PointPillars, config: DetectorConfig, tiny_cloud: Floats
) -> None:
    clouds = [tiny_cloud[:500], tiny_cloud, tiny_cloud[500:]]
    found = calibrate(tiny_model, config, clouds, percentile)
    encoder = PillarEncoder(tiny_model.config.grid, tiny_model.fold_encoder())
    values = np.concatenate([encoder.encode(cloud).flatten() for cloud in clouds])
    expected = np.sort(values)[-int(len(values) * (1 - percentile / 100))]
    assert found.ranges["backbone.stages.0.0"] == pytest.approx(expected, rel=1e-5)
    assert found[1:] == (3, percentile)


def test_calibration_changes_nothing_and_refuses_nonsense(
    tiny_model: PointPillars, config: DetectorConfig, tiny_cloud: Floats
) -> None:
    model = copy.deepcopy(tiny_model)
    calibrate(model, config, [tiny_cloud])
    assert not any(module._forward_pre_hooks for module in model.modules())
    for clouds in ([], [tiny_cloud[:0]]):
        with pytest.raises(DataError, match="calibration clouds without a point in the grid"):
            calibrate(model, config, clouds)
    with pytest.raises(EngineError, match=r"percentile 50: give 99 \.\. 100"):
        calibrate(model, config, [tiny_cloud], 50)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_quantised_layers_and_those_in_float(precision: str, graphs: dict[str, Any], ranges: Calibration) -> None:
    model = graphs[precision]
    trt = precision == "int8-trt"
    maps: Any = np.int8 if trt else np.uint8
    rest, opset = (TensorProto.FLOAT16, 19) if trt else (TensorProto.FLOAT, 18)
    assert [each.version for each in model.opset_import] == [opset]
    nodes = {name: node for node in model.graph.node for name in node.output}
    constants = {each.name: each for each in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(convolutions) == 10
    for node in convolutions:
        source, weight, bias = node.input
        assert constants[bias].data_type == rest  # no parser is asked to read a quantised bias
        layer = node.name.removesuffix(".conv")
        if layer in ("backbone.stages.0.1", "head"):
            assert constants[weight].data_type == rest
            continue
        scale, zero = (numpy_helper.to_array(constants[name]) for name in nodes[source].input[1:])
        assert nodes[source].op_type == nodes[weight].op_type == "DequantizeLinear"
        assert (zero.dtype, zero) == (maps, 0)
        assert scale * np.iinfo(maps).max == pytest.approx(ranges.ranges[layer], rel=2e-3)
        assert scale * np.iinfo(maps).max >= ranges.ranges[layer] * (1 - 1e-6)
        assert constants[nodes[weight].input[1]].data_type == rest
    quantised = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantised) == len(set(quantised)) == 6  # maps that two layers read are quantised once


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_keep_half_a_step_for_each_output(
    precision: str, graphs: dict[str, Any], tiny_model: PointPillars
) -> None:
    from pd_edge.training.network import fold_norms

    state = fold_norms(copy.deepcopy(tiny_model)).state_dict()
    graph = graphs[precision].graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    widened = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for layer in ("backbone.stages.0.0", "backbone.stages.2.1", "neck.upsamplings.2"):
        node = widened[f"{layer}.weight"]
        levels, scale, zero = (constants[name] for name in node.input)
        axis = onnx.helper.get_attribute_value(node.attribute[0])
        assert axis == (1 if layer == "neck.upsamplings.2" else 0)
        assert not zero.any()
        others = tuple(each for each in range(4) if each != axis)
        assert (np.abs(levels.astype(int)).max(axis=others) >= 126).all()
        step = scale.astype(np.float64).reshape([-1 if each == axis else 1 for each in range(4)])
        assert (np.abs(levels * step - state[f"{layer}.conv.weight"].numpy()) <= 0.51 * step).all()


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_heads_stay_close(
    precision: str, runtime: str, graphs: dict[str, Any], tiny_model: PointPillars, tiny_cloud: Floats
) -> None:
    library = pytest.importorskip(runtime)
    canvas = PillarEncoder(tiny_model.config.grid, tiny_model.fold_encoder()).encode(tiny_cloud)
    data = graphs[precision].SerializeToString()
    if runtime == "openvino":
        core = library.Core()
        model = core.compile_model(core.read_model(data, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = list(model(canvas).values())
    else:
        options = library.SessionOptions()
        options.log_severity_level = 3
        found = library.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(
            None, {"canvas": canvas}
        )
    with torch.inference_mode():
        expected = [each.numpy() for each in tiny_model.dense(torch.from_numpy(canvas))]
    for one, other in zip(found, expected, strict=True):
        error = np.sqrt(np.mean((one - other) ** 2)) / other.std()
        assert 1e-4 < error < 0.05


def test_a_layer_that_does_not_exist_cannot_stay_in_float(
    tiny_model: PointPillars, config: DetectorConfig, ranges: Calibration, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"no layer 'heads' to leave in float; there are backbone\.stages\.0\.0"):
        export_onnx(
            tiny_model, config, tmp_path / "x.onnx", "dense", "int8-cpu", calibration=ranges, float_layers=["heads"]
        )


# Frames and commands


@pytest.fixture
def labelled(tmp_path: Path, tiny_cloud: Floats, calibration: CameraCalibration) -> Path:
    """Four labelled frames in KITTI's object layout, split train."""
    root = tmp_path / "kitti"
    boxes = np.array([[10, 0, -1, 4, 1.6, 1.5, 0.1], [15, 2, -1, 4, 1.6, 1.5, 0.1]], np.float32)
    labels = boxes_to_labels(boxes, ["Car", "Car"], calibration, occlusion=[0, 0])
    for index in range(4):
        write_object_frame(root, f"{index:06d}", tiny_cloud[index * 400 :], calibration, labels)
    write_split(root, "train", [f"{index:06d}" for index in range(4)])
    return root


def test_frames_are_spread_over_the_folder(labelled: Path) -> None:
    dataset = open_dataset(labelled)
    sizes = [len(cloud) for cloud in spread_clouds(dataset, 9)]
    assert len(sizes) == 4
    assert [len(cloud) for cloud in spread_clouds(dataset, 2)] == [sizes[0], sizes[3]]


def test_without_data_the_training_frames_are_taken(
    labelled: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"training frames are not here \(no train.yaml\); give .* with --data"):
        training_clouds(tiny_bundle.folder, 4)
    taught = {"teacher": "big", "unlabelled": {"sources": [{"path": "drive.mcap"}]}, "samples": 1}
    (tmp_path / "train.yaml").write_text(json.dumps(taught | {"model": tiny_bundle.config.model.model_dump()}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(DataError, match=r"not here \(clouds without labels alone\); give .* with --data"):
        training_clouds(tmp_path, 4)
    shipped = Path(__file__).resolve().parents[2] / "pd_edge/weights/pointpillars-4x"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"not here \(data/sim-train, data/kitti/object\); give .* with --data"):
        training_clouds(shipped, 4)
    (tmp_path / "data/kitti").mkdir(parents=True)
    labelled.rename(tmp_path / "data/kitti/object")
    assert len(training_clouds(shipped, 3)) == 3


def test_frames_of_another_sensor_come_as_the_model_sees_them(
    labelled: Path, config: DetectorConfig, tmp_path: Path
) -> None:
    low = KITTI.model_copy(update={"height": 0.73})
    dump_config(low, tmp_path / "low.yaml")
    dump_config(
        TrainConfig(
            model=config.model,
            data=DataConfig(sources=(SourceConfig(root=labelled, sensor=str(tmp_path / "low.yaml")),)),
            samples=1,
        ),
        tmp_path / "run" / "train.yaml",
    )
    (tmp_path / "run" / "model.safetensors").touch()
    expected = [cloud - np.array([0, 0, 1, 0], np.float32) for cloud in spread_clouds(open_dataset(labelled), 3)]
    for found in (
        training_clouds(tmp_path / "run", 3),
        spread_clouds(open_dataset(labelled, sensor=low), 3, low),
    ):
        for cloud, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(cloud, wanted, atol=1e-5)


def test_a_profile_is_of_the_frames_that_are_given(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, said in (([], "--sensor: for --precision int8"), (["--precision", "int8"], "which is missing")):
        with pytest.raises(SystemExit) as ended:
            main(["export", str(tiny_bundle.folder), str(tmp_path / "a.onnx"), "--sensor", "vlp-16", *more])
        assert ended.value.code == 1
        assert said in " ".join(capsys.readouterr().err.split())


def test_export_writes_one_file_for_each_parser(
    labelled: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--form", "plain", "--precision", "int8", "--data", str(labelled), "--frames", "2"]
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "export",
                str(tiny_bundle.folder),
                str(tmp_path / "tiny.onnx"),
                *arguments,
                "--float",
                "neck.upsamplings.0",
            ]
        )
    assert ended.value.code == 0, capsys.readouterr().err
    assert {path.name for path in tmp_path.glob("*.onnx")} == {f"tiny-{each}.onnx" for each in PRECISIONS}
    for each in PRECISIONS:
        model = onnx.load(tmp_path / f"tiny-{each}.onnx")
        assert {prop.key: prop.value for prop in model.metadata_props}["precision"] == each
        small = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        kept = {node.name for node in model.graph.node if "Conv" in node.op_type and node.input[1] not in small}
        assert kept == {"neck.upsamplings.0.conv"}


def test_sensitivity_ranks_every_layer(
    labelled: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    file = tmp_path / "report.json"
    arguments = ["--data", str(labelled), "--frames", "2", "--calibration", str(labelled), "--json", str(file)]
    with pytest.raises(SystemExit) as ended:
        main(["sensitivity", str(tiny_bundle.folder), *arguments])
    assert ended.value.code == 0, capsys.readouterr().err
    report = json.loads(file.read_text())
    layers = [each["layer"] for each in report["layers"]]
    assert report["frames"] == 2
    assert layers[0] == "as exported"
    assert len(layers) == 11
    assert "head" in layers
    losses = [each["loss_3d"] for each in report["layers"][1:]]
    assert losses == sorted(losses, reverse=True)
    assert "AP lost when only this layer is INT8" in capsys.readouterr().out


def test_sensitivity_evaluates_where_the_sensor_stands(
    labelled: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    seen: list[SensorProfile] = []

    def refuse(*given: Any) -> None:
        seen.append(given[2])
        raise DataError("enough")

    monkeypatch.setattr("pd_edge.engines.sensitivity.Detector", refuse)
    (tmp_path / "high.yaml").write_text("name: high\nheight: 2.4\n", encoding="utf-8")
    arguments = ["--data", str(labelled), "--frames", "1", "--calibration", str(labelled)]
    with pytest.raises(SystemExit) as ended:
        main(["sensitivity", str(tiny_bundle.folder), *arguments, "--sensor", str(tmp_path / "high.yaml")])
    assert ended.value.code == 1
    assert [each.height for each in seen] == [2.4]
