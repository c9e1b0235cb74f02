"""Rivals that compare or use the heads' outputs, and the initialisation from the teacher."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pd_edge import decode
from pd_edge.boxes import bev_iou
from pd_edge.config import DecodeConfig, DetectorConfig, GridConfig, ModelConfig, PointPillarsConfig
from pd_edge.errors import ConfigError
from pd_edge.pillars import pillarize
from pd_edge.training.batches import Batch
from pd_edge.training.config import KITTI_THRESHOLDS, LossConfig, Thresholds
from pd_edge.training.losses import all_anchors, detection_losses
from pd_edge.training.method import Lesson, Method
from pd_edge.training.network import Activations, HeadMaps
from pd_edge.training.pointpillars import PillarBatch, PointPillars, batch_pillars
from pd_edge.training.rivals.anchors import AnchorTable, best_scores, decode_boxes, logit, nearest_bev_iou, rows_at
from pd_edge.training.rivals.guided_init import GuidedInit, GuidedInitConfig
from pd_edge.training.rivals.label_kd import LabelKd, LabelKdConfig, merge_targets
from pd_edge.training.rivals.pp_logit import PpLogit, PpLogitConfig
from pd_edge.training.rivals.se_ssd import SeSsd, SeSsdConfig
from pd_edge.training.targets import TargetAssigner, Targets, batch_targets

Boxes = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
GRID = GridConfig(x_min=0, x_max=19.2, y_min=-9.6, y_max=9.6)
MODEL = PointPillarsConfig(
    grid=GRID, pillar_channels=4, backbone_channels=(4, 6, 8), backbone_layers=(1, 1, 1), neck_channels=4
)
ANCHORS = decode.anchors(MODEL).reshape(-1, 7)
ASSIGNER = TargetAssigner(MODEL, KITTI_THRESHOLDS)
H = W = 60
CLASSES, A = 3, 6
CAR, PEDESTRIAN = 0, 1
PLACE = 20 * W + 30
"""A location in the middle of the map; its first anchor is a car's of yaw 0."""


def activations(heads: HeadMaps) -> Activations:
    """Activations of which only the heads matter."""
    return Activations(torch.zeros(1, 4), [], torch.zeros(0), heads)


def quiet_heads(frames: int = 1) -> HeadMaps:
    """Heads that see nothing: all scores at 5e-5, boxes as the anchors."""
    return HeadMaps(
        torch.full((frames, A * CLASSES, H, W), -10.0),
        torch.zeros(frames, A * 7, H, W),
        torch.zeros(frames, A * 2, H, W),
    )


def random_heads(seed: int, frames: int = 2, spread: float = 0.1) -> HeadMaps:
    """Heads with a few hundred confident anchors in each frame, their boxes near the anchors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(width: int) -> Tensor:
        return torch.randn(frames, A * width, H, W, generator=generator)

    return HeadMaps(normal(CLASSES) * 2 - 6, normal(7) * spread, normal(2))


def trainable(heads: HeadMaps) -> HeadMaps:
    """A copy that collects gradients."""
    return HeadMaps(*(each.clone().requires_grad_() for each in heads))


def empty_batch(frames: int) -> Batch:
    """A batch without objects, of which the outputs' methods need nothing else."""
    return Batch(PillarBatch(torch.zeros(0, 10), torch.zeros(0).long(), torch.zeros(0).long(), frames), truth([], []))


def truth(boxes: Sequence[Boxes], labels: Sequence[Labels]) -> Targets:
    """Targets of frames with the given objects; of one empty frame by default."""
    boxes, labels = boxes or [np.empty((0, 7), np.float32)], labels or [np.empty(0, np.int64)]
    return batch_targets([ASSIGNER.assign(*frame) for frame in zip(boxes, labels, strict=True)], MODEL)


def loss_of(method: Method, teacher: HeadMaps, student: HeadMaps) -> Tensor:
    lesson: Lesson = method(activations(teacher), activations(student), empty_batch(len(teacher.logits)))
    return lesson.loss


def set_anchor(
    heads: HeadMaps, anchor: int, label: int, score: float, residuals: Sequence[float] = (0,) * 7, *, frame: int = 0
) -> None:
    """Gives one anchor, flat over (H, W, A), a logit for a class and residuals."""
    place, kind = divmod(anchor, A)
    row, column = divmod(place, W)
    heads.logits[frame, kind * CLASSES + label, row, column] = score
    heads.residuals[frame, kind * 7 : kind * 7 + 7, row, column] = torch.tensor(residuals)


