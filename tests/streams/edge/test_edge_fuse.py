"""A handler that fails too often stops the worker; strangers cannot."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.codec import Malformed
from schemas.records import DeadLetterReason
from streams.edge.agent import ATTEMPTS, Guard
from streams.edge.fuse import Fuse, FuseBlown

RECORD: Any = SimpleNamespace(
    topic="agent.failures.v1", partition=0, offset=7, key=b"k", value=b"{}", headers=(), timestamp=0
)


def test_consecutive_failures_blow_it() -> None:
    fuse = Fuse(max_consecutive=3, window=1000)
    fuse.failed()
    fuse.failed()
    fuse.handled()
    fuse.failed()
    fuse.failed()
    with pytest.raises(FuseBlown, match="3 records in a row"):
        fuse.failed()


def test_a_high_share_of_failures_blows_it_without_a_run_of_them() -> None:
    fuse = Fuse(max_consecutive=1000, max_ratio=0.5, window=20)

    def two_of_three() -> None:
        for _ in range(100):
            fuse.failed()
            fuse.failed()
            fuse.handled()

    with pytest.raises(FuseBlown, match="of the last"):
        two_of_three()


def test_a_share_below_the_limit_goes_on_for_ever() -> None:
    fuse = Fuse(max_consecutive=1000, max_ratio=0.5, window=20)
    for _ in range(1000):
        fuse.handled()
        fuse.failed()
        fuse.handled()


def test_malformed_input_never_trips_it() -> None:
    """A million strangers' records between two of ours must change nothing."""
    guard = Guard(worker="t", fuse=Fuse(max_consecutive=2, window=4))
    bad = Malformed(DeadLetterReason.NOT_JSON, "x")

    async def feed() -> None:
        for _ in range(10_000):
            assert await guard.attempt(lambda _: bad, RECORD) is bad

    asyncio.run(feed())


def test_a_handler_that_recovers_costs_no_record() -> None:
    guard = Guard(worker="t", fuse=Fuse(max_consecutive=1))
    calls: list[int] = []

    def flaky(_: Any) -> str:
        calls.append(1)
        if len(calls) < ATTEMPTS:
            raise MemoryError
        return "made"

    assert asyncio.run(guard.attempt(flaky, RECORD)) == "made"


def test_a_handler_that_never_recovers_becomes_a_dead_letter_without_the_record_s_text() -> None:
    guard = Guard(worker="t")

    def broken(_: Any) -> str:
        raise ValueError("secret of a tenant")

    problem = asyncio.run(guard.attempt(broken, RECORD))
    assert problem == Malformed(DeadLetterReason.HANDLER_ERROR, "ValueError")
