"""The benchmark measures what it says; how fast a machine is, it does not test."""

import numpy as np
import numpy.typing as npt
import pytest

from pd_edge.bench import (
    BenchResult,
    BenchSkipped,
    Case,
    bench,
    measure,
    peak_mib,
    stage_latencies,
    synthetic_cloud,
)
from pd_edge.bundle import Bundle
from pd_edge.config import GridConfig
from pd_edge.detector import Timing, load
from pd_edge.errors import EngineError
from pd_edge.pillars import pillarize


def test_percentiles_of_each_stage_and_their_sum() -> None:
    timings = [Timing(float(ms), 10.0 * ms, 1.0) for ms in range(101)]
    stages = {each.stage: each for each in stage_latencies(timings)}
    assert list(stages) == ["encoder", "network", "decode", "total"]
    assert stages["encoder"][1:] == (0, 50, 95, 99)
    assert stages["network"][1:] == (0, 500, 950, 990)
    assert stages["decode"][1:] == (1, 1, 1, 1)
    assert stages["total"][1:] == pytest.approx((1, 551, 1046, 1090))


def test_cases_are_measured_side_by_side(tiny_bundle: Bundle, tiny_cloud: npt.NDArray[np.float32]) -> None:
    pytest.importorskip("onnxruntime")
    folder = str(tiny_bundle.folder)
    cases = [Case(folder, "openvino", "fp32", 1), Case(folder, "onnxruntime", "bf16")]
    seen: list[Case] = []
    done, skipped = bench(cases, [tiny_cloud, tiny_cloud[:1000]], runs=4, warmup=1, progress=seen.append)
    assert seen == cases
    assert isinstance(done, BenchResult)
    assert (done.case, done.frames, done.points) == (cases[0], 4, 2000)
    detector = load(folder)
    found = [len(detector.detect(cloud).boxes) for cloud in (tiny_cloud, tiny_cloud[:1000])]
    assert done.detections == np.mean(found)
    assert done.load_ms > 0
    assert 20 < done.peak_mib < 1000
    for stage in done.stages:
        assert 0 < stage.minimum <= stage.p50 <= stage.p95 <= stage.p99
    assert isinstance(skipped, BenchSkipped)
    assert "onnxruntime runs the network in fp32 only" in skipped.reason


def test_a_case_that_dies_is_reported_with_its_reason(tiny_bundle: Bundle) -> None:
    wrong = np.zeros((5, 3), np.float32)
    (skipped,) = bench([Case(str(tiny_bundle.folder))], [wrong], runs=1, warmup=0)
    assert isinstance(skipped, BenchSkipped)
    assert "shape (5, 3)" in skipped.reason


def test_an_unknown_model_is_skipped_with_its_reason(tiny_cloud: npt.NDArray[np.float32]) -> None:
    skipped = measure(Case("no-such-model"), [tiny_cloud], runs=1, warmup=0)
    assert isinstance(skipped, BenchSkipped)
    assert "no model named 'no-such-model'" in skipped.reason


def test_nothing_to_run_is_an_error(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="0 clouds"):
        bench([Case(str(tiny_bundle.folder))], [])


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_mib()
    held = np.ones(40_000_000, np.float32)
    assert peak_mib() >= before
    assert peak_mib() > held.nbytes / 2**20


def test_the_synthetic_cloud_is_a_plausible_scan() -> None:
    grid = GridConfig()
    cloud = synthetic_cloud(20_000, grid)
    assert cloud.shape == (20_000, 4)
    assert cloud.dtype == np.float32
    pillars = pillarize(cloud, grid)
    assert len(pillars.features) == 20_000
    assert 3_000 < len(pillars.cells) < 9_000
    np.testing.assert_array_equal(cloud, synthetic_cloud(20_000, grid))
    assert not np.array_equal(cloud, synthetic_cloud(20_000, grid, seed=1))
    with pytest.raises(EngineError, match="reaches 40 m"):
        synthetic_cloud(20_000, GridConfig(x_max=2.56, y_min=-1.28, y_max=1.28))