# anchors.py


@pytest.mark.parametrize("spread", [None, (0.1, -2.0, 4.0, 2.5)])
def test_anchor_table_equals_the_decoder_s_anchors(spread: tuple[float, float, float, float] | None) -> None:
    model = MODEL.model_copy(update={"anchor_range": spread})
    index = torch.arange(len(ANCHORS)).reshape(2, -1)
    found = AnchorTable(model)(index).reshape(-1, 7).numpy()
    np.testing.assert_allclose(found, decode.anchors(model).reshape(-1, 7), atol=2e-6)


def test_boxes_decode_as_the_decoder_does() -> None:
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(ANCHORS), 200)
    residuals = rng.normal(0, 0.5, (200, 7)).astype(np.float32)
    expected = decode.decode_boxes(residuals, rng.integers(0, 2, 200), ANCHORS[chosen], MODEL.direction_offset)
    found = decode_boxes(torch.from_numpy(residuals), torch.from_numpy(ANCHORS[chosen])).numpy()
    np.testing.assert_allclose(found[:, :6], expected[:, :6], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.sin(found[:, 6] - expected[:, 6]), 0, atol=1e-5)


def test_nearest_bev_iou_equals_the_rotated_iou_of_boxes_turned_to_the_axes() -> None:
    rng = np.random.default_rng(1)
    a = np.column_stack([rng.uniform(-1, 1, (100, 3)), rng.uniform(0.5, 4, (100, 3)), rng.uniform(-4, 4, 100)])
    b = np.column_stack([rng.uniform(-1, 1, (100, 3)), rng.uniform(0.5, 4, (100, 3)), rng.uniform(-4, 4, 100)])
    found = nearest_bev_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    for boxes in (a, b):
        boxes[:, 6] = np.round(boxes[:, 6] / (math.pi / 2)) * math.pi / 2
    np.testing.assert_allclose(found, bev_iou(a, b).diagonal(), atol=1e-9)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_rows_and_best_scores_follow_the_losses_order_of_anchors(memory: torch.memory_format) -> None:
    heads = random_heads(2)
    maps = [each.bfloat16().to(memory_format=memory) for each in heads]
    index = torch.tensor([[0, 5, 7, A * W, A * H * W - 1], [3, 2, 1, 0, 400]])
    flat = index + torch.tensor([[0], [A * H * W]])
    torch.testing.assert_close(rows_at(maps[1], 7, index), all_anchors(maps[1], 7)[flat].float())
    expected = all_anchors(maps[0], CLASSES).amax(1).reshape(2, -1)
    torch.testing.assert_close(best_scores(maps[0], A), expected)


def test_logit_inverts_the_sigmoid() -> None:
    assert logit(0.3) == pytest.approx(math.log(0.3 / 0.7))
    assert (logit(0.0), logit(1.0)) == (-math.inf, math.inf)


# SE-SSD and PP-logit

COMPARING = [SeSsd(SeSsdConfig(), MODEL, MODEL), PpLogit(PpLogitConfig(), MODEL, MODEL)]


@pytest.mark.parametrize("method", COMPARING, ids=["se-ssd", "pp-logit"])
def test_loss_is_least_where_the_student_equals_its_teacher(method: Method) -> None:
    teacher = random_heads(0)
    student = trainable(teacher)
    loss = loss_of(method, teacher, student)
    assert loss.item() == 0
    gradients = torch.autograd.grad(loss, (student.logits, student.residuals))
    assert all((each == 0).all() for each in gradients)
    assert loss_of(method, teacher, random_heads(1)).item() > 0


@pytest.mark.parametrize("method", COMPARING, ids=["se-ssd", "pp-logit"])
def test_gradients_reach_the_student_where_the_teacher_is_confident_and_nothing_else(method: Method) -> None:
    teacher, student = random_heads(0, spread=0.02), trainable(random_heads(1, spread=0.02))
    loss_of(method, teacher, student).backward()  # type: ignore[no-untyped-call]
    assert student.logits.grad is not None
    assert student.residuals.grad is not None
    assert student.directions.grad is None
    assert all(each.grad is None for each in teacher)
    assert not list(method.parameters())
    assert not method.state_dict()
    moved = student.residuals.grad.reshape(2, A, 7, H, W).abs().sum(2) > 0
    confident = teacher.logits.reshape(2, A, CLASSES, H, W).amax(2) > logit(0.1)
    assert moved.any()
    assert (moved <= confident).all()


