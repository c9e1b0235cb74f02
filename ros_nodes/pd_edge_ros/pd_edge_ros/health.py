"""What the node tells of itself: counts, rates and times, without ROS."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pd_edge_ros.refusals import REASONS, Reason

OK, WARN, ERROR = 0, 1, 2
"""Levels of diagnostic_msgs/DiagnosticStatus."""
STAGES = ("convert", "encoder", "network", "decode", "publish")
KEPT = 300
"""Clouds that percentiles are taken of: half a minute at 10 Hz."""


class Frame(NamedTuple):
    """What is known of one cloud that was detected in.

    Attributes:
        stages: Time of each of :data:`STAGES` [ms].
        age: From the cloud's stamp to when it was taken up [s].
        points: Points after the crops.
        in_range: Those of them in the model's grid, in full coverage in any sector's.
        removed: Points that were no measurements.
        intensity: The field that the intensity came from; None where there was none.
        boxes: Boxes published.
    """

    stages: tuple[float, float, float, float, float]
    age: float
    points: int
    in_range: int
    removed: int
    intensity: str | None
    boxes: int


class Report(NamedTuple):
    """One status, as DiagnosticStatus has it."""

    level: int
    message: str
    values: dict[str, str]


class Health:
    """Counts what happens, from any thread.

    Args:
        clock: Time that only goes on [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._total: Counter[str] = Counter()
        self._last: Counter[str] = Counter()
        self._since = clock()
        self._frames: deque[Frame] = deque(maxlen=KEPT)
        self._why: str | None = None

    def count(self, event: str) -> None:
        """One more of ``received``, ``dropped``, ``unheard`` or ``clock_jumps``."""
        with self._lock:
            self._total[event] += 1

    def refused(self, reason: Reason, text: str) -> None:
        """One more cloud that was not used."""
        with self._lock:
            self._total[reason] += 1
            self._why = text

    def detected(self, frame: Frame) -> None:
        """One more cloud that was."""
        with self._lock:
            self._total["detected"] += 1
            self._frames.append(frame)

    def report(self) -> Report:
        """The state since the last report; totals since the start."""
        with self._lock:
            now = self._clock()
            recent, seconds = self._total - self._last, now - self._since
            total, frames, why = self._total.copy(), list(self._frames), self._why
            self._last, self._since, self._why = total.copy(), now, None
        level, message = _verdict(recent, why, frames[-1:])
        values = {"rate [Hz]": f"{recent['detected'] / max(seconds, 1e-9):.2f}"}
        values |= {name: str(total[name]) for name in ("received", "detected", "dropped", "unheard", "clock_jumps")}
        values |= {f"refused: {name}": str(total[name]) for name in REASONS}
        return Report(level, message, values | _of_frames(frames))


def _verdict(recent: Counter[str], why: str | None, last: list[Frame]) -> tuple[int, str]:
    """Level and message of what happened lately."""
    refused = {name: recent[name] for name in REASONS if recent[name]}
    if refused:
        counts = ", ".join(f"{count} {name}" for name, count in refused.items())
        return (WARN if recent["detected"] else ERROR), f"clouds refused: {counts}; last: {why}"
    if not recent["received"]:
        return WARN, "no cloud received"
    if recent["dropped"]:
        return WARN, f"{recent['dropped']} of {recent['received']} clouds dropped: they come faster than they are done"
    if recent["unheard"]:
        return OK, "nobody listens: nothing is detected"
    if last and last[0].intensity is None:
        return WARN, "clouds have no intensity; zeros stand for it"
    return OK, "detecting"


def _of_frames(frames: list[Frame]) -> dict[str, str]:
    """What the last clouds tell; nothing where there are none."""
    if not frames:
        return {}
    times = np.array([frame.stages for frame in frames])
    p95 = np.percentile(np.column_stack([times, times.sum(axis=1)]), 95, axis=0)
    last = frames[-1]
    return {
        **{f"p95 {stage} [ms]": f"{value:.2f}" for stage, value in zip((*STAGES, "total"), p95, strict=True)},
        "age of input [s]": f"{last.age:.3f}",
        "points": str(last.points),
        "points in range": str(last.in_range),
        "points removed": str(last.removed),
        "intensity from": last.intensity or "none",
        "boxes": str(last.boxes),
    }
