"""``pd-edge demo``: the main job, from a drive to boxes, a picture and a report."""

from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import DEFAULT_MODEL, Model, Runtime

SEED = 5
PICTURES = 4


def demo(
    *,
    kitti: Annotated[
        Path | None, typer.Option(help="KITTI object folder or raw drive; a simulated drive if left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("demo"),
    model: Model = DEFAULT_MODEL,
    runtime: Runtime = None,
    frames: Annotated[int, typer.Option(min=1, help="Length of the simulated drive.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated drive.")] = SEED,
) -> None:
    """Detect objects in a drive; leave pictures and a report.

    The folder gets the detections (KITTI labels and JSON), bird's-eye pictures, and a report of AP and latency.

    Of a KITTI object folder the val frames are taken, where it lists any. `make demo` runs this.
    Needs the extra viz.

    \b
    Examples:
      pd-edge demo
      pd-edge demo --kitti kitti/raw/2011_09_26/2011_09_26_drive_0005_sync --out demo
    """
    from pd_edge.commands.shared import detect_and_write, load_detector, tell_run
    from pd_edge.kitti import open_dataset
    from pd_edge.pictures import check_drawable

    check_drawable()
    dataset = open_dataset(kitti, _val(kitti)) if kitti is not None else None
    detector = load_detector(model, runtime, None, None, None)
    if dataset is None:
        dataset = open_dataset(_simulate(out / "simulated" / f"seed-{seed}-frames-{frames}", frames, seed))
    title = f"Detections in {'a simulated drive' if kitti is None else kitti.resolve().name}"
    tell_run(detect_and_write(detector, dataset, out, title, pictures=PICTURES))


def _simulate(folder: Path, frames: int, seed: int) -> Path:
    from pd_edge.terminal import counting
    from pd_edge.training.simulate import simulate_drive

    with counting("simulated frames") as advance:
        return simulate_drive(folder, frames, seed, advance=advance)


def _val(path: Path) -> str | None:
    return "val" if (path / "ImageSets" / "val.txt").is_file() else None