@pytest.mark.parametrize("method", COMPARING, ids=["se-ssd", "pp-logit"])
def test_a_teacher_that_sees_nothing_teaches_nothing(method: Method) -> None:
    student = trainable(random_heads(0))
    loss = loss_of(method, quiet_heads(2), student)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert student.logits.grad is not None
    assert (student.logits.grad == 0).all()


@pytest.mark.parametrize("method", COMPARING, ids=["se-ssd", "pp-logit"])
def test_channels_last_bfloat16_heads(method: Method) -> None:
    teacher, student = random_heads(0), random_heads(1)
    coarse = [
        HeadMaps(*(each.bfloat16().to(memory_format=torch.channels_last) for each in heads))
        for heads in (teacher, student)
    ]
    exact = [HeadMaps(*(each.float().contiguous() for each in heads)) for heads in coarse]
    loss = loss_of(method, *coarse)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(method, *exact))


def smooth_l1(difference: float, beta: float = 1 / 9) -> float:
    size = abs(difference)
    return size**2 / (2 * beta) if size < beta else size - beta / 2


def test_se_ssd_on_one_pair_by_hand() -> None:
    teacher, student = quiet_heads(), quiet_heads()
    set_anchor(teacher, PLACE * A, CAR, 2.0, (0, 0, 0, 0, 0, 0, 0.1))
    set_anchor(student, PLACE * A, CAR, 1.0, (0.1, 0, 0, 0, math.log(0.95), 0, 0.3))
    lesson = COMPARING[0](activations(teacher), activations(student), empty_batch(1))
    parts = [0.1 * math.hypot(3.9, 1.6), 0.05 * 1.6, math.sin(0.2)]
    boxes = sum(smooth_l1(part) for part in parts) / 7
    scores = smooth_l1(1 / (1 + math.exp(-2)) - 1 / (1 + math.exp(-1)))
    assert lesson.diagnostics["matched"].item() == 1
    assert lesson.diagnostics["boxes"].item() == pytest.approx(boxes, rel=1e-4)
    assert lesson.diagnostics["scores"].item() == pytest.approx(scores, rel=1e-4)
    assert lesson.loss.item() == pytest.approx(boxes + scores, rel=1e-4)


def test_se_ssd_averages_over_the_pairs_of_all_frames() -> None:
    teacher, student = quiet_heads(2), quiet_heads(2)
    for frame, anchor in ((0, PLACE * A), (0, 40 * A), (1, 7 * A)):
        set_anchor(teacher, anchor, CAR, 2.0, frame=frame)
    set_anchor(student, PLACE * A, CAR, 2.0, (0.05, *(0,) * 6))
    for frame, anchor in ((0, 40 * A), (1, 7 * A)):
        set_anchor(student, anchor, CAR, 2.0, frame=frame)
    lesson = COMPARING[0](activations(teacher), activations(student), empty_batch(2))
    assert lesson.loss.item() == pytest.approx(smooth_l1(0.05 * math.hypot(3.9, 1.6)) / 7 / 3, rel=1e-4)
    assert lesson.diagnostics["matched"].item() == 1.5


@pytest.mark.parametrize("yaw", [math.pi, -math.pi])
def test_half_a_turn_costs_nothing(yaw: float) -> None:
    teacher, student = quiet_heads(), quiet_heads()
    set_anchor(teacher, PLACE * A, CAR, 2.0)
    set_anchor(student, PLACE * A, CAR, 2.0, (*(0,) * 6, yaw))
    for method in COMPARING:
        assert loss_of(method, teacher, student).item() == pytest.approx(0, abs=1e-9)


