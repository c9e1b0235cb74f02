"""Steps that several commands share; imported when a command runs, as it needs the library."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import typer

from pd_edge.batch import BatchResult, detect_batch
from pd_edge.bundle import CONFIG, find_model, shipped_models
from pd_edge.config import DecodeConfig, DetectorConfig, GridConfig, load_config
from pd_edge.detector import Detector, load
from pd_edge.drive_report import Outputs, notes_on, result_tables, write_drive_report
from pd_edge.engine_folder import is_engine_folder
from pd_edge.evaluate import Evaluation
from pd_edge.kitti import Dataset
from pd_edge.own_data import OwnDataset
from pd_edge.report import batch_json, json_text, write_json
from pd_edge.revised import WithinGrid
from pd_edge.sectors import Coverage
from pd_edge.sensors import KITTI, SensorProfile
from pd_edge.tables import Table
from pd_edge.terminal import busy, counting, say, show

STANDARD_OUTPUT = Path("-")
MOST_FAILURES = 5
"""How many failed frames are named; the report names all."""


class Run(NamedTuple):
    """What a detection run gave, and where its files are (None where it left none)."""

    result: BatchResult
    evaluation: Evaluation | None
    outputs: Outputs | None


def load_detector(
    model: str,
    runtime: str | None,
    precision: str | None,
    threads: int | None,
    score: float | None,
    sensor: SensorProfile = KITTI,
    coverage: Coverage = "front",
) -> Detector:
    """Loads a detector, with another score threshold than the model's own where one is given, for a sensor's mount.

    Raises:
        EngineError, ConfigError, MissingExtraError: As :func:`pd_edge.detector.load`.
    """
    with busy(f"loading {model}"):
        decode = decode_from(model, score)
        return load(model, runtime, precision, threads, decode=decode, sensor=sensor.only_mount(), coverage=coverage)


def judged(frames: Dataset, within: GridConfig | None, sensor: SensorProfile = KITTI) -> Dataset:
    """The frames as they are to be judged: within a grid alone, where one is given.

    Raises:
        typer.BadParameter: They are own data, of which no object beyond the grid counts anyway.
    """
    if within is None:
        return frames
    if isinstance(frames, OwnDataset):
        raise typer.BadParameter(
            "is for KITTI's layout; own data is judged within the grid anyway", param_hint="--within-grid"
        )
    return WithinGrid(frames, within, sensor)


def model_config(model: str) -> DetectorConfig:
    """The configuration of a shipped model, a model folder or an engine folder.

    Raises:
        EngineError, ConfigError: There is none, or it cannot be used.
    """
    engine = model not in shipped_models() and is_engine_folder(model)
    return load_config((Path(model) if engine else find_model(model)) / CONFIG, DetectorConfig)


def decode_from(model: str, score: float | None) -> DecodeConfig | None:
    """The model's own thresholds but for the score; None where no score is given.

    Raises:
        EngineError, ConfigError: As :func:`model_config`.
    """
    return None if score is None else model_config(model).decode.model_copy(update={"score_threshold": score})


def detect_and_write(
    detector: Detector,
    dataset: Dataset,
    out: Path | None,
    title: str,
    *,
    pictures: int,
    crop: bool | None = None,
    sensor: SensorProfile = KITTI,
) -> Run:
    """Detects in every frame, shows progress, and leaves the report where a folder is given and a frame could be used.

    Args:
        detector: The detector.
        dataset: The frames.
        out: Folder of the files.
        title: The report's first line.
        pictures: How many frames to draw.
        crop: As :func:`pd_edge.batch.detect_batch` takes it.
        sensor: The profile that the frames are read with; the detector has but its mount.

    Raises:
        DataError: A file cannot be written.
        MissingExtraError: Pictures are wanted, but matplotlib is not installed.
    """
    with counting("frames") as advance:
        result = replace(detect_batch(detector, dataset, crop=crop, advance=advance), sensor=sensor)
    evaluation = result.evaluation()
    if out is None or not result.frames:
        return Run(result, evaluation, None)
    with counting("pictures") as advance:
        outputs = write_drive_report(
            out,
            dataset,
            result,
            evaluation,
            detector.config,
            title=title,
            pictures=pictures,
            crop=crop,
            advance=advance,
        )
    return Run(result, evaluation, outputs)


def tell_run(run: Run, first: Sequence[Table] = (), json_file: Path | None = None) -> None:
    """Prints a run's tables, notes, files and failures; ends the command with exit code 1 where all frames failed.

    Args:
        run: What to tell.
        first: Tables to print before the run's own.
        json_file: As :func:`present` takes it.

    Raises:
        DataError: The JSON file cannot be written.
        typer.Exit: No frame could be used.
    """
    tables = [*first, *result_tables(run.result, run.evaluation)]
    present(tables, batch_json(run.result, run.evaluation), json_file)
    for note in notes_on(run.result):
        say(f"note: {note}", stderr=True)
    if run.outputs is not None:
        _tell_outputs(run.outputs, stderr=json_file == STANDARD_OUTPUT)
    _tell_failures(run.result)


def present(tables: Sequence[Table], data: Any, json_file: Path | None) -> None:
    """Prints tables, and writes ``data`` where it was asked for.

    With ``-`` the JSON goes to standard output and the tables to standard error.

    Raises:
        DataError: The file cannot be written.
    """
    to_stdout = json_file == STANDARD_OUTPUT
    for table in tables:
        show(table, stderr=to_stdout)
    if to_stdout:
        typer.echo(json_text(data), nl=False)
    elif json_file is not None:
        write_json(json_file, data)
        say(f"JSON: {json_file}")


def _tell_outputs(outputs: Outputs, *, stderr: bool) -> None:
    """Says where the files of a run are."""
    say(f"report:     {outputs.report}", stderr=stderr)
    say(f"detections: {outputs.folder / 'detections.json'} (LiDAR frame)", stderr=stderr)
    if outputs.labels is not None:
        say(f"labels:     {outputs.labels} (KITTI format)", stderr=stderr)
    for picture in outputs.pictures:
        say(f"picture:    {picture}", stderr=stderr)


def _tell_failures(result: BatchResult) -> None:
    """Says which frames failed, and ends the command with exit code 1 where all did.

    Raises:
        typer.Exit: No frame could be used.
    """
    failures = result.failures
    for failure in failures[:MOST_FAILURES]:
        say(f"failed: {' '.join(failure.error.splitlines())}", stderr=True)
    if len(failures) > MOST_FAILURES:
        say(f"... and {len(failures) - MOST_FAILURES} more", stderr=True)
    if failures:
        say(f"{len(failures)} of {len(failures) + len(result.frames)} frames failed", stderr=True)
    if not result.frames:
        raise typer.Exit(1)
