"""``pd-edge realism``: simulated scans beside real ones."""

from pathlib import Path
from typing import Annotated

import typer


def realism(
    simulated: Annotated[Path, typer.Argument(help="KITTI object folder of simulated frames.")],
    real: Annotated[Path, typer.Argument(help="KITTI object folder of real frames.")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    split: Annotated[str, typer.Option(help="List of frames to read in both.")] = "train",
    frames: Annotated[int, typer.Option(min=1, help="Most frames to read of either.")] = 400,
) -> None:
    """Compare simulated with real scans.

    Points by range and beam, share of ground, intensity, points on objects, in a table and plots. Only statistics of
    the real frames are written. Needs the extra viz.

    \b
    Example:
      pd-edge realism data/sim kitti/object --out realism
    """
    from pd_edge.terminal import busy, say
    from pd_edge.training.realism import report

    with busy("measuring"):
        path = report(simulated, real, out, split, frames)
    say(f"report: {path}")
