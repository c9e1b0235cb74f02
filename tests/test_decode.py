"""Anchors, box coder and the decoding of heads, against a plain reading of the definition."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_edge.boxes import Detections, FloatT, nms_bev
from pd_edge.config import DecodeConfig, DetectorConfig, GridConfig, ModelConfig, PointPillarsConfig
from pd_edge.decode import Decoder, Heads, anchors, decode, decode_boxes, direction_bin, encode_boxes
from pd_edge.errors import DataError, EngineError

Floats = npt.NDArray[np.float32]

SMALL_GRID = GridConfig(x_min=0, x_max=3.84, y_min=-1.28, y_max=1.28)  # 24 x 16 cells
FINE = 1e-5


def detector(grid: GridConfig = SMALL_GRID, **settings_: float) -> DetectorConfig:
    model = PointPillarsConfig(grid=grid, pillar_channels=8, backbone_channels=(8, 8, 8), neck_channels=8)
    return DetectorConfig(model=model, decode=DecodeConfig(**settings_))


def random_heads(rng: np.random.Generator, model: ModelConfig, logit: float, spread: float) -> Heads:
    size = (model.grid.ny // 2, model.grid.nx // 2)
    classes = len(model.classes)
    logits = rng.normal(logit, spread, (1, 2 * classes * classes, *size))
    residuals = rng.normal(0, 0.3, (1, 2 * classes * 7, *size))
    directions = rng.normal(0, 1, (1, 2 * classes * 2, *size))
    return Heads(logits.astype(np.float32), residuals.astype(np.float32), directions.astype(np.float32))


def silent_heads(model: ModelConfig) -> Heads:
    """Heads that detect nothing and change no anchor."""
    heads = random_heads(np.random.default_rng(0), model, 0, 0)
    return Heads(heads.logits - 20, np.zeros_like(heads.residuals), np.zeros_like(heads.directions))


def decode_plainly(heads: Heads, config: DetectorConfig) -> Detections:
    """The definition, anchor by anchor."""
    model, choice = config.model, config.decode
    layout = anchors(model)
    height, width, per_location, _ = layout.shape
    classes = len(model.classes)
    found = []
    for c in range(classes):
        scored = [
            (float(heads.logits[0, a * classes + c, j, i]), a, j, i)
            for a in range(per_location)
            for j in range(height)
            for i in range(width)
        ]
        passed = [row for row in scored if 1 / (1 + math.exp(-row[0])) >= choice.score_threshold]
        passed = sorted(passed, key=lambda row: -row[0])[: choice.top_k]
        boxes = np.empty((len(passed), 7), np.float32)
        for k, (_, a, j, i) in enumerate(passed):
            residual = heads.residuals[0, a * 7 : a * 7 + 7, j, i]
            direction = heads.directions[0, a * 2 : a * 2 + 2, j, i]
            boxes[k] = decode_boxes(
                residual, np.array(int(direction[1] > direction[0])), layout[j, i, a], model.direction_offset
            )
        scores = np.array([row[0] for row in passed])
        found += [(passed[k][0], c, boxes[k]) for k in nms_bev(boxes, scores, choice.nms_iou)]
    found = sorted(found, key=lambda row: -row[0])[: choice.max_boxes]
    return Detections(
        np.array([box for _, _, box in found], np.float32).reshape(-1, 7),
        np.array([label for _, label, _ in found], np.int64),
        np.array([1 / (1 + math.exp(-logit)) for logit, _, _ in found], np.float32),
    )


def assert_same(a: Detections, b: Detections) -> None:
    assert np.array_equal(a.labels, b.labels)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-7)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-5)
    assert [field.dtype for field in a] == [np.float32, np.int64, np.float32]


def test_anchors_stand_at_the_centres_of_two_cells() -> None:
    model = detector(GridConfig()).model
    layout = anchors(model)
    assert layout.shape == (248, 216, 6, 7)
    np.testing.assert_allclose(layout[0, 0, 0], [0.16, -39.52, -1.0, 3.9, 1.6, 1.56, 0], atol=FINE)
    np.testing.assert_allclose(layout[247, 215, 3], [68.96, 39.52, 0.265, 0.8, 0.6, 1.73, math.pi / 2], atol=FINE)
    np.testing.assert_allclose(layout[2, 1, 5], [0.48, -38.88, 0.265, 1.76, 0.6, 1.73, math.pi / 2], atol=FINE)


def test_anchors_may_be_spread_between_given_places() -> None:
    model = detector(GridConfig()).model.model_copy(update={"anchor_range": (0.0, -39.68, 69.12, 39.68)})
    layout = anchors(model)
    np.testing.assert_allclose(layout[0, 0, 0, :2], [0, -39.68], atol=FINE)
    np.testing.assert_allclose(layout[247, 215, 5, :2], [69.12, 39.68], atol=FINE)
    np.testing.assert_allclose(np.diff(layout[0, :, 0, 0]), 69.12 / 215, atol=FINE)
    np.testing.assert_allclose(layout[..., 2:], anchors(detector(GridConfig()).model)[..., 2:])


near = st.floats(-40, 40, allow_nan=False)
size = st.floats(0.1, 20)
angle = st.floats(-10, 10)


def assert_round_trip(boxes: npt.NDArray[FloatT], at: npt.NDArray[FloatT], offset: float) -> None:
    decoded = decode_boxes(encode_boxes(boxes, at), direction_bin(boxes[:, 6], offset), at, offset)
    assert decoded.dtype == boxes.dtype
    np.testing.assert_allclose(decoded[:, :6], boxes[:, :6], rtol=1e-4, atol=1e-4)
    assert -math.pi - 1e-6 <= decoded[0, 6] < math.pi
    # On the border between the bins half a turn may be lost; the line through the box is right everywhere.
    turn = float(decoded[0, 6] - boxes[0, 6]) / math.pi
    assert abs(turn - round(turn)) < FINE
    from_border = (float(boxes[0, 6]) - offset) / math.pi
    if abs(from_border - round(from_border)) > FINE:
        assert round(turn) % 2 == 0


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(near, near, near, size, size, size, angle),
    st.tuples(near, near, near, size, size, size, st.sampled_from([0.0, math.pi / 2])),
    st.floats(-math.pi, math.pi),
)
def test_decoding_undoes_encoding(box: tuple[float, ...], anchor: tuple[float, ...], offset: float) -> None:
    assert_round_trip(np.array([box], np.float32), np.array([anchor], np.float32), offset)
    assert_round_trip(np.array([box], np.float64), np.array([anchor], np.float64), offset)


def test_residuals_are_those_of_the_paper() -> None:
    anchor = np.array([10.0, 5.0, -1.0, 4.0, 3.0, 2.0, math.pi / 2])
    box = np.array([11.0, 4.0, 0.0, 8.0, 1.5, 2.0, 0.0])
    expected = [0.2, -0.2, 0.5, math.log(2), -math.log(2), 0.0, -math.pi / 2]
    np.testing.assert_allclose(encode_boxes(box, anchor), expected)


def test_coder_broadcasts_boxes_with_anchors() -> None:
    layout = anchors(detector().model)
    residuals = encode_boxes(layout[3, 2, 1], layout)
    assert residuals.shape == layout.shape
    assert not residuals[3, 2, 1].any()


def test_a_flat_box_has_no_residuals() -> None:
    box = np.array([1, 1, 1, 4, 0, 1, 0], np.float32)
    with pytest.raises(DataError, match=r"above 0 m, the smallest is 0\.0"):
        encode_boxes(box, np.ones(7, np.float32))


@pytest.mark.parametrize(
    ("yaw", "expected"), [(0.0, 1), (math.pi / 4 + 0.01, 0), (math.pi, 0), (-math.pi, 0), (5 * math.pi / 4 + 0.01, 1)]
)
def test_direction_bin_0_is_the_half_circle_after_the_offset(yaw: float, expected: int) -> None:
    assert direction_bin(np.array([yaw]), math.pi / 4).tolist() == [expected]


def test_one_object_is_found_where_it_stands() -> None:
    config = detector()
    heads = silent_heads(config.model)
    layout = anchors(config.model)
    box = np.array([2.1, 0.3, 0.2, 0.9, 0.5, 1.7, -2.0], np.float32)
    j, i, a = 4, 6, 3  # the pedestrian's anchor of yaw pi / 2 near the box
    heads.logits[0, a * 3 + 1, j, i] = 2.0
    heads.residuals[0, a * 7 : a * 7 + 7, j, i] = encode_boxes(box, layout[j, i, a])
    heads.directions[0, a * 2 + int(direction_bin(box[6:], math.pi / 4)[0]), j, i] = 1.0
    found = decode(heads, config)
    np.testing.assert_allclose(found.boxes, [box], atol=FINE)
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-2))], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([-4.0, -2.0, 0.0]),
    st.builds(
        DecodeConfig,
        score_threshold=st.sampled_from([0.0, 0.1, 0.35]),
        top_k=st.sampled_from([1, 7, 30]),
        nms_iou=st.sampled_from([0.0, 0.2, 1.0]),
        max_boxes=st.sampled_from([1, 5, 60]),
    ),
)
def test_decoder_follows_the_definition(seed: int, logit: float, choice: DecodeConfig) -> None:
    config = DetectorConfig(model=detector().model, decode=choice)
    heads = random_heads(np.random.default_rng(seed), config.model, logit, 1.0)
    assert_same(decode(heads, config), decode_plainly(heads, config))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 20]))
def test_equal_scores_rank_by_class_and_place(seed: int, top_k: int) -> None:
    config = detector(top_k=top_k, max_boxes=40)
    heads = random_heads(np.random.default_rng(seed), config.model, 0, 1.0)
    heads = heads._replace(logits=np.round(heads.logits))
    assert_same(decode(heads, config), decode_plainly(heads, config))


def test_scores_too_close_for_float32_still_rank_by_logit() -> None:
    config = detector(nms_iou=1.0)
    heads = silent_heads(config.model)
    heads.logits[0, 2, 1, 1] = 40.0
    heads.logits[0, 0, 5, 5] = 30.0
    assert decode(heads, config).labels.tolist() == [2, 0]


def test_nothing_above_the_threshold_is_an_empty_result() -> None:
    config = detector()
    found = decode(silent_heads(config.model), config)
    assert [field.shape for field in found] == [(0, 7), (0,), (0,)]
    assert [field.dtype for field in found] == [np.float32, np.int64, np.float32]


def test_a_threshold_of_one_lets_nothing_through() -> None:
    config = detector(score_threshold=1.0)
    heads = random_heads(np.random.default_rng(0), config.model, 10, 5)
    assert len(decode(heads, config).scores) == 0


def test_full_size_heads_that_all_pass_stay_bounded() -> None:
    config = detector(GridConfig())
    heads = random_heads(np.random.default_rng(0), config.model, 0, 0.5)
    decoder = Decoder(config)
    found = decoder.decode(heads)
    assert 0 < len(found.scores) <= config.decode.max_boxes
    assert (np.diff(found.scores) <= 0).all()
    assert_same(found, decoder.decode(heads))
    # The best of all logits is the best detection: nothing can suppress it.
    best = np.unravel_index(np.argmax(heads.logits), heads.logits.shape)
    assert found.labels[0] == best[1] % 3


@pytest.mark.parametrize("name", Heads._fields)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_heads_that_are_not_finite_are_named(name: str, value: float) -> None:
    config = detector()
    heads = silent_heads(config.model)
    heads.logits[0, -1, 2, 3] = 1.0
    getattr(heads, name)[0, -1, 2, 3] = value
    with pytest.raises(EngineError, match=f"head {name} holds 1 NaN or infinite values"):
        decode(heads, config)


def test_what_no_candidate_uses_may_be_anything() -> None:
    """Float16 overflows where nothing is, far from any object."""
    config = detector()
    heads = silent_heads(config.model)
    heads.logits[0, 0, 2, 3] = 1.0
    expected = decode(heads, config)
    heads.residuals[0, :, 5, 5] = np.inf
    heads.directions[0, :, 5, 5] = np.nan
    assert len(expected.scores) == 1
    assert_same(decode(heads, config), expected)


def test_residuals_that_decode_to_an_infinite_box_are_named() -> None:
    config = detector()
    heads = silent_heads(config.model)
    heads.logits[0, 0, 2, 3] = 1.0
    heads.residuals[0, 4, 2, 3] = 200.0
    with pytest.raises(EngineError, match=r"residuals .*200\.0.* not finite"):
        decode(heads, config)


@pytest.mark.parametrize("name", Heads._fields)
def test_heads_of_another_shape_or_dtype_are_named(name: str) -> None:
    config = detector()
    heads = silent_heads(config.model)
    head = getattr(heads, name)
    with pytest.raises(EngineError, match=rf"head {name} is float32 of shape .* expected float32 \(1, "):
        decode(heads._replace(**{name: head[:, :, :-1]}), config)
    with pytest.raises(EngineError, match=f"head {name} is float16"):
        decode(heads._replace(**{name: head.astype(np.float16)}), config)
