"""``pd-edge view``: clouds and boxes to look at, in a browser or in Rerun."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_edge.commands.options import DEFAULT_MODEL, Coverage, Precision, Runtime, Score, Sensor, Split, Threads

if TYPE_CHECKING:
    from pd_edge.view.html import Written
    from pd_edge.view.show import Prepared

LARGE = 200e6
"""Bytes from which a browser takes its time to open a file."""
MOST_FAILURES = 5
"""So many scans that were passed over are named."""


def view(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Clouds, folders of them, KITTI object folders or raw drives; or one bag."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="FILE.html, or FILE.rrd of Rerun; if left out, Rerun opens, or view.html is written."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Show every so-many-th scan.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, help="Show so many scans at most.")] = None,
    points: Annotated[
        int | None,
        typer.Option(min=1, help="Points of a scan at most in the HTML file, those in boxes first; all if left out."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of `pd-edge detect --out`, whose boxes to show; no model is run.")
    ] = None,
    detect: Annotated[bool, typer.Option("--detect/--no-detect", help="Show boxes, or clouds and truth alone.")] = True,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Model to run, as for `detect`; if left out, {DEFAULT_MODEL}, or none where a bag has boxes."
        ),
    ] = None,
    runtime: Runtime = None,
    precision: Precision = None,
    threads: Threads = None,
    score: Score = None,
    split: Split = None,
    sensor: Sensor = "",
    coverage: Coverage = "front",
    crop: Annotated[
        bool, typer.Option("--crop", help="Only points that the left colour camera sees, for model and eye.")
    ] = False,
    topic: Annotated[str | None, typer.Option(help="PointCloud2 topic of a bag; its only one if left out.")] = None,
    boxes_topic: Annotated[
        str | None, typer.Option(help="Detection3DArray topic of a bag; /detections or its only one if left out.")
    ] = None,
) -> None:
    """Look at clouds, boxes and ground truth along a time line.

    Writes one HTML file that any browser opens from disk: no server, no network. A frame of 120,000 points takes
    0.5 MB in it. Or opens Rerun, where it is installed (extra view), or writes a recording for it.

    In the page a slider sets the least score, which begins at 0.3 or --score. The keys are listed under ?. Of a bag the
    recorded boxes are shown (as `replay --clouds` leaves them), unless --model names one to run. Clouds of a sensor
    with a profile are shown level, 1.73 m above the ground.

    \b
    Examples:
      pd-edge view scan.pcd --sensor vlp-16
      pd-edge view 2011_09_26/2011_09_26_drive_0005_sync --out drive.html
      pd-edge view kitti/object --split val --frames 50 --out val.html
      pd-edge view kitti/object --split val --results found
      pd-edge view detections.mcap --every 5 --out drive.rrd
    """
    from pd_edge.commands.shared import load_detector
    from pd_edge.sectors import coverage_named
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import say
    from pd_edge.view.show import Request, prepare
    from pd_edge.view.sources import Choice

    target = _target(out, points)
    of_a_run = {"--runtime": runtime, "--precision": precision, "--threads": threads}
    given = [name for name, value in of_a_run.items() if value is not None]
    given += ["--coverage"] * (coverage != "front")
    _check_boxes(detect=detect, model=model, results=results, of_a_run=given)
    profile, around = load_profile(sensor), coverage_named(coverage)
    if around == "full" and crop:
        raise typer.BadParameter("the camera sees the front alone: leave --crop or --coverage out", param_hint="--crop")
    request = Request(
        inputs=inputs,
        choice=Choice(every, frames),
        load=lambda name: load_detector(name, runtime, precision, threads, score, profile, around),
        model=model,
        usual_model=DEFAULT_MODEL,
        of_a_run=tuple(given),
        boxes=detect,
        results=results,
        score=score,
        split=split,
        profile=profile,
        crop=crop,
        topic=topic,
        boxes_topic=boxes_topic,
    )
    prepared = prepare(request)
    _tell(_show(target, prepared, points), prepared)
    if out is None and target is not None:
        say("note: Rerun is not installed (pip install 'pd-edge[view]'); --out names the HTML file", stderr=True)


def _target(out: Path | None, points: int | None) -> Path | None:
    """The file to write; None for Rerun's viewer.

    Raises:
        typer.BadParameter: It is of no known kind, or there is no HTML file for the points to be few in.
    """
    from pd_edge.view.rerun_log import SUFFIX, has_rerun

    if out is not None and out.suffix not in (".html", SUFFIX):
        raise typer.BadParameter(f"{out}: expected a name ending in .html or {SUFFIX}", param_hint="--out")
    target = None if out is None and has_rerun() else out or Path("view.html")
    if points is not None and (target is None or target.suffix == SUFFIX):
        raise typer.BadParameter("belongs to an HTML file; add --out FILE.html", param_hint="--points")
    return target


def _show(target: Path | None, prepared: "Prepared", points: int | None) -> "Written":
    from pd_edge.terminal import counting
    from pd_edge.view.html import write_html
    from pd_edge.view.rerun_log import SUFFIX, log_rerun

    with counting("scans") as advance:

        def shown(done: int) -> None:
            advance(done, max(done, prepared.expected))

        if target is None or target.suffix == SUFFIX:
            return log_rerun(target, prepared.scene, prepared.moments, advance=shown)
        return write_html(target, prepared.scene, prepared.moments, most_points=points, advance=shown)


def _check_boxes(*, detect: bool, model: str | None, results: Path | None, of_a_run: list[str]) -> None:
    """Boxes come from one place at most, and what a model runs on is said only where one may run.

    Raises:
        typer.BadParameter: It is otherwise.
    """
    if model is not None and results is not None:
        raise typer.BadParameter("--model and --results: name one, boxes come from a model or from an earlier run")
    named = ["--model"] * (model is not None) + ["--results"] * (results is not None) + of_a_run
    if not detect and named:
        raise typer.BadParameter(f"shows no boxes; leave {' and '.join(named)} out", param_hint="--no-detect")
    if results is not None and of_a_run:
        raise typer.BadParameter(f"runs no model; leave {' and '.join(of_a_run)} out", param_hint="--results")


def _tell(written: "Written", prepared: "Prepared") -> None:
    from pd_edge.terminal import say

    size = f", {written.size / 1e6:.1f} MB" if written.size else ""
    say(f"{written.path}: {written.frames} scans, {written.boxes} boxes {prepared.whence}".rstrip() + size)
    if written.size > LARGE:
        say("note: a browser takes its time to open so much; --every, --frames and --points make it less", stderr=True)
    for failure in prepared.failures[:MOST_FAILURES]:
        say(f"passed over: {' '.join(failure.splitlines())}", stderr=True)
    if len(prepared.failures) > MOST_FAILURES:
        say(f"passed over: {len(prepared.failures)} in all", stderr=True)
