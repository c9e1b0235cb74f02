"""The exported forms give the detector's heads, in every runtime that takes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
onnx = pytest.importorskip("onnx", reason="needs the train extra")

from onnx import TensorProto  # noqa: E402

from pd_edge.bundle import HEADS, find_model  # noqa: E402
from pd_edge.cli import main  # noqa: E402
from pd_edge.config import DetectorConfig, GridConfig  # noqa: E402
from pd_edge.engines.exported import read_exported  # noqa: E402
from pd_edge.engines.onnx_file import export_onnx  # noqa: E402
from pd_edge.engines.onnx_numbers import GraphWriter  # noqa: E402
from pd_edge.engines.onnx_points import add_plain_points, points_input  # noqa: E402
from pd_edge.errors import EngineError  # noqa: E402
from pd_edge.kitti import ObjectDataset  # noqa: E402
from pd_edge.pillars import (  # noqa: E402
    PillarEncoder,
    PillarNet,
    encode_reference,
    pillarize,
    pillarize_reference,
    point_cells,
    scatter_reference,
)
from pd_edge.training.checkpoint import load_model  # noqa: E402
from pd_edge.training.pointpillars import PointPillars, student_4x_config  # noqa: E402

if TYPE_CHECKING:
    from pd_edge.bundle import Bundle

Floats = npt.NDArray[np.float32]
Run = Callable[[Floats], list[Floats]]
KITTI = GridConfig()
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
PARITY = 1e-5
"""Largest difference of heads, relative to the largest value of the head; 5e-7 was measured."""
MEAN_TOLERANCE = 1e-5
"""Largest difference of an offset to the pillar's mean [m]: float32 sums in the graph, 64-bit ones in the reference."""


def in_onnxruntime(graph: bytes) -> Run:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    return lambda values: [np.asarray(each) for each in session.run(None, {source: values})]


