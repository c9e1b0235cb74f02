"""Time from points to boxes in INT8 against its targets: ``python benchmarks/engine_latency.py [MODEL]``.

Exports and builds MODEL in INT8 for OpenVINO, times it on real frames beside torch and OpenVINO, checks the targets
below, and writes ``latency-MODEL.json`` and ``.md``. All detectors and kinds of clouds, and the INT8 network alone,
take turns in one process, so that what is compared meets the same state of the machine; then INT8 gets frames in a row.
Figures are the machine's, which the files name, with the part of its time that other virtual machines took meanwhile;
p99 tells of the detector only where that is nearly nothing.

Targets: the whole path in INT8 takes at most a quarter of torch's eager fp32, and at most 1.35 times its network alone;
p99 below twice the median; whole scans of 120,000 points at most 8 ms more than those cut to the camera's view; encode
and scatter below 4 ms for 20,000 points; decoding with NMS below 3 ms.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pd_edge
from pd_edge.batch import points_to_use
from pd_edge.bench import Cloud, StageLatency, stage_latencies, synthetic_cloud
from pd_edge.config import GridConfig
from pd_edge.detector import Detector, Timing, load
from pd_edge.drive_report import machine
from pd_edge.encoders import make_encoder
from pd_edge.engine_folder import EngineFolder
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.engines.onnx_file import export_onnx
from pd_edge.engines.source import open_source
from pd_edge.errors import EngineError
from pd_edge.files import write_bytes
from pd_edge.kitti import ObjectDataset, open_dataset
from pd_edge.report import write_json
from pd_edge.runtimes import PointsRuntime
from pd_edge.tables import Table, markdown_table
from pd_edge.terminal import say

RESULTS = Path(__file__).parent.parent / "engines" / "results"
SCAN_FOLDER = Path("data/kitti/raw/2011_09_26/2011_09_26_drive_0005_sync")
POINTS, SCANS, CANVASES, WARM_UP, STEAL = 20_000, 20, 4, 5, 7
INT8, BOTH, TORCH = "int8-cpu", "int8-cpu, the rest bf16", "torch fp32"
VIEW, WHOLE, ARTIFICIAL, IN_A_ROW = "camera's view", "whole scans", "artificial", "camera's view, in a row"
KINDS: dict[str, tuple[str, ...]] = {INT8: (VIEW, WHOLE, ARTIFICIAL), TORCH: (VIEW,)}
"""Clouds that a detector gets where these are not the cut and the whole ones."""
STAGES = ("encoder", "network", "decode", "total")


class Target(NamedTuple):
    """A figure and the most it may be."""

    name: str
    value: float
    most: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the figure keeps to the limit."""
        return self.value <= self.most


class Series(NamedTuple):
    """One detector on one kind of cloud."""

    frames: int
    points: float
    stages: dict[str, StageLatency]


class Measured(NamedTuple):
    """All that was timed."""

    series: dict[tuple[str, str], Series]
    """By detector and kind of cloud."""
    more: dict[str, dict[str, float]]
    """By detector, what each stage takes longer for a whole scan than for a cut one of the same turn, median [ms]."""
    alone: float
    """The INT8 network on canvases that are there already, median [ms]."""
    stolen: float
    """Time that other virtual machines took from this one's CPUs meanwhile [%]."""


def build_int8(model: str, calibration: Path, folder: Path) -> Path:
    """Exports a model in int8-cpu, dense form, and builds it for OpenVINO."""
    source = open_source(model)
    ranges = source.calibrate(calibration, 32, 100.0)
    onnx = export_onnx(source.model, source.config, folder / "int8.onnx", "dense", "int8-cpu", calibration=ranges)
    build_engine(onnx, folder / "engine", BuildOptions("openvino"))
    return folder / "engine"


def network_alone(engine: Path, detector: Detector, clouds: Sequence[Cloud]) -> Callable[[], float]:
    """A function that runs the network once, on one of some canvases that are there already; returns its time [ms]."""
    runtime, opened = detector.runtime, EngineFolder.load(engine)
    if isinstance(runtime, PointsRuntime) or opened.encoder_net is None:
        raise EngineError(f"{engine} takes points; give the form dense")
    encoder = make_encoder(opened.config.model, opened.encoder_net, runtime.layout)
    canvases = cycle([encoder.encode(cloud).copy() for cloud in clouds[:CANVASES]])

    def run() -> float:
        canvas = next(canvases)
        start = time.perf_counter()
        runtime.infer(canvas)
        return 1e3 * (time.perf_counter() - start)

    return run


