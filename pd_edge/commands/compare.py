"""``pd-edge compare``: detectors on the same frames, and a gate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pd_edge.commands.options import JsonFile, Split, Threads

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pd_edge.compare import Difference, Gate
    from pd_edge.tables import Table


def compare(
    detectors: Annotated[
        list[str],
        typer.Argument(
            metavar="REFERENCE DETECTOR...",
            help="Model or engine folder, or shipped model, with :RUNTIME and :PRECISION behind it where wanted.",
        ),
    ],
    *,
    data: Annotated[Path, typer.Option(help="Clouds or data set; labels give AP.")],
    split: Split = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Take only so many frames, from the first.")] = None,
    threads: Threads = None,
    head: Annotated[float | None, typer.Option(min=0, help="Gate: difference of heads, part of the largest.")] = None,
    matched: Annotated[float | None, typer.Option(min=0, max=100, help="Gate: least boxes with a twin [%].")] = None,
    score: Annotated[float | None, typer.Option(min=0, max=1, help="Gate: score difference, 95 % of twins.")] = None,
    yaw: Annotated[float | None, typer.Option(min=0, max=90, help="Gate: yaw difference, 95 % of twins [deg].")] = None,
    flips: Annotated[
        float | None, typer.Option(min=0, max=100, help="Gate: twins that point the other way [%].")
    ] = None,
    ap: Annotated[float | None, typer.Option(min=0, max=100, help="Gate: loss of 3D AP, moderate.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Compare detectors with a reference on the same frames.

    Every detector gets the same clouds. Of the boxes that score 0.3 or more in either, twins of one class with a BEV
    IoU of 0.5 or more are compared. Exits with 1 where a detector is beyond the gate: one for float32, one for 16 bit
    and one for INT8, by what the detector computes in, unless the options set it. In float32 that means another
    network; else AP beyond the gate asks for another calibration or more layers in float, while boxes beyond it with AP
    within are other boxes, not worse ones. AP is that of classes with 50 labelled objects or more; the
    95 % interval of its loss, over frames drawn with replacement, tells whether the frames are enough.

    JSON: [{name, precision, frames, head, boxes, matched, score_p95, score_max, yaw_p95, yaw_max, flips,
    classes: {class: AP}, ap, ap_loss, ap_loss_low, ap_loss_high, gate, beyond: [reason]}], the reference first; null is
    what was not measured.

    \b
    Examples:
      pd-edge compare pointpillars-4x:torch pointpillars-4x:openvino:bf16 built/4x-int8 --data data/sim-val
      pd-edge compare pointpillars-4x built/4x-int8 --data data/kitti/object --split val --ap 0.5
    """
    from pd_edge.commands.shared import load_detector, present
    from pd_edge.compare import compare as run
    from pd_edge.compare import gates_of
    from pd_edge.compare_ap import ENOUGH
    from pd_edge.errors import DataError
    from pd_edge.kitti import open_dataset
    from pd_edge.terminal import counting, say

    if len(detectors) < 2 or len(set(detectors)) < len(detectors):
        raise typer.BadParameter("give a reference and one or more others, each once", param_hint="DETECTOR")
    dataset = open_dataset(data, split)
    opened = {}
    for each in detectors:
        model, runtime, precision = parse_detector(each)
        opened[each] = load_detector(model, runtime, precision, threads, None)
    given = {"head": head, "matched": matched, "score": score, "yaw": yaw, "flips": flips, "ap": ap}
    with counting("frames") as advance:
        differences = run(opened, dataset, frames, advance)
    if ap is not None and not differences[0].classes:
        raise DataError(f"--ap: {data} has no class with {ENOUGH} labelled objects; leave it out or give more frames")
    gates = gates_of(differences, **{name: value for name, value in given.items() if value is not None})
    beyond = [each.beyond(gate) for each, gate in zip(differences, gates, strict=True)]
    present([difference_table(differences, beyond)], difference_json(differences, gates), json_file)
    for difference, reasons in zip(differences, beyond, strict=True):
        for reason in reasons:
            say(f"beyond the gate: {difference.name}: {reason}", stderr=True)
    if any(beyond):
        raise typer.Exit(1)


def parse_detector(text: str) -> tuple[str, str | None, str | None]:
    """Model, runtime and precision of ``MODEL[:RUNTIME[:PRECISION]]``; the last two None where left out.

    Raises:
        ConfigError: There is more behind the model than that.
    """
    from pd_edge.errors import ConfigError

    if Path(text).exists():
        return text, None, None
    model, *rest = text.split(":")
    if len(rest) > 2:
        raise ConfigError(f"'{text}': expected MODEL:RUNTIME:PRECISION, such as pointpillars-4x:openvino:bf16")
    runtime, precision = [*rest, "", ""][:2]
    return model, runtime or None, precision or None


def difference_table(differences: "Sequence[Difference]", beyond: "Sequence[list[str]]") -> "Table":
    """Differences, the reference's first, and what of them is beyond the gate, as a table."""
    from pd_edge.tables import Table

    def figure(value: float, digits: int) -> str:
        return "-" if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN

    def interval(each: "Difference") -> str:
        ends = (figure(each.ap_loss_low, 1), figure(each.ap_loss_high, 1))
        return "-" if ends == ("-", "-") else " .. ".join(ends)

    rows = []
    for index, (each, reasons) in enumerate(zip(differences, beyond, strict=True)):
        verdict = "reference" if index == 0 else "beyond" if reasons else "holds"
        score = f"{figure(each.score_p95, 3)} / {figure(each.score_max, 3)}"
        yaw = f"{figure(each.yaw_p95, 1)} / {figure(each.yaw_max, 1)}"
        figures = (
            figure(each.matched, 1),
            score,
            yaw,
            figure(each.flips, 1),
            figure(each.ap, 2),
            figure(each.ap_loss, 2),
            interval(each),
        )
        rows.append((each.name, each.precision, verdict, f"{each.head:.1e}", str(each.boxes), *figures))
    columns = (
        "detector",
        "precision",
        "gate",
        "heads",
        "boxes",
        "twins [%]",
        "score",
        "yaw [deg]",
        "flips [%]",
        "AP",
        "loss",
        "loss, 95 %",
    )
    notes = (
        f"{differences[0].frames} frames. heads: largest difference, part of the head's largest value.",
        "score, yaw: 95 % / largest of the twins.",
        _ap_note(differences[0].classes),
    )
    return Table("Difference to the reference", columns, rows, notes, text_columns=3)


def _ap_note(classes: "Collection[str]") -> str:
    """Of what the AP is."""
    from pd_edge.compare_ap import ENOUGH

    if not classes:
        return f"No AP: the frames have no labels, or of no class {ENOUGH} objects."
    return f"AP: 3D R40, moderate [%], {'mean of ' if len(classes) > 1 else ''}{', '.join(classes)}."


def difference_json(differences: "Sequence[Difference]", gates: "Sequence[Gate]") -> list[dict[str, Any]]:
    """Differences with their gates and what is beyond, as plain data; None for what could not be measured."""
    return [
        {name: None if value != value else value for name, value in each._asdict().items()}  # noqa: PLR0124 - NaN
        | {"gate": gate.model_dump(), "beyond": each.beyond(gate)}
        for each, gate in zip(differences, gates, strict=True)
    ]
