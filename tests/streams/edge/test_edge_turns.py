"""A flood that was read waits in the Faust edge without being in the way, and is forgotten with its partition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ops.runtime.progress import Progress, size_of
from ops.runtime.turns import FLOOD
from schemas.codec import Encoded
from schemas.flows import DEPENDENCY
from streams.edge.agent import Mapper
from streams.edge.transport import Batch


class Sent:
    """Takes outputs, and delivers them at once."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def send(self, record: Encoded, report: Callable[[None], None], **options: Any) -> None:
        self.offsets.append(int(record.value))
        report(None)

    async def room(self) -> None:
        """Always."""


def batch(partition: int, records: list[tuple[bytes, bytes]]) -> Batch:
    """Records of these keys and services."""
    progress = Progress()
    found = [
        SimpleNamespace(
            topic="in", partition=partition, offset=offset, key=key, value=b"", timestamp=0,
            headers=((DEPENDENCY, service),),
        )
        for offset, (key, service) in enumerate(records)
    ]  # fmt: skip
    for record in found:
        progress.deliver(record.offset, size_of(record.key, record.value, record.headers))
    return Batch("in", partition, found, progress)


def mapper(sent: Sent) -> Mapper:
    answer: Callable[[Any], Encoded] = lambda record: Encoded("out", b"", str(record.offset).encode(), [])  # noqa: E731
    return Mapper(answer, sent, worker="t", fail=pytest.fail, read_ahead_bytes=10**8)  # type: ignore[arg-type]


def test_a_flood_of_one_service_holds_up_no_other() -> None:
    sent = Sent()
    ours = mapper(sent)
    count = 20 * FLOOD
    flood = [(f"t/{n}".encode(), b"tool:search") for n in range(count)]
    read = batch(0, [*flood, (b"t/other", b"tool:mail"), (b"u/run", b"tool:search")])

    async def work() -> None:
        ours._put(read)
        await ours._burst()

    asyncio.run(work())
    assert set(sent.offsets[:2]) == {count, count + 1}
    assert read.progress.position == len(sent.offsets) - 2, "what waits is not committed"
    assert read.progress.size_bytes > 0


def test_what_waits_of_a_partition_that_is_given_up_is_forgotten() -> None:
    """Its next owner reads it again; here it would take memory, and the turns of others."""
    sent = Sent()
    ours = mapper(sent)
    given_up, kept = batch(0, [(b"t/a", b"tool:x")] * 3), batch(1, [(b"t/b", b"tool:x")] * 3)

    async def work() -> None:
        ours._put(given_up)
        ours._put(kept)
        given_up.progress.closed = True
        while ours._waiting:
            await ours._burst()

    asyncio.run(work())
    assert (given_up.progress.position, kept.progress.position) == (0, 3)
    assert len(sent.offsets) == 3
