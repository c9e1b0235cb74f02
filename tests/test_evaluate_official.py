"""Equality with what the official KITTI programs print for 3,769 real frames."""

import json
import math
import tarfile
from pathlib import Path

import pytest

from pd_edge.evaluate import Evaluation, Metric, Recall, evaluate
from pd_edge.kitti_labels import Label, parse_label

OFFICIAL_NAMES: dict[Recall, dict[Metric, str]] = {
    "r40": {
        "2d": "detection_AP",
        "bev": "detection_BEV_AP",
        "3d": "detection_3D_AP",
        "aos": "orientation_AOS",
        "aos_bev": "orientation_BEV_AHS",
        "aos_3d": "orientation_3D_AHS",
    },
    "r11": {"2d": "detection", "bev": "detection_ground", "3d": "detection_3d", "aos": "orientation"},
}


@pytest.fixture(scope="module")
def official(kitti_root: Path) -> tuple[Evaluation, dict[str, dict[str, list[float]]]]:
    folder = kitti_root / "eval_reference"
    truths = read_archive(folder / "val_label_2.tar.xz")
    predictions = read_archive(folder / "val_predictions_pointpillars.tar.xz")
    assert truths.keys() == predictions.keys()
    figures = json.loads((folder / "official_cpp_ap.json").read_text())
    assert len(truths) == figures["frames"]
    return evaluate(list(truths.values()), [predictions[name] for name in truths]), figures


def read_archive(path: Path) -> dict[str, list[Label]]:
    with tarfile.open(path) as archive:
        files = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    return {name: [parse_label(line, name) for line in texts[name].splitlines()] for name in sorted(texts)}


def test_every_figure_equals_the_official_one(
    official: tuple[Evaluation, dict[str, dict[str, list[float]]]],
) -> None:
    evaluation, figures = official
    compared = set()
    for result in evaluation.results:
        if result.metric in OFFICIAL_NAMES[result.recall]:
            key = f"{result.class_name.lower()}_{OFFICIAL_NAMES[result.recall][result.metric]}"
            expected = figures[result.recall.upper()][key][["easy", "moderate", "hard"].index(result.difficulty)]
            assert result.ap == pytest.approx(expected, abs=1e-4), (key, result.difficulty)
            compared.add((result.recall, key))
    assert compared == {(recall, key) for recall in ("r40", "r11") for key in figures[recall.upper()]}


def test_turns_of_the_angles_change_nothing_on_real_data(
    official: tuple[Evaluation, dict[str, dict[str, list[float]]]], kitti_root: Path
) -> None:
    truths = list(read_archive(kitti_root / "eval_reference" / "val_label_2.tar.xz").values())[:300]
    predictions = [[o._replace(score=0.5) for o in frame if o.name == "Car"] for frame in truths]
    turned = [
        [o._replace(rotation_y=o.rotation_y + 4 * math.pi, alpha=o.alpha - 2 * math.pi) for o in frame]
        for frame in predictions
    ]
    expected, actual = evaluate(truths, predictions), evaluate(truths, turned)
    for one, other in zip(expected.results, actual.results, strict=True):
        assert other.ap == pytest.approx(one.ap, abs=1e-9)
    assert actual.result("Car", "aos_3d", "hard").ap == pytest.approx(100)
