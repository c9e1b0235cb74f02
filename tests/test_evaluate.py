"""Average precision, rule by rule on scenes small enough to count by hand."""

import json
import math

import numpy as np
import pytest

from pd_edge.errors import ConfigError, DataError
from pd_edge.evaluate import Metric, bootstrap, evaluate
from pd_edge.evaluate_curves import ceiling
from pd_edge.kitti_labels import Label

Frames = list[list[Label]]


def label(name: str = "Car", score: float | None = None, x: float = 0.0, **changes: object) -> Label:
    """A car-sized object 20 m ahead, x metres to the right; 100 x 60 px, 30 px to the right per metre."""
    made = Label(
        name=name,
        truncation=0.0,
        occlusion=0,
        alpha=0.1,
        bbox=(500 + 30 * x, 150.0, 600 + 30 * x, 210.0),
        height=1.5,
        width=1.6,
        length=4.0,
        location=(x, 1.6, 20.0),
        rotation_y=0.2,
        score=score,
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def found(truth: Label, score: float) -> Label:
    """A perfect detection of the object."""
    return truth._replace(score=score, truncation=-1.0, occlusion=-1)


def high(pixels: float) -> tuple[float, float, float, float]:
    """An image box of this height."""
    return (500.0, 150.0, 600.0, 150.0 + pixels)


def ap(truths: Frames, predictions: Frames, metric: Metric = "3d", difficulty: str = "easy") -> float:
    """AP R11 of Car: the convention that gives a single object more than 0."""
    return evaluate(truths, predictions).result("Car", metric, difficulty, "r11").ap


@pytest.mark.parametrize("count", [1, 2, 3, 11, 34, 40, 41, 100])
def test_a_perfect_detector_reaches_the_ceiling(count: int) -> None:
    truths = [[label(x=8.0 * k) for k in range(count)]]
    predictions = [[found(o, 1 - k / 1000) for k, o in enumerate(truths[0])]]
    evaluation = evaluate(truths, predictions)
    assert evaluation.metrics == ("2d", "aos", "bev", "aos_bev", "3d", "aos_3d")
    for result in evaluation.results:
        if result.class_name == "Car":
            assert result.objects == count
            assert result.ap == pytest.approx(result.ceiling)


def test_ceilings() -> None:
    assert [ceiling(n, "r40") for n in (0, 1, 3, 11, 34, 40, 41)] == pytest.approx([0, 0, 5, 25, 82.5, 97.5, 100])
    assert [ceiling(n, "r11") for n in (0, 1, 4, 5, 40, 41)] == pytest.approx(np.array([0, 1, 1, 2, 10, 11]) / 0.11)


def test_a_false_positive_above_the_true_one_halves_precision() -> None:
    truth = label()
    wrong, right = label(x=10.0, score=0.9), found(truth, 0.5)
    assert ap([[truth]], [[wrong, right]]) == pytest.approx(50 / 11)
    assert ap([[truth]], [[wrong._replace(score=0.1), right]]) == pytest.approx(100 / 11)
    assert ap([[truth], []], [[right], [wrong]]) == pytest.approx(50 / 11)


def test_dont_care_regions_excuse_false_positives_in_the_image_only() -> None:
    truth = label()
    wrong = label(x=10.0, score=0.9)
    region = label("DontCare", bbox=wrong.bbox, location=(-1000.0,) * 3, height=-1.0, width=-1.0, length=-1.0)
    frames = [[truth, region]], [[wrong, found(truth, 0.5)]]
    assert ap(*frames, metric="2d") == pytest.approx(100 / 11)
    assert ap(*frames, metric="3d") == pytest.approx(50 / 11)


@pytest.mark.parametrize(
    "neighbour",
    [
        label("Van", x=10.0),
        label(x=10.0, occlusion=3),
        label(x=10.0, truncation=0.6),
        label(x=10.0, bbox=(800.0, 150.0, 900.0, 174.0)),
    ],
    ids=["van", "occluded", "truncated", "low"],
)
def test_objects_that_do_not_count_are_neither_missed_nor_false(neighbour: Label) -> None:
    truth = label()
    evaluation = evaluate([[truth, neighbour]], [[found(truth, 0.5)]])
    assert evaluation.result("Car", "3d", "hard").objects == 1
    tall = neighbour._replace(bbox=(800.0, 150.0, 900.0, 210.0))
    for metric in ("bev", "3d"):
        assert ap([[truth, neighbour]], [[found(truth, 0.5)]], metric) == pytest.approx(100 / 11)
        assert ap([[truth, neighbour]], [[found(tall, 0.9)._replace(name="Car"), found(truth, 0.5)]], metric) == (
            pytest.approx(100 / 11)
        )
    assert ap([[truth, label("Truck", x=10.0)]], [[label(x=10.0, score=0.9), found(truth, 0.5)]]) == (
        pytest.approx(50 / 11)
    )


def test_a_sitting_person_is_no_false_pedestrian() -> None:
    walking, sitting = label("Pedestrian"), label("Person_sitting", x=10.0)
    predictions = [[found(sitting, 0.9)._replace(name="Pedestrian"), found(walking, 0.5)]]
    result = evaluate([[walking, sitting]], predictions).result("Pedestrian", "3d", "easy", "r11")
    assert result.ap == pytest.approx(100 / 11)
    assert result.objects == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"occlusion": 0}, [1, 1, 1]),
        ({"occlusion": 1}, [0, 1, 1]),
        ({"occlusion": 2}, [0, 0, 1]),
        ({"occlusion": 3}, [0, 0, 0]),
        ({"occlusion": -1}, [1, 1, 1]),
        ({"truncation": 0.15}, [1, 1, 1]),
        ({"truncation": 0.3}, [0, 1, 1]),
        ({"truncation": 0.5}, [0, 0, 1]),
        ({"truncation": 0.51}, [0, 0, 0]),
        ({"bbox": high(40.01)}, [1, 1, 1]),
        ({"bbox": high(39.9)}, [0, 1, 1]),
        ({"bbox": high(24.9)}, [0, 0, 0]),
        ({"name": "CAR"}, [1, 1, 1]),
    ],
)
def test_which_objects_count(changes: dict[str, object], expected: list[int]) -> None:
    evaluation = evaluate([[label()._replace(**changes)]], [[]])  # type: ignore[arg-type]
    levels = ("easy", "moderate", "hard")
    assert [evaluation.result("Car", "2d", level).objects for level in levels] == expected
    assert [evaluation.result("Car", "2d", level, "r11").objects for level in levels] == expected


