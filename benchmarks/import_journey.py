"""The way of a teacher from OpenPCDet to the engine of its student, with the AP at every station.

    python benchmarks/import_journey.py OUT [--samples 4000] [--json training/results/import_journey.json]

No published checkpoint belongs to this project, so a stand-in is trained first: the network as OpenPCDet defines it
(zeros behind a pillar's points take part in the maximum, anchors stand from edge to edge of the range), from the
shipped teacher's weights, saved in OpenPCDet's layout. From there on the way is a user's: ``pd-edge import``,
``distill``, ``bundle``, ``export``, ``build``, each run as a command. What exists in OUT is not made again.

The setting is reduced as in the studies: a fifth of the ground, few samples. Objects beyond the grid count neither way.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pd_edge.batch import detect_batch
from pd_edge.config import DetectorConfig, ModelConfig
from pd_edge.detector import load
from pd_edge.engines.onnx_export import export_bundle
from pd_edge.kitti import ObjectDataset
from pd_edge.report import write_json
from pd_edge.revised import WithinGrid
from pd_edge.training.checkpoint import load_model
from pd_edge.training.config import TrainConfig
from pd_edge.training.importers.openpcdet import KITTI, NAMES
from pd_edge.training.loop import train
from pd_edge.training.network import BOX_CODE, DIRECTION_BINS
from pd_edge.training.pointpillars import PillarBatch, PillarFeatureNet
from pd_edge.training.run_log import versions

Forward = Callable[[PillarFeatureNet, PillarBatch], Tensor]
GRID = {"x_max": 35.84, "y_min": -17.92, "y_max": 17.92}
ANCHOR_RANGE = (0.0, -17.92, 35.84, 17.92)
SOURCES = [
    {"root": "data/sim-train", "split": "train", "weight": 0.6},
    {"root": "data/kitti/object", "split": "train", "weight": 0.4},
]
VAL = {"simulated": "data/sim-val", "real": "data/kitti/object"}
RUN = "pcdet-run"
TEACHER = "pd_edge/weights/pointpillars-teacher"


def main() -> None:
    """Goes the way and prints a line for each station."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    out: Path = options.out
    start = time.monotonic()
    checkpoint, config = stand_in(out, options.samples, options.cache)
    teacher, student, engine = out / "pcdet", out / "student-4x", out / "student-4x-engine"
    if not teacher.exists():
        pd_edge("import", "openpcdet", checkpoint, teacher, "--config", config)
    if not student.exists():
        recipe = out / "student.yaml"
        given = yaml.safe_load((teacher / "student-4x.yaml").read_text())
        distillation = {"method": "pointdistiller", "weight": 5, "start": "teacher"}
        changed = {"samples": options.samples, "distillation": distillation}
        recipe.write_text(yaml.safe_dump(given | changed, sort_keys=False))
        cache = [] if options.cache is None else ["--cache", options.cache]
        resume = ["--resume"] if (out / "run").exists() else []
        pd_edge("distill", recipe, "--out", out / "run", *cache, *resume)
        pd_edge("bundle", out / "run", student)
    if not engine.exists():
        pd_edge("export", student, out / "student.onnx", "--form", "plain")
        pd_edge("build", out / "student.onnx", "--runtime", "onnxruntime", "--out", engine)
    stations = {
        "the weights under our names alone": renamed_only(out),
        "pd-edge import": teacher,
        "student of half the channels": student,
        "its engine, ONNX Runtime": engine,
    }
    rows = {name: average_precision(folder) for name, folder in stations.items()}
    for name, row in rows.items():
        print(f"{name:40}" + "".join(f"{key} {value:6.1f}   " for key, value in row.items()))
    if options.json is not None:
        found = {"samples": options.samples, "grid": GRID, "hours": (time.monotonic() - start) / 3600}
        write_json(options.json, found | {"ap": rows, "ran": versions()})


def pd_edge(*arguments: object) -> None:
    """Runs the command line, as a user does."""
    line = ["pd-edge", *map(str, arguments)]
    print("$", *line, flush=True)
    subprocess.run([sys.executable, "-m", "pd_edge", *line[1:]], check=True)  # noqa: S603 - our own command line


