"""The export: what it writes equals the trained network, and a failed one leaves no trace."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
onnx = pytest.importorskip("onnx", reason="needs the train extra")

from safetensors.torch import load_file  # noqa: E402

from pd_edge.bundle import Bundle  # noqa: E402
from pd_edge.config import ClassConfig, DetectorConfig, GridConfig, PointPillarsConfig, load_config  # noqa: E402
from pd_edge.engines import onnx_graph  # noqa: E402
from pd_edge.engines.onnx_export import export_bundle, head_difference, round_to_half  # noqa: E402
from pd_edge.engines.onnx_graph import dense_onnx  # noqa: E402
from pd_edge.errors import EngineError  # noqa: E402
from pd_edge.runtimes import open_runtime  # noqa: E402
from pd_edge.training.pointpillars import PointPillars, student_4x_config, teacher_config  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor


@pytest.fixture
def config(tiny_model: PointPillars) -> DetectorConfig:
    return DetectorConfig(model=tiny_model.config)


@pytest.fixture
def model(tiny_model: PointPillars) -> PointPillars:
    """A copy that a test may damage."""
    return copy.deepcopy(tiny_model)


def canvas_of(bundle: Bundle) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(3).random(bundle.canvas_shape, np.float32)


def state(model: PointPillars) -> dict[str, "Tensor"]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(found: dict[str, "Tensor"], expected: dict[str, "Tensor"]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_full_precision_holds_the_network_exactly(model: PointPillars, config: DetectorConfig, tmp_path: Path) -> None:
    before = state(model)
    bundle = export_bundle(model, config, tmp_path / "m")
    assert_same_state(load_file(bundle.file("model.safetensors")), before)
    assert_same_state(state(model), before)
    assert bundle.config == config == load_config(tmp_path / "m" / "config.yaml", DetectorConfig)
    net = model.fold_encoder()
    for found, expected in zip(bundle.encoder_net, net, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert head_difference(model, open_runtime(bundle), canvas_of(bundle)) < 1e-5


def test_half_precision_is_rounded_once_for_every_runtime(
    model: PointPillars, config: DetectorConfig, tmp_path: Path
) -> None:
    before = state(model)
    half = export_bundle(model, config, tmp_path / "half", weights="fp16")
    assert_same_state(state(model), before)
    canvas = canvas_of(half)
    rounded = copy.deepcopy(model)
    round_to_half(rounded)
    for runtime in ("openvino", "onnxruntime", "torch"):
        pytest.importorskip(runtime)
        assert head_difference(rounded, open_runtime(half, runtime), canvas) < 1e-5
    stored = load_file(half.file("model.safetensors"))
    dtypes = {name: tensor.dtype for name, tensor in stored.items()}
    assert dtypes["head.weight"] == dtypes["backbone.stages.0.0.conv.weight"] == torch.float16
    assert dtypes["pillar_net.linear.weight"] == dtypes["head.bias"] == torch.float32
    assert dtypes["backbone.stages.0.0.norm.weight"] == dtypes["backbone.stages.0.0.norm.running_var"] == torch.float32
    assert 1e-6 < head_difference(model, open_runtime(half), canvas) < 1e-2


def test_half_precision_halves_the_files(tmp_path: Path) -> None:
    wide = PointPillarsConfig(
        grid=GridConfig(x_max=2.56, y_min=-1.28, y_max=1.28),
        pillar_channels=64,
        backbone_channels=(64, 128, 128),
        neck_channels=64,
    )
    torch.manual_seed(0)
    model = PointPillars(wide).eval()
    sizes = {
        weights: export_bundle(model, DetectorConfig(model=wide), tmp_path / weights, weights=weights).manifest.files
        for weights in ("fp32", "fp16")
    }
    for name in ("dense.onnx", "model.safetensors"):
        assert sizes["fp16"][name].size < 0.55 * sizes["fp32"][name].size


def test_the_graph_is_plain_static_and_labelled(model: PointPillars, config: DetectorConfig, tmp_path: Path) -> None:
    bundle = export_bundle(model, config, tmp_path / "plain")
    proto = onnx.load(bundle.file("dense.onnx"))
    operators = Counter(node.op_type for node in proto.graph.node)
    # Six convolutions, the stride-1 "upsampling" written as one, and the head; two real upsamplings.
    assert operators == {"Conv": 8, "ConvTranspose": 2, "Relu": 9, "Concat": 1, "Split": 1}
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", 18)]
    shapes = {
        each.name: tuple(d.dim_value for d in each.type.tensor_type.shape.dim)
        for each in [*proto.graph.input, *proto.graph.output]
    }
    assert shapes == {
        "canvas": (1, 8, 64, 128),
        "logits": (1, 18, 32, 64),
        "residuals": (1, 42, 32, 64),
        "directions": (1, 12, 32, 64),
    }
    properties = {each.key: each.value for each in proto.metadata_props}
    assert properties["model"] == "plain"
    assert PointPillarsConfig.model_validate_json(properties["config"]) == config.model
    assert properties["weights_sha256"] == bundle.manifest.files["model.safetensors"].sha256


def test_other_classes_change_the_heads(tmp_path: Path) -> None:
    one = PointPillarsConfig(
        grid=GridConfig(x_max=2.56, y_min=-1.28, y_max=1.28),
        classes=(ClassConfig(name="Truck", anchor_size=(9.0, 2.5, 3.0), anchor_z=0.0),),
        pillar_channels=8,
        backbone_channels=(8, 8, 8),
        backbone_layers=(0, 1, 2),
        neck_channels=8,
    )
    bundle = export_bundle(PointPillars(one).eval(), DetectorConfig(model=one), tmp_path / "truck")
    heads = open_runtime(bundle).infer(np.zeros((1, 16, 16, 8), np.float32))
    assert [head.shape for head in heads] == [(1, 2, 8, 8), (1, 14, 8, 8), (1, 4, 8, 8)]


@pytest.mark.parametrize(
    ("make", "gmacs", "parameters"), [(student_4x_config, 9.0, 1.3e6), (teacher_config, 34.3, 4.8e6)]
)
def test_sizes_are_the_published_ones(make: Any, gmacs: float, parameters: float) -> None:
    """Source: PointDistiller, table 1 (GFLOPs there are multiply-adds; ours leave out the pillar feature net)."""
    model = PointPillars(make()).eval()
    _, multiply_adds = dense_onnx(model, DetectorConfig(model=model.config), "fp32", {})
    assert multiply_adds / 1e9 == pytest.approx(gmacs, rel=0.03)
    assert sum(each.numel() for each in model.parameters()) == pytest.approx(parameters, rel=0.07)


def test_the_same_network_gives_the_same_bytes(model: PointPillars, config: DetectorConfig, tmp_path: Path) -> None:
    first, second = (export_bundle(model, config, tmp_path / side / "m", weights="fp16") for side in "ab")
    assert first.manifest == second.manifest
    for name in first.manifest.files:
        assert first.file(name).read_bytes() == second.file(name).read_bytes()


def test_results_are_kept_and_the_card_survives(model: PointPillars, config: DetectorConfig, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "MODEL_CARD.md").write_text("card")
    bundle = export_bundle(model, config, folder, results={"car_bev_moderate": 78.5})
    assert bundle.results == {"car_bev_moderate": 78.5} == json.loads((folder / "results.json").read_text())
    assert (folder / "MODEL_CARD.md").read_text() == "card"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_diverged_network_is_refused_and_the_old_folder_stays(
    model: PointPillars, config: DetectorConfig, tmp_path: Path
) -> None:
    old = export_bundle(model, config, tmp_path / "m").manifest
    with torch.no_grad():
        model.state_dict()["backbone.stages.1.0.conv.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(EngineError, match=r"backbone\.stages\.1\.0\.conv\.weight holds a NaN or an infinity"):
        export_bundle(model, config, tmp_path / "m")
    assert Bundle.load(tmp_path / "m").manifest == old
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_weights_beyond_half_precision_are_refused(model: PointPillars, config: DetectorConfig, tmp_path: Path) -> None:
    with torch.no_grad():
        model.head.weight[0, 0] = 7e4
    with pytest.raises(EngineError, match=r"head\.weight: .* beyond float16's 65504; export as fp32"):
        export_bundle(model, config, tmp_path / "m", weights="fp16")
    assert export_bundle(model, config, tmp_path / "m").name == "m"


def test_another_networks_configuration_is_refused(model: PointPillars, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the network to export was built for"):
        export_bundle(model, DetectorConfig(model=student_4x_config()), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_heads_that_differ_from_torch_are_never_written(
    model: PointPillars, config: DetectorConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong fold (here: an epsilon forgotten) must not pass the built-in comparison."""
    sound = onnx_graph._fold

    def careless(norm: Any) -> Any:
        wrong = copy.deepcopy(norm)
        wrong.eps = 0.0
        return sound(wrong)

    monkeypatch.setattr(onnx_graph, "_fold", careless)
    with pytest.raises(EngineError, match="exported heads differ from torch's by"):
        export_bundle(model, config, tmp_path / "m")
    assert not list(tmp_path.iterdir())