def in_openvino(graph: bytes, precision: str = "f32") -> Run:
    ov = pytest.importorskip("openvino")
    core = ov.Core()
    model = core.compile_model(core.read_model(graph, b""), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda values: [np.array(each) for each in model(values).values()]


RUNTIMES = pytest.mark.parametrize("open_graph", [in_onnxruntime, in_openvino])


@pytest.fixture(scope="session")
def config(tiny_model: PointPillars) -> DetectorConfig:
    return DetectorConfig(model=tiny_model.config)


@pytest.fixture(scope="session")
def files(tiny_model: PointPillars, config: DetectorConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FORM-PRECISION.onnx of the tiny model."""
    folder = tmp_path_factory.mktemp("onnx")
    for form in ("plugin", "plain", "dense"):
        for precision in ("fp32", "fp16"):
            export_onnx(tiny_model, config, folder / f"{form}-{precision}.onnx", form, precision)
    return folder


def heads_of(model: PointPillars, cloud: Floats) -> list[Floats]:
    """What the detector computes: the C++ encoder's canvas through torch."""
    canvas = PillarEncoder(model.config.grid, model.fold_encoder()).encode(cloud)
    with torch.inference_mode():
        return [each.numpy() for each in model.dense(torch.from_numpy(canvas))]


def assert_close(found: list[Floats], expected: list[Floats], tolerance: float) -> None:
    for name, one, other in zip(HEADS, found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == np.float32
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max(), name


def damaged(cloud: Floats) -> Floats:
    """The cloud with every kind of point that has no cell."""
    cloud = cloud.copy()
    for column in range(4):
        for row, value in enumerate((np.nan, np.inf, -np.inf)):
            cloud[3 * column + row, column] = value
    cloud[20], cloud[21, :3], cloud[22, :3] = np.nan, 1e30, -1e30
    return cloud


# The plain form


@RUNTIMES
@pytest.mark.parametrize("kind", ["none", "one", "outside", "whole", "damaged"])
def test_plain_equals_the_detector(
    open_graph: Callable[[bytes], Run], kind: str, files: Path, tiny_model: PointPillars, tiny_cloud: Floats
) -> None:
    clouds = {
        "none": tiny_cloud[:0],
        "one": tiny_cloud[:1],
        "outside": tiny_cloud - np.float32(50),
        "whole": tiny_cloud,
        "damaged": damaged(tiny_cloud),
    }
    run = open_graph((files / "plain-fp32.onnx").read_bytes())
    assert_close(run(clouds[kind]), heads_of(tiny_model, clouds[kind]), PARITY)


@RUNTIMES
def test_plain_takes_clouds_of_any_length_in_turn(
    open_graph: Callable[[bytes], Run], files: Path, tiny_model: PointPillars, tiny_cloud: Floats
) -> None:
    run = open_graph((files / "plain-fp32.onnx").read_bytes())
    for count in (700, 0, 3000, 1, 0, 700):
        assert_close(run(tiny_cloud[:count]), heads_of(tiny_model, tiny_cloud[:count]), PARITY)


def point_graph(grid: GridConfig, net: PillarNet, inner: str | None = None) -> bytes:
    """The plain point part alone: points to canvas, or to another of its tensors."""
    graph = GraphWriter()
    canvas = add_plain_points(graph, net, grid, FLOAT)
    kind = TensorProto.INT64 if inner == "cell" else FLOAT
    output = onnx.helper.make_tensor_value_info(inner or canvas, kind, None)
    body = onnx.helper.make_graph(graph.nodes, "points", [points_input()], [output], graph.constants)
    opset = [onnx.helper.make_opsetid("", 18)]
    proto: bytes = onnx.helper.make_model(body, opset_imports=opset, ir_version=8).SerializeToString()
    return proto


def random_net(channels: int) -> PillarNet:
    rng = np.random.default_rng(channels)
    return PillarNet(*(rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((10, channels), (channels,))))


def edge_cloud(grid: GridConfig) -> Floats:
    """Points on the borders of cells and one step of float32 to either side, in millimetres as KITTI's are."""
    rng = np.random.default_rng(5)
    borders = (
        grid.x_min + grid.cell * rng.integers(-1, grid.nx + 2, 4000),
        grid.y_min + grid.cell * rng.integers(-1, grid.ny + 2, 4000),
    )
    xy = np.stack([np.round(each, 3) for each in borders], axis=1).astype(np.float32)
    xy[::3] = np.nextafter(xy[::3], np.float32(np.inf))
    xy[1::3] = np.nextafter(xy[1::3], np.float32(-np.inf))
    z = rng.choice(np.array([grid.z_min, grid.z_max, -1.0, np.nextafter(grid.z_max, -9)], np.float32), (4000, 1))
    return np.hstack([xy, z, rng.random((4000, 1), np.float32)])


@RUNTIMES
def test_plain_cells_are_the_references_on_every_border(open_graph: Callable[[bytes], Run]) -> None:
    points, net = edge_cloud(KITTI), random_net(4)
    cells = point_cells(points, KITTI)
    assert 1000 < (cells >= 0).sum() < 3500
    found = open_graph(point_graph(KITTI, net, "cell"))(points)[0].ravel()
    np.testing.assert_array_equal(found, np.maximum(cells, 0))


@RUNTIMES
def test_plain_features_keep_the_stated_tolerance_in_full_pillars(open_graph: Callable[[bytes], Run]) -> None:
    """Three pillars of 500 points each, 60 m away: where float32 sums of coordinates would be off by millimetres."""
    rng = np.random.default_rng(2)
    corner = np.array([[60.0, 30.08, -2.5], [60.16, -30.08, -1.0], [69.0, 0.0, -2.9]])
    xyz = np.repeat(corner, 500, axis=0) + rng.uniform(0, 1, (1500, 3)) * (0.1, 0.1, 3.0)
    points = np.column_stack([xyz, rng.random(1500)]).astype(np.float32)
    points = points[point_cells(points, KITTI) >= 0]
    assert len(points) > 1000
    expected = pillarize_reference(points, KITTI).features
    found = open_graph(point_graph(KITTI, random_net(4), "features"))(points)[0]
    exact = [0, 1, 2, 3, 7, 8, 9]
    np.testing.assert_array_equal(found[:, exact], expected[:, exact])
    assert np.abs(found[:, 4:7] - expected[:, 4:7]).max() < MEAN_TOLERANCE


@RUNTIMES
def test_plain_canvas_equals_the_reference(open_graph: Callable[[bytes], Run], tiny_cloud: Floats) -> None:
    grid, net = GridConfig(x_max=20.48, y_min=-5.12, y_max=5.12), random_net(16)
    pillars = pillarize(tiny_cloud, grid)
    expected = scatter_reference(encode_reference(pillars, net), pillars.cells, grid)
    found = open_graph(point_graph(grid, net))(tiny_cloud)[0]
    assert (found >= 0).all()
    np.testing.assert_allclose(found, expected, atol=2e-5)


@RUNTIMES
def test_plain_equals_the_detector_on_real_frames(
    open_graph: Callable[[bytes], Run], kitti_root: Path, tmp_path: Path
) -> None:
    model, config = load_model(find_model("pointpillars-4x"))
    assert isinstance(model, PointPillars)
    file = export_onnx(model, config, tmp_path / "plain.onnx", "plain", "fp32")
    run, cells = (open_graph(each) for each in (file.read_bytes(), point_graph(KITTI, random_net(4), "cell")))
    frames = ObjectDataset(kitti_root / "object", "val")
    for index in (0, 9, 20):
        points = frames.frame(index).points
        np.testing.assert_array_equal(cells(points)[0].ravel(), np.maximum(point_cells(points, KITTI), 0))
        assert_close(run(points), heads_of(model, points), 2e-4)


# The dense form, precision and metadata


@RUNTIMES
def test_dense_equals_the_detector(
    open_graph: Callable[[bytes], Run], files: Path, tiny_model: PointPillars, tiny_cloud: Floats
) -> None:
    canvas = PillarEncoder(tiny_model.config.grid, tiny_model.fold_encoder()).encode(tiny_cloud)
    run = open_graph((files / "dense-fp32.onnx").read_bytes())
    assert_close(run(canvas), heads_of(tiny_model, tiny_cloud), PARITY)


@pytest.mark.parametrize("form", ["plugin", "plain", "dense"])
def test_half_files_have_float32_where_coordinates_are_and_float16_behind_the_canvas(form: str, files: Path) -> None:
    model = onnx.load(files / f"{form}-fp16.onnx")
    constants = {each.name: each.data_type for each in model.graph.initializer}
    for node in model.graph.node:
        kinds = {constants[name] for name in node.input if name in constants}
        if node.op_type in ("Conv", "ConvTranspose"):
            assert kinds == {HALF}, node.name
        else:
            assert HALF not in kinds, node.name
    ends = [*model.graph.input, *model.graph.output]
    assert {each.type.tensor_type.elem_type for each in ends} == {FLOAT}
    assert [each.version for each in model.opset_import if not each.domain] == [18]
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].i in (FLOAT, HALF)]
    assert [node.attribute[0].i for node in casts if node.name != "tested.fp32"] == [HALF, FLOAT]


def rounded_heads(model: PointPillars, cloud: Floats) -> list[Floats]:
    """Torch with weights and every map rounded to float16, as a float16 engine does, sums in float32."""
    import copy

    from pd_edge.training.network import fold_norms

    def half(tensor: Any) -> Any:
        return tensor.half().float()

    network = fold_norms(copy.deepcopy(model))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if not name.startswith("pillar_net"):
                weight.copy_(half(weight))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(lambda _module, _inputs, output: half(output))
    canvas = PillarEncoder(model.config.grid, model.fold_encoder()).encode(cloud)
    with torch.inference_mode():
        return [each.numpy() for each in network.dense(half(torch.from_numpy(canvas)))]


def test_half_is_computed_in_half_where_the_cpu_can(files: Path, tiny_model: PointPillars, tiny_cloud: Floats) -> None:
    ov = pytest.importorskip("openvino")
    if "FP16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO computes float16 files in float32 on this CPU: it has no float16 instructions")
    run = in_openvino((files / "plain-fp16.onnx").read_bytes(), "f32")
    exact, rounded = heads_of(tiny_model, tiny_cloud), rounded_heads(tiny_model, tiny_cloud)
    assert_close(run(tiny_cloud), exact, 3e-3)
    canvas = PillarEncoder(tiny_model.config.grid, tiny_model.fold_encoder()).encode(tiny_cloud)
    found = in_openvino((files / "dense-fp16.onnx").read_bytes(), "f16")(canvas)
    assert_close(found, exact, 3e-3)
    error = [np.abs(one - other).mean() for one, other in zip(found, rounded, strict=True)]
    rounding = [np.abs(one - other).mean() for one, other in zip(exact, rounded, strict=True)]
    assert all(each < whole for each, whole in zip(error, rounding, strict=True))


