"""The queue that holds the newest item alone."""

import threading

from pd_edge_ros.latest import LatestOnly


def test_the_newest_is_worked_on_and_the_others_are_counted() -> None:
    begun, go_on, done, dropped = threading.Event(), threading.Event(), [], []

    def handle(item: int) -> None:
        begun.set()
        go_on.wait(10)
        done.append(item)

    queue = LatestOnly(handle, lambda: dropped.append(1))
    queue.put(1)
    assert begun.wait(10)
    for item in (2, 3, 4):
        queue.put(item)
    begun.clear()
    go_on.set()
    assert begun.wait(10)
    assert queue.stop(10)
    assert done == [1, 4]
    assert len(dropped) == 2


def test_what_waits_at_the_end_is_forgotten() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def handle(item: int) -> None:
        begun.set()
        go_on.wait(10)
        done.append(item)

    queue = LatestOnly(handle, lambda: None)
    queue.put(1)
    assert begun.wait(10)
    queue.put(2)
    assert not queue.stop(0.01)
    go_on.set()
    assert queue.stop(10)
    assert done == [1]
