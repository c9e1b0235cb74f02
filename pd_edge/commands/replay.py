"""``pd-edge replay``: a detector over a bag."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_edge.commands.options import DEFAULT_MODEL, Model, Precision, Runtime, Score, Threads

if TYPE_CHECKING:
    from pd_edge.replay import Replayed


def replay(
    bag: Annotated[Path, typer.Argument(help="A bag: .mcap, .db3, ROS 1 .bag, or the folder of a rosbag2.")],
    out: Annotated[Path, typer.Option(help="The bag to write: one .mcap file, or a folder with sqlite3.")],
    *,
    topic: Annotated[str | None, typer.Option(help="PointCloud2 topic; the bag's only one if left out.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Speed, 1.0 as recorded; as fast as it goes if left out.")
    ] = None,
    clouds: Annotated[
        bool, typer.Option("--clouds", help="Copy the clouds too, to look at them with the boxes.")
    ] = False,
    compress: Annotated[bool, typer.Option("--compress", help="Compress with zstd.")] = False,
    model: Model = DEFAULT_MODEL,
    runtime: Runtime = "openvino",
    precision: Precision = "fp32",
    threads: Threads = None,
    score: Score = None,
) -> None:
    """Run the detector over a ROS bag, without ROS.

    OUT holds /detections (vision_msgs/Detection3DArray) and /detections/markers for Foxglove and RViz, with the header
    and time of their clouds, and every other message of the bag as it is. A cloud that cannot be used is passed over
    and counted. Needs the extra bags.

    \b
    Examples:
      pd-edge replay drive.mcap --out detections.mcap
      pd-edge replay kitti.bag --out detections.mcap --clouds --rate 1.0
    """
    from pd_edge.commands.shared import load_detector
    from pd_edge.errors import DataError
    from pd_edge.replay import replay as run
    from pd_edge.report import latency_table
    from pd_edge.terminal import counting, say, show

    detector = load_detector(model, runtime, precision, threads, score)
    with counting("clouds") as advance:
        done = run(
            bag,
            detector,
            out,
            topic=topic,
            rate=rate,
            clouds=clouds,
            compression="zstd" if compress else "none",
            advance=advance,
        )
    show(latency_table(done.timings, f"{detector.name} over {done.topic}"))
    say(f"{out}: {done.boxes} boxes in {len(done.timings)} clouds, {len(done.timings) / done.seconds:.1f} a second")
    _tell_trouble(done)
    if done.cut:
        raise DataError(done.cut)


def _tell_trouble(done: "Replayed") -> None:
    from pd_edge.terminal import say

    if done.without_intensity:
        say("note: the clouds have no intensity; zeros stood for it, and scores suffer", stderr=True)
    if done.points_removed:
        say(f"note: {done.points_removed} points left out: NaN, infinite or at the origin", stderr=True)
    for time_ns, why in done.failures[:5]:
        say(f"passed over: the cloud at {time_ns} ns: {why}", stderr=True)
    if len(done.failures) > 5:
        say(f"passed over: {len(done.failures)} clouds in all", stderr=True)