def measure(  # noqa: PLR0917
    model: str, engine: Path, data: tuple[Path, Path], turns: int, frames: int, threads: int | None
) -> Measured:
    """Times all detectors on the frames of a KITTI object folder and the whole scans of a raw drive.

    Args:
        model: The model.
        engine: The same in INT8, an engine folder.
        data: KITTI object folder and raw drive.
        turns: Turns of all detectors.
        frames: Frames that INT8 gets one after the other behind them.
        threads: CPU threads of each network.

    Raises:
        EngineError: A detector cannot run here.
    """
    view = [points_to_use(frame)[0] for frame in ObjectDataset(data[0], "val")]
    whole = [points_to_use(frame, crop=False)[0] for frame in islice(open_dataset(data[1], None), SCANS)]
    clouds = {VIEW: view, WHOLE: whole, ARTIFICIAL: [synthetic_cloud(POINTS, GridConfig())]}
    detectors = {
        INT8: load(engine, threads=threads),
        BOTH: load(engine, precision="bf16", threads=threads),
        "bf16": load(model, "openvino", "bf16", threads),
        "fp32": load(model, "openvino", "fp32", threads),
        TORCH: load(model, "torch", "fp32", threads),
    }
    cases = [(name, kind) for name in detectors for kind in KINDS.get(name, (VIEW, WHOLE))]
    alone = network_alone(engine, detectors[INT8], view)
    timings: dict[tuple[str, str], list[Timing]] = {case: [] for case in cases}
    network = []
    before = cpu_times()
    say(f"{model}: {turns} turns of {', '.join(detectors)}")
    for turn in range(WARM_UP + turns):
        for name, detector in detectors.items():
            kinds = KINDS.get(name, (VIEW, WHOLE))
            for kind in kinds if turn % 2 else kinds[::-1]:  # the first finds the caches full of another network
                cloud = clouds[kind][turn % len(clouds[kind])]
                timings[name, kind].append(detector.detect_timed(cloud)[1])
            if name == INT8:
                network.append(alone())
    say(f"{model}: {INT8}, {frames} frames one after the other")
    row = [detectors[INT8].detect_timed(view[turn % len(view)])[1] for turn in range(WARM_UP + frames)]
    found = {case: each[WARM_UP:] for case, each in timings.items()} | {(INT8, IN_A_ROW): row[WARM_UP:]}
    series = {
        (name, kind): _series(each, clouds[VIEW if kind == IN_A_ROW else kind]) for (name, kind), each in found.items()
    }
    more = {name: longer(found[name, VIEW], found[name, WHOLE]) for name, kind in cases if kind == WHOLE}
    return Measured(series, more, float(np.median(network[WARM_UP:])), stolen(before, cpu_times()))


def cpu_times() -> list[int]:
    """Time of all CPUs since the start of the machine, by kind, as Linux counts it."""
    line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    return [int(each) for each in line.split()[1:9]]


def stolen(before: Sequence[int], after: Sequence[int]) -> float:
    """Time that other virtual machines took between two :func:`cpu_times` [%]."""
    spent = [a - b for a, b in zip(after, before, strict=True)]
    return 100 * spent[STEAL] / max(sum(spent), 1)


def longer(view: Sequence[Timing], whole: Sequence[Timing]) -> dict[str, float]:
    """What each stage, and all of them, take longer for the second of two clouds of one turn, median [ms]."""
    table = np.array([[*w, w.total] for w in whole]) - np.array([[*v, v.total] for v in view])
    return dict(zip(STAGES, np.median(table, axis=0).tolist(), strict=True))


def _series(timings: Sequence[Timing], clouds: Sequence[Cloud]) -> Series:
    points = float(np.mean([len(clouds[turn % len(clouds)]) for turn in range(len(timings))]))
    return Series(len(timings), points, {each.stage: each for each in stage_latencies(timings)})


