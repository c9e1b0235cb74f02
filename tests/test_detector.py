"""The detector: one path from a cloud to boxes, and what it says about odd clouds."""

import logging
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pd_edge
from pd_edge.boxes import Detections
from pd_edge.bundle import Bundle
from pd_edge.config import DecodeConfig
from pd_edge.decode import Heads, decode
from pd_edge.detector import Detector, Timing, load
from pd_edge.errors import ConfigError, DataError, EngineError
from pd_edge.pillars import PillarNet, encode_reference, pillarize_reference, scatter_reference
from pd_edge.runtimes import open_runtime
from pd_edge.sensors import KITTI

Cloud = npt.NDArray[np.float32]

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def detector(tiny_bundle: Bundle) -> Detector:
    return load(tiny_bundle.folder, threads=1)


def assert_equal(found: Detections, expected: Detections) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_detections_equal_the_readable_path(detector: Detector, tiny_bundle: Bundle, tiny_cloud: Cloud) -> None:
    """Numpy pillars, feature net and scatter, then torch, then decode: the same boxes."""
    torch = pytest.importorskip("torch")
    from pd_edge.runtimes.torch import load_torch

    grid = tiny_bundle.config.model.grid
    pillars = pillarize_reference(tiny_cloud, grid)
    net = tiny_bundle.encoder_net
    assert isinstance(net, PillarNet)
    canvas = scatter_reference(encode_reference(pillars, net), pillars.cells, grid)
    with torch.inference_mode():
        heads = Heads(*(each.numpy() for each in load_torch(tiny_bundle).dense(torch.from_numpy(canvas))))
    expected = decode(heads, tiny_bundle.config)
    found = detector.detect(tiny_cloud)
    assert len(expected.boxes) >= 20
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


def test_classes_come_in_label_order(detector: Detector) -> None:
    assert detector.classes == ("Car", "Pedestrian", "Cyclist")


