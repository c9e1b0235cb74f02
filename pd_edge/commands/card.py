"""``pd-edge card``: measures a model and writes its card."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pd_edge.commands.options import Runtime, WithinGrid


def card(
    model: Annotated[Path, typer.Argument(help="Model folder, as `pd-edge bundle` writes it.")],
    run: Annotated[Path, typer.Option(help="Run folder the model was trained in.")],
    real: Annotated[
        Path | None, typer.Option(help="KITTI object folder of real frames, or own data; its val list is used.")
    ] = None,
    simulated: Annotated[
        Path | None, typer.Option(help="Folder of simulated frames, read with the sensor.yaml in it, where one is.")
    ] = None,
    runtime: Runtime = "openvino",
    beside: Annotated[
        list[str] | None, typer.Option(help="Model to compare with on the card; may be repeated.")
    ] = None,
    within_grid: WithinGrid = False,
) -> None:
    """Measure a model on val frames and write its card.

    The folder gets MODEL_CARD.md (data, training, licence, the commands that make it again, average precision with
    intervals) and results.json, which `pd-edge models` reads. Needs the extra train.

    \b
    Example:
      pd-edge card models/pointpillars-4x --run runs/pointpillars-4x --real data/kitti/object --simulated data/sim-val
    """
    from pd_edge.batch import detect_batch
    from pd_edge.bundle import Bundle, find_model, summarize
    from pd_edge.commands.shared import judged, load_detector
    from pd_edge.kitti import open_dataset
    from pd_edge.kitti_frames import PROFILE
    from pd_edge.own_data import is_own_layout
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import counting, say
    from pd_edge.training.model_card import measured, write_model_card

    others = [summarize(find_model(name)) for name in beside or []]
    sources: list[tuple[Literal["real", "simulated"], Path | None]] = [("real", real), ("simulated", simulated)]
    results = []
    for key, root in sources:
        if root is None:
            continue
        own, profile = is_own_layout(root), root / PROFILE
        sensor = load_profile(str(profile) if key == "simulated" and profile.is_file() else "")
        detector = load_detector(str(model), runtime, "fp32", None, None, sensor)
        with counting(f"{key} frames") as advance:
            grid = detector.config.model.grid if within_grid else None
            frames = judged(open_dataset(root, "val", sensor), grid, sensor)
            found = detect_batch(detector, frames, crop=not own, advance=advance)
        named = {"real": "Own frames" if own else "Real KITTI frames", "simulated": "Simulated val set"}
        results.append(measured(named[key], key, found, root, within_grid=within_grid))
    say(f"card: {write_model_card(Bundle.load(model), run, results, others)}")
