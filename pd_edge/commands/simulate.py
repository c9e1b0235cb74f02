"""``pd-edge simulate``: LiDAR scans of made-up streets."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    *,
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")],
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes on one machine.")] = 0,
    drive: Annotated[
        bool, typer.Option("--drive", help="A raw drive with moving objects instead of a KITTI object folder.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    sensor: Annotated[
        str | None,
        typer.Option(
            help="hdl-64e, vlp-16, vlp-32c, xt32, pandar64, os1-64, os1-128 or mid-360, in place of all that CONFIG "
            "says of its sensor; CONFIG's, else hdl-64e as in KITTI, if left out."
        ),
    ] = None,
    mount_height: Annotated[
        float | None, typer.Option(help="Of the sensor above the road [m]; CONFIG's, else its profile's, if left out.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="What to simulate, YAML; the defaults if left out.")] = None,
) -> None:
    """Simulate LiDAR scans with labels, in KITTI's layout.

    Clouds are in the sensor's own frame and have its intensities. Unless these are KITTI's, the folder gets a profile,
    sensor.yaml, to read them with: `--sensor OUT/sensor.yaml` of detect and eval, `sensor:` of a training source. The
    camera, whose view the labels are of, stays at its place.

    Complete frames are kept, so an interrupted run goes on where it stopped; a drive is kept whole or made anew, and
    keeps its length. recipe.yaml in the folder says how it was made; a folder that holds anything else is left alone.
    Needs the extra train.

    \b
    Examples:
      pd-edge simulate data/sim --frames 4000 --seed 1
      pd-edge simulate data/drive --frames 100 --seed 7 --drive
      pd-edge simulate data/sim-32 --frames 2000 --sensor vlp-32c --mount-height 2.4
    """
    from pd_edge.config import load_config
    from pd_edge.kitti_frames import PROFILE
    from pd_edge.terminal import counting, say
    from pd_edge.training.sim.scene import SimulateConfig
    from pd_edge.training.simulate import configured, simulate_drive, simulate_object

    settings = configured(load_config(config, SimulateConfig) if config is not None else None, sensor, mount_height)
    folder = out
    with counting("frames") as advance:
        if drive:
            out = simulate_drive(out, frames, seed, settings, workers, advance=advance)
        else:
            simulate_object(out, frames, seed, settings, workers, advance=advance)
    say(f"{frames} frames: {out}")
    if (folder / PROFILE).is_file():
        say(f"sensor profile: {folder / PROFILE}")
