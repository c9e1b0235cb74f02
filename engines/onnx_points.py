"""The point part of the network (points to canvas) as ONNX nodes, in two forms.

``plugin`` has two operators of the domain ``pd_edge``, which TensorRT runs as this project's plugins::

    PillarVoxelize   points (N, 4) float32 -> features (N, 10) float32, cell (N,) int32
    PillarScatter    values (N, C) float32 or float16, none below 0, and cell -> canvas (1, C, ny, nx) of the same type

A point outside the grid has cell -1 and features of zero. Between the two stands the pillar feature net in float32.

``plain`` is the same in operators of the standard, for any runtime. Its cells are those of :mod:`pd_edge.pillars`, bit
for bit; the mean of a pillar is not: there are no 64-bit integer sums that every runtime has, so the offsets from the
pillar's centre (8 cm at most in x and y) are summed in float32. That leaves the sums small, and the offset to the mean
within 1e-5 m of the reference's in pillars of some hundred points, in whatever order a runtime adds them.

A runtime has to compute both forms in float32: in bfloat16 or float16 the cells themselves are wrong. OpenVINO uses
bfloat16 by itself on a CPU that has it, so open these files with INFERENCE_PRECISION_HINT f32; what is INT8 stays so.
"""

from typing import Any

import numpy as np

from pd_edge.bundle import CANVAS
from pd_edge.config import GridConfig
from pd_edge.errors import MissingExtraError
from pd_edge.pillars import GridConstants, PillarNet, grid_constants

try:
    from onnx import TensorProto, helper
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "onnx", "train") from error

from pd_edge.engines.onnx_numbers import GraphWriter

DOMAIN = "pd_edge"
POINTS = "points"
PLUGIN_ATTRIBUTES = {"domain": DOMAIN, "plugin_version": "1", "plugin_namespace": DOMAIN}
"""What TensorRT's parser looks for in a node that a plugin stands behind."""

_LOWEST = np.finfo(np.float32).min


def points_input() -> Any:
    """The ``ValueInfoProto`` of a cloud as the graph's input: (N, 4) float32 for any N."""
    return helper.make_tensor_value_info(POINTS, TensorProto.FLOAT, ["N", 4])


def add_plugin_points(graph: GraphWriter, net: PillarNet, grid: GridConfig, maps: int) -> str:
    """Writes points to canvas with the two own operators.

    Args:
        graph: The graph, whose input is :func:`points_input`.
        net: The folded pillar feature net.
        grid: The detection volume.
        maps: Element type of the canvas, float32 or float16.

    Returns:
        The name of the canvas (1, C, ny, nx).
    """
    constants = grid_constants(grid)
    numbers = {name: int(each) if name in ("nx", "ny") else float(each) for name, each in constants._asdict().items()}
    outputs = ["features", "cell"]
    graph.nodes.append(
        helper.make_node("PillarVoxelize", [POINTS], outputs, "PillarVoxelize", **numbers, **PLUGIN_ATTRIBUTES)
    )
    values = graph.cast(_add_net(graph, net, "features"), "pillar_net.maps", TensorProto.FLOAT, maps)
    size = {"nx": constants.nx, "ny": constants.ny}
    return graph.node("PillarScatter", [values, "cell"], CANVAS, **size, **PLUGIN_ATTRIBUTES)


def add_plain_points(graph: GraphWriter, net: PillarNet, grid: GridConfig, maps: int) -> str:
    """Writes points to canvas in operators of the standard, as :func:`add_plugin_points` does with own ones.

    A point outside the grid, or with a NaN, takes part as zeros in cell 0, which change neither sum nor maximum.
    """
    g = grid_constants(grid)
    inside, place = _add_place(graph, g)
    cell = _add_cell(graph, place, g)
    features = _add_features(graph, inside, place, cell, g)
    values = graph.node("Mul", [_add_net(graph, net, features), inside], "pillar_net.inside")
    rows = _add_scatter(graph, cell, values, (g.ny * g.nx, net.bias.size), "max")
    shape = graph.constant("canvas.shape", np.array([1, g.ny, g.nx, net.bias.size], np.int64))
    grown = graph.node("Reshape", [rows, shape], "canvas.nhwc")
    canvas = graph.node("Transpose", [grown], CANVAS, perm=[0, 3, 1, 2])
    return graph.cast(canvas, "canvas.maps", TensorProto.FLOAT, maps)


def _add_net(graph: GraphWriter, net: PillarNet, features: str) -> str:
    """The pillar feature net: (N, 10) to (N, C), none below 0."""
    weight, bias = graph.constant("pillar_net.weight", net.weight), graph.constant("pillar_net.bias", net.bias)
    product = graph.node("MatMul", [features, weight], "pillar_net.product")
    return graph.node("Relu", [graph.node("Add", [product, bias], "pillar_net.sum")], "pillar_net")


