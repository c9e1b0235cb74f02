"""How far TensorRT's builder is."""

from collections.abc import Callable
from dataclasses import dataclass

WHOLE = 100


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Makes one rising number of the builder's nested phases.

    A phase that runs within a step of another counts as a part of that step. What was reported never falls, though a
    phase may be found to have more to do than it seemed.

    Args:
        advance: Called with the part done, of ``WHOLE``, and ``WHOLE``.
    """

    def __init__(self, advance: Callable[[int, int], None]) -> None:
        self._advance = advance
        self._phases: dict[str, _Phase] = {}
        self._reported = 0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, within the parent's next step."""
        self._phases[name] = _Phase(parent, max(steps, 1))
        self._report(0.0, name)

    def step(self, name: str, index: int) -> None:
        """A step of a phase, counted from 0, is done."""
        if name in self._phases:
            self._phases[name].done = index + 1
            self._report(0.0, name)

    def finish(self, name: str) -> None:
        """A phase is over."""
        if name in self._phases:
            self._report(1.0, name, over=True)
            del self._phases[name]

    def _report(self, within: float, name: str, *, over: bool = False) -> None:
        """Reports how far the outermost phase is, given how far the named one is within its current step."""
        at: str | None = name
        while at is not None and at in self._phases:
            phase = self._phases[at]
            within = 1.0 if over and at == name else min((phase.done + within) / phase.steps, 1.0)
            at = phase.parent
        self._reported = max(self._reported, int(WHOLE * within))
        self._advance(self._reported, WHOLE)
