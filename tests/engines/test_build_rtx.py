"""TensorRT-RTX builds real engines on a machine without a GPU; running them needs one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pd_edge.bundle import Bundle, shipped_models
from pd_edge.detector import load
from pd_edge.engine_folder import EngineFolder
from pd_edge.engine_manifest import BuildFlags, Precision
from pd_edge.engine_targets import find_target
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.engines.build_progress import WHOLE
from pd_edge.engines.kernels import find_nvcc
from pd_edge.errors import EngineError

if TYPE_CHECKING:
    from pd_edge.training.pointpillars import PointPillars

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx (95 MB, x86_64)")

WriteDense = Callable[..., Path]
TARGETS = ("sm86", "sm89", "sm120")


def export_dense(model: str, precision: Precision, path: Path) -> Path:
    """A shipped model's dense form; INT8 ranges are those of an artificial cloud."""
    from pd_edge.bench import synthetic_cloud
    from pd_edge.engines.onnx_file import export_onnx
    from pd_edge.engines.quantize import calibrate
    from pd_edge.engines.source import open_source

    source = open_source(model)
    calibration = None
    if precision == "int8-trt":
        calibration = calibrate(source.model, source.config, [synthetic_cloud(20_000, source.config.model.grid)])
    return export_onnx(source.model, source.config, path, "dense", precision, calibration=calibration)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-trt"])
@pytest.mark.parametrize("model", [name for name in shipped_models() if name.startswith("pointpillars")])
def test_shipped_models_build_for_gpus_that_are_not_here(model: str, precision: Precision, tmp_path: Path) -> None:
    path = export_dense(model, precision, tmp_path / "dense.onnx")
    parameters = Bundle.load(model).manifest.parameters
    engines = set()
    for target in TARGETS:
        manifest = build_engine(path, tmp_path / target, BuildOptions("tensorrt-rtx", target))[0].manifest
        assert (manifest.target, manifest.form, manifest.precision) == (target, "dense", precision)
        assert manifest.capability == find_target(target).capability
        # Beyond a byte a weight its size says little: an engine also holds the code of its kernels.
        assert manifest.files["model.engine"].size > (2 if precision == "fp32" else 1) * parameters
        engines.add(manifest.files["model.engine"].sha256)
    assert len(engines) == len(TARGETS)


def test_flags_act_and_progress_is_told(write_dense: WriteDense, tmp_path: Path) -> None:
    path = write_dense(tmp_path / "tiny.onnx")
    seen: list[tuple[int, int]] = []
    flags = BuildFlags(tf32=True)
    options = BuildOptions("tensorrt-rtx", "sm86", flags)
    engine, _ = build_engine(path, tmp_path / "engine", options, advance=lambda *done: seen.append(done))
    assert engine.manifest.flags == flags
    assert seen[-1] == (WHOLE, WHOLE)
    assert len({done for done, _ in seen}) > 3


def test_what_rtx_does_not_know_is_refused(write_dense: WriteDense, tmp_path: Path) -> None:
    path = write_dense(tmp_path / "tiny.onnx")
    with pytest.raises(EngineError, match=r"does not build for orin \(sm87: .*it knows sm75, .*on the device"):
        build_engine(path, tmp_path / "engine", BuildOptions("tensorrt-rtx", "orin"))
    with pytest.raises(EngineError, match="target cpu has no GPU"):
        build_engine(path, tmp_path / "engine", BuildOptions("tensorrt-rtx", "cpu"))


def test_what_needs_a_gpu_is_refused_before_the_build(
    write_dense: WriteDense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setattr("pd_edge.runtimes.cuda.DRIVER", "libno-such-driver.so")
    path, options = write_dense(tmp_path / "tiny.onnx"), BuildOptions("tensorrt-rtx", "sm86")
    trial: Any = ("frames", None)
    refused = r"no NVIDIA driver on this machine; .* build for tensorrt-rtx with"
    with pytest.raises(EngineError, match=refused):
        build_engine(path, tmp_path / "out", options, trial)
    with pytest.raises(EngineError, match=refused):
        build_engine(path, tmp_path / "out", BuildOptions("tensorrt-rtx"))
    assert not (tmp_path / "out").exists()
    build_engine(path, tmp_path / "out", options)
    with pytest.raises(EngineError, match="no NVIDIA driver on this machine"):
        load(tmp_path / "out")


def test_a_network_that_the_parser_refuses_is_named(write_dense: WriteDense, tmp_path: Path) -> None:
    import onnx

    path = write_dense(tmp_path / "tiny.onnx")
    proto = onnx.load(path)
    proto.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(proto, path)
    with pytest.raises(EngineError, match=r"tiny\.onnx: TensorRT's parser refuses it: .*NoSuchOperator"):
        build_engine(path, tmp_path / "engine", BuildOptions("tensorrt-rtx", "sm86"))


def test_the_folder_is_whole(write_dense: WriteDense, tiny_model: "PointPillars", tmp_path: Path) -> None:
    path = write_dense(tmp_path / "tiny.onnx")
    build_engine(path, tmp_path / "engine", BuildOptions("tensorrt-rtx", "sm86"))
    engine = EngineFolder.load(tmp_path / "engine")
    net = tiny_model.fold_encoder()
    assert engine.encoder_net is not None
    for found, expected in zip(engine.encoder_net, net, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert ("kernels.fatbin" in engine.manifest.files) or find_nvcc() is None
