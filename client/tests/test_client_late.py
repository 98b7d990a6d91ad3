"""A command that comes late is followed or answered, never dropped; and the agent's own exception stays its own."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import pytest
from omium import Command, Modifications, Omium
from orchestrator import Heard, Orchestrator, eventually
from test_client_pending import KEY, pending_with, read

from schemas.records import ResumeCommand


def heard(orchestrator: Orchestrator, count: int = 1) -> Heard:
    """The last of `count` failures."""
    orchestrator.failures(count)
    failures = [each for each in orchestrator.heard if each.record in orchestrator.failures(count)]
    return Heard(failures[-1], 0, count)


@pytest.mark.integration
def test_between_two_waits(client: Omium, orchestrator: Orchestrator) -> None:
    run = client.run("two-waits")
    failure_id = run.report("APR = 0", checkpoint="c")
    assert run.wait(failure_id, 0.1) is None
    orchestrator.command(heard(orchestrator).command())
    waiter = client.pending.expect(run.key, failure_id)
    eventually(lambda: bool(waiter._commands))
    command = run.wait(failure_id, 15)
    assert command is not None
    run.succeeded(command)
    assert orchestrator.outcomes()[0].status == "succeeded"


@pytest.mark.integration
def test_between_the_timeout_and_giving_up(client: Omium, orchestrator: Orchestrator) -> None:
    run = client.run("timeout")
    failure_id = run.report("APR = 0", checkpoint="c")
    assert run.wait(failure_id, 0.1) is None
    orchestrator.command(heard(orchestrator).command())
    waiter = client.pending.expect(run.key, failure_id)
    eventually(lambda: bool(waiter._commands))
    run.give_up(failure_id, only_here=True)
    assert orchestrator.outcomes()[0].status == "abandoned"


@pytest.mark.integration
def test_after_an_attempt_that_failed(client: Omium, orchestrator: Orchestrator) -> None:
    """The first failure had its answer: it does not keep the late one to itself."""

    def answer(heard: Heard) -> ResumeCommand | None:
        return heard.command(recovery_id="r") if heard.failure.resumed_by is None else None

    orchestrator.answer = answer

    @client.step("apr", execution="failed-attempt", wait_s=5)
    def propose() -> None:
        raise ValueError("APR = 0")

    with pytest.raises(ValueError, match="APR = 0"):
        propose()
    orchestrator.command(heard(orchestrator, 2).command(attempt=2, recovery_id="r"))
    assert orchestrator.outcomes()[0].status == "abandoned"


def test_in_the_moment_of_the_timeout() -> None:
    """The future has timed out for its waiter, and is resolved before it is cancelled."""
    pending, given = pending_with("a"), read("a")
    waiter = pending.expect(KEY, "a")
    asked = waiter.next

    class Resolved(Future[Command]):
        def result(self, timeout: float | None = None) -> Command:
            if timeout is None:
                return super().result(0)
            waiter.put(given)
            raise FutureTimeout

    def next_one() -> Future[Command]:
        asked()
        waiter._asked[-1] = Resolved()
        return waiter._asked[-1]

    waiter.next = next_one  # type: ignore[method-assign]
    assert pending.wait(KEY, "a", 60) is given


@pytest.mark.parametrize("end", ["timeout", "cancel"])
def test_in_the_moment_of_the_timeout_async(end: str) -> None:
    pending, given = pending_with("a"), read("a")
    waiter = pending.expect(KEY, "a")

    async def agent() -> Command | None:
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(pending.wait_async(KEY, "a", 0.01 if end == "timeout" else 60))
        await asyncio.sleep(0)
        if end == "cancel":
            waiting.cancel()
            waiter.put(given)
            with pytest.raises(asyncio.CancelledError):
                await waiting
            return await pending.wait_async(KEY, "a", 1)
        # Both are due when the loop comes round again: the timeout first, then the command.
        loop.call_later(0.02, waiter.put, given)
        time.sleep(0.1)
        return await waiting

    assert asyncio.run(agent()) is given


def test_what_is_queued_is_told_when_the_last_gives_up() -> None:
    pending, given = pending_with("a", "b"), read("a")
    for name in ("a", "b"):
        pending.expect(KEY, name).put(given)
    late: list[Command] = []
    pending.give_up(KEY, "a", late.append)
    assert late == [], "the other branch has it too, and may follow it"
    pending.give_up(KEY, "b", late.append)
    assert late == [given]


def test_what_a_branch_follows_is_not_late() -> None:
    pending, given = pending_with("a", "b"), read("a")
    for name in ("a", "b"):
        pending.expect(KEY, name).put(given)
    assert pending.wait(KEY, "a", 1) is given
    assert pending.wait(KEY, "b", 1) is given, "it joined the attempt, and left its own copy in the queue"
    late: list[Command] = []
    pending.give_up(KEY, "a", late.append)
    pending.give_up(KEY, "b", late.append)
    assert late == []


def _lines(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, GeneratorExit, ValueError])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_its_own_exception(kind: type[BaseException], asynchronous: bool) -> None:
    """Whatever it is, the agent gets the very object, with its own traceback, cause and context."""
    if asynchronous and kind is StopIteration:
        pytest.skip("no coroutine raises it, with a decorator or without")
    raised = kind("mine")
    with Omium("127.0.0.1:1", "acme", wait_s=0) as client:

        def body(mods: Modifications) -> None:
            raise raised

        async def body_async(mods: Modifications) -> None:
            body(mods)

        step: Callable[[], Any] = client.step("apr")(body_async if asynchronous else body)  # type: ignore[arg-type]
        with pytest.raises(kind) as caught:
            asyncio.run(step()) if asynchronous else step()
        client.close(timeout_s=0)
    assert caught.value is raised
    assert _lines(raised)[-1] == "body"
    assert (raised.__cause__, raised.__context__) == (None, None)


def test_an_empty_iterator_in_a_step() -> None:
    with Omium("127.0.0.1:1", "acme", wait_s=0) as client:
        with pytest.raises(StopIteration):
            client.step("apr")(lambda: next(iter(())))()
        client.close(timeout_s=0)


def test_an_exception_that_is_false() -> None:
    """An exception with a length of nothing is a failure like any other."""

    class Nothing(Exception):  # noqa: N818
        def __len__(self) -> int:
            return 0

    def body() -> None:
        raise Nothing

    with Omium("127.0.0.1:1", "acme", wait_s=0) as client:
        with pytest.raises(Nothing):
            client.step("apr")(body)()
        client.close(timeout_s=0)