def test_the_least_height_itself_counts_for_r11_only() -> None:
    evaluation = evaluate([[label(bbox=high(40.0)), label(x=9.0, bbox=high(25.0))]], [[]])
    assert [evaluation.result("Car", "3d", level, "r40").objects for level in ("easy", "hard")] == [0, 1]
    assert [evaluation.result("Car", "3d", level, "r11").objects for level in ("easy", "hard")] == [1, 2]


def test_detections_count_from_the_least_height_on() -> None:
    truth = label()
    for pixels, expected in ((40.0, 50), (39.99, 100)):
        wrong = label(x=10.0, score=0.9, bbox=high(pixels))
        assert ap([[truth]], [[wrong, found(truth, 0.5)]]) == pytest.approx(expected / 11)


def test_the_overlap_has_to_be_exceeded() -> None:
    truth, half = label(bbox=(500.0, 150.0, 600.0, 250.0)), (500.0, 150.0, 550.0, 250.0)
    for least, expected in ((0.5, 0), (0.499, 100)):
        evaluation = evaluate([[truth]], [[found(truth, 0.9)._replace(bbox=half)]], {"Car": least})
        assert evaluation.result("Car", "2d", "easy", "r11").ap == pytest.approx(expected / 11)


def test_a_detection_of_another_class_never_counts() -> None:
    truth = label()
    assert ap([[truth]], [[found(truth, 0.9)._replace(name="Cyclist")]]) == 0
    assert ap([[truth]], [[label("Cyclist", score=0.9, x=10.0), found(truth, 0.5)]]) == pytest.approx(100 / 11)


def test_orientation_is_the_mean_cosine_and_needs_alpha() -> None:
    truth = label()
    backwards = found(truth, 0.9)._replace(alpha=truth.alpha + np.pi, rotation_y=truth.rotation_y + np.pi / 2)
    evaluation = evaluate([[truth]], [[backwards]], {"Car": 0.2})
    assert evaluation.result("Car", "2d", "easy", "r11").ap == pytest.approx(100 / 11)
    assert evaluation.result("Car", "aos", "easy", "r11").ap == pytest.approx(0)
    assert evaluation.result("Car", "aos_bev", "easy", "r11").ap == pytest.approx(50 / 11)
    without = evaluate([[truth]], [[backwards._replace(alpha=-10.0)]])
    assert without.metrics == ("2d", "bev", "3d")
    with pytest.raises(DataError, match="no AP of Car aos easy r40; there is Car"):
        without.result("Car", "aos", "easy")