@pytest.mark.parametrize("form", ["plugin", "plain", "dense"])
def test_one_file_is_all_that_a_builder_needs(form: str, files: Path, tiny_model: PointPillars) -> None:
    properties = {each.key: each.value for each in onnx.load(files / f"{form}-fp16.onnx").metadata_props}
    assert (properties["model"], properties["form"], properties["precision"]) == (f"{form}-fp16", form, "fp16")
    assert DetectorConfig.model_validate_json(properties["detector_config"]).model == tiny_model.config
    assert len(properties["weights_sha256"]) == 64
    assert ("pillar_net" in properties) == (form == "dense")
    if form == "dense":
        net = read_exported(files / "dense-fp16.onnx").encoder_net
        assert net is not None
        for found, expected in zip(net, tiny_model.fold_encoder(), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_does_not_fit_is_refused(tiny_model: PointPillars, config: DetectorConfig, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(EngineError, match="the network to export was built for"):
        export_onnx(tiny_model, DetectorConfig(model=student_4x_config()), out, "plain", "fp32")
    with pytest.raises(EngineError, match="form 'sparse': choose one of plugin, plain, dense"):
        export_onnx(tiny_model, config, out, "sparse", "fp32")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="precision 'int4': choose one of fp32, fp16, int8-trt, int8-cpu"):
        export_onnx(tiny_model, config, out, "plain", "int4")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="int8-trt needs a calibration"):
        export_onnx(tiny_model, config, out, "plain", "int8-trt")
    assert not out.exists()


# The command


def test_the_command_writes_the_form_asked_for(
    tiny_bundle: "Bundle", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "tiny.onnx"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tiny_bundle.folder), str(out), "--form", "dense", "--precision", "fp16"])
    assert ended.value.code == 0
    assert f"dense fp16: {out}" in capsys.readouterr().out
    properties = {each.key: each.value for each in onnx.load(out).metadata_props}
    assert properties["model"] == "tiny"
    manifest = json.loads((tiny_bundle.folder / "manifest.json").read_text())
    assert properties["weights_sha256"] == manifest["files"]["model.safetensors"]["sha256"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out.onnx"], "nowhere: no weights there"),
        (["pointpillars-4x", "out.engine"], "out.engine: give a file that ends in .onnx"),
        (
            ["pointpillars-4x", "out.onnx", "--frames", "8", "--float", "head"],
            "--frames, --float: for --precision int8",
        ),
        (
            ["pointpillars-4x", "out.onnx", "--precision", "fp16", "--data", "d", "--percentile", "99.9"],
            "--data, --percentile: for --precision int8, fp16 has no use for it",
        ),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err
