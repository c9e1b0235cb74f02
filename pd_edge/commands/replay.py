"""``pd-edge replay``: a detector over a bag, or over a folder of bags."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_edge.commands.options import DEFAULT_MODEL, Coverage, Model, Precision, Runtime, Score, Sensor, Threads

if TYPE_CHECKING:
    from pd_edge.replay import Replayed
    from pd_edge.replay_many import Task


def replay(
    bag: Annotated[
        Path, typer.Argument(help="A bag: .mcap, .db3, ROS 1 .bag, or the folder of a rosbag2; or a folder of bags.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The bag to write: one .mcap file, or a folder with sqlite3. A folder of .mcap for many."),
    ],
    *,
    topic: Annotated[str | None, typer.Option(help="PointCloud2 topic; the bag's only one if left out.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Speed, 1.0 as recorded; as fast as it goes if left out.")
    ] = None,
    clouds: Annotated[
        bool, typer.Option("--clouds", help="Copy the clouds too, to look at them with the boxes.")
    ] = False,
    compress: Annotated[bool, typer.Option("--compress", help="Compress with zstd.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of a folder of bags, how many at a time; one if left out.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Replay a folder of bags on a Ray cluster: auto, ray://HOST:10001, or local for a new one."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    runtime: Runtime = None,
    precision: Precision = None,
    threads: Threads = None,
    score: Score = None,
    sensor: Sensor = "",
    coverage: Coverage = "front",
) -> None:
    """Run the detector over a ROS bag, or a folder of bags, without ROS.

    OUT holds /detections (vision_msgs/Detection3DArray) and /detections/markers for Foxglove and RViz, with the header
    and time of their clouds, and every other message of the bag as it is; markers are for boxes that score 0.3 or more,
    or --score. A cloud that cannot be used is passed over
    and counted. Needs the extra bags.

    Of a folder, every bag below it is replayed by a process of its own, which is tried again when it is killed; what
    OUT holds already is not run again. --ray needs the extra ray, and bags, results and models under the same paths
    everywhere.

    \b
    Examples:
      pd-edge replay drive.mcap --out detections.mcap
      pd-edge replay kitti.bag --out detections.mcap --clouds --rate 1.0
      pd-edge replay bags/ --out detections/ --workers 4
    """
    from pd_edge.boxes import SHOWN_SCORE
    from pd_edge.commands.shared import decode_from
    from pd_edge.errors import DataError
    from pd_edge.replay_many import DetectorChoice, Task, holds_bags
    from pd_edge.sectors import coverage_named
    from pd_edge.sensors import load_profile

    decode, profile = decode_from(model, score), load_profile(sensor)
    detector = DetectorChoice(model, runtime, precision, threads, decode, profile, coverage_named(coverage))
    shown = SHOWN_SCORE if score is None else 0.0
    task = Task(bag, out, detector, topic, rate, clouds, shown, "zstd" if compress else "none")
    if holds_bags(bag):
        _replay_many(task, workers, ray)
    elif workers is not None or ray is not None:
        raise DataError(f"{bag}: one bag; --workers and --ray are for a folder of bags")
    else:
        _replay_one(task)


def _replay_one(task: "Task") -> None:
    from pd_edge.errors import DataError
    from pd_edge.report import latency_table
    from pd_edge.terminal import busy, counting, say, show

    with busy(f"loading {task.detector.model}"):
        detector = task.detector.load()
    with counting("clouds") as advance:
        done = task.run(detector, advance)
    show(latency_table(done.timings, f"{detector.name} over {done.topic}"))
    say(
        f"{task.out}: {done.boxes} boxes in {len(done.timings)} clouds, {len(done.timings) / done.seconds:.1f} a second"
    )
    _tell_trouble(done)
    if done.cut:
        raise DataError(done.cut)


def _replay_many(task: "Task", workers: int | None, ray: str | None) -> None:
    from pd_edge.errors import DataError
    from pd_edge.replay_many import outcome_table, plan, replay_in_processes, replay_on_ray
    from pd_edge.terminal import counting, say, show

    if workers is not None and ray is not None:
        raise DataError("--workers and --ray: name one of them; a Ray cluster has workers of its own")
    tasks, there = plan(task.bag, task.out, task)
    if there:
        say(f"{len(there)} bags are in {task.out} already; remove them there to replay them again", stderr=True)
    start = time.perf_counter()
    with counting("bags") as advance:
        outcomes = (
            replay_in_processes(tasks, workers or 1, advance) if ray is None else replay_on_ray(tasks, ray, advance)
        )
    show(outcome_table(outcomes, task.bag, time.perf_counter() - start))
    for outcome in outcomes:
        if outcome.done is not None:
            _tell_trouble(outcome.done, f"{outcome.bag.name}: ")
        if outcome.error is not None:
            say(f"failed: {outcome.error}", stderr=True)
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(1)


def _tell_trouble(done: "Replayed", prefix: str = "") -> None:
    from pd_edge.terminal import say

    if done.without_intensity:
        say(f"note: {prefix}the clouds have no intensity; zeros stood for it, and scores suffer", stderr=True)
    if done.points_removed:
        say(f"note: {prefix}{done.points_removed} points left out: NaN, infinite or at the origin", stderr=True)
    for time_ns, why in done.failures[:5]:
        say(f"passed over: {prefix}the cloud at {time_ns} ns: {why}", stderr=True)
    if len(done.failures) > 5:
        say(f"passed over: {prefix}{len(done.failures)} clouds in all", stderr=True)
