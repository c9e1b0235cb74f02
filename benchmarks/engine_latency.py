"""Time from points to boxes in INT8 against its targets: ``python benchmarks/engine_latency.py [MODEL]``.

Exports and builds MODEL in INT8 for OpenVINO, times it on real frames beside torch and OpenVINO, checks the targets
below, and writes ``latency-MODEL.json`` and ``.md``. Each case has a process of its own. Ratios hold where nothing else
runs on the machine; figures are the machine's, which the files name.

Targets: the whole path in INT8 takes at most a quarter of torch's eager fp32, and at most 1.35 times its network alone;
p99 below twice the median; whole scans of 120,000 points at most 8 ms more than those cut to the camera's view; encode
and scatter below 4 ms for 20,000 points; decoding with NMS below 3 ms.
"""

import argparse
import os
import tempfile
import time
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pd_edge
from pd_edge.batch import points_to_use
from pd_edge.bench import BenchResult, Case, Cloud, bench, synthetic_cloud
from pd_edge.config import GridConfig
from pd_edge.detector import load
from pd_edge.drive_report import machine
from pd_edge.engine_folder import EngineFolder
from pd_edge.engines.build import BuildOptions, build_engine
from pd_edge.engines.onnx_file import export_onnx
from pd_edge.engines.source import open_source
from pd_edge.errors import EngineError
from pd_edge.files import write_bytes
from pd_edge.kitti import ObjectDataset, open_dataset
from pd_edge.pillars import PillarEncoder
from pd_edge.report import write_json
from pd_edge.runtimes import PointsRuntime
from pd_edge.tables import Table, markdown_table
from pd_edge.terminal import say

RESULTS = Path(__file__).parent.parent / "engines" / "results"
POINTS = 20_000
BOTH = "int8-cpu, the rest bf16"
SCANS = 20
SCAN_FOLDER = Path("data/kitti/raw/2011_09_26/2011_09_26_drive_0005_sync")


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


class Measured(NamedTuple):
    """All that was timed."""

    cases: dict[str, BenchResult]
    alone: float
    """The INT8 network on canvases that are there already, median [ms]."""


def build_int8(model: str, calibration: Path, folder: Path) -> Path:
    """Exports a model in int8-cpu, dense form, and builds it for OpenVINO."""
    source = open_source(model)
    ranges = source.calibrate(calibration, 32, 100.0)
    onnx = export_onnx(source.model, source.config, folder / "int8.onnx", "dense", "int8-cpu", calibration=ranges)
    build_engine(onnx, folder / "engine", BuildOptions("openvino"))
    return folder / "engine"


def network_alone(engine: Path, clouds: list[Cloud], runs: int, threads: int | None) -> float:
    """Median time of the network on canvases that are there already [ms]."""
    detector, opened = load(engine, threads=threads), EngineFolder.load(engine)
    runtime = detector.runtime
    if isinstance(runtime, PointsRuntime) or opened.pillar_net is None:
        raise EngineError(f"{engine} takes points; give the form dense")
    encoder = PillarEncoder(opened.config.model.grid, opened.pillar_net, runtime.layout)
    times = []
    for run in range(-5, runs):
        canvas = encoder.encode(clouds[run % len(clouds)])
        start = time.perf_counter()
        runtime.infer(canvas)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[5:]))


