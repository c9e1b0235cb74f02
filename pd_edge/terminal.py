"""Where a command prints: results on standard output, progress on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from pd_edge.tables import rich_table

if TYPE_CHECKING:
    from pd_edge.tables import Table

PIPED_WIDTH = 120
"""Columns of the output when it goes to a file or another program, so that it does not depend on where it ran."""

Advance = Callable[[int, int], None]


def console(*, stderr: bool = False) -> Console:
    """A console for results, or for messages when ``stderr``; plain text where it is not a terminal."""
    found = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=PIPED_WIDTH)


def show(table: "Table", *, stderr: bool = False) -> None:
    """Prints a table between its title and its notes."""
    target = console(stderr=stderr)
    target.print(table.title, style="bold", markup=False)
    target.print(rich_table(table), crop=False)
    for note in table.notes:
        target.print(f"  {note}", style="dim", markup=False)
    target.print()


def say(text: str, *, stderr: bool = False) -> None:
    """Prints a line as it is: no markup, no wrapping, so that paths stay whole."""
    console(stderr=stderr).print(text, markup=False, soft_wrap=True)


@contextmanager
def counting(what: str) -> Iterator[Advance]:
    """Shows a progress bar with the time left; nothing where standard error is not a terminal.

    Args:
        what: What is counted, such as ``frames``.

    Yields:
        A function to call with the number done and the number wanted.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    target = console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=target, transient=True, disable=not target.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Shows that something of unknown length goes on; nothing where standard error is not a terminal."""
    target = console(stderr=True)
    if not target.is_terminal:
        yield
        return
    with target.status(what):
        yield
