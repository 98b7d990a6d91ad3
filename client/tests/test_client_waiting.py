"""Waiting for a command: several at once, with a slow or broken store of fences, and interrupted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from omium import Command, Held, MemoryFences
from omium.clerk import Clerk
from orchestrator import eventually
from test_client_pending import KEY, pending_with, read

_DEADLINE_S = 15.0


class SlowFences(MemoryFences):
    """Writes only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.writing = threading.Event()

    def swap(self, execution: str, expected: Held | None, new: Held) -> bool:
        self.writing.set()
        if not self.may_write.wait(_DEADLINE_S):
            raise OSError("the disk hangs")
        return super().swap(execution, expected, new)


class BrokenFences(MemoryFences):
    def swap(self, execution: str, expected: Held | None, new: Held) -> bool:
        raise OSError("disk full")


def test_two_threads_wait_for_one_failure() -> None:
    """Each command goes to one of them, and neither is forgotten."""
    pending = pending_with("a")
    waiter = pending.expect(KEY, "a")
    taken: list[Command | None] = []
    threads = [threading.Thread(target=lambda: taken.append(pending.wait(KEY, "a", _DEADLINE_S))) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(waiter._asked) == 2)
    for attempt in (1, 2):
        waiter.put(read("a", attempt))
        eventually(lambda attempt=attempt: len(taken) == attempt)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert [command.attempt for command in taken if command is not None] == [1, 2]


def test_who_gave_up_is_passed_over() -> None:
    pending = pending_with("a")
    waiter = pending.expect(KEY, "a")
    gone = waiter.next()
    assert gone.cancel()
    waiting = waiter.next()
    waiter.put(read("a"))
    assert waiting.result(0).attempt == 1
    for _ in range(100):
        waiter.next().cancel()
    assert len(waiter._asked) <= 1, "repeated looks leave nothing behind"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_without_patience_what_is_there_is_taken(asynchronous: bool) -> None:
    """What is refused on the way does not hide what comes after it."""
    pending = pending_with("a")
    waiter = pending.expect(KEY, "a")

    def look() -> Command | None:
        return asyncio.run(pending.wait_async(KEY, "a", 0)) if asynchronous else pending.wait(KEY, "a", 0)

    assert look() is None
    waiter.put(read("another life"))
    waiter.put(read("a", 2))
    found = look()
    assert found is not None
    assert found.attempt == 2
    assert look() is None


def test_a_slow_disk_does_not_stop_the_event_loop() -> None:
    """Neither accepting nor finishing: the loop itself lets the disk go on."""
    store = SlowFences()
    pending, given = pending_with("a", store=store), read("a")
    pending.expect(KEY, "a").put(given)
    finished = threading.Event()

    async def agent() -> None:
        waiting = asyncio.create_task(pending.wait_async(KEY, "a", _DEADLINE_S))
        while not store.writing.is_set():
            await asyncio.sleep(0)
        pending.expect(KEY, "another failure")
        store.may_write.set()
        assert await waiting is given
        store.may_write.clear()
        pending.finish(given, finished.set)
        assert not finished.is_set()
        store.may_write.set()

    asyncio.run(agent())
    assert finished.wait(_DEADLINE_S)


@pytest.mark.parametrize("began", [False, True])
def test_interrupted_while_it_is_decided(began: bool) -> None:
    """The command is neither lost nor followed by nobody: the next one to wait gets it."""
    store = SlowFences()
    pending, given = pending_with("a", store=store), read("a")
    waiter = pending.expect(KEY, "a")
    if not began:
        # The store is busy with something else.
        pending.finish(read("b"), lambda: store.may_write.wait(_DEADLINE_S) and None)
    waiter.put(given)

    async def agent() -> Command | None:
        waiting = asyncio.create_task(pending.wait_async(KEY, "a", _DEADLINE_S))
        while waiter._commands or store.writing.is_set() != began:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        store.may_write.set()
        assert pending.settle(_DEADLINE_S)
        return await pending.wait_async(KEY, "a", _DEADLINE_S)

    assert asyncio.run(agent()) is given
    assert pending.ended(given, well=True)


def test_a_branch_that_comes_while_it_is_decided() -> None:
    """Its own waiter was put up after the command had come: it is told, and need not wait for its patience to end."""
    store = SlowFences()
    pending, given = pending_with("a", store=store), read("a")
    taken: dict[str, Command | None] = {}

    def wait(name: str) -> Callable[[], None]:
        return lambda: taken.update({name: pending.wait(KEY, name, 3600)})

    threads = [threading.Thread(target=wait(name), daemon=True) for name in ("a", "b")]
    threads[0].start()
    pending.expect(KEY, "a").put(given)
    assert store.writing.wait(_DEADLINE_S)
    threads[1].start()
    eventually(lambda: bool(pending.expect(KEY, "b")._asked))
    store.may_write.set()
    for thread in threads:
        thread.join(_DEADLINE_S)
    assert taken == {"a": given, "b": given}


def test_a_fence_that_cannot_be_kept_costs_no_outcome() -> None:
    pending, given = pending_with("a"), read("a")
    assert pending.accept(given) is not None
    pending._acceptor.store.swap = BrokenFences().swap  # type: ignore[method-assign]
    told = threading.Event()
    pending.finish(given, told.set)
    assert told.wait(_DEADLINE_S)


def test_without_its_fence_nothing_is_followed() -> None:
    pending = pending_with("a", store=BrokenFences())
    pending.expect(KEY, "a").put(read("a"))
    assert pending.wait(KEY, "a", 0.1) is None


def test_what_was_handed_over_is_done_in_order_also_at_the_end() -> None:
    clerk, done = Clerk(), []  # type: tuple[Clerk, list[int]]
    for number in range(100):
        clerk.do(lambda number=number: done.append(number))  # type: ignore[misc]
    clerk.close()
    clerk.do(lambda: done.append(100)).result(0)
    eventually(lambda: len(done) == 101)
    assert [number for number in done if number != 100] == list(range(100))
    with pytest.raises(ZeroDivisionError):
        clerk.do(lambda: 1 / 0).result(_DEADLINE_S)
