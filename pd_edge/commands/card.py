"""``pd-edge card``: measures a model and writes its card."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pd_edge.commands.options import Runtime


def card(
    model: Annotated[Path, typer.Argument(help="Model folder, as `pd-edge bundle` writes it.")],
    run: Annotated[Path, typer.Option(help="Run folder the model was trained in.")],
    real: Annotated[Path | None, typer.Option(help="KITTI object folder of real frames; its val list is used.")] = None,
    simulated: Annotated[Path | None, typer.Option(help="The same of simulated frames.")] = None,
    runtime: Runtime = "openvino",
    beside: Annotated[
        list[str] | None, typer.Option(help="Model to compare with on the card; may be repeated.")
    ] = None,
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
    from pd_edge.commands.shared import load_detector
    from pd_edge.kitti import open_dataset
    from pd_edge.terminal import counting, say
    from pd_edge.training.model_card import measured, write_model_card

    others = [summarize(find_model(name)) for name in beside or []]
    sources: list[tuple[Literal["real", "simulated"], Path | None]] = [("real", real), ("simulated", simulated)]
    results = []
    for key, root in sources:
        if root is None:
            continue
        detector = load_detector(str(model), runtime, "fp32", None, None)
        with counting(f"{key} frames") as advance:
            found = detect_batch(detector, open_dataset(root, "val"), crop=True, advance=advance)
        results.append(measured("Real KITTI frames" if key == "real" else "Simulated val set", key, found, root))
    say(f"card: {write_model_card(Bundle.load(model), run, results, others)}")