def test_the_package_offers_load(tiny_bundle: Bundle) -> None:
    assert pd_edge.load(tiny_bundle.folder, threads=1).name == "tiny"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_points_does_not_matter(detector: Detector, tiny_cloud: Cloud, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(tiny_cloud)
    assert_equal(detector.detect(shuffled), detector.detect(tiny_cloud))


def test_nothing_remains_of_the_previous_frame(detector: Detector, tiny_cloud: Cloud) -> None:
    expected = detector.detect(tiny_cloud)
    detector.detect(tiny_cloud[::7] + np.array([1.0, 0.5, 0.0, 0.0], np.float32))
    assert_equal(detector.detect(tiny_cloud), expected)


def test_every_stage_is_timed(detector: Detector, tiny_cloud: Cloud) -> None:
    detections, timing = detector.detect_timed(tiny_cloud)
    assert_equal(detections, detector.detect(tiny_cloud))
    assert min(timing) > 0
    assert timing.total == pytest.approx(timing.encoder + timing.network + timing.decode)


def test_one_detector_per_thread(tiny_bundle: Bundle, tiny_cloud: Cloud) -> None:
    clouds = [tiny_cloud, tiny_cloud[::2]]
    detectors = [load(tiny_bundle.folder, threads=1) for _ in clouds]
    expected = [load(tiny_bundle.folder, threads=1).detect(cloud) for cloud in clouds]
    found: list[list[Detections]] = [[], []]

    def work(index: int) -> None:
        found[index] = [detectors[index].detect(clouds[index]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert len(found[index]) == 20
        for each in found[index]:
            assert_equal(each, expected[index])


def test_decode_settings_can_be_replaced(tiny_bundle: Bundle, tiny_cloud: Cloud) -> None:
    few = load(tiny_bundle.folder, threads=1, decode=DecodeConfig(max_boxes=3)).detect(tiny_cloud)
    all_boxes = load(tiny_bundle.folder, threads=1).detect(tiny_cloud)
    assert len(few.boxes) == 3
    np.testing.assert_array_equal(few.boxes, all_boxes.boxes[:3])


def test_the_score_threshold_can_change(tiny_bundle: Bundle, tiny_cloud: Cloud) -> None:
    detector = load(tiny_bundle.folder, threads=1)
    before = detector.detect(tiny_cloud)
    middle = float(np.median(before.scores))
    detector.set_score_threshold(middle)
    fewer = detector.detect(tiny_cloud)
    assert 0 < len(fewer.scores) < len(before.scores)
    np.testing.assert_array_equal(fewer.boxes, before.boxes[: len(fewer.boxes)])
    assert detector.config.decode.score_threshold == middle
    with pytest.raises(ConfigError, match="score_threshold"):
        detector.set_score_threshold(1.5)


def test_an_empty_cloud_has_no_detections_and_says_so(detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        detections, timing = detector.detect_timed(np.empty((0, 4), np.float32), "scan 7")
    assert [each.shape for each in detections] == [(0, 7), (0,), (0,)]
    assert [each.dtype for each in detections] == [np.float32, np.int64, np.float32]
    assert timing == Timing(0.0, 0.0, 0.0)
    assert "scan 7: no points" in caplog.text


def test_odd_points_are_left_out_and_said_once(
    tiny_bundle: Bundle, tiny_cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    detector = load(tiny_bundle.folder, threads=1)
    expected = detector.detect(tiny_cloud)
    broken = np.array([[np.nan, 0, 0, 0], [1, np.inf, 0, 0.5]], np.float32)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_equal(detector.detect(np.concatenate([broken, tiny_cloud])), expected)
    assert caplog.text.count("cloud: 2 points with NaN or infinity left out") == 1


def test_bytes_of_intensity_are_scaled_and_said_once(
    tiny_bundle: Bundle, tiny_cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    detector = load(tiny_bundle.folder, threads=1)
    whole = tiny_cloud.copy()
    whole[:, 3] = np.rint(whole[:, 3] * 255)
    shares = whole.copy()
    shares[:, 3] /= 255
    with caplog.at_level(logging.WARNING):
        assert_equal(detector.detect(whole), detector.detect(shares))
        detector.detect(whole)
    assert caplog.text.count("intensity 0..255 scaled to 0..1") == 1


def test_a_declared_intensity_holds_for_every_cloud(tiny_bundle: Bundle, tiny_cloud: Cloud) -> None:
    dark = tiny_cloud.copy()
    dark[:, 3] = 1.0
    declared = load(tiny_bundle.folder, threads=1, sensor=KITTI.model_copy(update={"intensity_max": 255.0})).detect(
        dark
    )
    scaled = dark.copy()
    scaled[:, 3] /= 255
    assert_equal(declared, load(tiny_bundle.folder, threads=1).detect(scaled))


def test_a_cloud_beside_the_grid_says_so_once(
    tiny_bundle: Bundle, tiny_cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    detector = load(tiny_bundle.folder, threads=1, decode=DecodeConfig(score_threshold=1.0))
    millimetres = tiny_cloud * np.array([1000, 1000, 1000, 1], np.float32)
    with caplog.at_level(logging.WARNING):
        assert not len(detector.detect(tiny_cloud).boxes)
        assert not caplog.text
        for _ in range(2):
            assert not len(detector.detect(millimetres).boxes)
    assert caplog.text.count("none of 3000 points lies in the grid (x 0..20.48, y -5.12..5.12, z -3..1 m)") == 1


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 3), np.float32), r"shape \(5, 3\)"),
        (np.zeros((5, 4), np.int32), "dtype int32"),
        (np.full((5, 4), np.nan, np.float32), "none of 5 points is finite"),
        ([[0.0, 0.0, 0.0, 0.0]], "list"),
    ],
    ids=["columns", "dtype", "nan", "list"],
)
def test_what_is_no_cloud_is_refused_by_name(detector: Detector, points: Cloud, message: str) -> None:
    with pytest.raises(DataError, match=f"frame 3.*{message}"):
        detector.detect(points, "frame 3")


def test_float64_points_are_taken(detector: Detector, tiny_cloud: Cloud) -> None:
    assert_equal(detector.detect(tiny_cloud.astype(np.float64)), detector.detect(tiny_cloud))


def test_warming_up_changes_nothing(tiny_bundle: Bundle, tiny_cloud: Cloud) -> None:
    warm, cold = load(tiny_bundle.folder, threads=1), load(tiny_bundle.folder, threads=1)
    warm.warm_up()
    assert_equal(warm.detect(tiny_cloud), cold.detect(tiny_cloud))


def test_a_damaged_network_is_an_error_not_a_wrong_box(tiny_bundle: Bundle, tiny_cloud: Cloud) -> None:
    class Broken:
        name, precision, layout = "broken", "fp32", "nchw"

        def __init__(self) -> None:
            self.sound = open_runtime(tiny_bundle, "onnxruntime")

        def infer(self, canvas: Cloud) -> Heads:
            heads = self.sound.infer(canvas)
            return heads._replace(logits=heads.logits * np.float32(np.nan))

    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="logits"):
        Detector(tiny_bundle, Broken()).detect(tiny_cloud)  # type: ignore[arg-type]


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(EngineError, match="no model named 'nothing-here'"):
        load(Path("nothing-here"))
