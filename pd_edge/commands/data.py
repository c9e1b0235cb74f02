"""``pd-edge data``: own data in the plain layout, checked and made."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import JsonFile, Sensor

data = typer.Typer(name="data", help="Own data: check and convert.", no_args_is_help=True, rich_markup_mode=None)


class Kind(str, Enum):
    """Sources of labels that can be imported."""

    labelcloud = "labelcloud"
    sustechpoints = "sustechpoints"
    nuscenes = "nuscenes"


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
    points, beyond the grid or listed twice, classes and anchors that do not fit; ignored objects are left out. Each
    finding says what to change. Of boxes that are mended so, anchors are suggested. Pictures show the labels dashed
    and, where some were mended, the mended ones solid; they need the extra viz.

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


@data.command("from-bag")
def from_bag(
    bag: Annotated[Path, typer.Argument(help="A bag: .mcap, .db3, .bag or a rosbag2 folder.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    *,
    topic: Annotated[str | None, typer.Option(help="PointCloud2 topic; the bag's only one if left out.")] = None,
    boxes: Annotated[
        str | None, typer.Option(help="Detection3DArray topic to take labels from; the only one if left out.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take one of so many clouds.")] = 1,
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave boxes out that score less.")] = 0.0,
    sensor: Sensor = "",
) -> None:
    """Write a bag's clouds, and boxes where it has some, as own data.

    Frames are numbered as the clouds in the bag; times.txt has their time stamps, for `view`. Boxes of the same time
    stamp become labels, in the cloud's frame (/tf_static leads there). A sensor profile is written beside the frames
    and applied whenever they are read. Needs the extra bags.

    \b
    Examples:
      pd-edge data from-bag drive.mcap my-data --every 10 --sensor vlp-32c
      pd-edge data from-bag detected.mcap my-data --boxes /detections --score 0.5
    """
    from pd_edge.data_from_bag import Wanted
    from pd_edge.data_from_bag import from_bag as convert
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import busy, say

    with busy("reading the bag"):
        written = convert(bag, folder, Wanted(topic, boxes, every, score), load_profile(sensor))
    say(f"{folder}: {written.frames} frames, {written.labelled} of them labelled, {written.objects} objects")
    for note in written.notes:
        say(f"note: {note}", stderr=True)


@data.command("import")
def import_data(
    kind: Annotated[Kind, typer.Argument(help="What SOURCE is of.")],
    source: Annotated[
        Path,
        typer.Argument(
            help="labelCloud: the folder of pointclouds and labels; SUSTechPOINTS: a "
            "scene with lidar and label; nuScenes: the folder that holds the versions."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    *,
    version: Annotated[str | None, typer.Option(help="nuScenes: v1.0-mini, v1.0-trainval.")] = None,
    sweeps: Annotated[int | None, typer.Option(min=1, help="nuScenes: clouds to join, 10 if left out.")] = None,
) -> None:
    """Convert labels of other tools, with their clouds, to own data.

    Only labelled frames are written. Of nuScenes the keyframes are, each with the sweeps before it, moved by the car's
    own motion; names are those of its detection task (car, truck, ...); velocities, attributes and the sweeps' time
    lags are left out, as the models here do not use them. Needs the extra nuscenes for that.

    \b
    Examples:
      pd-edge data import labelcloud project my-data
      pd-edge data import sustechpoints data/scene-000 my-data
      pd-edge data import nuscenes data/nuscenes my-data --version v1.0-mini
    """
    from pd_edge.data_from_labels import from_labelcloud, from_sustechpoints
    from pd_edge.terminal import counting, say

    if (kind == Kind.nuscenes) != (version is not None) or (sweeps is not None and kind != Kind.nuscenes):
        raise typer.BadParameter("nuscenes needs --version and may have --sweeps; the others have neither")
    with counting("frames") as advance:
        if kind == Kind.nuscenes:
            from pd_edge.data_from_nuscenes import from_nuscenes

            imported = from_nuscenes(source, folder, str(version), sweeps or 10, advance)
        else:
            convert = from_labelcloud if kind == Kind.labelcloud else from_sustechpoints
            imported = convert(source, folder)
    say(f"{folder}: {imported.frames} frames, {imported.objects} objects")
    for note in imported.notes:
        say(f"note: {note}", stderr=True)
