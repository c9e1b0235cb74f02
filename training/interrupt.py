"""Stopping a run between two steps, when it is asked to from the keyboard or by the system."""

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Notes the first SIGINT or SIGTERM while it is entered; a second one does what it did before that.

    In another thread than the main one it notes nothing, as Python hands signals to the main thread alone. A signal
    that is ignored when it is entered stays ignored.

    Args:
        every: Notes all of them, not the first alone: the process ends when it looks, however often it is asked.
    """

    def __init__(self, *, every: bool = False) -> None:
        self.signal: int | None = None
        self._every = every
        self._before: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "StopRequest":  # noqa: PYI034 - Self is newer than Python 3.10
        if threading.current_thread() is threading.main_thread():
            for number in (each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._note)  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def raise_if_asked(self) -> None:
        """Ends the run as the signal would have.

        Raises:
            KeyboardInterrupt: SIGINT came.
            SystemExit: SIGTERM came; the exit code is that of a process it ended.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.signal = number
        if not self._every:
            self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def outlive_signals(worker: int) -> None:  # noqa: ARG001 - the signature of a data loader's hook
    """Lets a data loading process outlive signals that reach all processes of a run, which still needs its batches.

    It ends when the run does: the loader tells it to, and it looks after its parent.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
