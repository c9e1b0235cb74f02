"""From another project's checkpoint to a model folder of this one, and the configuration of a student beside it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml

from pd_edge.bundle import Bundle
from pd_edge.config import DetectorConfig, parse_config
from pd_edge.engines.onnx_export import check_finite, export_bundle
from pd_edge.engines.onnx_graph import StoredAs
from pd_edge.errors import ConfigError
from pd_edge.files import write_bytes
from pd_edge.report import write_json
from pd_edge.training.config import Thresholds
from pd_edge.training.distillation import DistillConfig
from pd_edge.training.importers import mmdet3d, openpcdet
from pd_edge.training.importers.checkpoint_file import ForeignCheckpoint, read_checkpoint
from pd_edge.training.importers.convert import Converted, convert
from pd_edge.training.importers.foreign import Described, Names

PROJECTS: dict[str, Callable[[ForeignCheckpoint, Path | None], tuple[Described, Names]]] = {
    "openpcdet": openpcdet.describe,
    "mmdet3d": mmdet3d.describe,
}
RECORD, STUDENT = "import.json", "student-4x.yaml"
_STUDENT_HEAD = """# Half the channels of the imported teacher, a quarter of its work; replace the data by your own.
# pd-edge simulate data/sim-train --frames 4000 --seed 1
# pd-edge distill {config} --out runs/{name}-4x
"""
_KEPT = f"{STUDENT} was there, perhaps with your data in it, and is kept; remove it for a new one"


class Imported(NamedTuple):
    """What an import made.

    Attributes:
        bundle: The model folder.
        student: The configuration of a student of half its channels.
        notes: What the user should know.
    """

    bundle: Bundle
    student: Path
    notes: tuple[str, ...]


def import_model(
    project: str,
    checkpoint: Path,
    out: Path,
    config: Path | None = None,
    weights: StoredAs = "fp32",
    *,
    intensity_max: float = 1.0,
) -> Imported:
    """Makes a model folder of a PointPillars checkpoint of OpenPCDet or mmdetection3d.

    Args:
        project: ``openpcdet`` or ``mmdet3d``.
        checkpoint: The checkpoint file; none of its pickled code is run.
        out: The model folder; its name becomes the model's.
        config: The project's configuration of this detector; None for the one in the checkpoint, else for KITTI's.
        weights: Precision in which the convolution weights are stored; fp32 changes nothing.
        intensity_max: Greatest intensity of the points that it was trained with, such as 255; here it is 1.

    Raises:
        ConfigError: The project is unknown, the intensity is not above 0, or the configuration cannot be read or
            expressed.
        DataError: A file cannot be read or written.
        EngineError: The checkpoint needs code to be read, or holds another network.
    """
    if project not in PROJECTS:
        raise ConfigError(f"project {project!r} is unknown; use one of {', '.join(PROJECTS)}")
    if not 0 < intensity_max < math.inf:
        raise ConfigError(
            f"intensity_max {intensity_max:g}: expected more than 0, such as 255 for intensities of 0..255"
        )
    foreign = read_checkpoint(checkpoint)
    described, names = PROJECTS[project](foreign, config)
    converted = convert(foreign, names, described._replace(intensity_max=intensity_max))
    check_finite(converted.model)
    detector = DetectorConfig(model=converted.model.config, decode=described.decode)
    bundle = export_bundle(converted.model, detector, out, weights)
    kept = (out / STUDENT).is_file()
    notes = (*described.notes, *_notes(converted), *([_KEPT] if kept else []))
    write_json(
        out / RECORD,
        {
            "project": project,
            "checkpoint": checkpoint.name,
            "sha256": foreign.sha256,
            "configuration": described.source if config is None else config.name,
            "intensity_max": intensity_max,
            "notes": notes,
        },
    )
    if not kept:
        _write_student(out, described, converted)
    return Imported(bundle, out / STUDENT, notes)


def _notes(converted: Converted) -> tuple[str, ...]:
    """What is different in the network, in words."""
    model, notes = converted.model.config, []
    if converted.padded:
        notes.append(
            f"the padding of hard voxelization is carried by canvas channel {model.pillar_channels}; pillars of 32 and "
            "more points keep all of them, where the original dropped some"
        )
    if model.anchor_range is not None:
        notes.append("anchors are spread over the range, as they were trained; a student has to take the same grid")
    return tuple(notes)


def _write_student(out: Path, described: Described, converted: Converted) -> None:
    """Writes the configuration of a student with half the teacher's channels; data as for the shipped students."""
    recipe = _student(out, described, converted)
    path = out / STUDENT
    text = yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    write_bytes(path, (_STUDENT_HEAD.format(config=path, name=out.name) + text).encode())


def _student(out: Path, described: Described, converted: Converted) -> DistillConfig:
    model = converted.model.config
    halved = {
        "pillar_channels": max(1, (model.pillar_channels - converted.padded) // 2),
        "backbone_channels": tuple(max(1, each // 2) for each in model.backbone_channels),
        "neck_channels": max(1, model.neck_channels // 2),
    }
    return parse_config(
        {
            "model": {**model.model_dump(), **halved},
            "data": {
                "sources": [
                    {"root": "data/sim-train", "split": "train", "weight": 0.6},
                    {"root": "data/kitti/object", "split": "train", "weight": 0.4},
                ]
            },
            "thresholds": {
                each.name: Thresholds(positive=each.positive, negative=each.negative) for each in described.classes
            },
            "samples": 40000,
            "teacher": out,
        },
        DistillConfig,
        described.source,
    )