def test_se_ssd_leaves_boxes_apart_alone_even_absurd_ones() -> None:
    teacher = quiet_heads()
    for place in range(3):
        set_anchor(teacher, place * A, CAR, 2.0)
    student = quiet_heads()
    set_anchor(student, 0, CAR, 0.0, (0.5, *(0,) * 6))
    set_anchor(student, A, CAR, 0.0, (0, 0, 0, 500, 0, 0, 0))
    set_anchor(student, 2 * A, CAR, 0.0, (0, 0, 0, -500, 500, 0, 0))
    student = trainable(student)
    lesson = COMPARING[0](activations(teacher), activations(student), empty_batch(1))
    gradients = torch.autograd.grad(lesson.loss, (student.logits, student.residuals))
    assert lesson.diagnostics["matched"].item() == 0
    assert lesson.loss.item() == 0
    assert all((each == 0).all() for each in gradients)


def dense_pp_logit(teacher: HeadMaps, student: HeadMaps, config: PpLogitConfig) -> float:
    """Pivotal-position loss, position by position."""
    totals = np.zeros(4)  # class error, its weights, box error, its weights
    for b in range(len(teacher.logits)):
        scores, guesses = (torch.sigmoid(each.logits[b]).flatten(1).T.double() for each in (teacher, student))
        boxes, tries = (each.residuals[b].flatten(1).T.reshape(H * W, A, 7).double() for each in (teacher, student))
        best = scores.amax(1)
        for place in best.argsort(descending=True)[: config.positions].tolist():
            if best[place] <= config.score_threshold:
                continue
            weight = best[place].item() if config.soft else 1
            totals[:2] += weight * (scores[place] - guesses[place]).square().sum().item(), weight
            for a, score in enumerate(scores[place].reshape(A, CLASSES).amax(1).tolist()):
                if score <= config.score_threshold:
                    continue
                weight = score if config.soft else 1
                errors = (tries[place, a] - boxes[place, a]).tolist()
                errors[6] = math.sin(errors[6])
                totals[2:] += weight * sum(smooth_l1(each, config.beta) for each in errors), weight
    classes, boxes_loss = totals[0] / totals[1], totals[2] / totals[3]
    return float(config.class_weight * classes + config.box_weight * boxes_loss)


@pytest.mark.parametrize(
    "config",
    [PpLogitConfig(), PpLogitConfig(positions=40, soft=False), PpLogitConfig(score_threshold=0.3, beta=0.5)],
    ids=["default", "few", "strict"],
)
def test_pp_logit_equals_the_dense_formula(config: PpLogitConfig) -> None:
    teacher, student = random_heads(0), random_heads(1)
    found = loss_of(PpLogit(config, MODEL, MODEL), teacher, student).item()
    assert found == pytest.approx(dense_pp_logit(teacher, student, config), rel=1e-4)


SE_SSD_CHANGES: dict[str, Any] = {
    "score_threshold": 0.5,
    "iou_threshold": 0.8,
    "candidates": 20,
    "box_weight": 2.0,
    "score_weight": 2.0,
    "beta": 1.0,
}
PP_LOGIT_CHANGES: dict[str, Any] = {
    "positions": 50,
    "score_threshold": 0.3,
    "soft": False,
    "class_weight": 1.0,
    "box_weight": 1.0,
    "beta": 1.0,
}


@pytest.mark.parametrize("field", SE_SSD_CHANGES)
def test_every_field_of_se_ssd_matters(field: str) -> None:
    teacher, student = random_heads(0), random_heads(1)
    changed = SeSsd(SeSsdConfig(**{field: SE_SSD_CHANGES[field]}), MODEL, MODEL)
    assert loss_of(changed, teacher, student).item() != loss_of(COMPARING[0], teacher, student).item()
    assert {*SE_SSD_CHANGES, "method", "weight"} == set(SeSsdConfig.model_fields)


@pytest.mark.parametrize("field", PP_LOGIT_CHANGES)
def test_every_field_of_pp_logit_matters(field: str) -> None:
    teacher, student = random_heads(0), random_heads(1)
    changed = PpLogit(PpLogitConfig(**{field: PP_LOGIT_CHANGES[field]}), MODEL, MODEL)
    assert loss_of(changed, teacher, student).item() != loss_of(COMPARING[1], teacher, student).item()
    assert {*PP_LOGIT_CHANGES, "method", "weight"} == set(PpLogitConfig.model_fields)


# Label KD

