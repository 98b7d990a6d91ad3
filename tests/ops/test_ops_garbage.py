"""What collections look at while many records wait."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from ops.runtime.garbage import Backlog


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_waits_is_not_looked_at_again() -> None:
    backlog = Backlog()
    waiting = [[n] for n in range(50_000)]
    backlog.tell(len(waiting), 1.0)
    assert len(gc.get_objects()) < len(waiting)
    more = [[n] for n in range(50_000)]
    backlog.tell(len(more), 1.1)
    assert len(gc.get_objects()) > len(more), "not at every look: it costs a little"
    backlog.tell(len(more), 1.3)
    assert len(gc.get_objects()) < len(more)


def test_garbage_of_that_time_is_collected_afterwards() -> None:
    class Knot:
        def __init__(self) -> None:
            self.itself = self

    collected = []
    backlog, knot = Backlog(), Knot()
    gc.callbacks.append(lambda phase, info: collected.append(info["collected"]) if phase == "stop" else None)
    try:
        backlog.tell(10_000, 1.0)
        del knot
        gc.collect()
        assert not collected.pop()
        backlog.tell(0, 2.0)
        assert not collected, "a burst may follow"
        backlog.tell(0, 20.0)
    finally:
        gc.callbacks.pop()
    assert collected.pop()


def test_few_records_are_no_backlog() -> None:
    frozen = gc.get_freeze_count()
    Backlog().tell(10, 1.0)
    assert gc.get_freeze_count() == frozen
