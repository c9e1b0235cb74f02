"""``pd-edge data``: own data in the plain layout, checked and made."""

from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import JsonFile

data = typer.Typer(name="data", help="Own data: check and convert.", no_args_is_help=True, rich_markup_mode=None)


@data.callback()
def _data() -> None:
    """Own data: check and convert. The layout is in the README under `Your own data`."""


@data.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="Folder with points and labels.")],
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="Training configuration to check against; the shipped models' grid if left out."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to look at, spread over all.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures from above.")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Frames to draw into OUT.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Check own data before training on it.

    Looks at clouds (as `pd-edge doctor` does) and labels: frames that cannot be read, boxes in another frame or unit,
    yaws in degrees or another convention, length and width exchanged, centres of the bottom, odd sizes, boxes without
    points, beyond the grid or listed twice, classes and anchors that do not fit. Each finding says what to change. Of
    boxes that are mended so, anchors are suggested. Pictures show the labels dashed and, where some were mended, the
    mended ones solid; they need the extra viz.

    Exit code 1: something makes training useless; 0: nothing does, though there may be notes.

    JSON: {source, frames, labelled, objects: [{class, objects, without_points, beyond_grid, median_points}], findings:
    [{name, measured, expected, meaning, remedy, blocks, change}], classes: [{name, anchor_size, anchor_z}], pictures}.

    \b
    Examples:
      pd-edge data check my-data
      pd-edge data check my-data --config mine.yaml --out checked
    """
    from pd_edge.commands.shared import STANDARD_OUTPUT, present
    from pd_edge.data_check import check_data, data_json, lines, objects_table, wanted_from
    from pd_edge.terminal import counting, say

    with counting("frames") as advance:
        report = check_data(folder, wanted_from(config), frames, out, pictures=pictures, advance=advance)
    to_stdout = json_file == STANDARD_OUTPUT
    present([objects_table(report)] if report.objects else [], data_json(report), json_file)
    for line in [*lines(report), *(f"picture: {path}" for path in report.pictures)]:
        say(line, stderr=to_stdout)
    if any(finding.blocks for finding in report.findings):
        raise typer.Exit(1)
