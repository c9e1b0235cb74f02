"""Exported ONNX files for the tests of builders and runtimes."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pd_edge.config import DetectorConfig
from pd_edge.engines.kernels import find_nvcc

if TYPE_CHECKING:
    from pd_edge.training.pointpillars import PointPillars


@pytest.fixture(scope="session")
def write_dense(tiny_model: "PointPillars") -> Callable[..., Path]:
    """Writes ``tiny_model`` to a path as `pd-edge export` does, form dense in fp32.

    Keyword arguments replace entries of its metadata; None takes one out.
    """
    pytest.importorskip("onnx", reason="needs the train extra")
    from pd_edge.engines.onnx_graph import dense_onnx

    config = DetectorConfig(model=tiny_model.config)
    net = tiny_model.fold_encoder()
    rows = np.concatenate([net.weight, net.bias[None]]).astype("<f4")
    usual: dict[str, str | None] = {
        "model": "tiny",
        "form": "dense",
        "precision": "fp32",
        "detector_config": config.model_dump_json(),
        "weights_sha256": "0" * 64,
        "pillar_net": base64.b64encode(rows.tobytes()).decode(),
    }

    def write(path: Path, **changes: str | None) -> Path:
        metadata = {name: value for name, value in (usual | changes).items() if value is not None}
        path.write_bytes(dense_onnx(tiny_model, config, "fp32", metadata)[0].SerializeToString())
        return path

    return write


@pytest.fixture(scope="session")
def capability() -> str:
    """The GPU's compute capability as nvcc writes it, such as 87; skips without GPU, PyCUDA or nvcc."""
    driver: Any = pytest.importorskip("pycuda.driver", reason="needs PyCUDA", exc_type=ImportError)
    try:
        driver.init()
    except driver.Error as error:
        pytest.skip(f"needs a GPU: {error}")
    if not driver.Device.count():
        pytest.skip("needs a GPU")
    if find_nvcc() is None:
        pytest.skip("needs nvcc to compile the kernels")
    return "{}{}".format(*driver.Device(0).compute_capability())
