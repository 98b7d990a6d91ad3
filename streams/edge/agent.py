"""The body of every agent: decode, decide, produce, wait for delivery, acknowledge, in this order.

1. A record that nothing can be made of becomes a dead letter.
2. Records are begun in turns of tenants and services, those of one execution in order.
3. A handler that raises is tried `ATTEMPTS` times, then its record becomes a dead letter, and the fuse counts.
4. What a record caused is sent; when the broker has it, the record is done.
5. What may be committed is decided by `Progress` alone, every commit interval and when partitions are given up.

A handler may answer `Later`: only records of the same execution wait for it, so that each has its outputs in order.

A crash before 5 repeats the record: consumers of the output drop what they have seen. No exception leaves an
agent but the fuse's, which ends the worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from confluent_kafka import KafkaError

from ops.runtime import failpoints
from ops.runtime.garbage import Backlog
from ops.runtime.metrics import DEAD_LETTERS, FLOOD_RECORDS
from ops.runtime.progress import Progress
from ops.runtime.turns import Turns
from schemas.codec import Encoded, Malformed, dead_letter, encode
from schemas.flows import flow_of
from schemas.records import DeadLetterReason
from schemas.topics import DEAD_LETTERS as DEAD_LETTER_TOPIC
from streams.edge.fuse import Fuse
from streams.edge.outputs import Outputs
from streams.edge.transport import Batch, Inbox

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
_RETRY_S: Final = 0.02
_BURST_S: Final = 0.002
"""After so much work its outputs are sent, and the event loop gets a turn. One by one each would be a request of its
own, which costs broker and client more than the work; waiting longer costs the first of them latency."""
_CROWDED: Final = 0.9
_HELD_S: Final = 0.002
"""Between two looks while only floods wait, and may have no more for now."""


class Record(Protocol):
    """One record as it was read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Any
    timestamp: int


@dataclass(frozen=True, slots=True)
class Later:
    """What to produce depends on something that must be asked."""

    ask: Callable[[], Awaitable[Any]]
    """Ends in bounded time, and does not raise."""
    then: Callable[[Any], Encoded | Malformed]


T = TypeVar("T")
Handler = Callable[[Record], Encoded | Malformed | Later]
"""What to produce for a record, or why nothing can be made of it. Pure but for reading a clock."""
Made = tuple[Record, Encoded, Progress]
"""What to produce for a record of a partition."""


