"""All runtimes give torch's heads, and say so when they cannot."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge import bundle as bundle_module
from pd_edge.bench import synthetic_cloud
from pd_edge.boxes import Detections, wrap_angle
from pd_edge.bundle import Bundle, list_models
from pd_edge.config import DetectorConfig, GridConfig, dump_config
from pd_edge.decode import Decoder, Heads
from pd_edge.encoders import make_encoder
from pd_edge.errors import EngineError, MissingExtraError
from pd_edge.kitti import ObjectDataset
from pd_edge.runtimes import RUNTIMES, Runtime, open_runtime

SHIPPED = [model.name for model in list_models()]
Cloud = npt.NDArray[np.float32]


def run(bundle: Bundle, runtime: Runtime, cloud: Cloud) -> Heads:
    encoder = make_encoder(bundle.config.model, bundle.encoder_net, runtime.layout)
    return Heads(*(head.copy() for head in runtime.infer(encoder.encode(cloud))))


def torch_heads(bundle: Bundle, cloud: Cloud) -> tuple[Heads, Heads]:
    """The heads of the whole torch network, encoder included, in float32 and in float64."""
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from pd_edge.runtimes.torch import load_torch
    from pd_edge.training.networks import network_inputs

    inputs = network_inputs([cloud], bundle.config.model)
    network = load_torch(bundle)
    with torch.inference_mode():
        single = network(inputs)
        double = network.double()(inputs._replace(features=inputs.features.double()))
    first, second = (Heads(*(each.contiguous().numpy() for each in maps)) for maps in (single, double))
    return first, second


def assert_same_boxes(found: Detections, expected: Detections) -> None:
    """Every box has its twin to 1 mm, 1e-3 rad and a score to 1e-3; nearly equal scores may swap places."""
    assert len(found.boxes) == len(expected.boxes)
    for box, label, score in zip(*found, strict=True):
        twin = np.abs(expected.boxes - box)
        twin[:, 6] = np.abs(wrap_angle(expected.boxes[:, 6] - box[6]))
        same = (twin < 1e-3).all(axis=1) & (expected.labels == label) & (np.abs(expected.scores - score) < 1e-3)
        assert same.any(), (box, label, score)


def assert_parity(bundle: Bundle, name: str, cloud: Cloud, least: int) -> None:
    pytest.importorskip(name)
    expected, exact = torch_heads(bundle, cloud)
    found = run(bundle, open_runtime(bundle, name, threads=1), cloud)
    for head, single, double in zip(found, expected, exact, strict=True):
        # Sums in float32 differ by their order. How much that is depends on the weights: torch's own error tells.
        rounding = float(np.abs(single - double).max())
        assert float(np.abs(head - double).max()) < 8 * rounding + 1e-6
        assert rounding < 2e-4 * float(np.abs(double).max())
    decoder = Decoder(bundle.config)
    boxes = decoder.decode(expected)
    assert len(boxes.boxes) >= least
    assert_same_boxes(decoder.decode(found), boxes)


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_equal_torch(tiny_bundle: Bundle, tiny_cloud: Cloud, name: str) -> None:
    assert_parity(tiny_bundle, name, tiny_cloud, least=20)


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_models_equal_torch(model: str, name: str) -> None:
    bundle = Bundle.load(model)
    assert_parity(bundle, name, synthetic_cloud(20_000, bundle.config.model.grid), least=0)


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_models_equal_torch_on_real_frames(model: str, name: str, kitti_root: Path) -> None:
    bundle = Bundle.load(model)
    frames = ObjectDataset(kitti_root / "object", "val")
    for index in (0, 9, 20):
        assert_parity(bundle, name, frames.frame(index).points, least=5)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_follows_the_canvas_in_place(tiny_bundle: Bundle, tiny_cloud: Cloud, name: str) -> None:
    pytest.importorskip(name)
    runtime = open_runtime(tiny_bundle, name)
    encoder = make_encoder(tiny_bundle.config.model, tiny_bundle.encoder_net, runtime.layout)
    first = runtime.infer(encoder.encode(tiny_cloud)).logits.copy()
    other = runtime.infer(encoder.encode(tiny_cloud[:500])).logits.copy()
    again = runtime.infer(encoder.encode(tiny_cloud)).logits
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_array_equal(first, again)
    apart = runtime.infer(encoder.encode(tiny_cloud).copy()).logits
    np.testing.assert_array_equal(first, apart)


def test_precision_is_always_what_was_asked_for(tiny_bundle: Bundle, tiny_cloud: Cloud) -> None:
    ov = pytest.importorskip("openvino")
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    expected = torch_heads(tiny_bundle, tiny_cloud)[0].logits
    half, full = (open_runtime(tiny_bundle, "openvino", precision) for precision in ("bf16", "fp32"))
    assert (half.precision, full.precision) == ("bf16", "fp32")
    largest = np.abs(expected).max()
    error = np.abs(run(tiny_bundle, half, tiny_cloud).logits - expected).max() / largest
    assert 1e-4 < error < 5e-2
    assert np.abs(run(tiny_bundle, full, tiny_cloud).logits - expected).max() / largest < 1e-5


def test_a_cpu_without_bfloat16_says_so(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ov = pytest.importorskip("openvino")

    class PlainCpu(ov.Core):  # type: ignore[name-defined,misc]
        def get_property(self, *_: str) -> list[str]:
            return ["FP32"]

    monkeypatch.setattr(ov, "Core", PlainCpu)
    with pytest.raises(EngineError, match="no bfloat16 instructions; use fp32"):
        open_runtime(tiny_bundle, "openvino", "bf16")


def test_what_is_not_offered_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="runtime 'tensorflow': choose one of openvino, onnxruntime, torch"):
        open_runtime(tiny_bundle, "tensorflow")
    with pytest.raises(EngineError, match="precision 'f16': choose one of fp32, bf16"):
        open_runtime(tiny_bundle, precision="f16")
    with pytest.raises(EngineError, match="threads 0"):
        open_runtime(tiny_bundle, threads=0)


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_runtimes_of_one_precision_refuse_the_other(tiny_bundle: Bundle, name: str) -> None:
    pytest.importorskip(name)
    with pytest.raises(EngineError, match=f"{name} runs the network in fp32 only, not bf16; use runtime openvino"):
        open_runtime(tiny_bundle, name, "bf16")


@pytest.mark.parametrize(
    ("name", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("torch", "train")]
)
def test_a_missing_runtime_names_its_extra(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"pd_edge.runtimes.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'pd-edge\[{extra}\]'"):
        open_runtime(tiny_bundle, name)


@pytest.fixture
def other_grid(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A folder whose configuration and manifest were both edited to a grid that its ONNX file is not for."""
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "other"))
    model = tiny_bundle.config.model.model_copy(update={"grid": GridConfig(x_max=40.96, y_min=-5.12, y_max=5.12)})
    dump_config(DetectorConfig(model=model), folder / "config.yaml")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"model": model.model_dump(mode="json")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.load(folder)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_onnx_file_of_another_grid_is_refused(other_grid: Bundle, name: str) -> None:
    pytest.importorskip(name)
    with pytest.raises(EngineError, match=r"canvas has the shape \(1, 8, 64, 128\), but .* needs \(1, 8, 64, 256\)"):
        open_runtime(other_grid, name)


