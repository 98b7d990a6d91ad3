"""The confidence topic, read whole by every worker: the learned rates, the same in each."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ops.runtime.metrics import STRATEGY_EFFECTIVENESS
from ops.runtime.settings import Settings
from schemas.codec import Malformed, decode
from schemas.records import ConfidenceRow, Strategy
from schemas.topics import CONFIDENCE
from streams.decide.rates import WINDOW, Rates

log = logging.getLogger(__name__)

_POLL_S: Final = 0.2
_CHUNK: Final = 500


class ConfidenceView:
    """Follows recovery.confidence.v1 from its beginning, on a thread of its own, outside any group."""

    def __init__(self, settings: Settings) -> None:
        self.rates: Rates = Rates()
        """Replaced, never changed: safe to read from any thread."""
        self._effective: frozenset[Strategy] = frozenset()
        self._behind: set[int] = set()
        self._complete = threading.Event()
        self._closed = threading.Event()
        self._settings = settings
        self._thread = threading.Thread(target=self._run, name="confidence", daemon=True)
        self._thread.start()

    @property
    def complete(self) -> bool:
        """Every partition was once read to its end: `rates` lacks nothing that was known at the start."""
        return self._complete.is_set()

    def close(self) -> None:
        """Stop following; returns when the thread has ended."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        consumer = Consumer(
            self._settings.kafka(
                **{
                    # Never joined and never committed: librdkafka wants a name.
                    "group.id": f"{self._settings.app}-confidence",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                }
            )
        )
        try:
            self._assign(consumer)
            while not self._closed.is_set():
                self._take(consumer.consume(_CHUNK, _POLL_S))
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer) -> None:
        while not self._closed.is_set():
            try:
                partitions = consumer.list_topics(CONFIDENCE.name, timeout=10).topics[CONFIDENCE.name].partitions
            except KafkaException as error:
                log.info("confidence topic not known yet: %s", error)
                partitions = {}
            if partitions:
                self._behind = set(partitions)
                consumer.assign([TopicPartition(CONFIDENCE.name, p, OFFSET_BEGINNING) for p in partitions])
                return
            self._closed.wait(_POLL_S)

    def _take(self, messages: list[Message]) -> None:
        rows = []
        for message in messages:
            error = message.error()
            if error is None:
                decoded = decode(CONFIDENCE.name, message.value())
                if isinstance(decoded, Malformed):
                    # Only we write here; a row that cannot be read teaches nothing, and its successor will.
                    log.warning("confidence row not readable: %s", decoded.reason)
                elif isinstance(decoded.record, ConfidenceRow):
                    rows.append(decoded.record)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard(message.partition() or 0)
            else:
                log.info("confidence topic: %s", error)
        if rows:
            self.rates = Rates.of([*self.rates.rows.values(), *rows])
            self._publish()
        if not self._behind and not self._complete.is_set():
            self._complete.set()

    def _publish(self) -> None:
        now = datetime.now(UTC)
        sums: dict[Strategy, tuple[int, int]] = {}
        for row in self.rates.rows.values():
            if row.samples and row.updated_at + WINDOW > now:
                samples, successes = sums.get(row.strategy, (0, 0))
                sums[row.strategy] = samples + row.samples, successes + row.successes
        for strategy, (samples, successes) in sums.items():
            STRATEGY_EFFECTIVENESS.labels(strategy).set(successes / samples)
        for strategy in self._effective - sums.keys():
            STRATEGY_EFFECTIVENESS.remove(strategy)
        self._effective = frozenset(sums)
