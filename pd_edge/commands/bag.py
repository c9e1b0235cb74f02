"""``pd-edge bag``: ROS bags without ROS."""

from pathlib import Path
from typing import Annotated

import typer

bag = typer.Typer(name="bag", help="ROS bags, without ROS.", no_args_is_help=True, rich_markup_mode=None)


@bag.callback()
def _bag() -> None:
    """ROS bags, without ROS."""


@bag.command("from-kitti")
def from_kitti(
    drive: Annotated[Path, typer.Argument(help="KITTI raw drive, the day's calibration beside it.")],
    out: Annotated[Path, typer.Argument(help="One .mcap file, or a folder with sqlite3.")],
    *,
    compress: Annotated[bool, typer.Option("--compress", help="Compress with zstd.")] = False,
) -> None:
    """Write a KITTI raw drive as a ROS 2 bag.

    The bag holds the clouds with their time stamps, transforms and ego motion, the left colour camera, and ground
    truth where the drive has labels or tracklets: boxes for viewers, and KITTI's label lines for evaluation. Needs the
    extra bags.

    \b
    Examples:
      pd-edge bag from-kitti 2011_09_26/2011_09_26_drive_0005_sync drive.mcap
      pd-edge bag from-kitti 2011_09_26/2011_09_26_drive_0005_sync drive.mcap --compress
    """
    from pd_edge.kitti import RawDrive
    from pd_edge.kitti_bag import write_drive
    from pd_edge.terminal import counting, say

    with counting("scans") as advance:
        written = write_drive(RawDrive(drive), out, "zstd" if compress else "none", advance)
    say(f"{out}: {written.scans} scans, {written.objects} objects")
    for note in written.notes:
        say(f"note: {note}", stderr=True)
    for name, why in written.left_out:
        say(f"left out: scan {name}: {why}", stderr=True)
