"""Times pillarize, the fused encoder and the decoder: ``python benchmarks/pillars.py [--repeats N] [CLOUD.bin ...]``.

Without clouds, a simple synthetic scan (level ground and a ring of walls) of several sizes stands in.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pd_edge.clouds import read_cloud
from pd_edge.config import DetectorConfig, GridConfig, ModelConfig, PointPillarsConfig
from pd_edge.decode import Decoder, Heads
from pd_edge.pillars import Layout, PillarEncoder, PillarNet, pillarize

Floats: TypeAlias = npt.NDArray[np.float32]
Case: TypeAlias = tuple[str, Callable[[], object]]

GRID = GridConfig()
LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")


def scan(count: int, rng: np.random.Generator) -> Floats:
    """A cloud (count, 4) of a 64-beam scanner 1.73 m above the ground, over the front 90 degrees."""
    per_beam = -(-count // 64)
    elevation = np.repeat(np.radians(np.linspace(2.0, -24.8, 64)), per_beam)[:count]
    azimuth = np.tile(np.radians(np.linspace(45, -45, per_beam)), 64)[:count]
    wall = 30 + 20 * np.sin(5 * azimuth) + rng.normal(0, 1, count)
    ground = np.where(elevation < 0, 1.73 / np.maximum(np.sin(-elevation), 1e-6), np.inf)
    reach = np.minimum(wall, ground) + rng.normal(0, 0.02, count)
    across = reach * np.cos(elevation)
    columns = across * np.cos(azimuth), across * np.sin(azimuth), reach * np.sin(elevation), rng.random(count)
    return np.stack(columns, axis=1).astype(np.float32)


def heads(rng: np.random.Generator, model: ModelConfig, mean: float, spread: float) -> Heads:
    """Random heads of the model's size; mean and spread of the logits set how many pass the threshold."""
    size = (model.grid.ny // 2, model.grid.nx // 2)
    logits, residuals, directions = (
        rng.normal(middle, width, (1, channels, *size)).astype(np.float32)
        for channels, middle, width in ((18, mean, spread), (42, 0, 0.1), (12, 0, 1))
    )
    return Heads(logits, residuals, directions)


def milliseconds(call: Callable[[], object], repeats: int) -> Floats:
    """Durations of single calls [ms], after three that are not counted."""
    taken = np.empty(repeats + 3, np.float32)
    for i in range(len(taken)):
        start = time.perf_counter()
        call()
        taken[i] = 1e3 * (time.perf_counter() - start)
    return taken[3:]


def encode_next(encoder: PillarEncoder, clouds: Iterator[Floats]) -> Floats:
    """Encodes the next of the clouds."""
    return encoder.encode(next(clouds))


def encoders(name: str, points: Floats, rng: np.random.Generator) -> Iterator[Case]:
    """The fused encoder by channels and layout, on two clouds by turns: as in a drive, cells have to be cleared."""
    shifted = points + np.array([0.4, -0.3, 0, 0], np.float32)
    for channels in (16, 32, 64):
        weight = rng.normal(size=(10, channels)).astype(np.float32)
        net = PillarNet(weight, rng.normal(size=channels).astype(np.float32))
        for layout in LAYOUTS:
            call = partial(encode_next, PillarEncoder(GRID, net, layout), cycle((points, shifted)))
            yield f"encode {name}, {channels} channels, {layout}", call


def decoders(rng: np.random.Generator) -> Iterator[Case]:
    """The decoder on a usual and on the worst case."""
    model = PointPillarsConfig(pillar_channels=32, backbone_channels=(32, 64, 128), neck_channels=64)
    decoder = Decoder(DetectorConfig(model=model))
    for name, mean, spread in (("few anchors pass", -7, 1.4), ("every anchor passes", 0, 0.5)):
        yield f"decode 321,408 anchors, {name}", partial(decoder.decode, heads(rng, model, mean, spread))


def cases(clouds: dict[str, Floats], rng: np.random.Generator) -> Iterator[Case]:
    """Names and calls to time."""
    for name, points in clouds.items():
        pillars = pillarize(points, GRID)
        size = f"({len(pillars.features)} in {len(pillars.cells)} pillars)"
        yield f"pillarize {name} {size}", partial(pillarize, points, GRID)
        yield from encoders(name, points, rng)
    yield from decoders(rng)


def main() -> None:
    """Prints the 50th and 95th percentile of every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clouds", nargs="*", type=Path, metavar="CLOUD", help="clouds instead of the synthetic ones")
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    clouds = {path.name: read_cloud(path) for path in arguments.clouds}
    clouds = clouds or {f"{count} points": scan(count, rng) for count in (20_000, 60_000, 120_000)}
    print(f"{'':70}  p50 ms  p95 ms")
    for name, call in cases(clouds, rng):
        p50, p95 = np.percentile(milliseconds(call, arguments.repeats), (50, 95))
        print(f"{name:70} {p50:7.2f} {p95:7.2f}")


if __name__ == "__main__":
    main()