def stand_in(out: Path, samples: int, cache: Path | None) -> tuple[Path, Path]:
    """A checkpoint in OpenPCDet's layout and its YAML file."""
    checkpoint, config = out / "pointpillar.pth", out / "pointpillar.yaml"
    if not checkpoint.exists():
        model, _ = load_model(Path(TEACHER))
        fields = model.config.model_dump() | {"anchor_range": ANCHOR_RANGE}
        fields["grid"] |= GRID
        settings = {"model": fields, "data": {"sources": SOURCES}, "samples": samples, "init": TEACHER}
        PillarFeatureNet.forward = padded(PillarFeatureNet.forward)  # type: ignore[method-assign, assignment]
        trained, _ = load_model(train(TrainConfig.model_validate(settings), out / RUN, cache=cache))
        torch.save({"model_state": foreign_names(trained.state_dict(), trained.config)}, checkpoint)
    config.write_text(yaml.safe_dump(foreign_config()))
    return checkpoint, config


def padded(
    forward: Callable[[PillarFeatureNet, PillarBatch], Tensor],
) -> Callable[[PillarFeatureNet, PillarBatch], Tensor]:
    """The pillar layer as hard voxelization feeds it: with a zero point in every pillar.

    A pillar of 32 points and more has none there; how many zeros follow fewer points changes nothing but the weight
    that they have in the batch norm's statistics.
    """

    def with_zeros(net: PillarFeatureNet, batch: PillarBatch) -> Tensor:
        pillars = len(batch.cells)
        zeros = batch.features.new_zeros((pillars, batch.features.shape[1]))
        owner = torch.arange(pillars, dtype=batch.pillar.dtype, device=batch.pillar.device)
        features, pillar = torch.cat([batch.features, zeros]), torch.cat([batch.pillar, owner])
        return forward(net, batch._replace(features=features, pillar=pillar))

    return with_zeros


def foreign_names(state: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Our weights under OpenPCDet's names; all but the heads' are of the same shapes."""
    found = {name.replace("pillar_net", NAMES.pillar_net): each for name, each in state.items() if "pillar_net" in name}
    for stage, layers in enumerate(model.backbone_layers):
        for layer in range(layers + 1):
            place = NAMES.first + 3 * layer
            found |= block(state, f"backbone.stages.{stage}.{layer}", f"{NAMES.stages}.{stage}", place)
        found |= block(state, f"neck.upsamplings.{stage}", f"{NAMES.upsamplings}.{stage}", 0)
    anchors = 2 * len(model.classes)
    widths = [anchors * size for size in (len(model.classes), BOX_CODE, DIRECTION_BINS)]
    for kind in ("weight", "bias"):
        parts = torch.split(state[f"head.{kind}"], widths)
        found |= {f"{name}.{kind}": part.clone() for name, part in zip(NAMES.heads, parts, strict=True)}
    return found


def block(state: dict[str, Tensor], ours: str, theirs: str, place: int) -> dict[str, Tensor]:
    """A convolution and the batch norm behind it, which stand at two places of a sequence there."""
    return {
        name.replace(f"{ours}.conv", f"{theirs}.{place}").replace(f"{ours}.norm", f"{theirs}.{place + 1}"): each
        for name, each in state.items()
        if name.startswith(f"{ours}.")
    }


def foreign_config() -> dict[str, Any]:
    """OpenPCDet's configuration for KITTI on the reduced grid, its second anchor at a right angle exactly."""
    config: dict[str, Any] = json.loads(json.dumps(KITTI))
    x_first, y_first, x_last, y_last = ANCHOR_RANGE
    config["DATA_CONFIG"]["POINT_CLOUD_RANGE"] = [x_first, y_first, -3.0, x_last, y_last, 1.0]
    for anchor in config["MODEL"]["DENSE_HEAD"]["ANCHOR_GENERATOR_CONFIG"]:
        anchor["anchor_rotations"] = [0.0, math.pi / 2]
    return config


def renamed_only(out: Path) -> Path:
    """The stand-in as a model folder whose weights got our names and nothing else: no padding, our anchors."""
    folder = out / "renamed"
    if not folder.exists():
        model, detector = load_model(out / RUN)
        usual = model.config.model_copy(update={"anchor_range": None})
        model.config = usual
        export_bundle(model, DetectorConfig(model=usual, decode=detector.decode), folder)
    return folder


def average_precision(folder: Path) -> dict[str, float]:
    """AP R40 [%], moderate: 3D mAP on the simulated val set, Car 3D and BEV on the real one."""
    detector = load(folder)
    grid = detector.config.model.grid
    found = {
        key: detect_batch(detector, WithinGrid(ObjectDataset(root, "val"), grid), crop=True).complete_evaluation()
        for key, root in VAL.items()
    }
    return {
        "mAP 3D, simulated": found["simulated"].mean("3d", "moderate"),
        "Car 3D, real": found["real"].result("Car", "3d", "moderate").ap,
        "Car BEV, real": found["real"].result("Car", "bev", "moderate").ap,
    }


if __name__ == "__main__":
    main()