def test_boxes_not_given_are_evaluated_in_the_image_alone() -> None:
    truth = label()
    flat = found(truth, 0.9)._replace(height=-1.0, width=-1.0, length=-1.0, location=(-1000.0,) * 3)
    assert ap([[truth]], [[flat]], "2d") == pytest.approx(100 / 11)
    assert ap([[truth]], [[flat]], "bev") == 0


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_empty_frames(frames: int) -> None:
    evaluation = evaluate([[] for _ in range(frames)], [[] for _ in range(frames)])
    assert evaluation.frames == frames
    assert {(r.ap, r.objects, r.ceiling) for r in evaluation.results} == {(0.0, 0, 0.0)}
    assert math.isnan(evaluation.mean("3d", "moderate"))


def test_mean_is_over_the_classes_that_have_objects() -> None:
    cars, people = [label(), label(x=8.0)], [label("Pedestrian", x=20.0)]
    evaluation = evaluate([cars + people], [[found(o, 0.9) for o in cars]])
    assert evaluation.mean("3d", "easy", "r11") == pytest.approx(100 / 11 / 2)
    assert evaluation.mean("3d", "easy") == pytest.approx(2.5 / 2)


def test_table_is_plain_data() -> None:
    evaluation = evaluate([[label()]], [[label(score=0.5)]], {"Car": 0.7})
    table = json.loads(json.dumps(evaluation.to_dict()))
    assert table["frames"] == 1
    assert len(table["results"]) == 6 * 3 * 2
    first = {"class_name": "Car", "metric": "2d", "difficulty": "easy", "recall": "r40"}
    assert table["results"][0] == first | {"ap": 0.0, "objects": 1, "ceiling": 0.0}


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="2 frames of ground truth but 1 of predictions"):
        evaluate([[], []], [[]])
    with pytest.raises(DataError, match="predictions, frame 1: a Car has no score"):
        evaluate([[], []], [[], [label()]])
    with pytest.raises(DataError, match=r"predictions, frame 1: .*not finite"):
        evaluate([[], []], [[], [label(score=math.nan)]])
    with pytest.raises(DataError, match=r"ground truth, frame 0: .*not finite"):
        evaluate([[label(rotation_y=math.inf)]], [[]])
    with pytest.raises(ConfigError, match="min_overlap of Car is 70"):
        evaluate([[]], [[]], {"Car": 70})
    with pytest.raises(ConfigError, match="names no class"):
        evaluate([[]], [[]], {})


def test_one_frame_leaves_nothing_to_chance() -> None:
    truths = [[label(), label(x=8.0)]]
    evaluation = evaluate(truths, [[found(o, 0.9) for o in truths[0]]])
    result = evaluation.result("Car", "3d", "easy")
    drawn = bootstrap(evaluation, resamples=10)
    assert drawn.interval("Car", "3d", "easy") == (result.ap, result.ap)
    assert drawn.mean_interval("3d", "easy") == (result.ap, result.ap)


def test_classes_without_objects_have_no_interval() -> None:
    drawn = bootstrap(evaluate([[label()]], [[]]), resamples=10)
    assert all(math.isnan(end) for end in drawn.interval("Cyclist", "3d", "easy"))
    assert drawn.interval("Car", "3d", "easy") == (0.0, 0.0)
    with pytest.raises(DataError, match="no samples of Tram 3d easy r40; the evaluation has Car, Pedestrian, Cyclist"):
        drawn.interval("Tram", "3d", "easy")


def test_bootstrap_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ConfigError, match="no frames"):
        bootstrap(evaluate([], []))
    evaluation = evaluate([[label()]], [[]])
    for resamples, confidence in ((0, 0.95), (10, 1.0), (10, 0.0)):
        with pytest.raises(ConfigError, match="expected at least 1, and a share between 0 and 1"):
            bootstrap(evaluation, resamples, 0, confidence)
