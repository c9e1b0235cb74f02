"""How good a teacher's boxes are as labels: against the true labels of the same clouds, by the upper end of the band.

python benchmarks/pseudo_labels.py training/configs/other-sensor-unlabelled.yaml --cache runs/cache \
        --json training/results/other_sensor.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from pd_edge.boxes import bev_iou, points_per_box
from pd_edge.config import GridConfig
from pd_edge.report import write_json
from pd_edge.tables import Table
from pd_edge.terminal import show
from pd_edge.training.data import FolderScenes
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.distillation import load_teacher, read_config
from pd_edge.training.unlabelled import PseudoScenes, pseudo_scenes

SAME = {"Car": 0.5, "Pedestrian": 0.3, "Cyclist": 0.3}
"""BEV IoU from which a box stands for an object."""
LEAST_POINTS = 5
"""Objects with fewer points are not asked for."""


def compare(pseudo: PseudoScenes, truth: FolderScenes, names: list[str], grid: GridConfig) -> dict[str, Any]:
    """Labels of each class, the share of them that are true, and the share of the objects that have one [%]."""
    counts = {name: np.zeros(4, int) for name in names}
    for index in range(len(pseudo)):
        found, true = pseudo[index], truth[index]
        x, y = true.boxes[:, :2].T
        above = (x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max)
        asked = above & (points_per_box(true.points, true.boxes) >= LEAST_POINTS)
        for label, name in enumerate(names):
            ours, theirs = found.labels == label, true.labels == label
            same = bev_iou(found.boxes[ours], true.boxes[theirs]) >= SAME[name]
            wanted = asked[theirs]
            counts[name] += [ours.sum(), same.any(axis=1).sum(), wanted.sum(), same.any(axis=0)[wanted].sum()]
    return {
        name: {"labels": int(n), "precision": round(100 * right / n, 1), "recall": round(100 * seen / objects, 1)}
        for name, (n, right, objects, seen) in counts.items()
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="configuration whose first source without labels has some after all")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the teacher's boxes")
    parser.add_argument("--high", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6], help="upper ends of the band")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    arguments = parser.parse_args()
    config = read_config(arguments.config, None, None)
    if config.unlabelled is None:
        parser.error(f"{arguments.config} has no section unlabelled")
    (scenes,) = pseudo_scenes(config.unlabelled, load_teacher(config.teacher, config.model), arguments.cache)
    source = config.unlabelled.sources[0]
    truth = FolderScenes(SourceConfig(root=source.path, sensor=source.sensor), config.model)
    names = [each.name for each in config.model.classes]
    folder = arguments.cache / scenes.key
    rows = {
        f"{high:g}": compare(PseudoScenes(folder, high), truth, names, config.model.grid) for high in arguments.high
    }
    lines = [
        (high, *(f"{row[name]['labels']}: {row[name]['precision']} / {row[name]['recall']}" for name in names))
        for high, row in rows.items()
    ]
    title = f"{len(scenes)} clouds: labels: precision / recall [%]"
    show(Table(title, ("high", *names), lines))
    if arguments.json:
        found = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        write_json(arguments.json, found | {"pseudo_labels": {"clouds": len(scenes), "by_high": rows}})


if __name__ == "__main__":
    main()