CAR_BOX = np.array([[6.1, 1.2, -1.0, 4.2, 1.7, 1.5, 0.3]], np.float32)
FAR_CAR = np.array([[14.0, -5.0, -0.9, 3.6, 1.5, 1.6, 2.8]], np.float32)
WALKER = np.array([[10.0, 4.0, 0.2, 0.7, 0.6, 1.7, -2.0]], np.float32)
OF_CAR, OF_WALKER = np.array([CAR]), np.array([PEDESTRIAN])


def seeing(frames: Sequence[tuple[Boxes, Labels]], score: float = 3.0) -> HeadMaps:
    """Heads that see exactly the given objects of each frame, all their positive anchors alike."""
    heads = quiet_heads(len(frames))
    for frame, (boxes, labels) in enumerate(frames):
        targets = ASSIGNER.assign(boxes, labels)
        for anchor, label, residuals, bin_ in zip(*targets[:4], strict=True):
            set_anchor(heads, int(anchor), int(label), score, residuals.tolist(), frame=frame)
            place, kind = divmod(int(anchor), A)
            heads.directions[frame, kind * 2 + int(bin_), place // W, place % W] = 4.0
    return heads


def label_kd(**fields: Any) -> LabelKd:
    return LabelKd(LabelKdConfig(**fields), MODEL, MODEL)


def with_truth(targets: Targets, frames: int) -> Batch:
    return empty_batch(frames)._replace(targets=targets)


def check_valid(targets: Targets) -> None:
    for indices in (targets.positives, targets.ignored):
        assert (indices.diff() > 0).all()
    assert not torch.isin(targets.positives, targets.ignored).any()
    assert len({len(each) for each in targets[:4]}) == 1


def assert_same(found: Targets, expected: Targets) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def both(*objects: Boxes) -> Boxes:
    return np.concatenate(objects)


def test_an_object_only_the_teacher_sees_is_learnt_as_if_it_were_true() -> None:
    heads = seeing([(both(CAR_BOX, WALKER), both_labels(CAR, PEDESTRIAN)), (FAR_CAR, OF_CAR)])
    method = label_kd()
    found = method.targets(activations(heads), with_truth(truth([CAR_BOX, WALKER], [OF_CAR, OF_WALKER]), 2))
    labels = both_labels(CAR, PEDESTRIAN)
    expected = truth([both(CAR_BOX, WALKER), both(WALKER, FAR_CAR)], [labels, labels[::-1].copy()])
    check_valid(found)
    assert_same(found, expected)
    lesson = method(activations(heads), activations(heads), empty_batch(2))
    assert lesson.loss.item() == 0
    assert lesson.diagnostics["added"].item() == 1


def both_labels(*labels: int) -> Labels:
    return np.array(labels)


def test_an_object_of_the_ground_truth_is_not_doubled() -> None:
    slightly_off = CAR_BOX + np.array([0.2, -0.1, 0.1, 0.1, 0, 0, 0.05], np.float32)
    targets = truth([CAR_BOX], [OF_CAR])
    found = label_kd().targets(activations(seeing([(slightly_off, OF_CAR)])), with_truth(targets, 1))
    assert all(ours is theirs for ours, theirs in zip(found, targets, strict=True))


def test_true_objects_keep_their_anchors_and_ignored_ones_stay_consistent() -> None:
    neighbour = CAR_BOX + np.array([0.7, 0.3, 0, 0, 0, 0, 0], np.float32)
    targets = truth([CAR_BOX], [OF_CAR])
    found = label_kd(overlap=0.9).targets(activations(seeing([(neighbour, OF_CAR)])), with_truth(targets, 1))
    extra = truth([neighbour], [OF_CAR])
    check_valid(found)
    assert torch.isin(extra.positives, targets.ignored).any(), "the case is to have anchors that change sides"
    of_truth = torch.isin(found.positives, targets.positives)
    torch.testing.assert_close(found.residuals[of_truth], targets.residuals)
    assert set(found.positives.tolist()) == {*targets.positives.tolist(), *extra.positives.tolist()}
    assert set(found.ignored.tolist()) == {*targets.ignored.tolist(), *extra.ignored.tolist()} - set(
        found.positives.tolist()
    )
    assert detection_losses(random_heads(0, 1), found, LossConfig()).total.isfinite()


def test_where_both_learn_an_anchor_the_truth_has_it() -> None:
    true, other = truth([CAR_BOX], [OF_CAR]), truth([CAR_BOX + np.float32(0.1)], [OF_CAR])
    merged = merge_targets(true, other)
    check_valid(merged)
    assert torch.isin(other.positives, true.positives).any()
    torch.testing.assert_close(merged.residuals[torch.isin(merged.positives, true.positives)], true.residuals)


@pytest.mark.parametrize("nothing_true", [True, False])
def test_empty_frames(nothing_true: bool) -> None:
    nothing = (np.empty((0, 7), np.float32), np.empty(0, np.int64))
    seen = (CAR_BOX, OF_CAR)
    frames = [nothing, seen] if nothing_true else [nothing, nothing]
    true_boxes, true_labels = zip(*([nothing, nothing] if nothing_true else [nothing, seen]), strict=True)
    targets = truth(true_boxes, true_labels)
    found = label_kd().targets(activations(seeing(frames)), with_truth(targets, 2))
    check_valid(found)
    assert_same(found, truth([nothing[0], CAR_BOX], [nothing[1], OF_CAR]))


@pytest.mark.parametrize("seed", range(3))
def test_detections_equal_the_decoder_s(seed: int) -> None:
    heads = random_heads(seed)
    detector = DetectorConfig(model=MODEL, decode=DecodeConfig(score_threshold=0.4, top_k=20, max_boxes=1000))
    found = label_kd(top_k=20).detections(HeadMaps(*(each.to(memory_format=torch.channels_last) for each in heads)))
    for frame, ours in enumerate(found):
        theirs = decode.decode(decode.Heads(*(each[frame : frame + 1].numpy() for each in heads)), detector)
        assert len(ours.labels) == len(theirs.labels) > 10
        order, wanted = (np.lexsort((each.boxes[:, 0], each.labels)) for each in (ours, theirs))
        np.testing.assert_array_equal(ours.labels[order], theirs.labels[wanted])
        np.testing.assert_allclose(ours.boxes[order], theirs.boxes[wanted], atol=1e-5)


def test_objects_are_recovered_from_targets() -> None:
    targets = truth([both(CAR_BOX, FAR_CAR), WALKER], [both_labels(CAR, CAR), OF_WALKER])
    first, second = label_kd().objects(targets, 2)
    np.testing.assert_allclose(first, both(CAR_BOX, FAR_CAR), atol=0.01)
    np.testing.assert_allclose(second, WALKER, atol=0.01)


LABEL_KD_CHANGES: dict[str, Any] = {
    "score_threshold": 0.99,
    "top_k": 1,
    "nms_iou": 1.0,
    "overlap": 0.9,
    "thresholds": {name: Thresholds(positive=0.3, negative=0.2) for name in KITTI_THRESHOLDS},
}


@pytest.mark.parametrize("field", LABEL_KD_CHANGES)
def test_every_field_of_label_kd_matters(field: str) -> None:
    near = CAR_BOX + np.array([0.6, 0, 0, 0, 0, 0, 0], np.float32)
    crowd = both(near, FAR_CAR, FAR_CAR + np.array([2.5, 0.5, 0, 0, 0, 0, 0], np.float32))
    heads = seeing([(crowd, both_labels(CAR, CAR, CAR))])
    batch = with_truth(truth([CAR_BOX], [OF_CAR]), 1)
    found = label_kd(**{field: LABEL_KD_CHANGES[field]}).targets(activations(heads), batch)
    usual = label_kd().targets(activations(heads), batch)
    assert len(usual.positives) > len(batch.targets.positives)
    assert found.positives.tolist() != usual.positives.tolist()
    assert {*LABEL_KD_CHANGES, "method", "weight"} == set(LabelKdConfig.model_fields)


def test_thresholds_have_to_fit_the_classes() -> None:
    with pytest.raises(ConfigError, match=r"thresholds are for \['Car'\].*Pedestrian"):
        label_kd(thresholds={"Car": KITTI_THRESHOLDS["Car"]})


# Teacher-guided initialisation


def random_model(config: PointPillarsConfig, seed: int) -> PointPillars:
    """A network in evaluation mode with random batch norms, whose scales differ."""
    torch.manual_seed(seed)
    model = PointPillars(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5).mul_(torch.randn_like(module.weight).sign())
                module.bias.normal_(0, 0.1)
        model.head.weight.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def cloud() -> PillarBatch:
    points = np.random.default_rng(0).uniform((0, -9.6, -2, 0), (19.2, 9.6, 1, 1), (500, 4)).astype(np.float32)
    return batch_pillars([pillarize(points, GRID)], GRID)


def outputs(model: PointPillars, cloud: PillarBatch) -> HeadMaps:
    with torch.no_grad():
        return model(cloud)  # type: ignore[no-any-return]


def slim(**fields: Any) -> PointPillarsConfig:
    return MODEL.model_copy(update=fields)


@pytest.mark.parametrize("channels", ["first", "scale"])
def test_a_student_of_the_teacher_s_size_becomes_its_teacher(channels: Any, cloud: PillarBatch) -> None:
    teacher, student = random_model(MODEL, 0), random_model(MODEL, 1)
    GuidedInit(GuidedInitConfig(channels=channels), MODEL, MODEL).initialise(student, teacher)
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(tensor, teacher.state_dict()[name], rtol=0, atol=0)
    for ours, theirs in zip(outputs(student, cloud), outputs(teacher, cloud), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


STUDENT = slim(pillar_channels=2, backbone_channels=(3, 3, 5), neck_channels=2)


def silence(teacher: PointPillars, *, first: bool) -> None:
    """Makes the channels that a student will not keep put out zero."""
    generator = torch.Generator().manual_seed(5)
    sizes = [STUDENT.pillar_channels, *np.repeat(STUDENT.backbone_channels, 2), *[STUDENT.neck_channels] * 3]
    norms = [each for each in teacher.modules() if isinstance(each, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    for norm, size in zip(norms, sizes, strict=True):
        order = torch.arange(norm.num_features) if first else torch.randperm(norm.num_features, generator=generator)
        norm.weight[order[size:]] = 0
        norm.bias[order[size:]] = 0


@pytest.mark.parametrize("channels", ["first", "scale"])
def test_channels_are_chosen_consistently_through_the_network(channels: Any, cloud: PillarBatch) -> None:
    """A teacher whose other channels are silent says what its student says, if every layer fits the next."""
    teacher, student = random_model(MODEL, 0), random_model(STUDENT, 1)
    with torch.no_grad():
        silence(teacher, first=channels == "first")
    GuidedInit(GuidedInitConfig(channels=channels), MODEL, STUDENT).initialise(student, teacher)
    for ours, theirs in zip(outputs(student, cloud), outputs(teacher, cloud), strict=True):
        assert ours.std() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_choice_of_channels_matters_and_nothing_of_the_student_remains() -> None:
    teacher = random_model(MODEL, 0)
    made = []
    for channels, seed in (("first", 1), ("first", 2), ("scale", 1)):
        student = random_model(STUDENT, seed)
        method = GuidedInit(GuidedInitConfig.model_validate({"channels": channels}), MODEL, STUDENT)
        method.initialise(student, teacher)
        made.append(student.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0]["head.weight"], made[2]["head.weight"])
    assert set(GuidedInitConfig.model_fields) == {"method", "weight", "channels"}


def test_guided_student_still_trains_and_shares_no_memory_with_its_teacher() -> None:
    teacher, student = random_model(MODEL, 0), random_model(STUDENT, 1)
    GuidedInit(GuidedInitConfig(), MODEL, STUDENT).initialise(student, teacher)
    assert all(each.requires_grad for each in student.parameters())
    before = teacher.head.weight.clone()
    with torch.no_grad():
        student.head.weight.add_(1)
    assert torch.equal(teacher.head.weight, before)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (slim(neck_channels=5), r"\(4, 4, 6, 8, 5\).*exceed the teacher's \(4, 4, 6, 8, 4\)"),
        (slim(backbone_layers=(1, 2, 1)), r"backbone_layers are \(1, 2, 1\), the teacher's \(1, 1, 1\)"),
        (slim(classes=MODEL.classes[:1]), "classes are"),
    ],
)
def test_a_student_that_is_no_part_of_the_teacher_is_refused(student: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GuidedInit(GuidedInitConfig(), MODEL, student)


def test_methods_without_a_loss_have_none() -> None:
    heads = random_heads(0)
    assert loss_of(GuidedInit(GuidedInitConfig(), MODEL, STUDENT), heads, heads).item() == 0
    batch = empty_batch(2)
    assert GuidedInit(GuidedInitConfig(), MODEL, STUDENT).targets(activations(heads), batch) is batch.targets
