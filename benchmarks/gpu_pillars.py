"""Times the GPU's share of a frame before the network: ``python benchmarks/gpu_pillars.py [--json PATH]``.

Upload from pinned memory, and voxelize, feature net and scatter by the project's kernels, launched one by one and as a
CUDA graph. Needs an NVIDIA GPU, PyCUDA and nvcc. Times are medians by CUDA events; where the
GPU waits for the next launch, that counts.
"""

import argparse
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

import pd_edge
from pd_edge.bench import synthetic_cloud
from pd_edge.bundle import Bundle
from pd_edge.config import GridConfig
from pd_edge.errors import EngineError
from pd_edge.pillars import PillarNet
from pd_edge.report import write_json
from pd_edge.runtimes.cuda import cuda_driver
from pd_edge.runtimes.cuda_graph import CudaGraph, load_driver
from pd_edge.runtimes.cuda_pillars import CudaPillars, compile_kernels
from pd_edge.tables import Table, markdown_table

GRID = GridConfig()
MODELS = {"pointpillars-16x": 16, "pointpillars-4x": 32, "pointpillars-teacher": 64}
"""Shipped models, with the channels of random weights that stand in for one that is not here."""
POINTS = (20_000, 120_000)
WARM_UP = 20


class Row(NamedTuple):
    """Medians for one network and cloud [ms]."""

    net: str
    channels: int
    points: int
    upload: float
    launches: float
    """Voxelize, encode and scatter, five launches."""
    graph: float
    """The same as a CUDA graph."""


def pillar_net(model: str, channels: int) -> tuple[str, PillarNet]:
    """The feature net of a model with its name, or random weights of as many channels where it is not here."""
    try:
        return model, cast("PillarNet", Bundle.load(model).encoder_net)
    except EngineError:
        rng = np.random.default_rng(0)
        weight, bias = (rng.normal(size=size).astype(np.float32) for size in ((10, channels), channels))
        return f"random, as {model}", PillarNet(weight, bias)


def median_ms(cuda: Any, stream: Any, work: Callable[[], None], repeats: int) -> float:
    """Median time on the GPU of what ``work`` gives to the stream [ms], each run by itself."""
    begin, end = cuda.Event(), cuda.Event()
    times = []
    for run in range(-WARM_UP, repeats):
        begin.record(stream)
        work()
        end.record(stream)
        end.synchronize()
        if run >= 0:
            times.append(end.time_since(begin))
    return float(np.median(times))


def measure(cuda: Any, module: bytes, name: str, net: PillarNet, count: int, *, repeats: int) -> Row:
    """Times one network on one cloud."""
    stream = cuda.Stream()
    pinned = cuda.pagelocked_empty((count, 4), np.float32)
    pinned[:] = synthetic_cloud(count, GRID)
    points = cuda.mem_alloc(pinned.nbytes)
    pillars = CudaPillars(cuda, module, GRID, net)
    pillars.reserve(count)
    encode = partial(pillars.encode, points, count, stream)
    upload = median_ms(cuda, stream, partial(cuda.memcpy_htod_async, points, pinned, stream), repeats)
    launches = median_ms(cuda, stream, encode, repeats)
    graph = CudaGraph(load_driver(), stream.handle, encode)
    try:
        at_once = median_ms(cuda, stream, graph.launch, repeats)
    finally:
        graph.close()
    return Row(name, net.bias.size, count, upload, launches, at_once)


def table(gpu: str, rows: list[Row], repeats: int) -> Table:
    """The medians as a table."""
    cells = [(row.net, str(row.channels), f"{row.points:,}", *(f"{time:.3f}" for time in row[3:])) for row in rows]
    columns = ("pillar net", "channels", "points", "upload", "pillars, launched", "pillars, CUDA graph")
    note = (
        f"Grid of {GRID.nx} x {GRID.ny} cells; medians of {repeats} runs by CUDA events; pd-edge {pd_edge.__version__}."
    )
    return Table(f"Pillars on {gpu}, median [ms]", columns, cells, (note,))


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    cuda = cuda_driver()
    device = cuda.Device(0)
    module = compile_kernels(tuple(device.compute_capability()))
    context = device.retain_primary_context()
    context.push()
    try:
        rows = [
            measure(cuda, module, *pillar_net(model, channels), count, repeats=arguments.repeats)
            for model, channels in MODELS.items()
            for count in POINTS
        ]
    finally:
        context.pop()
    print(markdown_table(table(device.name(), rows, arguments.repeats)))
    if arguments.json is not None:
        figures = {
            "gpu": device.name(),
            "driver": cuda.get_driver_version(),
            "pd-edge": pd_edge.__version__,
            "date": datetime.now(timezone.utc).date().isoformat(),
            "repeats": arguments.repeats,
            "median_ms": [row._asdict() for row in rows],
        }
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
