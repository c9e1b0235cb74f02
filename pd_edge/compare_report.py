"""Comparisons of detectors as a table and as plain data."""

from collections.abc import Collection, Sequence
from typing import Any

from pd_edge.compare import Difference, Gate
from pd_edge.compare_ap import ENOUGH
from pd_edge.tables import Table


def difference_table(differences: Sequence[Difference], beyond: Sequence[list[str]]) -> Table:
    """Differences, the reference's first, and what of them is beyond the gate, as a table."""

    def figure(value: float, digits: int) -> str:
        return "-" if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN

    def interval(each: Difference) -> str:
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


def _ap_note(classes: Collection[str]) -> str:
    """Of what the AP is."""
    if not classes:
        return f"No AP: the frames have no labels, or of no class {ENOUGH} objects."
    return f"AP: 3D R40, moderate [%], {'mean of ' if len(classes) > 1 else ''}{', '.join(classes)}."


def difference_json(differences: Sequence[Difference], gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """Differences with their gates and what is beyond, as plain data; None for what could not be measured."""
    return [
        {name: None if value != value else value for name, value in each._asdict().items()}  # noqa: PLR0124 - NaN
        | {"gate": gate.model_dump(), "beyond": each.beyond(gate)}
        for each, gate in zip(differences, gates, strict=True)
    ]