@pytest.mark.parametrize(
    ("name", "file"), [("openvino", "dense.onnx"), ("onnxruntime", "dense.onnx"), ("torch", "model.safetensors")]
)
def test_a_file_that_is_not_a_network_is_refused(tiny_bundle: Bundle, tmp_path: Path, name: str, file: str) -> None:
    pytest.importorskip(name)
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "broken"))
    (folder / file).write_bytes(b"not a network")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = bundle_module.file_entry(folder / file).model_dump()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    bundle = Bundle.load(folder)
    with pytest.raises(EngineError, match=file):
        open_runtime(bundle, name)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_callers_arithmetic_stays_as_it_was(name: str, tiny_bundle: Bundle) -> None:
    """Runtimes can make the calling thread flush subnormal numbers to zero, which would change a user's own sums."""
    runtime = open_runtime(tiny_bundle, name)
    layout = (0, 1, 2, 3) if runtime.layout == "nchw" else (0, 2, 3, 1)
    runtime.infer(np.zeros([tiny_bundle.canvas_shape[axis] for axis in layout], np.float32))
    assert float(np.float32(1e-40) * np.float32(0.5)) > 0
    assert sys.float_info.min / 2 > 0


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are Linux's")
def test_openvino_leaves_no_signal_stack_behind(tiny_bundle: Bundle) -> None:
    code = f"""
import ctypes
def stack():
    state = (ctypes.c_size_t * 3)()
    ctypes.CDLL(None).sigaltstack(None, state)
    return list(state)
import numpy as np
from pd_edge.detector import load
before = stack()
load({str(tiny_bundle.folder)!r}).detect(np.full((9, 4), 0.5, np.float32))
assert stack() == before, (before, stack())
"""
    subprocess.run([sys.executable, "-c", code], check=True)