def measure(model: str, engine: Path, data: tuple[Path, Path], runs: int, threads: int | None) -> Measured:
    """Times all cases on the frames of a KITTI object folder and the whole scans of a raw drive.

    Raises:
        EngineError: A case cannot run here.
    """
    view = [points_to_use(frame)[0] for frame in ObjectDataset(data[0], "val")]
    whole = [points_to_use(frame, crop=False)[0] for frame in islice(open_dataset(data[1], None), SCANS)]
    int8 = Case(str(engine), threads=threads)
    wanted = {
        "int8-cpu": (int8, view, runs),
        "int8-cpu, whole scans": (int8, whole, runs // 4),
        f"int8-cpu, {POINTS:,} artificial points": (int8, [synthetic_cloud(POINTS, GridConfig())], runs // 4),
        BOTH: (int8._replace(precision="bf16"), view, runs // 4),
        "bf16": (Case(model, "openvino", "bf16", threads), view, runs // 4),
        "fp32": (Case(model, "openvino", "fp32", threads), view, runs // 4),
        "torch fp32": (Case(model, "torch", "fp32", threads), view, runs // 4),
    }
    cases = {}
    for name, (case, clouds, count) in wanted.items():
        say(f"{model}: {name}, {count} frames")
        (result,) = bench([case], clouds, count)
        if not isinstance(result, BenchResult):
            raise EngineError(f"{name}: {result.reason}")
        cases[name] = result
    return Measured(cases, network_alone(engine, view, runs // 4, threads))


def targets(found: Measured) -> list[Target]:
    """What was timed, as the figures that have a limit."""
    int8, whole, artificial, both, *_, torch = found.cases.values()
    total = stage(int8, "total")
    eager = stage(torch, "total").p50
    return [
        Target("whole path / torch eager fp32", total.p50 / eager, 0.25, ""),
        Target(f"the same, {BOTH}", stage(both, "total").p50 / eager, 0.25, ""),
        Target("whole path / network alone", total.p50 / found.alone, 1.35, ""),
        Target("p99 / median", total.p99 / total.p50, 2.0, ""),
        Target(
            f"whole scans over those in view, {whole.points:,.0f} points",
            stage(whole, "total").p50 - total.p50,
            8.0,
            "ms",
        ),
        Target(f"encode and scatter, {POINTS:,} points", stage(artificial, "pillars").p50, 4.0, "ms"),
        Target("decoding with NMS", stage(int8, "decode").p50, 3.0, "ms"),
    ]


def stage(result: BenchResult, name: str) -> Any:
    """The latency of one stage."""
    return next(each for each in result.stages if each.stage == name)


def tables(model: str, found: Measured) -> list[Table]:
    """The times, and the figures that have a limit."""
    rows = [
        (
            name,
            f"{each.points:,.0f}",
            *(f"{stage(each, key).p50:.1f}" for key in ("pillars", "network", "decode", "total")),
            f"{stage(each, 'total').p99:.1f}",
            str(each.frames),
        )
        for name, each in found.cases.items()
    ]
    columns = ("case", "points", "pillars", "network", "decode", "total", "p99", "frames")
    load_now = f"{os.getloadavg()[0]:.1f}"
    notes = (
        f"OpenVINO where nothing else is said. The INT8 network alone: {found.alone:.1f} ms.",
        f"{machine()}; pd-edge {pd_edge.__version__}; load of the machine at the end: {load_now}.",
    )
    limits = [
        (each.name, f"{each.value:.2f} {each.unit}".strip(), f"{each.most:g} {each.unit}".strip(), verdict(each))
        for each in targets(found)
    ]
    return [
        Table(f"{model}, median [ms]", columns, rows, notes),
        Table(f"{model}, targets", ("figure", "found", "at most", "holds"), limits),
    ]


def verdict(target: Target) -> str:
    """Yes or no."""
    return "yes" if target.holds else "no"


def write_results(out: Path, model: str, found: Measured) -> None:
    """Writes figures and tables."""
    plain = {
        "model": model,
        "machine": machine(),
        "load": os.getloadavg()[0],
        "pd-edge": pd_edge.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "network_alone_ms": found.alone,
        "cases": {
            name: {"frames": each.frames, "points": each.points, "peak_mib": each.peak_mib, "load_ms": each.load_ms}
            | {"stages_ms": {row.stage: row._asdict() for row in each.stages}}
            for name, each in found.cases.items()
        },
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
    parser.add_argument("--runs", type=int, default=500, help="frames of the INT8 case; the others take a quarter")
    parser.add_argument("--threads", type=int, help="CPU threads of each network")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        engine = build_int8(arguments.model, arguments.data, Path(scratch))
        data = (arguments.data, arguments.scans)
        found = measure(arguments.model, engine, data, max(arguments.runs, 4), arguments.threads)
    write_results(arguments.out, arguments.model, found)
    for each in targets(found):
        say(f"{each.name}: {each.value:.2f} {each.unit} (at most {each.most:g}): {'holds' if each.holds else 'missed'}")


if __name__ == "__main__":
    main()