def _add_place(graph: GraphWriter, g: GridConstants) -> tuple[str, str]:
    """Whether each point lies in the grid (N, 1), 1 or 0, and its column and row (N, 2), 0 outside; float32.

    All conditions are two comparisons of (column, row, z, intensity): an intensity has to be finite only.
    """
    xy, rest = _add_columns(graph, POINTS, "points.xy", 0, 2), _add_columns(graph, POINTS, "points.rest", 2, 4)
    scale = graph.constant("grid.scale", np.array(g.scale))
    uv = _add_multiply_then_add(graph, xy, scale, graph.constant("grid.offset", _row(g.x_offset, g.y_offset)), "uv")
    tested = graph.node("Concat", [uv, rest], "tested", axis=1)
    low = graph.constant("grid.low", _row(0, 0, g.z_min, _LOWEST))
    high = graph.constant("grid.high", _row(g.nx, g.ny, g.z_max, np.inf))
    above = graph.node("GreaterOrEqual", [tested, low], "tested.above")
    passed = graph.node("And", [above, graph.node("Less", [tested, high], "tested.below")], "tested.passed")
    counted = graph.node("Cast", [passed], "tested.fp32", to=TensorProto.FLOAT)
    inside = graph.node("ReduceMin", [counted, graph.constant("columns", np.array([1], np.int64))], "inside")
    zero = graph.constant("zero", np.zeros((), np.float32))
    mask = graph.node("Cast", [inside], "inside.mask", to=TensorProto.BOOL)
    graph.node("Where", [mask, POINTS, zero], "points.inside")
    return inside, graph.node("Where", [mask, graph.node("Floor", [uv], "uv.floor"), zero], "place")


def _add_cell(graph: GraphWriter, place: str, g: GridConstants) -> str:
    """The flat cell iy * nx + ix of each point (N, 1) int64."""
    whole = graph.node("Cast", [place], "place.int", to=TensorProto.INT64)
    strides = graph.constant("grid.strides", np.array([[1, g.nx]], np.int64))
    return graph.node("ReduceSum", [graph.node("Mul", [whole, strides], "place.flat"), "columns"], "cell")


def _add_features(graph: GraphWriter, inside: str, place: str, cell: str, g: GridConstants) -> str:
    """The ten features of each point (N, 10) float32, zero for a point outside but for its offset to a centre."""
    xyz = _add_columns(graph, "points.inside", "points.xyz", 0, 3)
    size = graph.constant("grid.cell", np.array(g.cell))
    first = graph.constant("grid.centre", _row(g.x_centre, g.y_centre))
    centre_xy = _add_multiply_then_add(graph, place, size, first, "centre.xy")
    xy, z = _add_columns(graph, xyz, "points.inside.xy", 0, 2), _add_columns(graph, xyz, "points.inside.z", 2, 3)
    offset_xy = graph.node("Sub", [xy, centre_xy], "offset.xy")
    offset_z = graph.node("Sub", [z, graph.constant("grid.z_centre", np.array(g.z_centre))], "offset.z")
    offset = graph.node("Concat", [offset_xy, offset_z], "offset", axis=1)
    counted = graph.node("Mul", [offset, inside], "offset.inside")
    summands = graph.node("Concat", [counted, inside], "offset.summands", axis=1)
    sums = _add_scatter(graph, cell, summands, (g.ny * g.nx, 4), "add")
    own = graph.node("Gather", [sums, graph.node("Squeeze", [cell, "columns"], "cell.flat")], "sums.own", axis=0)
    total, count = _add_columns(graph, own, "sums.total", 0, 3), _add_columns(graph, own, "sums.count", 3, 4)
    count = graph.node("Max", [count, graph.constant("one", np.ones((), np.float32))], "sums.count.some")
    mean = graph.node("Div", [total, count], "offset.mean")
    to_mean = graph.node("Sub", [offset, mean], "offset.to_mean")
    return graph.node("Concat", ["points.inside", to_mean, offset], "features", axis=1)


def _add_scatter(graph: GraphWriter, cell: str, values: str, size: tuple[int, int], how: str) -> str:
    """Sum (``add``) or maximum (``max``) of each cell's rows: float32 (cells, columns), zero where no point is."""
    name = f"cells.{how}"
    zeros = graph.node("ConstantOfShape", [graph.constant(f"{name}.size", np.array(size, np.int64))], f"{name}.zeros")
    shape = graph.constant(f"{name}.columns", np.array([1, size[1]], np.int64))
    where = graph.node("Expand", [cell, shape], f"{name}.cell")
    return graph.node("ScatterElements", [zeros, where, values], name, axis=0, reduction=how)


def _add_multiply_then_add(graph: GraphWriter, values: str, factor: str, offset: str, name: str) -> str:
    """One float32 multiplication and one float32 addition.

    The Max changes no product. It stands between them because OpenVINO fuses the two into one rounding otherwise, which
    moves points on the border of a cell into the next.
    """
    product = graph.node("Mul", [values, factor], f"{name}.product")
    if not any(each.name == "lowest" for each in graph.constants):
        graph.constant("lowest", np.array(_LOWEST))
    return graph.node("Add", [graph.node("Max", [product, "lowest"], f"{name}.rounded"), offset], name)


def _add_columns(graph: GraphWriter, source: str, name: str, first: int, end: int) -> str:
    """Columns ``first`` .. ``end`` - 1."""
    ends = [graph.constant(f"{name}.{key}", np.array([at], np.int64)) for key, at in (("first", first), ("end", end))]
    axis = graph.constant(f"{name}.axis", np.array([1], np.int64))
    return graph.node("Slice", [source, *ends, axis], name)


def _row(*values: Any) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.array([values], np.float32)
