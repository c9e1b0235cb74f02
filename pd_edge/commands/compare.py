"""``pd-edge compare``: detectors on the same frames, and a gate."""

from pathlib import Path
from typing import Annotated

import typer

from pd_edge.commands.options import JsonFile, Sensor, Split, Threads


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
    sensor: Sensor = "",
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
    from pd_edge.compare_report import difference_json, difference_table
    from pd_edge.errors import DataError
    from pd_edge.kitti import open_dataset
    from pd_edge.sensors import load_profile
    from pd_edge.terminal import counting, say

    if len(detectors) < 2 or len(set(detectors)) < len(detectors):
        raise typer.BadParameter("give a reference and one or more others, each once", param_hint="DETECTOR")
    profile = load_profile(sensor)
    dataset = open_dataset(data, split, profile)
    opened = {}
    for each in detectors:
        model, runtime, precision = parse_detector(each)
        opened[each] = load_detector(model, runtime, precision, threads, None, profile)
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
