"""The way out: a bounded queue that the agent fills without waiting, and a thread that empties it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, Producer
from confluent_kafka import Message as Delivered

from omium.clock import BrokerClock
from omium.codec import Message

_log = logging.getLogger("omium")
_IDLE_S: Final = 0.5
# For what is purged at the end to be counted.
_LAST_S: Final = 0.1

_ANY_CLOCK_MS: Final = 10**12
"""In 2001. librdkafka's in-process broker acknowledges with a time before it, which is no time."""


class Outbox:
    """Sends messages in order. `post` never waits and never raises; what finds no room is dropped and counted."""

    def __init__(self, config: Mapping[str, Any], clock: BrokerClock, ready: Callable[[], bool], limit: int) -> None:
        """`ready` says whether sending may begin: a command must not come before somebody listens."""
        self._config = dict(config)
        self._clock = clock
        self._ready = ready
        self._limit = limit
        self._waiting: deque[tuple[Message, float, bool]] = deque()
        """(message, when it was posted, whether it is sent again)"""
        self._unsettled = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._producer: Producer | None = None
        self.delivered = 0
        self.dropped = 0

    def start(self) -> None:
        """Start the thread that sends."""
        self._thread = threading.Thread(target=self._run, name="omium-outbox", daemon=True)
        self._thread.start()

    def post(self, message: Message) -> bool:
        """Queue `message`; False where it was dropped."""
        with self._wake:
            if self._closing or self._unsettled >= self._limit:
                self.dropped += 1
                return False
            self._unsettled += 1
            self._waiting.append((message, self._clock.local_s(), False))
            self._wake.notify_all()
        return True

    def wake(self) -> None:
        """Look again whether sending may begin."""
        with self._wake:
            self._wake.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was posted is acknowledged or given up; False where the time did not suffice."""
        with self._wake:
            return self._wake.wait_for(lambda: self._unsettled == 0, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Flush, then stop. What is still unsent is dropped."""
        self.flush(timeout_s)
        with self._wake:
            if not self._closing and self._unsettled:
                _log.warning("omium: closed with %d records not acknowledged", self._unsettled)
            self._closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        try:
            producer = self._producer = Producer(self._config)
        except Exception:
            _log.exception("omium: no producer; nothing will be sent")
            self._drop_rest()
            return
        while not self._closing:
            with self._wake:
                # Deliveries are polled for while there are any; else sleep until something is posted.
                in_flight = self._unsettled - len(self._waiting)
                if not (self._waiting and self._ready()) and not in_flight:
                    self._wake.wait(_IDLE_S)
            if self._waiting and self._ready():
                self._send(producer)
            producer.poll(0.02 if self._unsettled > len(self._waiting) else 0)
        producer.purge()
        producer.flush(_LAST_S)
        self._producer = None
        self._drop_rest()

    def _drop_rest(self) -> None:
        with self._wake:
            self._closing = True
            self.dropped += self._unsettled
            self._unsettled = 0
            self._waiting.clear()
            self._wake.notify_all()

    def _send(self, producer: Producer) -> None:
        while self._waiting:
            message, posted_s, again = self._waiting[0]
            try:
                producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=list(message.headers),
                    on_delivery=partial(self._settled, message, posted_s, again),
                )
            except BufferError:
                return
            except Exception as error:
                _log.warning("omium: %s %s not sent: %s", message.topic, message.event_id, error)
                with self._wake:
                    self._waiting.popleft()
                    self._unsettled -= 1
                    self.dropped += 1
                    self._wake.notify_all()
                continue
            self._waiting.popleft()

    def _settled(
        self, message: Message, posted_s: float, again: bool, error: KafkaError | None, record: Delivered
    ) -> None:
        if error is None and record.offset() is None and not again:
            # Delivered at no offset: the broker called it a duplicate. A new producer's first batch can be answered
            # so although it stands in no log (refused by a leader that was just elected, its second batch taken).
            self._waiting.append((message, self._clock.local_s(), True))
            return
        if error is None:
            kind, appended_ms = record.timestamp()
            if kind == TIMESTAMP_LOG_APPEND_TIME and appended_ms > _ANY_CLOCK_MS:
                self._clock.acknowledged(posted_s, appended_ms)
        else:
            _log.warning("omium: a record for %s was not delivered: %s", record.topic(), error)
        with self._wake:
            self._unsettled -= 1
            self.delivered += error is None
            self.dropped += error is not None
            self._wake.notify_all()
