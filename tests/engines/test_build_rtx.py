"""TensorRT-RTX builds real engines on a machine without a GPU; running them needs one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pd_edge.bundle import Bundle
from pd_edge.engine_folder import EngineFolder
from pd_edge.engine_manifest import BuildFlags
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.engines.build_progress import WHOLE
from pd_edge.errors import EngineError

if TYPE_CHECKING:
    from pd_edge.training.model import PointPillars

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx (240 MB; x86_64)")

WriteDense = Callable[..., Path]
MODELS = ("pointpillars-teacher", "pointpillars-4x", "pointpillars-16x")


@pytest.mark.parametrize("target", ["sm86", "sm89", "sm120"])
@pytest.mark.parametrize("model", MODELS)
def test_shipped_models_build_for_gpus_that_are_not_here(model: str, target: str, tmp_path: Path) -> None:
    engine, _ = build_engine(model, tmp_path / "engine", BuildOptions("tensorrt-rtx", target))
    assert (engine.manifest.target, engine.manifest.form) == (target, "dense")
    assert engine.manifest.files["model.engine"].size > 2 * Bundle.load(model).manifest.parameters


@pytest.mark.parametrize("precision", ["fp16", "int8-trt"])
@pytest.mark.parametrize("model", MODELS)
def test_precision_is_what_the_file_says(model: str, precision: Any, tmp_path: Path) -> None:
    from pd_edge.bench import synthetic_cloud
    from pd_edge.engines.onnx_file import export_onnx
    from pd_edge.engines.quantize import calibrate
    from pd_edge.engines.source import open_source

    source = open_source(model)
    calibration = None
    if precision == "int8-trt":
        cloud = synthetic_cloud(20_000, source.config.model.grid)
        calibration = calibrate(source.model, source.config, [cloud])
    path = tmp_path / "model.onnx"
    export_onnx(source.model, source.config, path, "dense", precision, calibration=calibration)
    full, _ = build_engine(model, tmp_path / "fp32", BuildOptions("tensorrt-rtx", "sm89"))
    for target in ("sm86", "sm89", "sm120"):
        engine, _ = build_engine(path, tmp_path / target, BuildOptions("tensorrt-rtx", target))
        assert engine.manifest.precision == precision
        # Its size says little: an engine also holds the code of its kernels.
        assert engine.manifest.files["model.engine"].size > Bundle.load(model).manifest.parameters
        assert engine.manifest.files["model.engine"].sha256 != full.manifest.files["model.engine"].sha256


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
    net = tiny_model.fold_pillar_net()
    assert engine.pillar_net is not None
    np.testing.assert_array_equal(engine.pillar_net.weight, net.weight)
    np.testing.assert_array_equal(engine.pillar_net.bias, net.bias)