def targets(found: Measured) -> list[Target]:
    """What was timed, as the figures that have a limit."""
    int8 = found.series[INT8, VIEW].stages
    both, eager = (found.series[name, VIEW].stages["total"].p50 for name in (BOTH, TORCH))
    row = found.series[INT8, IN_A_ROW].stages["total"]
    artificial, points = found.series[INT8, ARTIFICIAL], found.series[INT8, WHOLE].points
    return [
        Target("whole path / torch eager fp32", int8["total"].p50 / eager, 0.25, ""),
        Target(f"the same, {BOTH}", both / eager, 0.25, ""),
        Target("whole path / network alone", int8["total"].p50 / found.alone, 1.35, ""),
        Target("p99 / median, in a row", row.p99 / row.p50, 2.0, ""),
        Target(f"whole scans over those in view, {points:,.0f} points", found.more[INT8]["total"], 8.0, "ms"),
        Target(f"the same, {BOTH}", found.more[BOTH]["total"], 8.0, "ms"),
        Target(f"encode and scatter, {POINTS:,} points", artificial.stages["encoder"].p50, 4.0, "ms"),
        Target("decoding with NMS", int8["decode"].p50, 3.0, "ms"),
    ]


def tables(model: str, found: Measured) -> list[Table]:
    """The times, what whole scans take longer, and the figures that have a limit."""
    rows = [
        (
            name,
            kind,
            f"{each.points:,.0f}",
            *(f"{each.stages[stage].p50:.1f}" for stage in STAGES),
            f"{each.stages['total'].p99:.1f}",
            str(each.frames),
        )
        for (name, kind), each in found.series.items()
    ]
    notes = (
        f"OpenVINO where nothing else is said. The INT8 network alone: {found.alone:.1f} ms.",
        f"{machine()}; pd-edge {pd_edge.__version__}; {found.stolen:.0f} % of its time was stolen.",
    )
    more = [(name, *(f"{stages[stage]:.1f}" for stage in STAGES)) for name, stages in found.more.items()]
    turns = ("Of the two clouds of one turn, so that the rest of the machine's work meets both.",)
    limits = [
        (each.name, f"{each.value:.2f} {each.unit}".strip(), f"{each.most:g} {each.unit}".strip(), verdict(each))
        for each in targets(found)
    ]
    columns = ("detector", "clouds", "points", *STAGES, "p99", "frames")
    return [
        Table(f"{model}, median [ms]", columns, rows, notes),
        Table(f"{model}, what whole scans take longer than cut ones, median [ms]", ("detector", *STAGES), more, turns),
        Table(f"{model}, targets", ("figure", "found", "at most", "holds"), limits),
    ]


def verdict(target: Target) -> str:
    """Yes or no."""
    return "yes" if target.holds else "no"


def write_results(out: Path, model: str, found: Measured) -> None:
    """Writes figures and tables."""
    plain: dict[str, Any] = {
        "model": model,
        "machine": machine(),
        "stolen_percent": found.stolen,
        "pd-edge": pd_edge.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "network_alone_ms": found.alone,
        "cases": [
            {"detector": name, "clouds": kind, "frames": each.frames, "points": each.points}
            | {"stages_ms": {stage: row._asdict() for stage, row in each.stages.items()}}
            for (name, kind), each in found.series.items()
        ],
        "whole_scans_longer_ms": found.more,
        "targets": [each._asdict() | {"holds": each.holds} for each in targets(found)],
    }
    write_json(out / f"latency-{model}.json", plain)
    text = "\n".join(["# Time from points to boxes\n", *(markdown_table(each) for each in tables(model, found))])
    write_bytes(out / f"latency-{model}.md", (text.rstrip("\n") + "\n").encode())


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="pointpillars-4x")
    parser.add_argument("--data", type=Path, default=Path("data/kitti/object"), help="KITTI object folder, split val")
    parser.add_argument("--scans", type=Path, default=SCAN_FOLDER, help="raw drive whose whole scans are taken")
    parser.add_argument("--engine", type=Path, help="MODEL as int8-cpu, dense, for OpenVINO; built where left out")
    parser.add_argument("--turns", type=int, default=120, help="turns of all detectors")
    parser.add_argument("--frames", type=int, default=500, help="frames of INT8 in a row")
    parser.add_argument("--threads", type=int, help="CPU threads of each network")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        engine = given.engine or build_int8(given.model, given.data, Path(scratch))
        found = measure(given.model, engine, (given.data, given.scans), given.turns, given.frames, given.threads)
    write_results(given.out, given.model, found)
    for each in targets(found):
        say(f"{each.name}: {each.value:.2f} {each.unit} (at most {each.most:g}): {'holds' if each.holds else 'missed'}")


if __name__ == "__main__":
    main()
