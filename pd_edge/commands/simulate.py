"""``pd-edge simulate``: LiDAR scans of made-up streets."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    *,
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")],
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    drive: Annotated[
        bool, typer.Option("--drive", help="A raw drive with moving objects instead of a KITTI object folder.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    config: Annotated[Path | None, typer.Option(help="What to simulate, YAML; the defaults if left out.")] = None,
) -> None:
    """Simulate LiDAR scans with labels, in KITTI's layout.

    Complete frames are kept, so an interrupted run goes on where it stopped; a drive is kept whole or made anew, and
    keeps its length. recipe.yaml in the folder says how it was made; a folder that holds anything else is left alone.
    Needs the extra train.

    \b
    Examples:
      pd-edge simulate data/sim --frames 4000 --seed 1
      pd-edge simulate data/drive --frames 100 --seed 7 --drive
    """
    from pd_edge.config import load_config
    from pd_edge.terminal import counting, say
    from pd_edge.training.sim.scene import SimulateConfig
    from pd_edge.training.simulate import simulate_drive, simulate_object

    settings = load_config(config, SimulateConfig) if config is not None else None
    with counting("frames") as advance:
        if drive:
            out = simulate_drive(out, frames, seed, settings, workers, advance=advance)
        else:
            simulate_object(out, frames, seed, settings, workers, advance=advance)
    say(f"{frames} frames: {out}")
