"""``pd-edge doctor``: why are there no boxes?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pd_edge.commands.options import DEFAULT_MODEL, JsonFile, Model, Precision, Runtime, Score, Sensor, Threads

if TYPE_CHECKING:
    from pd_edge.doctor_report import Report


def doctor(
    source: Annotated[
        str,
        typer.Argument(help="A cloud, a folder of clouds, a bag; or a topic such as /velodyne_points, where ROS is."),
    ],
    *,
    sensor: Sensor = "",
    topic: Annotated[str | None, typer.Option(help="PointCloud2 topic of a bag; its only one if left out.")] = None,
    clouds: Annotated[int, typer.Option(min=1, max=50, help="Clouds to look at, spread over all there are.")] = 5,
    write_profile: Annotated[
        Path | None,
        typer.Option(
            help="Write the sensor profile, with what is proposed, for --sensor and the node's `sensor`; over a file "
            "of that name."
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    runtime: Runtime = None,
    precision: Precision = None,
    threads: Threads = None,
    score: Score = None,
    json_file: JsonFile = None,
) -> None:
    """Find out why there are no boxes.

    Compares clouds with what models know (fields, frame, unit, axes, height and tilt above the ground, intensity,
    range, density) and says what to change, line by line. The model detects in the clouds as they are and as the
    proposed profile has them; boxes that score 0.3 or more count, or --score.

    Exit code 1: something keeps boxes away; 0: nothing does, though there may be notes.

    JSON: {source, clouds, findings: [{name, measured, expected, meaning, remedy, blocks, change}], profile, before,
    after}; before and after are {boxes, best, histogram, refused}, or null where no detector could be loaded.

    \b
    Examples:
      pd-edge doctor scan.pcd
      pd-edge doctor drive.mcap --topic /points --sensor vlp-16 --write-profile mine.yaml
      pd-edge detect scan.pcd --sensor mine.yaml
    """
    from pd_edge.commands.shared import STANDARD_OUTPUT
    from pd_edge.doctor_report import DetectorWanted, examine, report_json
    from pd_edge.report import json_text, write_json
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import busy, say

    wanted = DetectorWanted(model, runtime, precision, threads, score)
    with busy(f"examining {source}"):
        report = examine(source, load_profile(sensor), wanted, clouds, topic)
    to_stdout = json_file == STANDARD_OUTPUT
    _tell(report, stderr=to_stdout)
    if write_profile is not None:
        _write(report, write_profile, stderr=to_stdout)
    data: Any = report_json(report)
    if to_stdout:
        typer.echo(json_text(data), nl=False)
    elif json_file is not None:
        write_json(json_file, data)
        say(f"JSON: {json_file}")
    if any(finding.blocks for finding in report.findings):
        raise typer.Exit(1)


def _tell(report: "Report", *, stderr: bool) -> None:
    """Prints all findings, and what the proposed profile brings."""
    from pd_edge.doctor_report import lines
    from pd_edge.terminal import say

    for line in lines(report):
        say(line, stderr=stderr)


def _write(report: "Report", path: Path, *, stderr: bool) -> None:
    from pd_edge.config import dump_config
    from pd_edge.terminal import say

    if not report.clouds:
        say(f"profile: {path} is not written, as no cloud could be read", stderr=stderr)
        return
    dump_config(report.profile, path)
    say(f"profile: {path}; use it with --sensor {path}, or as the node's parameter sensor", stderr=stderr)
