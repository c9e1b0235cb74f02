"""The plugin form: its nodes are what TensorRT's parser asks for, and with the two operators in numpy it is right."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="needs the train extra")
onnx = pytest.importorskip("onnx", reason="needs the train extra")

from onnx import TensorProto  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

from pd_edge.config import DetectorConfig, GridConfig  # noqa: E402
from pd_edge.engines.onnx_file import export_onnx  # noqa: E402
from pd_edge.engines.onnx_numbers import GraphWriter  # noqa: E402
from pd_edge.engines.onnx_points import add_plugin_points, points_input  # noqa: E402
from pd_edge.pillars import PillarEncoder, PillarNet, grid_constants, pillarize_reference, point_cells_reference  # noqa: E402
from pd_edge.training.pointpillars import PointPillars  # noqa: E402

Floats = npt.NDArray[np.float32]
KITTI = GridConfig()


class PillarVoxelize(OpRun):  # type: ignore[misc]
    """points (N, 4) -> features (N, 10), cell (N,); the attributes have to be those of ``grid``."""

    op_domain = "pd_edge"
    grid = GridConfig()

    def _run(self, points: Any, **_: Any) -> tuple[Any, Any]:
        cell = point_cells_reference(points, self.grid)
        features = np.zeros((len(points), 10), np.float32)
        features[cell >= 0] = pillarize_reference(points, self.grid).features
        return features, cell


class PillarScatter(OpRun):  # type: ignore[misc]
    """values (N, C), cell (N,) -> canvas (1, C, ny, nx): the maximum over a cell's points."""

    op_domain = "pd_edge"

    def _run(self, values: Any, cell: Any, *, nx: int, ny: int, **_: Any) -> tuple[Any]:
        assert (values >= 0).all(), "the contract of PillarScatter"
        rows = np.zeros((ny * nx, values.shape[1]), values.dtype)
        np.maximum.at(rows, cell[cell >= 0], values[cell >= 0])
        return (np.ascontiguousarray(rows.T.reshape(1, -1, ny, nx)),)


def evaluate_plugin_points(model: Any, points: Floats, grid: GridConfig) -> Any:
    """The point part of a plugin file with its own two operators in numpy."""
    end = next(index for index, node in enumerate(model.graph.node) if node.op_type == "PillarScatter")
    output = onnx.helper.make_tensor_value_info("canvas", TensorProto.FLOAT, None)
    used = {name for node in model.graph.node[: end + 1] for name in node.input}
    constants = [each for each in model.graph.initializer if each.name in used]
    body = onnx.helper.make_graph(model.graph.node[: end + 1], "points", [points_input()], [output], constants)
    PillarVoxelize.grid = grid
    head = onnx.helper.make_model(body, opset_imports=model.opset_import, ir_version=8)
    return ReferenceEvaluator(head, new_ops=[PillarVoxelize, PillarScatter]).run(None, {"points": points})[0]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("fp16", np.float16)])
def test_plugin_canvas_equals_the_reference(
    precision: Any, dtype: Any, tmp_path: Path, tiny_model: PointPillars, tiny_cloud: Floats
) -> None:
    grid = tiny_model.config.grid
    points = tiny_cloud.copy()
    points[:4] = np.diag(np.full(4, np.nan, np.float32))
    expected = PillarEncoder(grid, tiny_model.fold_encoder()).encode(points)
    config = DetectorConfig(model=tiny_model.config)
    file = export_onnx(tiny_model, config, tmp_path / "plugin.onnx", "plugin", precision)
    canvas = evaluate_plugin_points(onnx.load(file), points, grid)
    assert canvas.dtype == dtype
    np.testing.assert_allclose(canvas, expected, rtol=1e-3 if dtype == np.float16 else 1e-6, atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_behind_the_canvas_plugin_and_dense_are_the_same_nodes(
    precision: Any, tmp_path: Path, tiny_model: PointPillars
) -> None:
    config, path = DetectorConfig(model=tiny_model.config), tmp_path / "file.onnx"
    forms: tuple[Any, ...] = ("dense", "plugin")
    dense, plugin = (onnx.load(export_onnx(tiny_model, config, path, form, precision)).graph for form in forms)
    layers = [node for node in dense.node if node.name != "canvas.maps"]
    for one, other in zip(layers, plugin.node[-len(layers) :], strict=True):
        one.input[:] = ["canvas" if name == "canvas.maps" else name for name in one.input]
        assert one == other
    constants = {each.name: each for each in plugin.initializer}
    assert all(each == constants[each.name] for each in dense.initializer)


def test_plugin_nodes_carry_what_the_plugins_ask_for() -> None:
    net = PillarNet(np.ones((10, 8), np.float32), np.ones(8, np.float32))
    graph = GraphWriter()
    assert add_plugin_points(graph, net, KITTI, TensorProto.FLOAT16) == "canvas"
    nodes = {node.op_type: node for node in graph.nodes}
    assert list(nodes) == ["PillarVoxelize", "MatMul", "Add", "Relu", "Cast", "PillarScatter"]
    for kind in ("PillarVoxelize", "PillarScatter"):
        assert nodes[kind].domain == "pd_edge"
    values = {each.name: onnx.helper.get_attribute_value(each) for each in nodes["PillarVoxelize"].attribute}
    assert values.pop("plugin_version") == b"1"
    assert values.pop("plugin_namespace") == b"pd_edge"
    for name, expected in grid_constants(KITTI)._asdict().items():
        assert np.float32(values.pop(name)) == expected  # bit for bit, through protobuf's float32
    assert not values
    sizes = {each.name: onnx.helper.get_attribute_value(each) for each in nodes["PillarScatter"].attribute}
    assert (sizes["nx"], sizes["ny"]) == (432, 496)
