"""Fixtures shared by all tests."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from pd_edge.config import Config, DetectorConfig, GridConfig, PointPillarsConfig
from pd_edge.kitti import Calibration, Label
from pd_edge.runtimes.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    from pd_edge.bundle import Bundle
    from pd_edge.training.pointpillars import PointPillars

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Undoes what tests and fixtures that call OpenVINO themselves do to signals, which crashes a later test."""
    with kept_signal_stack():
        return (yield)


@pytest.fixture(scope="session")
def kitti_root() -> Path:
    """Real KITTI frames: ``PD_EDGE_KITTI``, else ``shared/kitti`` beside the checkout; skips where there are none."""
    root = Path(os.environ.get("PD_EDGE_KITTI", REPOSITORY.parent / "shared" / "kitti"))
    if not root.is_dir():
        pytest.skip(f"no real KITTI frames at {root}; set PD_EDGE_KITTI to a folder with object/ and raw/")
    return root


@pytest.fixture
def fields_read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The (class, field) of every attribute that is asked for of any configuration during the test."""
    seen: set[tuple[str, str]] = set()

    def note(self: Config, name: str) -> Any:
        seen.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Config, "__getattribute__", note, raising=False)
    return seen


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    """A camera 0.3 m ahead of the LiDAR and 0.1 m below it, looking along x; a pinhole in the image's middle."""
    return Calibration(
        P2=np.array([[700.0, 0, 500, 0], [0, 700, 200, 0], [0, 0, 1, 0]]),
        R0_rect=np.eye(3),
        Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.3]]),
        Tr_imu_to_velo=np.array([[1.0, 0, 0, -0.8], [0, 1, 0, 0.3], [0, 0, 1, -0.8]]),
        image_size=(1000, 400),
    )


@pytest.fixture(scope="session")
def car() -> Label:
    """The label of a car 20 m ahead of the camera and 1 m to its right."""
    return Label("Car", 0.0, 0, -1.5, (10.0, 20.0, 110.0, 80.5), 1.5, 1.6, 4.0, (1.0, 1.7, 20.0), -1.55)


@pytest.fixture(scope="session")
def dont_care() -> Label:
    """The label of a region of the image that is not evaluated."""
    return Label("DontCare", -1.0, -1, -10.0, (5.0, 6.0, 7.0, 8.0), -1, -1, -1, (-1000.0, -1000.0, -1000.0), -10.0)


@pytest.fixture(scope="session")
def clouds() -> list[npt.NDArray[np.float32]]:
    """Ten clouds of 50 points all around the sensor: (50, 4) float32, intensity 0..1; copy one before changing it."""
    rngs = [np.random.default_rng(seed) for seed in range(10)]
    return [np.column_stack([rng.uniform(-40, 40, (50, 3)), rng.uniform(0, 1, 50)]).astype(np.float32) for rng in rngs]


@pytest.fixture(scope="session")
def tiny_cloud() -> npt.NDArray[np.float32]:
    """3,000 points, three quarters of them in the grid of ``tiny_model``: (N, 4) float32, intensity 0..1."""
    rng = np.random.default_rng(1)
    low, high = (-2.0, -6.0, -2.5, 0.0), (20.48, 6.0, 0.9, 1.0)
    return rng.uniform(low, high, (3000, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_model(tiny_cloud: npt.NDArray[np.float32]) -> "PointPillars":
    """A small network of random weights and batch norms, whose heads give 200 candidates for ``tiny_cloud``."""
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from pd_edge.pillars import pillarize
    from pd_edge.training.pointpillars import PillarBatch, PointPillars

    grid = GridConfig(x_max=20.48, y_min=-5.12, y_max=5.12)
    torch.manual_seed(0)
    model = PointPillars(
        PointPillarsConfig(
            grid=grid, pillar_channels=8, backbone_channels=(8, 16, 32), backbone_layers=(1, 1, 1), neck_channels=8
        )
    ).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        model.head.weight.normal_(0, 0.1)
        pillars = pillarize(tiny_cloud, grid)
        features, pillar, cells = (torch.from_numpy(each) for each in pillars[:3])
        logits = model(PillarBatch(features, pillar.long(), cells.long(), 1)).logits
        threshold = np.log(0.1 / 0.9)
        model.head.state_dict()["bias"][: logits.shape[1]] += (
            threshold - logits.flatten().kthvalue(logits.numel() - 200).values
        )
    return model


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: "PointPillars", tmp_path_factory: pytest.TempPathFactory) -> "Bundle":
    """``tiny_model`` as a model folder of full precision; copy it before changing a file."""
    pytest.importorskip("onnx", reason="needs the train extra")
    from pd_edge.engines.onnx_export import export_bundle

    return export_bundle(
        tiny_model,
        DetectorConfig(model=tiny_model.config),
        tmp_path_factory.mktemp("models") / "tiny",
        results={"ap": 12.5},
    )