class Guard:
    """Keeps what a handler raises from leaving the agent."""

    def __init__(self, *, worker: str, fuse: Fuse | None = None) -> None:
        self._worker = worker
        self._fuse = fuse or Fuse()

    async def attempt(self, handler: Callable[[Record], T | Malformed], record: Record) -> T | Malformed:
        """What the handler makes of `record`; a dead letter's reason where it raises again and again.

        Raises FuseBlown where too many records end so.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(_RETRY_S)
            try:
                result = handler(record)
            except Exception as error:
                failure = error
            else:
                # Of `Later` only what comes then says whether the handler works.
                if not isinstance(result, Malformed | Later):
                    self._fuse.handled()
                return result
        log.error("handler failed on %s:%d:%d", record.topic, record.partition, record.offset, exc_info=failure)
        self._fuse.failed()
        # The type alone: an exception's text may quote the record.
        return Malformed(DeadLetterReason.HANDLER_ERROR, type(failure).__name__)

    def dead_letter(self, record: Record, problem: Malformed) -> Encoded:
        """`record` as a dead letter, counted."""
        DEAD_LETTERS.labels(self._worker, problem.reason).inc()
        letter = dead_letter(
            problem,
            worker=self._worker,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            died_at=datetime.now(UTC),
        )
        return encode(DEAD_LETTER_TOPIC, letter, source=f"omium/{self._worker}")


class Mapper(Guard):
    """An agent that answers each record of a topic with one record."""

    def __init__(
        self,
        handler: Handler,
        outputs: Outputs,
        *,
        worker: str,
        fuse: Fuse | None = None,
        fail: Callable[[Exception], None],
        read_ahead_bytes: int,
    ) -> None:
        """`fail` ends the worker for an error that `run` cannot raise any more. `read_ahead_bytes`: how much of a
        partition may be here."""
        super().__init__(worker=worker, fuse=fuse)
        self._handler = handler
        self._outputs = outputs
        self._fail = fail
        self._last: dict[bytes | None, asyncio.Task[None]] = {}
        """By key: the last record that waits for an answer, or behind one that does."""
        self._waiting: dict[Progress, Turns[Record]] = {}
        """By partition: its records that were not begun."""
        self._read_ahead_bytes = read_ahead_bytes
        self._flooding = FLOOD_RECORDS.labels(worker)
        self._backlog = Backlog()

    async def run(self, inbox: Inbox) -> None:
        """Begin every record; it is done when what it caused is delivered. Never ends. Raises FuseBlown."""
        while True:
            if not self._waiting:
                self._put(await inbox.next())
            for batch in inbox.here():
                self._put(batch)
            if not await self._burst():
                await asyncio.sleep(_HELD_S)
            self._flooding.set(sum(turns.flooding for turns in self._waiting.values()))
            self._backlog.tell(sum(map(len, self._waiting.values())), time.monotonic())

    def _put(self, batch: Batch) -> None:
        turns = self._waiting.setdefault(batch.progress, Turns())
        for record in batch.records:
            key = record.key or b""
            turns.put(key, flow_of(key, record.headers), record, record.timestamp)

    async def _burst(self) -> bool:
        """Work for a moment, on the partitions in turn. False: nothing may be begun now."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _BURST_S
        made: list[Made] = []
        begun = False
        partitions = deque(self._waiting.items())
        while partitions and (now_s := loop.time()) < until_s:
            progress, turns = partitions.popleft()
            turns.crowded = progress.fullness(self._read_ahead_bytes) > _CROWDED
            record = None if progress.closed else turns.take(now_s)
            if record is None:
                if progress.closed or not turns:
                    del self._waiting[progress]
                continue
            begun = True
            output: Encoded | Malformed | Later = await self.attempt(self._handler, record)
            if isinstance(output, Later) or (self._last and record.key in self._last):
                self._defer(record, output, progress)
            else:
                made.append((record, self._settled(record, output), progress))
            partitions.append((progress, turns))
        if made:
            self._send_all(made)
        await asyncio.sleep(0)
        await self._outputs.room()
        return begun

    def _defer(self, record: Record, output: Encoded | Malformed | Later, progress: Progress) -> None:
        key = record.key
        task = asyncio.create_task(self._in_turn(record, output, progress, self._last.get(key)))
        self._last[key] = task

        def ended(task: asyncio.Task[None]) -> None:
            if self._last.get(key) is task:
                del self._last[key]
            if not task.cancelled() and isinstance(error := task.exception(), Exception):
                self._fail(error)

        task.add_done_callback(ended)

    async def _in_turn(
        self,
        record: Record,
        output: Encoded | Malformed | Later,
        progress: Progress,
        before: asyncio.Task[None] | None,
    ) -> None:
        if isinstance(output, Later):
            then, answer = output.then, await output.ask()
            if progress.closed:
                return
            output = await self.attempt(lambda _: then(answer), record)
        if before is not None:
            await asyncio.wait([before])
        if not progress.closed:
            self._send_all([(record, self._settled(record, output), progress)])

    def _settled(self, record: Record, output: Encoded | Malformed) -> Encoded:
        return self.dead_letter(record, output) if isinstance(output, Malformed) else output

    def _send_all(self, made: Iterable[Made]) -> None:
        failpoints.hit("streams.before-send")
        for record, output, progress in made:
            self._send(record, output, progress)
        failpoints.hit("streams.sent")

    def _send(self, record: Record, output: Encoded, progress: Progress) -> None:
        # Nothing can stand in for a dead letter.
        required = output.topic == DEAD_LETTER_TOPIC.name

        def report(error: KafkaError | None) -> None:
            if error is None:
                failpoints.hit("streams.delivered")
                progress.done(record.offset)
            elif not (progress.closed or required):
                log.error("the broker refused %d bytes for %s: %s", len(output.value), output.topic, error)
                problem = Malformed(DeadLetterReason.OUTPUT_OVERSIZED, f"{output.topic}: {error.name()}")
                self._send(record, self.dead_letter(record, problem), progress)

        self._outputs.send(output, report, wanted=progress.is_open, required=required)
