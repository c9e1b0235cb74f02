"""A study: methods x seeds x students, each cell one run, compared in pairs of the same seed.

The runs of one seed start from the same weights and see the same augmented samples in the same order, so that the
difference of two methods is taken within the seed. A cell that is done has a ``result.json`` and is not run again.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, model_validator

from pd_edge.config import Config, ModelConfig
from pd_edge.errors import DataError, PdEdgeError, TrainingError
from pd_edge.files import read_json
from pd_edge.report import write_json
from pd_edge.training.checkpoint import CHECKPOINTS, load_model
from pd_edge.training.config import TrainConfig
from pd_edge.training.data_config import SourceConfig
from pd_edge.training.distillation import DistillConfig, MethodSettings, distil
from pd_edge.training.interrupt import StopRequest
from pd_edge.training.loop import changed_fields
from pd_edge.training.run_log import versions
from pd_edge.training.validate import validate

RESULT = "result.json"
POLL_SECONDS = 1.0
"""How often a study looks whether it was asked to stop."""


class StudyConfig(Config):
    """What a study runs."""

    train: TrainConfig = Field(description="The runs' configuration; model and seed are replaced by each cell's.")
    students: dict[str, ModelConfig] = Field(min_length=1, description="Students by name.")
    teacher: Path = Field(description="The teacher: a model folder, run, checkpoint or .safetensors file.")
    methods: dict[str, MethodSettings] = Field(min_length=1, description="Methods by the name of their row.")
    baseline: str = Field("none", description="The method that the others are compared with.")
    seeds: tuple[int, ...] = Field(min_length=2, description="Seeds; every method runs with each.")
    val: dict[str, SourceConfig] = Field(min_length=1, description="Data sets to measure on, by name.")

    @model_validator(mode="after")
    def _baseline_is_run(self) -> "StudyConfig":
        if self.baseline not in self.methods:
            raise ValueError(f"baseline {self.baseline!r} is none of the methods {sorted(self.methods)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} name one twice; a run counts once")
        return self


class Cell(NamedTuple):
    """One run of a study."""

    student: str
    method: str
    seed: int
    config: DistillConfig

    def folder(self, out: Path) -> Path:
        """Where the cell's files stand."""
        return out / "cells" / f"{self.student}-{self.method}-seed{self.seed}"


def cells(study: StudyConfig) -> list[Cell]:
    """All cells, seed by seed: an unfinished study has whole rows of methods to compare."""
    common = study.train.model_dump()
    return [
        Cell(
            student,
            method,
            seed,
            DistillConfig.model_validate(
                {**common, "model": model, "seed": seed, "teacher": study.teacher, "distillation": settings}
            ),
        )
        for seed in study.seeds
        for student, model in study.students.items()
        for method, settings in study.methods.items()
    ]


def run_cell(
    cell: Cell, study: StudyConfig, out: Path, *, advance: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Trains and measures one cell, or reads what it gave before.

    Args:
        cell: The cell.
        study: What it is measured on.
        out: The study's folder.
        advance: Called with the frames done and the frames there are, after each that it is measured on.

    Raises:
        PdEdgeError: The run or its evaluation failed, or the folder holds the cell of another configuration.
    """
    folder = cell.folder(out)
    if (folder / RESULT).exists():
        return _read_result(folder / RESULT, cell.config)
    start = time.monotonic()
    distil(cell.config, folder, cache=out / "cache")
    trained = time.monotonic()
    model, detector = load_model(folder)
    measured = {name: validate(model, detector, source, advance=advance) for name, source in study.val.items()}
    result = {
        "student": cell.student,
        "method": cell.method,
        "seed": cell.seed,
        "ap": measured,
        "seconds": {"training": trained - start, "evaluation": time.monotonic() - trained},
        "ran": versions(),
        "config": cell.config.model_dump(mode="json"),
    }
    write_json(folder / RESULT, result)
    shutil.rmtree(folder / CHECKPOINTS)  # needed to go on, and the cell is done
    return result


def finished(study: StudyConfig, out: Path) -> list[dict[str, Any]]:
    """The results of the cells that are done, in the study's order.

    Raises:
        DataError: A result cannot be read, or is of another configuration.
    """
    done = ((cell, cell.folder(out) / RESULT) for cell in cells(study))
    return [_read_result(path, cell.config) for cell, path in done if path.exists()]


def _read_result(path: Path, config: DistillConfig) -> dict[str, Any]:
    result = read_json(path, "the result of a study's cell")
    changed = changed_fields(result["config"], config.model_dump(mode="json"))
    if changed:
        raise DataError(f"{path}: made with another {', '.join(changed)}; give the study another output folder")
    return result


def run_study(
    study: StudyConfig, out: Path, *, processes: int = 1, advance: Callable[[int, int], None] | None = None
) -> Iterator[dict[str, Any] | PdEdgeError]:
    """Runs what is missing of a study; yields every cell's result, or why there is none, as it comes.

    SIGINT and SIGTERM end it; cells that train save their state first, cells that are measured are measured anew.

    Args:
        study: The study.
        out: Its folder; made where missing.
        processes: Cells to run at a time; they share the GPU, or the processor's cores.
        advance: Called with the cells done and the cells there are, after each.
    """
    todo = cells(study)
    out.mkdir(parents=True, exist_ok=True)
    threads = max((cpu_count() or 1) // processes, 1)
    others = set(active_children())
    with StopRequest() as stop, ProcessPoolExecutor(processes, get_context("spawn"), _begin, (threads,)) as pool:
        running: set[Future[dict[str, Any] | PdEdgeError]] = set()
        started = 0
        try:
            while running or started < len(todo):
                while len(running) < processes and started < len(todo):  # no more: a process takes what waits for it
                    running.add(pool.submit(_attempt, todo[started], study, out))
                    started += 1
                ended, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                stop.raise_if_asked()
                for future in ended:
                    yield future.result()
                if advance is not None and ended:
                    advance(started - len(running), len(todo))
        except BrokenProcessPool:
            yield TrainingError(
                f"{out}: a process was killed, as the system does when memory runs out; "
                "start the study again, with fewer processes"
            )
        finally:  # where cells are running, they save their state and go on another time
            for process in set(active_children()) - others if running else ():
                process.terminate()


_asked = StopRequest(every=True)
"""Asked to stop while no training listens. A process that signals could end would take the others with it: the pool
would count as broken and signal them again, before they have saved their state.
"""


def _begin(threads: int) -> None:
    """Sets up a process of the study. Ctrl-C reaches all of them, and the first one tells the others to stop."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _asked.__enter__()  # until the process ends


def _attempt(cell: Cell, study: StudyConfig, out: Path) -> dict[str, Any] | PdEdgeError:
    _asked.raise_if_asked()
    try:
        return run_cell(cell, study, out, advance=lambda *_: _asked.raise_if_asked())
    except PdEdgeError as error:
        return TrainingError(f"{cell.student}, {cell.method}, seed {cell.seed}: {error}")
