"""What tables and JSON say: detections, latency, average precision, benchmarks, models."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pd_edge.batch import BatchResult, FrameResult
from pd_edge.bench import BenchResult, BenchSkipped, stage_latencies
from pd_edge.boxes import Detections
from pd_edge.bundle import ModelSummary
from pd_edge.detector import Timing
from pd_edge.evaluate import Bootstrap, Evaluation, Recall, Result
from pd_edge.files import write_bytes
from pd_edge.tables import Table

METRICS = {"3d": "3D", "bev": "BEV", "2d": "2D", "aos": "AOS"}
"""Metrics that tables show, and their names there; JSON has all of them."""
LEVELS = ("easy", "moderate", "hard")
FULL_SCALE = 97.5
"""Ceilings [%] below this are printed beside the figure: a perfect detector is near 100 from 40 objects on."""
IN_VIEW_NOTE = (
    "KITTI labels only what the left colour camera sees: clouds were cut to its field of view before detection."
)


def detections_table(detections: Detections, classes: Sequence[str], title: str, least: float = 0.0) -> Table:
    """One row a detection that scores at least ``least``, LiDAR frame; the others are counted below it."""
    shown = int(np.count_nonzero(detections.scores >= least))  # best first
    rows = [
        (classes[label], f"{score:.2f}", *(f"{value:.2f}" for value in box[:6]), f"{math.degrees(box[6]):.0f}")
        for box, label, score in zip(*(each[:shown] for each in detections), strict=True)
    ]
    weak = len(detections.scores) - shown
    axes = ("x [m]", "y [m]", "z [m]", "length [m]", "width [m]", "height [m]", "yaw [deg]")
    notes = () if len(detections.scores) else ("Nothing found.",)
    if weak:
        notes = (f"{weak} weaker ones, scoring less than {least:g}, are not shown; --json and --out have them.",)
    return Table(title, ("class", "score", *axes), rows, notes)


def latency_table(timings: Sequence[Timing], title: str) -> Table:
    """Percentiles of each stage over the frames, of which there must be one."""
    rows = [
        (each.stage, *(f"{value:.1f}" for value in (each.p50, each.p95, each.p99, each.minimum)))
        for each in stage_latencies(timings)
    ]
    note = f"{len(timings)} frames. encoder: cloud to canvas; network: canvas to heads; decode: heads to boxes."
    return Table(title, ("stage", "p50 [ms]", "p95 [ms]", "p99 [ms]", "least [ms]"), rows, (note,))


def latency_json(timings: Sequence[Timing]) -> dict[str, dict[str, float]]:
    """``stage -> {min, p50, p95, p99}`` [ms]; empty without frames."""
    if not timings:
        return {}
    return {
        each.stage: {"min": each.minimum, "p50": each.p50, "p95": each.p95, "p99": each.p99}
        for each in stage_latencies(timings)
    }


def ap_table(evaluation: Evaluation, recall: Recall = "r40", intervals: Bootstrap | None = None) -> Table:
    """Average precision by class and metric, with the objects behind it and, where they are few, the ceiling.

    Args:
        evaluation: The figures.
        recall: ``r40`` or ``r11``.
        intervals: Printed in brackets after each figure.
    """
    shown = [metric for metric in METRICS if metric in evaluation.metrics]
    rows: list[tuple[str, ...]] = []
    for name in evaluation.classes:
        first = [evaluation.result(name, "3d", level, recall) for level in LEVELS]
        rows.append((name, "objects", *(str(each.objects) for each in first)))
        if any(_limited(each) for each in first):
            rows.append(("", "ceiling", *(f"{each.ceiling:.1f}" for each in first)))
        for metric in shown:
            results = [each for each in evaluation.results if (each.class_name, each.metric) == (name, metric)]
            by_level = {each.difficulty: each for each in results if each.recall == recall}
            rows.append(("", METRICS[metric], *(_figure(by_level[level], intervals) for level in LEVELS)))
    for metric in ("3d", "bev"):
        means = [evaluation.mean(metric, level, recall) for level in LEVELS]
        label = "mean" if metric == "3d" else ""
        rows.append((label, METRICS[metric], *("-" if math.isnan(mean) else f"{mean:.1f}" for mean in means)))
    title = f"Average precision {recall.upper()} [%], {evaluation.frames} frames"
    return Table(title, ("class", "metric", *LEVELS), rows, _ap_notes(evaluation, recall, intervals), text_columns=2)


def _limited(result: Result) -> bool:
    return result.ceiling < FULL_SCALE


def _figure(result: Result, intervals: Bootstrap | None) -> str:
    if not result.objects:
        return "-"
    if intervals is None:
        return f"{result.ap:.1f}"
    low, high = intervals.interval(result.class_name, result.metric, result.difficulty, result.recall)
    return f"{result.ap:.1f} [{low:.1f}, {high:.1f}]"


def _ap_notes(evaluation: Evaluation, recall: Recall, intervals: Bootstrap | None) -> list[str]:
    notes = ["mean: over the classes with objects."]
    if any(_limited(each) for each in evaluation.results if each.recall == recall):
        notes.append("ceiling: what a perfect detector would get on so few objects.")
    if intervals is not None:
        share, draws = intervals.confidence, len(next(iter(intervals.samples.values())))
        notes.append(f"In brackets: {share:.0%} of {draws} evaluations of frames drawn with replacement.")
    return notes


def ap_json(evaluation: Evaluation, intervals: Bootstrap | None = None) -> dict[str, Any]:
    """``{frames, results: [{class_name, metric, difficulty, recall, ap, objects, ceiling, interval}]}`` [%].

    ``interval`` is ``[low, high]``, present with ``intervals`` only, and null where no draw had an object.
    """
    data = evaluation.to_dict()
    if intervals is not None:
        for row in data["results"]:
            found = intervals.interval(row["class_name"], row["metric"], row["difficulty"], row["recall"])
            row["interval"] = None if math.isnan(found.low) else list(found)
    return data


def frame_json(frame: FrameResult, classes: Sequence[str]) -> dict[str, Any]:
    """``{id, points, cut_to_camera_view, timing_ms, notes, detections: [{class, score, box}]}``.

    ``box`` is x y z length width height yaw in the LiDAR frame [m, rad].
    """
    return {
        "id": frame.id,
        "points": frame.points,
        "cut_to_camera_view": frame.in_view,
        "timing_ms": {**frame.timing._asdict(), "total": frame.timing.total},
        "notes": list(frame.notes),
        "detections": [
            {"class": classes[label], "score": float(score), "box": [float(value) for value in box]}
            for box, label, score in zip(*frame.detections, strict=True)
        ],
    }


def batch_json(result: BatchResult, evaluation: Evaluation | None) -> dict[str, Any]:
    """A batch for machines.

    Keys: ``model``, ``runtime``, ``precision``, ``coverage``, ``sensor`` (the profile's name), ``classes``;
    ``latency_ms`` (:func:`latency_json`); ``ap`` (:func:`ap_json`, null without labels); ``frames``
    (:func:`frame_json`); ``failures`` (``{frame, error}``).
    """
    return {
        "model": result.model,
        "runtime": result.runtime,
        "precision": result.precision,
        "coverage": result.coverage,
        "sensor": result.sensor.name,
        "classes": list(result.classes),
        "latency_ms": latency_json(result.timings),
        "ap": None if evaluation is None else ap_json(evaluation),
        "frames": [frame_json(frame, result.classes) for frame in result.frames],
        "failures": [failure._asdict() for failure in result.failures],
    }


def bench_table(results: Sequence[BenchResult | BenchSkipped]) -> Table:
    """Models, runtimes and precisions side by side, a row a stage."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        case = result.case
        if isinstance(result, BenchSkipped):
            rows.append((f"{case.model} {case.runtime} {case.precision}", "skipped", "", "", "", "", ""))
            continue
        name = f"{case.model} {case.runtime} {result.precision or case.precision}"
        for index, each in enumerate(result.stages):
            memory = (f"{result.peak_mib:.0f}", f"{result.load_ms / 1e3:.1f}") if index == 0 else ("", "")
            percentiles = (f"{value:.1f}" for value in (each.p50, each.p95, each.p99))
            rows.append((name if index == 0 else "", each.stage, *percentiles, *memory))
    columns = ("case", "stage", "p50 [ms]", "p95 [ms]", "p99 [ms]", "peak memory [MiB]", "load [s]")
    skipped = [result for result in results if isinstance(result, BenchSkipped)]
    notes = [f"skipped: {each.case.runtime} {each.case.precision}: {each.reason}" for each in skipped]
    measured = [result for result in results if isinstance(result, BenchResult)]
    if measured:
        notes.append(f"{measured[0].frames} frames a case, {measured[0].points:,.0f} points on average.")
    return Table("Latency by stage", columns, rows, notes, text_columns=2)


def bench_json(results: Sequence[BenchResult | BenchSkipped]) -> list[dict[str, Any]]:
    """``[{case: {model, runtime, precision, threads, sensor}, ...}]``.

    A measured case has ``frames``, ``points``, ``detections``, ``load_ms``, ``peak_mib`` and ``stages_ms``
    (``stage -> {min, p50, p95, p99}``), a skipped one ``skipped``, the reason.
    """
    return [_bench_entry(result) for result in results]


def _bench_entry(result: BenchResult | BenchSkipped) -> dict[str, Any]:
    if isinstance(result, BenchSkipped):
        return {"case": result.case._asdict(), "skipped": result.reason}
    stages = {
        each.stage: {"min": each.minimum, "p50": each.p50, "p95": each.p95, "p99": each.p99} for each in result.stages
    }
    rest = {key: value for key, value in result._asdict().items() if key not in ("case", "stages")}
    return {"case": result.case._asdict(), **rest, "stages_ms": stages}


def models_table(models: Sequence[ModelSummary]) -> Table:
    """Models with their sizes and the figures that their ``results.json`` has under ``summary``."""
    figures = list(dict.fromkeys(key for model in models for key in model.results.get("summary", {})))
    rows = [
        (
            model.name,
            f"{model.parameters / 1e6:.2f}",
            f"{model.multiply_adds / 1e9:.1f}",
            model.weights,
            f"{model.runtime_bytes / 1e6:.1f}",
            *(str(model.results.get("summary", {}).get(key, "-")) for key in figures),
        )
        for model in models
    ]
    columns = ("model", "weights [M]", "MACs [G]", "stored as", "files [MB]", *figures)
    notes = ["MACs: multiply-adds of the dense part for one frame. files: what a vehicle needs of the model folder."]
    if any(" in grid" in cell for row in rows for cell in row):
        notes.append("in grid: objects beyond the model's grid do not count, as they do for the others.")
    return Table("Models", columns, rows, notes)


def write_json(path: Path, data: Any) -> None:
    """Writes plain data as JSON; raises DataError where the file cannot be written."""
    write_bytes(path, json_text(data).encode())


def json_text(data: Any) -> str:
    """Plain data as JSON text; NaN, which JSON has not, is a ValueError."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"
