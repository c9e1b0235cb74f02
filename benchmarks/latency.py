"""Latency and memory of the three network sizes in every runtime: ``python benchmarks/latency.py [--runs 100]``.

Sizes that are not shipped run with random weights, whose heads are shifted so that decoding meets 200 candidates: the
time does not depend on the weights otherwise. Needs the extras ``train`` and ``onnxruntime``.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from pd_edge.bench import STANDARD_CASES, BenchResult, BenchSkipped, Case, bench, synthetic_cloud
from pd_edge.bundle import shipped_models
from pd_edge.clouds import read_cloud
from pd_edge.config import DetectorConfig, GridConfig
from pd_edge.engines.onnx_export import export_bundle
from pd_edge.training.pointpillars import PointPillars, student_4x_config, student_16x_config, teacher_config

SIZES = {
    "pointpillars-teacher": teacher_config,
    "pointpillars-4x": student_4x_config,
    "pointpillars-16x": student_16x_config,
}
CANDIDATES = 200


def random_model(name: str) -> PointPillars:
    """A network of random weights whose heads give 200 candidates for a canvas of noise."""
    torch.manual_seed(0)
    model = PointPillars(SIZES[name]()).eval()
    config = model.config
    with torch.no_grad():
        model.head.weight.normal_(0, 0.05)
        logits = model.dense(torch.rand(1, config.pillar_channels, config.grid.ny, config.grid.nx)).logits
        bar = logits.flatten().kthvalue(logits.numel() - CANDIDATES).values
        model.head.state_dict()["bias"][: logits.shape[1]] += float(np.log(0.1 / 0.9)) - bar
    return model


def model_folder(name: str, scratch: Path) -> str:
    """The shipped model of that name, else the path of one with random weights."""
    if name in shipped_models():
        return name
    model = random_model(name)
    return str(export_bundle(model, DetectorConfig(model=model.config), scratch / name, weights="fp16").folder)


def row(result: BenchResult | BenchSkipped) -> str:
    """A result as a line of the table."""
    case = result.case
    head = f"{Path(case.model).name:<22}{case.runtime:<13}{case.precision:<6}"
    if isinstance(result, BenchSkipped):
        return f"{head}  {result.reason}"
    times = "".join(f"{stage.p50:>9.1f} ({stage.minimum:>6.1f})" for stage in result.stages)
    return f"{head}{times}{result.stages[-1].p99:>9.1f}{result.load_ms:>10.0f}{result.peak_mib:>8.0f}"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), default=list(SIZES))
    parser.add_argument("--clouds", nargs="+", type=Path, help="cloud files; a synthetic cloud when left out")
    parser.add_argument("--points", type=int, default=20_000, help="points of the synthetic cloud")
    parser.add_argument("--runs", type=int, default=100, help="timed frames per row")
    arguments = parser.parse_args()
    clouds = [read_cloud(path) for path in arguments.clouds or ()]
    clouds = clouds or [synthetic_cloud(arguments.points, GridConfig())]
    print(
        "ms, median (minimum)".ljust(41),
        *(f"{stage:>17}" for stage in ("encoder", "network", "decode", "total")),
        end="",
    )
    print(f"{'p99':>9}{'load ms':>10}{'MiB':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.models:
            model = model_folder(name, Path(scratch))
            for runtime, precision in STANDARD_CASES:
                print(row(bench([Case(model, runtime, precision)], clouds, arguments.runs)[0]), flush=True)


if __name__ == "__main__":
    main()
