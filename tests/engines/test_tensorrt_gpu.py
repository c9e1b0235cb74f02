"""Engines on a GPU against the network on the CPU, for any machine that has one: ``pytest -m gpu``."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_edge.bench import synthetic_cloud
from pd_edge.detector import load
from pd_edge.engine_manifest import BuildFlags, Form, PointRange
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.engines.kernels import PLUGINS, find_nvcc

pytestmark = pytest.mark.gpu
MODEL = "pointpillars-16x"


@pytest.fixture(scope="module")
def plugins(capability: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin library, built for this GPU."""
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake to build the plugins")
    folder = tmp_path_factory.mktemp("plugins")
    options = [f"-DCMAKE_CUDA_COMPILER={find_nvcc()}", f"-DPD_EDGE_ARCHITECTURES={capability}"]
    configured = subprocess.run(
        ["cmake", "-S", PLUGINS, "-B", folder, *options], capture_output=True, text=True, check=False
    )
    if "headers were not found" in configured.stderr:
        pytest.skip("needs TensorRT's headers; set TENSORRT_ROOT")
    assert configured.returncode == 0, configured.stderr
    subprocess.run(["cmake", "--build", folder], check=True)
    return folder / "libpd_edge_plugins.so"


def export(form: Form, folder: Path) -> Path:
    pytest.importorskip("onnx", reason="needs the train extra")
    from pd_edge.engines.onnx_file import export_onnx
    from pd_edge.engines.source import open_source

    source = open_source(MODEL)
    return export_onnx(source.model, source.config, folder / "model.onnx", form, "fp32", name=MODEL)


def assert_heads_are_the_models(engine: Path) -> None:
    """Clouds that grow and shrink, so that buckets and graphs are made anew; torch on the CPU has the last word."""
    pytest.importorskip("torch", reason="needs the train extra")
    detector, expected = load(engine), load(MODEL, runtime="torch")
    for count in (100, 20_000, 9_000, 1):
        cloud = synthetic_cloud(count, expected.config.model.grid)
        detector.detect(cloud)
        expected.detect(cloud)
        assert detector.heads is not None
        assert expected.heads is not None
        for found, wanted in zip(detector.heads, expected.heads, strict=True):
            assert float(np.abs(found - wanted).max()) < 1e-3 * float(np.abs(wanted).max())


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_dense_engine_with_the_kernels_before_it(runtime: Any, capability: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime.replace("-", "_"), reason=f"needs {runtime}")
    engine, _ = build_engine(MODEL, tmp_path / "engine", BuildOptions(runtime))
    assert "kernels.fatbin" in engine.manifest.files
    assert_heads_are_the_models(tmp_path / "engine")


def test_the_plain_form(capability: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="needs TensorRT")
    build_engine(export("plain", tmp_path), tmp_path / "engine", BuildOptions("tensorrt"))
    assert_heads_are_the_models(tmp_path / "engine")


def test_the_plugins(plugins: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="needs TensorRT")
    flags = BuildFlags(points=PointRange(most=50_000))
    options = BuildOptions("tensorrt", flags=flags, plugin=plugins)
    build_engine(export("plugin", tmp_path), tmp_path / "engine", options)
    assert_heads_are_the_models(tmp_path / "engine")
