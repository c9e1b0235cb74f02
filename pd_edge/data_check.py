"""``pd-edge data check`` as a function: is own data what the layout says, and does the model to be trained fit it?"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pd_edge.config import ClassConfig, DetectorConfig, GridConfig, parse_config, read_yaml
from pd_edge.doctor import diagnose
from pd_edge.doctor_evidence import Finding
from pd_edge.doctor_reference import reference
from pd_edge.doctor_report import finding_lines
from pd_edge.doctor_sources import sample_of
from pd_edge.errors import ConfigError, DataError
from pd_edge.label_checks import check_bottoms, check_degrees, check_heading, check_place, check_sizes
from pd_edge.label_checks_model import (
    anchor_lines,
    check_anchors,
    check_classes,
    check_duplicates,
    check_empty,
    check_heights,
    check_range,
    suggested,
)
from pd_edge.label_evidence import LabelEvidence, Labelled, Wanted, labelled
from pd_edge.own_data import LABELS, POINTS, OwnDataset, is_own_layout, placed
from pd_edge.pictures import Overlay, draw_bird_eye, extent_of
from pd_edge.tables import Table

FIRST = (check_place, check_degrees, check_heading, check_bottoms, check_sizes)
"""Checks whose findings say how to mend the boxes, each of which relies on those before."""
THEN = (check_classes, check_empty, check_range, check_heights, check_duplicates, check_anchors)
CLOUDS = 5
"""Clouds that the doctor looks at."""


class DataReport(NamedTuple):
    """What was found.

    Attributes:
        source: The folder.
        frames: Frames looked at.
        labelled: Those of them with a label file.
        objects: One row a class: class, objects, without points, beyond the grid, points in the median box.
        findings: In the order of the checks.
        classes: Classes with the anchors that fit the labels, mended as the findings say.
        pictures: What was drawn.
    """

    source: str
    frames: int
    labelled: int
    objects: list[tuple[str, int, int, int, float]]
    findings: list[Finding]
    classes: list[ClassConfig]
    pictures: list[Path]


def wanted_from(config: Path | None) -> Wanted:
    """What a training configuration or a model's ``detector.yaml`` says of grid and classes; the shipped grid without.

    Raises:
        ConfigError: It is missing, has no ``model``, or that is wrong.
    """
    if config is None:
        return Wanted(GridConfig())
    data = read_yaml(config)
    if "model" not in data:
        raise ConfigError(f"{config}: no `model`; give a training configuration or a detector.yaml")
    model = parse_config({"model": data["model"]}, DetectorConfig, str(config)).model
    return Wanted(model.grid, model.classes)


def check_data(
    folder: Path,
    wanted: Wanted,
    most: int = 200,
    out: Path | None = None,
    *,
    pictures: int = 3,
    advance: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Checks a folder of own data.

    Args:
        folder: The folder.
        wanted: The model that is to be trained.
        most: Frames to look at, spread over all.
        out: Folder for pictures; none when left out.
        pictures: How many frames to draw.
        advance: Called with the frames read and the frames wanted, after each.

    Raises:
        DataError: It is no folder of own data, or none of its clouds can be read.
        ConfigError: ``dataset.yaml`` is wrong.
        MissingExtraError: Pictures are wanted, but matplotlib is not installed.
    """
    if not is_own_layout(folder):
        raise DataError(f"{folder}: no own data: there is no folder {POINTS} with clouds in it; see `Your own data`")
    data = OwnDataset(folder)
    findings, _ = diagnose(sample_of(folder / POINTS, data.profile, CLOUDS), data.profile, wanted.grid, reference())
    places = np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int).tolist()
    frames, broken = _read(data, [data.ids[place] for place in places], advance)
    read = LabelEvidence(frames, data.mount, wanted)
    found, evidence = _go_through(read)
    drawn = [] if out is None else _draw(out, data, read, evidence, pictures)
    findings += [*broken, *_unlabelled(data, len(frames), len(places)), *found]
    rows = _rows(evidence)
    return DataReport(str(folder), len(places), len(frames), rows, findings, suggested(evidence), drawn)


def lines(report: DataReport) -> Iterator[str]:
    """Findings and suggestions as lines of text."""
    for each in report.findings:
        yield from finding_lines(each)
    if not report.findings:
        yield f"nothing is wrong with {report.frames} frames of {report.source}"
    if report.classes:
        yield "anchors that fit the labels, for a training configuration:"
        yield ""
        yield from anchor_lines(report.classes)


def objects_table(report: DataReport) -> Table:
    """Objects by class."""
    rows = [(name, *map(str, counts), f"{points:.0f}") for name, *counts, points in report.objects]
    title = f"Objects in {report.labelled} labelled of {report.frames} frames"
    return Table(title, ("class", "objects", "without points", "beyond the grid", "median points"), rows)


