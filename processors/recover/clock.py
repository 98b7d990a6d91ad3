"""The broker's time: append times of tick records, carried on by a local monotonic clock."""

from __future__ import annotations

import threading
import time
from typing import Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, Message, Producer

from ops.runtime.settings import Settings
from schemas.topics import TICKS

_EVERY_S: Final = 1.0
_MOCK_MS: Final = 1_000_000_000_000


class BrokerClock:
    """Never ahead of the broker, never back: a tick's time counts from when its report came."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._producer = Producer(settings.producer(**{"client.id": client_id, "message.timeout.ms": 10_000}))
        self._lock = threading.Lock()
        self._tick: tuple[int, float] | None = None
        """(broker's ms, local monotonic s)"""
        self._last_ms = 0
        self._asked_s = 0.0
        self._waiting = False

    def tick(self) -> None:
        """Ask for the time once a second. Never blocks."""
        # One at a time: a batch of those that pile up while the broker is away would exceed the topic's limit.
        if not self._waiting and time.monotonic() - self._asked_s >= _EVERY_S:
            self._asked_s, self._waiting = time.monotonic(), True
            self._producer.produce(TICKS.name, value=b"", partition=0, on_delivery=self._on_delivery)
        self._producer.poll(0)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        self._waiting = False
        if error is None:
            kind, broker_ms = message.timestamp()
            if kind != TIMESTAMP_LOG_APPEND_TIME or broker_ms < _MOCK_MS:
                # librdkafka's in-process broker says that it is 1970; it is on this machine.
                broker_ms = int(time.time() * 1000)
            with self._lock:
                self._tick = (broker_ms, time.monotonic())

    def wait(self, timeout_s: float) -> bool:
        """Whether the time is known, waiting for it up to `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._tick is None and time.monotonic() < deadline:
            self.tick()
            self._producer.poll(0.05)
        return self._tick is not None

    def now_ms(self) -> int:
        """Broker's time in epoch ms. Any thread may ask."""
        with self._lock:
            if self._tick is None:
                return self._last_ms
            broker_ms, local_s = self._tick
            self._last_ms = max(self._last_ms, broker_ms + int((time.monotonic() - local_s) * 1000))
            return self._last_ms

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(1)
