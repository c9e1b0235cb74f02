r"""Models on the frames of another sensor than they were trained for, compared in pairs on the same frames.

What the README says of another sensor, with torch in float32 on one thread:

    pd-edge simulate data/sim-32 --frames 250 --seed 31 --sensor vlp-32c --mount-height 2.4
    pd-edge simulate data/sim-32-val --frames 240 --seed 1031 --config training/sim/val_set.yaml --sensor vlp-32c \
        --mount-height 2.4
    pd-edge distill training/configs/other-sensor-unlabelled.yaml --out runs/unlabelled
    pd-edge distill training/configs/other-sensor-unlabelled.yaml --high 0.4 --out runs/unlabelled-0.4
    pd-edge distill training/configs/other-sensor-pointdistiller.yaml --out runs/unlabelled-pointdistiller
    pd-edge train training/configs/other-sensor-labelled.yaml --out runs/labelled
    pd-edge train training/configs/other-sensor-fewer-beams.yaml --out runs/fewer-beams
    python benchmarks/other_sensor.py data/sim-32-val --sensor data/sim-32-val/sensor.yaml pointpillars-4x-nokd \
        pointpillars-teacher runs/unlabelled runs/unlabelled-0.4 runs/unlabelled-pointdistiller runs/labelled \
        runs/fewer-beams --json figures.json
    python benchmarks/other_sensor.py data/sim-32-val --sensor vlp-32c pointpillars-4x-nokd pointpillars-teacher \
        --json figures.json --key sim-32-val-with-the-profile-of-1.8-m
    python benchmarks/other_sensor.py data/kitti/object --beams 2 pointpillars-4x-nokd runs/labelled runs/fewer-beams \
        --json figures.json --key kitti-every-2nd-beam
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch

from pd_edge.batch import BatchResult, detect_batch
from pd_edge.bundle import find_model, shipped_models
from pd_edge.compare_ap import loss_interval, measure_ap
from pd_edge.config import GridConfig
from pd_edge.detector import Detector
from pd_edge.kitti import Dataset, Frame, ObjectDataset
from pd_edge.report import write_json
from pd_edge.revised import Revised, WithinGrid
from pd_edge.runtimes.torch import ModuleRuntime
from pd_edge.sensors import SensorProfile, load_profile
from pd_edge.tables import Table
from pd_edge.terminal import show
from pd_edge.training.checkpoint import load_model
from pd_edge.training.sim.beams import nearest_beam
from pd_edge.training.validate import InMemory

GRID = GridConfig(x_max=35.84, y_min=-17.92, y_max=17.92)
"""The reduced setting of the studies: a fifth of the ground."""


class Thinned(Revised):
    """Frames of an HDL-64E with every so-many-th of its beams."""

    def __init__(self, dataset: Dataset, every: int) -> None:
        super().__init__(dataset)
        self._every = every

    def revise(self, frame: Frame) -> Frame:
        """The frame with the points of the beams that are left."""
        return frame._replace(points=frame.points[nearest_beam(frame.points) % self._every == 0])


def detected(model: str, frames: Dataset, profile: SensorProfile) -> BatchResult:
    """What a model, laid out on the reduced grid, finds in the frames."""
    network, config = load_model(find_model(model) if model in shipped_models() else Path(model))
    config = config.model_copy(update={"model": config.model.model_copy(update={"grid": GRID})})
    network.config = config.model
    detector = Detector(InMemory(model, config, network.fold_encoder()), ModuleRuntime(network), profile.only_mount())
    return detect_batch(detector, WithinGrid(frames, GRID, profile), crop=True)


def measured(models: list[str], frames: Dataset, profile: SensorProfile) -> dict[str, Any]:
    """AP R40, moderate [%], of each model, and its gain over the first with the 95 % interval over the frames."""
    rows: dict[str, Any] = {}
    results = {}
    for model in models:
        start = time.monotonic()
        result = detected(model, frames, profile)
        results[model] = measure_ap(result)
        evaluation = result.complete_evaluation()
        found = {
            metric: {name: round(evaluation.result(name, metric, "moderate").ap, 2) for name in evaluation.classes}
            for metric in ("3d", "bev")
        }
        first = results[models[0]]
        low, high = loss_interval(first, results[model])  # what the first loses is gained
        rows[Path(model).name] = {
            **found,
            "objects": {name: evaluation.result(name, "3d", "moderate").objects for name in evaluation.classes},
            "compared_classes": sorted(results[model].classes),
            "mean_3d": round(results[model].mean, 2),
            "gain_3d": round(results[model].mean - first.mean, 2),
            "gain_interval": [round(low, 2), round(high, 2)],
            "seconds": round(time.monotonic() - start, 1),
        }
    return rows


def table(rows: dict[str, Any], title: str) -> Table:
    """The figures for the terminal."""
    lines = [
        (
            name,
            *(f"{row['3d'][each]:.1f} / {row['bev'][each]:.1f}" for each in row["3d"]),
            "-" if math.isnan(row["mean_3d"]) else f"{row['mean_3d']:.1f}",
            f"{row['gain_3d']:+.1f} ({row['gain_interval'][0]:+.1f} .. {row['gain_interval'][1]:+.1f})",
        )
        for name, row in rows.items()
    ]
    classes = next(iter(rows.values()))["3d"]
    return Table(title, ("model", *(f"{each} 3D / BEV" for each in classes), "mean 3D", "gain over the first"), lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="KITTI object folder; its list val where there is one")
    parser.add_argument("models", nargs="+", help="names, model folders or runs; the first is what others gain over")
    parser.add_argument("--sensor", default="", help="sensor profile of the data")
    parser.add_argument("--beams", type=int, default=1, help="take every so-many-th beam of an HDL-64E")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    parser.add_argument("--key", default="", help="their name in it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    profile = load_profile(arguments.sensor)
    frames: Dataset = ObjectDataset(arguments.data, "val", sensor=profile)
    if arguments.beams > 1:
        frames = Thinned(frames, arguments.beams)
    rows = measured(arguments.models, frames, profile)
    name = arguments.key or arguments.data.name
    show(table(rows, f"{name}: {len(frames)} frames, AP R40, moderate [%]"))
    if arguments.json:
        found = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        found[name] = {
            "frames": len(frames),
            "grid": GRID.model_dump(),
            "every_beam": arguments.beams,
            "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread",
            "models": rows,
        }
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