def data_json(report: DataReport) -> dict[str, Any]:
    """The report as plain data; see ``pd-edge data check --help``."""
    keys = ("class", "objects", "without_points", "beyond_grid", "median_points")
    return {
        "source": report.source,
        "frames": report.frames,
        "labelled": report.labelled,
        "objects": [dict(zip(keys, row, strict=True)) for row in report.objects],
        "findings": [each._asdict() for each in report.findings],
        "classes": [each.model_dump(mode="json") for each in report.classes],
        "pictures": [str(each) for each in report.pictures],
    }


def _read(
    data: OwnDataset, names: Sequence[str], advance: Callable[[int, int], None] | None
) -> tuple[list[Labelled], list[Finding]]:
    """The labelled frames, and what is to be said of those that cannot be read."""
    frames: list[Labelled] = []
    broken: list[str] = []
    up = int(np.argmax(np.abs(data.mount.to_model[2, :3])))
    for done, name in enumerate(names, 1):
        try:
            objects = data.objects(name)
            if objects is not None:
                meant = objects.meant()
                frames.append(labelled(name, data.cloud(name).points, meant.boxes, meant.names, up))
        except DataError as error:
            broken.append(str(error))
        if advance is not None:
            advance(done, len(names))
    if not broken:
        return frames, []
    finding = Finding(
        "reading",
        f"{len(broken)} of {len(names)} frames cannot be read: {broken[0]}",
        "every frame readable",
        "training stops at the first of them",
        "what the message says; or leave the frame out of the lists in splits",
        blocks=True,
        change={},
    )
    return frames, [finding]


def _unlabelled(data: OwnDataset, labelled_frames: int, looked_at: int) -> list[Finding]:
    """Frames without label files, and label files without a cloud."""
    folder = data.folder / LABELS
    labels = {file.stem for file in folder.iterdir() if file.suffix in (".json", ".txt")} if folder.is_dir() else set()
    alone, without = sorted(labels - set(data.ids)), sorted(set(data.ids) - labels)
    said = [f"{len(without)} clouds have no label file, such as {without[0]}"] if without else []
    said += [f"{len(alone)} label files have no cloud, such as {alone[0]}"] if alone else []
    if not said:
        return []
    finding = Finding(
        "label files",
        "; ".join(said),
        f"{POINTS}/ID and {LABELS}/ID of the same names",
        f"{labelled_frames} of the {looked_at} frames looked at are labelled; training refuses the others",
        "list the labelled frames in splits/train.txt and splits/val.txt; an empty scene has an empty list of objects",
        blocks=not labelled_frames,
        change={},
    )
    return [finding]


def _go_through(evidence: LabelEvidence) -> tuple[list[Finding], LabelEvidence]:
    """All findings, and the labels mended as they say."""
    findings: list[Finding] = []
    if not len(evidence.boxes):
        return findings, evidence
    for check in FIRST:
        answer = check(evidence)
        if answer is not None:
            findings.append(answer[0])
            evidence = evidence.mended(answer[1])
    findings += [found for found in (check(evidence) for check in THEN) if found is not None]
    return findings, evidence


def _rows(evidence: LabelEvidence) -> list[tuple[str, int, int, int, float]]:
    grid, (x, y, _) = evidence.wanted.grid, evidence.centres.T
    beyond = ~((x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max))
    rows = []
    for name, count in evidence.class_counts.items():
        own = evidence.names == name
        inside = evidence.points_inside[own]
        rows.append((name, count, int((inside == 0).sum()), int(beyond[own].sum()), float(np.median(inside))))
    return rows


def _draw(out: Path, data: OwnDataset, read: LabelEvidence, mended: LabelEvidence, count: int) -> list[Path]:
    """Pictures of the frames with most objects, with the boxes as they are and, solid, those that were mended."""
    order = np.argsort(-np.bincount(read.frame, minlength=len(read.frames)), kind="stable")[:count]
    drawn = []
    for place in order.tolist():
        name, rows = read.frames[place].name, mended.frame == place
        labels = Overlay(placed(read.boxes[rows], data.mount), read.names[rows].tolist())
        changed = not np.array_equal(read.boxes[rows], mended.boxes[rows])
        boxes = placed(mended.boxes[rows], data.mount) if changed else np.empty((0, 7))
        extent = extent_of(
            read.wanted.grid, [labels], around=bool((mended.centres[:, 0] < read.wanted.grid.x_min).any())
        )
        subtitle = f"{len(labels.boxes)} labelled objects" + ("; solid: mended as proposed" if changed else "")
        path, points = out / f"{name}.png", data.mount.points(read.frames[place].points)
        solid = Overlay(boxes, [""] * len(boxes))
        drawn.append(
            draw_bird_eye(path, points, solid, labels, extent=extent, title=f"Frame {name}", subtitle=subtitle)
        )
    return drawn
