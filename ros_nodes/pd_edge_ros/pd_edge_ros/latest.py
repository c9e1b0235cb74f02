"""A queue that holds the newest item alone, and the thread that works on it."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class LatestOnly(Generic[ItemT]):
    """Hands the newest item to a thread of its own; one that a newer overtakes is dropped and told.

    Args:
        handle: What the thread does with an item; may not raise.
        dropped: Called for each item that was overtaken, by the thread that put the newer.
    """

    def __init__(self, handle: Callable[[ItemT], None], dropped: Callable[[], None]) -> None:
        self._handle, self._dropped = handle, dropped
        self._changed = threading.Condition()
        self._item: ItemT | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="detect", daemon=True)
        self._thread.start()

    def put(self, item: ItemT) -> None:
        """Leaves an item to be worked on next."""
        with self._changed:
            overtaken, self._item = self._item is not None, item
            self._changed.notify()
        if overtaken:
            self._dropped()

    def stop(self, seconds: float) -> bool:
        """Ends the thread after the item that it works on; an item that waits is forgotten.

        Returns:
            Whether it ended within that time.
        """
        with self._changed:
            self._ended, self._item = True, None
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._next()) is not None:
            self._handle(item)

    def _next(self) -> ItemT | None:
        """The newest item once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._item is not None)
            item, self._item = self._item, None
            return item
