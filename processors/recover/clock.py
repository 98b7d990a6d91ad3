"""The broker's time: append times of tick records, carried on by a local clock that no broker can make jump."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, Message, Producer

from ops.runtime import metrics
from ops.runtime.settings import Settings
from schemas.topics import TICKS

log = logging.getLogger("omium.recover")

_EVERY_S: Final = 1.0
_METADATA_S: Final = 30.0
_MOCK_MS: Final = 1_000_000_000_000
_ASKED: Final = 5
"""Partitions that are asked, whose leaders are several brokers: the median of them outvotes one wrong clock."""
_SLEW: Final = 0.5
"""How much faster or slower than the local clock time may pass. A deadline has two thirds of its time at least and
twice its time at most, wherever the brokers' clocks jump; a jump of an hour is made up within two."""
_ODD_MS: Final = 60_000
_LOCAL: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Passes while the machine sleeps, where it can."""


class Steered:
    """Time that passes with the local clock and is steered towards another one's: never back, never by a leap."""

    def __init__(self, now_ms: float, local_ms: float) -> None:
        self._now_ms = now_ms
        self._local_ms = local_ms

    def at(self, local_ms: float, ahead_ms: float) -> float:
        """The time in ms, now that it is `local_ms` here and the other clock is `ahead_ms` ahead of the local one."""
        passed_ms = local_ms - self._local_ms
        error_ms = local_ms + ahead_ms - (self._now_ms + passed_ms)
        bound_ms = _SLEW * passed_ms
        self._now_ms += passed_ms + min(max(error_ms, -bound_ms), bound_ms)
        self._local_ms = local_ms
        return self._now_ms


def outvoted(ahead_ms: list[float]) -> float:
    """What most brokers say; of an even number the earlier half: what fires late can be helped."""
    return sorted(ahead_ms)[(len(ahead_ms) - 1) // 2]


class BrokerClock:
    """Asked for and told by one thread; any may read it. A tick's time counts from when its report came."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        """Raises KafkaException where no broker answers."""
        self._producer = Producer(settings.producer(**{"client.id": client_id, "message.timeout.ms": 10_000}))
        self._lock = threading.Lock()
        known = self._producer.list_topics(TICKS.name, timeout=_METADATA_S).topics[TICKS.name].partitions
        self._partitions = range(min(max(len(known), 1), _ASKED))
        self._ahead_ms: dict[int, float] = {}
        """Partition to how far its leader was ahead of the local clock when it told its time last."""
        self._steered: Steered | None = None
        self._waiting: set[int] = set()
        self._asked_s = 0.0
        self._warned = False

    def tick(self) -> None:
        """Ask for the time once a second. Never blocks."""
        now_s = time.monotonic()
        if now_s - self._asked_s >= _EVERY_S:
            self._asked_s = now_s
            # One at a time: a batch of those that pile up while the broker is away would exceed the topic's limit.
            for partition in self._partitions:
                if partition not in self._waiting:
                    self._waiting.add(partition)
                    self._producer.produce(TICKS.name, b"", partition=partition, on_delivery=self._told(partition))
        self._producer.poll(0)

    def _told(self, partition: int) -> Callable[[KafkaError | None, Message], None]:
        def told(error: KafkaError | None, message: Message) -> None:
            self._waiting.discard(partition)
            if error is None:
                kind, broker_ms = message.timestamp()
                if kind != TIMESTAMP_LOG_APPEND_TIME or broker_ms < _MOCK_MS:
                    # librdkafka's in-process broker says that it is 1970; it is on this machine.
                    broker_ms = int(time.time() * 1000)
                with self._lock:
                    self._ahead_ms[partition] = broker_ms - _local_ms()
                self._look()

        return told

    def _look(self) -> None:
        """Tell people of a clock that is off, and when it no longer is."""
        if self._steered is None:
            return
        off_ms = outvoted(list(self._ahead_ms.values())) + _local_ms() - self.now_ms()
        metrics.BROKER_CLOCK_OFF.set(off_ms / 1000)
        if (odd := abs(off_ms) > _ODD_MS) != self._warned:
            self._warned = odd
            log.warning("the brokers' time is %.0f s off what passed here%s", off_ms / 1000, "" if odd else ": made up")

    def wait(self, timeout_s: float) -> bool:
        """Whether the time is known. Waits for all that are asked, up to `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while len(self._ahead_ms) < len(self._partitions) and time.monotonic() < deadline:
            self.tick()
            self._producer.poll(0.05)
        if self._ahead_ms and self._steered is None:
            local_ms = _local_ms()
            now_ms = local_ms + outvoted(list(self._ahead_ms.values()))
            with self._lock:
                self._steered = Steered(now_ms, local_ms)
            if abs(off_ms := now_ms - time.time() * 1000) > _ODD_MS:
                log.warning("the brokers' clocks are %.0f s off this machine's; theirs count", off_ms / 1000)
        return self._steered is not None

    def now_ms(self) -> int:
        """Broker's time in epoch ms; 0 before it is known."""
        with self._lock:
            if self._steered is None:
                return 0
            return int(self._steered.at(_local_ms(), outvoted(list(self._ahead_ms.values()))))

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(1)


def _local_ms() -> float:
    return time.clock_gettime(_LOCAL) * 1000
