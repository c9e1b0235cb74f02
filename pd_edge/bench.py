"""Latency, memory and load time of detectors, runtimes and precisions side by side."""

import contextlib
import pickle
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pd_edge.config import GridConfig
from pd_edge.detector import Timing, load
from pd_edge.errors import EngineError, PdEdgeError
from pd_edge.sensors import load_profile

Cloud = npt.NDArray[np.float32]


class Case(NamedTuple):
    """What to measure: a model in a runtime at a precision."""

    model: str  # shipped name or path of a model or engine folder
    runtime: str = "openvino"
    precision: str = "fp32"
    threads: int | None = None  # None: the runtime's own choice
    sensor: str = ""  # sensor profile, by name or YAML file; clouds of KITTI's sensor if empty


class StageLatency(NamedTuple):
    """Time one stage takes for a frame [ms]."""

    stage: str  # encoder, network, decode or total
    minimum: float
    p50: float
    p95: float
    p99: float


class BenchResult(NamedTuple):
    """What was measured for a case, in a process of its own."""

    case: Case
    frames: int  # timed frames
    points: float  # mean points of a frame
    detections: float  # mean detections of a frame
    load_ms: float  # importing the runtime, verifying, reading and compiling the model
    peak_mib: float  # most memory the process ever held
    stages: tuple[StageLatency, ...]
    precision: str = ""  # what the network computes in, as the runtime says


class BenchSkipped(NamedTuple):
    """A case that cannot run on this machine, and why."""

    case: Case
    reason: str


STANDARD_CASES = (("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32"), ("torch", "fp32"))
"""Runtime and precision of the cases that ``pd-edge bench`` compares."""


def bench(
    cases: Sequence[Case],
    clouds: Sequence[Cloud],
    runs: int = 100,
    warmup: int = 5,
    progress: Callable[[Case], None] | None = None,
) -> list[BenchResult | BenchSkipped]:
    """Measures every case in turn, each in a fresh process, so that memory and load time are its own.

    Args:
        cases: What to measure.
        clouds: (N, 4) float32 each: x y z [m] in the sensor's frame, intensity 0..1. Taken in turn until
            ``runs`` frames are timed.
        runs: Frames to time per case.
        warmup: Frames to run before that, not timed.
        progress: Called with each case before it is measured.

    Raises:
        EngineError: There is nothing to run.
    """
    if not clouds or runs < 1 or warmup < 0:
        raise EngineError(f"{len(clouds)} clouds, {runs} runs, {warmup} warm-up runs: give 1 or more clouds and runs")
    results = []
    for case in cases:
        if progress is not None:
            progress(case)
        results.append(_measure_apart(case, clouds, runs, warmup))
    return results


def _measure_apart(case: Case, clouds: Sequence[Cloud], runs: int, warmup: int) -> BenchResult | BenchSkipped:
    """Runs :func:`measure` in a new interpreter. Unlike multiprocessing's it does not import the caller's script."""
    job = pickle.dumps((case, list(clouds), runs, warmup))
    command = [sys.executable, "-c", "from pd_edge.bench import answer_job; answer_job()"]
    done = subprocess.run(command, input=job, capture_output=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return BenchSkipped(case, f"the process ended with {done.returncode}: {last or 'no message'}")
    result: BenchResult | BenchSkipped = pickle.loads(done.stdout)  # noqa: S301 - from our own process
    return result


def answer_job() -> None:
    """The other end of :func:`bench`: reads a job from standard input, measures, writes the result."""
    job = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own process
    with contextlib.redirect_stdout(sys.stderr):
        result = measure(*job)
    sys.stdout.buffer.write(pickle.dumps(result))


def measure(case: Case, clouds: Sequence[Cloud], runs: int, warmup: int) -> BenchResult | BenchSkipped:
    """Measures one case in this process; see :func:`bench`."""
    start = time.perf_counter()
    try:
        sensor = load_profile(case.sensor).only_mount()
        detector = load(case.model, case.runtime, case.precision, case.threads, sensor=sensor)
    except PdEdgeError as error:
        return BenchSkipped(case, str(error))
    load_ms = 1e3 * (time.perf_counter() - start)
    timings: list[Timing] = []
    counts: list[tuple[int, int]] = []
    for run in range(-warmup, runs):
        cloud = clouds[run % len(clouds)]
        detections, timing = detector.detect_timed(cloud)
        if run >= 0:
            timings.append(timing)
            counts.append((len(cloud), len(detections.boxes)))
    points, found = np.mean(counts, axis=0)
    return BenchResult(
        case,
        runs,
        float(points),
        float(found),
        load_ms,
        peak_mib(),
        stage_latencies(timings),
        detector.runtime.precision,
    )


def stage_latencies(timings: Sequence[Timing]) -> tuple[StageLatency, ...]:
    """Minimum and percentiles of each stage, and of their sum as ``total``.

    Args:
        timings: One or more frames.
    """
    table = np.array([[*timing, timing.total] for timing in timings])
    quantiles = np.percentile(table, [0, 50, 95, 99], axis=0).T
    return tuple(
        StageLatency(stage, *map(float, row)) for stage, row in zip((*Timing._fields, "total"), quantiles, strict=True)
    )


def peak_mib() -> float:
    """Most memory this process has held so far, resident [MiB].

    Read from Linux' status file: ``getrusage`` would count the parent's memory at the time of the fork.

    Raises:
        EngineError: Not on Linux.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        raise EngineError(f"peak memory is read from {status}, which {platform.system()} does not have")
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def synthetic_cloud(points: int, grid: GridConfig, seed: int = 0) -> Cloud:
    """A stand-in for a scan where no real one is at hand: rings on flat ground before a jagged wall.

    20,000 points fall into about 5,000 pillars of 0.16 m, as in a real scan cut to the camera view.

    Args:
        points: Number of points, all inside a grid that reaches at least 40 m forward.
        grid: The detection volume.
        seed: Seed of the random part.

    Returns:
        (points, 4) float32: x y z [m] in the frame of a LiDAR 1.73 m above ground, intensity 0..1.
    """
    rng = np.random.default_rng(seed)
    beams = np.deg2rad(np.linspace(-24.0, 2.0, 64))
    elevation = rng.choice(beams, 4 * points)
    azimuth = rng.uniform(-np.pi / 4, np.pi / 4, len(elevation))
    wall = rng.uniform(8.0, 60.0, 200)[np.searchsorted(np.linspace(-np.pi / 4, np.pi / 4, 199), azimuth)]
    ground = np.where(elevation < 0, 1.73 / np.maximum(np.tan(-elevation), 1e-6), np.inf)
    reach = np.minimum(ground, wall) + rng.normal(0, 0.02, len(elevation))
    z = reach * np.tan(elevation)
    cloud = np.stack([reach * np.cos(azimuth), reach * np.sin(azimuth), z, rng.random(len(elevation))], axis=1)
    low, high = (grid.x_min, grid.y_min, grid.z_min), (grid.x_max, grid.y_max, grid.z_max)
    inside = ((cloud[:, :3] > low) & (cloud[:, :3] < high)).all(axis=1)
    if inside.sum() < points:
        raise EngineError(f"a synthetic cloud of {points} points needs a grid that reaches 40 m forward, not {grid}")
    return cloud[inside][:points].astype(np.float32)
