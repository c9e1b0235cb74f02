"""Tables that print in the terminal and stand in a Markdown report alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table as RichTable


class Table(NamedTuple):
    """A table of text.

    Attributes:
        title: What it shows.
        columns: Headers, with the unit in brackets.
        rows: Cells, as many per row as there are columns. A row whose first cell is empty belongs to the row above.
        notes: Sentences to print below it.
        text_columns: How many columns, from the left, hold text; the others hold numbers and are right-aligned.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    text_columns: int = 1


def rich_table(table: Table) -> "RichTable":
    """The body of the table for the terminal, without title and notes, which are not to be squeezed to its width."""
    from rich import box  # noqa: PLC0415 - reports are also written without a terminal
    from rich.table import Table as RichTable  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = RichTable(box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        # Where room is short, headers wrap between words; words and cells stay whole.
        widest = max(map(len, [*column.split(), *(row[index] for row in table.rows)]))
        justify: Literal["left", "right"] = "left" if index < table.text_columns else "right"
        drawn.add_column(Text(column), justify=justify, min_width=widest)
    grouped = any(not row[0] for row in table.rows)
    for index, row in enumerate(table.rows):
        if grouped and index and row[0]:
            drawn.add_section()
        drawn.add_row(*map(Text, row))
    return drawn


def markdown_table(table: Table) -> str:
    """The table in Markdown, under a third-level heading, with its notes below."""
    rules = ["---" if index < table.text_columns else "---:" for index in range(len(table.columns))]
    lines = [f"### {table.title}", "", _line(table.columns), _line(rules), *map(_line, table.rows), ""]
    for note in table.notes:
        lines += [note, ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
