"""What a study found: table, figures as JSON and CSV, and a plot."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.errors import MissingExtraError
from pd_edge.files import write_bytes
from pd_edge.report import write_json
from pd_edge.tables import Table, markdown_table
from pd_edge.training.study import StudyConfig

CONFIDENCE = 0.95
Figures = npt.NDArray[np.float64]


class Column(NamedTuple):
    """One measured figure: which of a data set's."""

    data: str
    metric: str
    name: str
    """A class, or "mean" over the classes."""

    @property
    def title(self) -> str:
        """As a heading."""
        what = "mAP" if self.name == "mean" else self.name
        return f"{what} {self.metric.upper()}, {self.data}"

    def of(self, result: dict[str, Any]) -> float:
        """The figure in a cell's result [%]."""
        return float(result["ap"][self.data][self.metric][self.name])


class Row(NamedTuple):
    """A method's figures over the seeds, beside the baseline's of the same seeds."""

    student: str
    method: str
    seeds: tuple[int, ...]
    values: Figures
    """(seeds,) AP [%]."""
    gains: Figures
    """(seeds,) difference to the baseline with the same seed."""

    @property
    def interval(self) -> tuple[float, float]:
        """Student's t interval of the mean gain, paired by seed; needs two seeds."""
        from scipy import stats  # noqa: PLC0415 - slow to import

        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(self.gains) - 1) * self.gains.std(ddof=1) / len(self.gains) ** 0.5
        return float(self.gains.mean() - half), float(self.gains.mean() + half)


def rows(study: StudyConfig, results: Sequence[dict[str, Any]], column: Column) -> list[Row]:
    """Every method of every student that has two seeds or more in common with the baseline."""
    value = {(each["student"], each["method"], each["seed"]): column.of(each) for each in results}
    found = []
    for student in study.students:
        for method in study.methods:
            keys = [
                seed
                for seed in study.seeds
                if (student, method, seed) in value and (student, study.baseline, seed) in value
            ]
            if len(keys) < 2:
                continue
            own = np.array([value[student, method, seed] for seed in keys])
            base = np.array([value[student, study.baseline, seed] for seed in keys])
            found.append(Row(student, method, tuple(keys), own, own - base))
    return found


def columns(study: StudyConfig) -> list[Column]:
    """The figures a study is read by: mAP on data with all classes, Car on the others too."""
    return [Column(data, metric, name) for data in study.val for metric in ("3d", "bev") for name in ("mean", "Car")]


def table(study: StudyConfig, results: Sequence[dict[str, Any]], column: Column) -> Table:
    """Mean, standard deviation and paired difference with its interval, of one figure."""
    lines = [
        [
            f"{row.student} {row.method}",
            str(len(row.seeds)),
            f"{row.values.mean():.2f}",
            f"{row.values.std(ddof=1):.2f}",
            *(["", ""] if row.method == study.baseline else [f"{row.gains.mean():+.2f}", _bracket(row.interval)]),
        ]
        for row in rows(study, results, column)
    ]
    head = ["method", "seeds", "mean", "sd", f"over {study.baseline}", f"{CONFIDENCE:.0%} interval"]
    return Table(f"{column.title}: AP R40 [%], moderate", head, lines)


def _bracket(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.2f} .. {interval[1]:+.2f}"


def write_report(study: StudyConfig, results: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Writes ``study.md``, ``study.json``, ``study.csv`` and ``study.png``; returns their paths.

    Raises:
        DataError: A file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    results = sorted(results, key=lambda each: (each["student"], each["method"], each["seed"]))
    tables = [table(study, results, column) for column in columns(study)]
    files = [out / f"study.{kind}" for kind in ("md", "json", "csv", "png")]
    write_bytes(files[0], "\n".join([*map(markdown_table, tables), _effort(results)]).encode())
    write_json(files[1], {"study": study.model_dump(mode="json"), "cells": results})
    write_bytes(files[2], _csv(study, results).encode())
    plot(study, results, columns(study)[0], files[3])
    return files


def _effort(results: Sequence[dict[str, Any]]) -> str:
    """What the cells took, and where."""
    hours = sum(sum(each["seconds"].values()) for each in results) / 3600
    devices = ", ".join(sorted({each["ran"]["device"] for each in results}))
    return f"{len(results)} runs; the time of all of them together is {hours:.1f} hours, on {devices}.\n"


def _csv(study: StudyConfig, results: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", "method", "seed", *(column.title for column in columns(study))])
    for each in results:
        figures = [f"{column.of(each):.3f}" for column in columns(study)]
        writer.writerow([each["student"], each["method"], each["seed"], *figures])
    return text.getvalue()


def plot(study: StudyConfig, results: Sequence[dict[str, Any]], column: Column, path: Path) -> None:
    """Draws each method's gain over the baseline: every seed a dot, the mean and its interval a bar.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "matplotlib", "viz") from error
    found = sorted(
        (row for row in rows(study, results, column) if row.method != study.baseline), key=lambda row: row.gains.mean()
    )
    figure = Figure(figsize=(8, 1.2 + 0.42 * max(len(found), 1)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(found):
        low, high = row.interval
        axes.plot([low, high], [place, place], color="#9aa5b1", linewidth=5, solid_capstyle="butt", zorder=1)
        axes.scatter(row.gains, np.full(len(row.gains), place), color="#1f6feb", s=18, zorder=2)
        axes.scatter([row.gains.mean()], [place], color="#d1495b", marker="D", s=34, zorder=3)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(found)), [f"{row.student} {row.method} ({len(row.seeds)})" for row in found])
    axes.set_xlabel(f"{column.title}: gain over {study.baseline} with the same seed [AP]")
    axes.set_title(f"mean and {CONFIDENCE:.0%} interval (bar), seeds (dots; their number in brackets)", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
