"""SECOND without torch: model folder, ONNX forms and engines find what the network in torch finds."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("onnx", reason="needs the train extra")
pytest.importorskip("openvino")

import torch

import pd_edge
from pd_edge import encoders
from pd_edge.bundle import Bundle
from pd_edge.config import DetectorConfig, SecondConfig, VoxelGridConfig
from pd_edge.decode import Heads, decode
from pd_edge.engine_folder import EngineFolder
from pd_edge.engine_manifest import RuntimeName
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.engines.onnx_export import export_bundle
from pd_edge.engines.onnx_file import export_onnx
from pd_edge.engines.quantize import calibrate
from pd_edge.errors import EngineError
from pd_edge.training.networks import network_inputs
from pd_edge.training.second import Second
from pd_edge.voxels import VoxelEncoder, VoxelNet

Cloud = npt.NDArray[np.float32]

MODEL = SecondConfig(
    grid=VoxelGridConfig(x_max=12.8, y_min=-6.4, y_max=6.4),
    sparse_channels=(4, 8, 8, 16),
    folded_channels=16,
    backbone_channels=(16, 16),
    backbone_layers=(1, 1),
    neck_channels=16,
    anchor_range=(0, -6.4, 12.8, 6.4),
)


@pytest.fixture(scope="module")
def network(tiny_cloud: Cloud) -> Second:
    """A small network of random weights and batch norms, whose heads give 100 candidates for ``tiny_cloud``."""
    torch.manual_seed(0)
    model = Second(MODEL).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                statistics = module.state_dict()
                statistics["running_mean"].normal_(0, 0.1)
                statistics["running_var"].uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        model.head.weight.normal_(0, 0.1)
        logits = model(network_inputs([tiny_cloud], MODEL)).logits
        shift = np.log(0.1 / 0.9) - logits.flatten().kthvalue(logits.numel() - 100).values
        model.head.state_dict()["bias"][: logits.shape[1]] += shift
    return model


@pytest.fixture(scope="module")
def bundle(network: Second, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(network, DetectorConfig(model=MODEL), tmp_path_factory.mktemp("models") / "tiny-second")


def heads_in_torch(network: Second, cloud: Cloud) -> Heads:
    with torch.inference_mode():
        return Heads(*(each.numpy() for each in network(network_inputs([cloud], network.config))))


def test_the_folder_holds_the_sparse_layers(bundle: Bundle, network: Second) -> None:
    assert isinstance(bundle.encoder_net, VoxelNet)
    assert (bundle.folder / "voxel_net.npz").is_file()
    folded = network.fold_encoder()
    for found, expected in zip(bundle.encoder_net, folded, strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_every_runtime_finds_what_torch_finds(runtime: str, bundle: Bundle, network: Second, tiny_cloud: Cloud) -> None:
    """The sparse layers in C++ and the rest in the runtime, against the whole network in torch."""
    pytest.importorskip(runtime)
    detector = pd_edge.load(bundle.folder, runtime, threads=1)
    found = detector.detect(tiny_cloud)
    expected = decode(heads_in_torch(network, tiny_cloud), bundle.config)
    assert len(expected.boxes) >= 10
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


def test_threads_are_those_of_the_encoder_too(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []

    class Told(VoxelEncoder):
        def __init__(self, *args: Any) -> None:
            given.append(args[3])
            super().__init__(*args)

    monkeypatch.setattr(encoders, "VoxelEncoder", Told)
    for threads in (1, None):
        pd_edge.load(bundle.folder, threads=threads)
    assert given == [1, None]


def test_a_cloud_after_another_finds_the_same(bundle: Bundle, tiny_cloud: Cloud) -> None:
    detector = pd_edge.load(bundle.folder, threads=1)
    first = detector.detect(tiny_cloud)
    detector.detect(tiny_cloud[:50] + np.array([1, 1, 0, 0], np.float32))
    for one, other in zip(detector.detect(tiny_cloud), first, strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_around_a_quarter_turn_turns_the_boxes(bundle: Bundle, tiny_cloud: Cloud) -> None:
    detector = pd_edge.load(bundle.folder, threads=1, coverage="full")
    front = detector.detect(tiny_cloud)
    turned = tiny_cloud.copy()
    turned[:, 0], turned[:, 1] = -tiny_cloud[:, 1], tiny_cloud[:, 0]
    left = detector.detect(turned)
    assert len(front.boxes)
    np.testing.assert_array_equal(left.labels, front.labels)
    np.testing.assert_allclose(left.boxes[:, 1], front.boxes[:, 0], atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-cpu"])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_engines_carry_the_sparse_layers(
    precision: str, runtime: str, network: Second, tiny_cloud: Cloud, tmp_path: Path
) -> None:
    pytest.importorskip(runtime)
    config = DetectorConfig(model=MODEL)
    ranges = calibrate(network, config, [tiny_cloud]) if precision == "int8-cpu" else None
    file = export_onnx(network, config, tmp_path / "s.onnx", "dense", precision, calibration=ranges)  # type: ignore[arg-type]
    engine, built = build_engine(file, tmp_path / "engine", BuildOptions(runtime))  # type: ignore[arg-type]
    assert built
    assert isinstance(EngineFolder.load(engine.folder).encoder_net, VoxelNet)
    detector = pd_edge.load(engine.folder, threads=1)
    detector.detect(tiny_cloud)
    assert detector.heads is not None
    expected = heads_in_torch(network, tiny_cloud)
    limit = {"fp32": 1e-4, "fp16": 2e-2, "int8-cpu": 0.3}[precision]
    for found, wanted in zip(detector.heads, expected, strict=True):
        assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max()


@pytest.mark.parametrize("form", ["plain", "plugin"])
def test_forms_that_take_points_are_refused(form: str, network: Second, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="sparse layers cannot be; export `--form dense`"):
        export_onnx(network, DetectorConfig(model=MODEL), tmp_path / "s.onnx", form, "fp32")  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_gpu_is_refused(runtime: RuntimeName, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f": {runtime} .* code for the CPU alone; build it for openvino"):
        build_engine(bundle.folder, tmp_path / "engine", BuildOptions(runtime))


def test_weights_of_another_encoder_are_refused(bundle: Bundle, tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("config.yaml", "manifest.json", "dense.onnx", "model.safetensors"):
        (tmp_path / name).write_bytes((bundle.folder / name).read_bytes())
    (tmp_path / "voxel_net.npz").write_bytes((tiny_bundle.folder / "pillar_net.npz").read_bytes())
    with pytest.raises(EngineError, match=r"voxel_net\.npz"):
        Bundle.load(tmp_path)
