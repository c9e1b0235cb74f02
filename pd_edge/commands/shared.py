"""Steps that several commands share; imported when a command runs, as it needs the library."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from pd_edge.batch import BatchResult
from pd_edge.bundle import Bundle
from pd_edge.detector import Detector
from pd_edge.drive_report import Outputs
from pd_edge.report import json_text, write_json
from pd_edge.runtimes import open_runtime
from pd_edge.tables import Table
from pd_edge.terminal import busy, say, show

STANDARD_OUTPUT = Path("-")
MOST_FAILURES = 5
"""How many failed frames are named; the report names all."""


def load_detector(model: str, runtime: str, precision: str, threads: int | None, score: float | None) -> Detector:
    """Loads a detector, with another score threshold than the model's own where one is given.

    Raises:
        EngineError, ConfigError, MissingExtraError: As :func:`pd_edge.detector.load`.
    """
    with busy(f"loading {model}"):
        bundle = Bundle.load(model)
        if score is not None:
            decode = bundle.config.decode.model_copy(update={"score_threshold": score})
            bundle = dataclasses.replace(bundle, config=bundle.config.model_copy(update={"decode": decode}))
        return Detector(bundle, open_runtime(bundle, runtime, precision, threads))


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


def tell_outputs(outputs: Outputs, *, stderr: bool = False) -> None:
    """Says where the files of a run are."""
    say(f"report:     {outputs.report}", stderr=stderr)
    say(f"detections: {outputs.folder / 'detections.json'} (LiDAR frame)", stderr=stderr)
    if outputs.labels is not None:
        say(f"labels:     {outputs.labels} (KITTI format)", stderr=stderr)
    for picture in outputs.pictures:
        say(f"picture:    {picture}", stderr=stderr)


def tell_failures(result: BatchResult) -> None:
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
