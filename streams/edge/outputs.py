"""What the workers of Faust write: through librdkafka, each record awaited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ops.runtime.delivery import delivery_error
from ops.runtime.settings import Settings
from schemas.codec import Encoded

log = logging.getLogger(__name__)

_PUMP_S: Final = 0.005
_AWAITED_S: Final = 0.001
"""Between two looks for delivery reports: while only commits wait for them, and while somebody does."""
_FULL_S: Final = 0.005
_LONGEST_WAIT_S: Final = 1.0
"""Between two tries of a record that the broker does not take for the moment: from `_FULL_S`, doubled each time."""
REQUIRED_S: Final = 5.0
"""How long a record that nothing can stand in for is tried while the broker refuses it: somebody may be changing the
topic. Then the worker ends, visibly."""
_SAY_S: Final = 1.0
MAX_IN_FLIGHT: Final = 20_000
"""Below librdkafka's queue of 100,000, so that produce() never finds it full."""
DELIVERY_TIMEOUT_MS: Final = 20_000
"""No record of ours may reach the log later than this after it was sent: a partition that is given up waits so
long for what is in flight, and its next owner must not be overtaken by us. A record that is still wanted is sent
again, so that a broker may be gone for longer."""

_REJECTED: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD})

Report = Callable[[KafkaError | None], None]
"""Called once: None where every in-sync replica has the record, else why it was given up."""
Wanted = Callable[[], bool]
"""Whether a record that was not delivered yet is to be sent again."""


@dataclass(slots=True, eq=False)
class _Sent:
    """A record on its way; librdkafka calls it with its delivery report."""

    delivered: Callable[[_Sent, KafkaError | None, Message], None]
    record: Encoded
    report: Report
    partition: int
    wanted: Wanted | None
    required: bool
    alone: bool = False
    """In a batch of its own."""
    tries: int = 0
    """Failed ones."""
    refused_at: float | None = None
    """Time of the loop at its first refusal."""

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        self.delivered(self, error, message)


class OutputError(Exception):
    """Nothing more can be sent, or what must be is refused; only a new process, or an operator, can help."""


class GivenUp(Exception):  # noqa: N818  says what happened
    """Nobody wants the record any more: the partition that it came from has moved."""


class Outputs:
    """One idempotent producer, acks=all, owned by an event loop: its reports run there, without a lock."""

    def __init__(self, settings: Settings, on_fatal: Callable[[OutputError], None]) -> None:
        self._config = settings.producer(**{"message.timeout.ms": DELIVERY_TIMEOUT_MS})
        self._producer = Producer(self._config)
        self._alone: Producer | None = None
        self._on_fatal = on_fatal
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._quiet_until = 0.0
        self._awaited = 0
        self.in_flight = 0

    def send(
        self,
        record: Encoded,
        report: Report,
        *,
        partition: int = -1,
        wanted: Wanted | None = None,
        required: bool = False,
    ) -> None:
        """Hand `record` over; never blocks. While `wanted` (absent: always), a failed delivery is tried again.

        `required`: nothing can stand in for this record, such as a dead letter. A broker that goes on refusing it
        ends the worker.
        """
        self._send(_Sent(self._delivered, record, report, partition, wanted, required))

    def _send(self, sent: _Sent) -> None:
        self.in_flight += 1
        record = sent.record
        headers: Any = record.headers
        producer = self._single() if sent.alone else self._producer
        try:
            producer.produce(record.topic, record.value, record.key, sent.partition, on_delivery=sent, headers=headers)
        except BufferError:
            self._later(sent)
        except KafkaException as error:
            self._loop.call_soon(self._failed, sent, error.args[0])
        if self._timer is None:
            self._timer = self._loop.call_later(_AWAITED_S if self._awaited else _PUMP_S, self._pump)

    async def deliver(
        self, record: Encoded, *, partition: int = -1, wanted: Wanted | None = None, required: bool = False
    ) -> None:
        """Send `record` and wait until the broker has it.

        Raises GivenUp where it is not `wanted` any more, KafkaException where the broker refuses it.
        """
        done: asyncio.Future[None] = self._loop.create_future()

        def report(error: KafkaError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            elif wanted is None or wanted():
                done.set_exception(KafkaException(error))
            else:
                done.set_exception(GivenUp())

        self._awaited += 1
        try:
            self.send(record, report, partition=partition, wanted=wanted, required=required)
            await done
        finally:
            self._awaited -= 1

    async def room(self) -> None:
        """Wait until not too much is in flight."""
        while self.in_flight >= MAX_IN_FLIGHT:
            await asyncio.sleep(_FULL_S)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False where that took longer than `timeout_s`."""
        until = self._loop.time() + timeout_s
        while self.in_flight:
            if self._loop.time() > until:
                return False
            self._poll()
            await asyncio.sleep(_AWAITED_S)
        return True

    def close(self) -> None:
        """Stop the timer; what is in flight was not acknowledged, so its inputs come again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _poll(self) -> None:
        self._producer.poll(0)
        if self._alone is not None:
            self._alone.poll(0)

    def _pump(self) -> None:
        self._timer = None
        self._poll()
        if self.in_flight and self._timer is None:
            self._timer = self._loop.call_later(_AWAITED_S if self._awaited else _PUMP_S, self._pump)

    def _again(self, sent: _Sent) -> None:
        self.in_flight -= 1
        if sent.wanted is None or sent.wanted():
            self._send(sent)
        else:
            sent.report(KafkaError(KafkaError._MSG_TIMED_OUT))

    def _delivered(self, sent: _Sent, error: KafkaError | None, message: Message) -> None:
        error = delivery_error(error, message)
        if error is None:
            self.in_flight -= 1
            sent.report(None)
        else:
            self._failed(sent, error)

    def _failed(self, sent: _Sent, error: KafkaError) -> None:
        if error.fatal():
            self.in_flight -= 1
            self._on_fatal(OutputError(str(error)))
        elif error.code() not in _REJECTED:
            self._say(logging.WARNING, "%s did not take a record yet: %s", sent.record.topic, error)
            self._later(sent)
        elif not sent.alone:
            # The broker refuses whole batches: it may have meant a neighbour.
            sent.alone = True
            self._loop.call_soon(self._again, sent)
        elif sent.required:
            self._refused(sent, error)
        else:
            self.in_flight -= 1
            sent.report(error)

    def _refused(self, sent: _Sent, error: KafkaError) -> None:
        now = self._loop.time()
        if sent.refused_at is None:
            sent.refused_at = now
        if now - sent.refused_at < REQUIRED_S:
            self._say(logging.ERROR, "%s refuses a record that must be in it: %s", sent.record.topic, error)
            self._later(sent)
        else:
            self.in_flight -= 1
            sent.report(error)
            self._on_fatal(OutputError(f"{sent.record.topic} refuses a record that must be in it: {error}"))

    def _later(self, sent: _Sent) -> None:
        wait_s = min(_FULL_S * 2.0 ** min(sent.tries, 10), _LONGEST_WAIT_S)
        sent.tries += 1
        self._loop.call_later(wait_s, self._again, sent)

    def _say(self, level: int, message: str, *args: object) -> None:
        """One line a second: all that is in flight fails at once."""
        if (now := self._loop.time()) >= self._quiet_until:
            self._quiet_until = now + _SAY_S
            log.log(level, message, *args)

    def _single(self) -> Producer:
        if self._alone is None:
            self._alone = Producer({**self._config, "batch.num.messages": 1})
        return self._alone
