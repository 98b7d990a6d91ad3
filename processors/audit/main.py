"""The audit worker: every record of every audited topic into ClickHouse, at least once there, once in its views.

The order that keeps records safe:
1. Read committed records, and note the position after each (batch.py).
2. Insert all rows of the batch, in one request. ClickHouse has them on disk when it answers.
3. Commit the positions on the broker.
4. Begin the next batch.

A crash before 3, or an insert of which no answer came, repeats rows: they carry their place in the topic,
and the views show each place once. While ClickHouse takes no rows the worker keeps its batch, reads no
more, and stays in the group. After a rebalance nothing is kept of partitions that are gone: their
positions were not committed. A stop waits for the batch at hand, but not beyond its deadline: then the
process ends as a crash would, which costs nothing but repeats.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from ops.runtime import failpoints, logs
from ops.runtime.health import HealthServer
from ops.runtime.kafka_errors import CLIENT_CONFIG
from ops.runtime.lag import LagReporter
from ops.runtime.metrics import AUDIT_BATCH_AGE, AUDIT_GAPS, AUDIT_INSERT_DURATION, AUDIT_ROWS
from ops.runtime.settings import Settings
from processors.audit.batch import Batch, Partition
from processors.audit.migrate import MigrationError
from processors.audit.rows import Source
from processors.audit.rows import row as to_row
from processors.audit.store import UNAVAILABLE, Store
from schemas import codec
from schemas.topics import AUDITED

_log: Final = logging.getLogger(__name__)
_TOPICS: Final = tuple(topic.name for topic in AUDITED)
_POLL_S: Final = 0.1
_CHUNK: Final = 500
"""Records taken from librdkafka at once: bounds the time between two looks at the clock."""
_TIMEOUT_S: Final = 10.0
_RETRY_FIRST_S: Final = 0.2
_RETRY_MAX_S: Final = 5.0


def run(settings: Settings) -> int:
    """Work until SIGTERM or SIGINT; 0 then, 2 where the database contradicts this release. Blocks."""
    logs.configure(settings)
    stop = threading.Event()
    with _signals(stop), _in_time(stop, settings.audit_stop_s), Store(settings.clickhouse) as store:
        worker = Worker(settings, store, stop)
        health = HealthServer(settings.metrics_host, settings.metrics_port, worker.why_not_ready)
        lag = LagReporter(settings, worker.group, _TOPICS)
        _log.info("audit: metrics on http://%s:%d/metrics", settings.metrics_host, health.port)
        try:
            worker.run()
        except MigrationError as error:
            _log.critical("audit: %s", error)
            return 2
        finally:
            lag.close()
            health.close()
    return 0


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _in_time(stop: threading.Event, within_s: float) -> Iterator[None]:
    """Ends the process where the inside has not ended `within_s` after `stop`: an insert cannot be broken off."""
    ended = threading.Event()

    def watch() -> None:
        stop.wait()
        if not ended.wait(within_s):
            _log.critical("audit: not stopped after %g s; what is not committed will be read again", within_s)
            logging.shutdown()
            os._exit(1)

    threading.Thread(target=watch, name="audit-stop", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


class Worker:
    """One member of the audit group. All but `why_not_ready` belongs to the thread that calls `run`."""

    def __init__(self, settings: Settings, store: Store, stop: threading.Event) -> None:
        self.group = f"{settings.app}-audit"
        self._settings = settings
        self._store = store
        self._stop = stop
        self._batch = Batch(max_rows=settings.audit_batch_rows, max_age_s=settings.audit_batch_s)
        self._topic_ids: dict[str, UUID] = {}
        self._positions: dict[Partition, int] = {}
        """Where each assigned partition is read next."""
        self._gaps = 0
        self._paused = False
        self._store_problem = "ClickHouse has not answered yet"
        self._kafka_problem = "no partition is assigned yet"
        self._retry_at = 0.0
        self._retry_s = _RETRY_FIRST_S
        self._consumer = Consumer(
            settings.kafka(
                **{
                    **CLIENT_CONFIG,
                    "group.id": self.group,
                    "client.id": self.group,
                    "isolation.level": "read_committed",
                    # A killed worker's partitions move after this, not after the 45 s of the default.
                    "session.timeout.ms": 6000,
                    "heartbeat.interval.ms": 2000,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    # Records that retention took before they were audited must not be passed over in silence.
                    "auto.offset.reset": "error",
                    "enable.partition.eof": True,
                    "queued.max.messages.kbytes": 16 * 1024,
                    "fetch.wait.max.ms": 100,
                }
            )
        )

    def why_not_ready(self) -> str | None:
        """None, or what is missing: called from another thread."""
        return self._kafka_problem or self._store_problem or None

    def run(self) -> None:
        """Until the stop event. Raises MigrationError."""
        try:
            self._await_topics()
            if not self._stop.is_set():
                self._consumer.subscribe(list(_TOPICS), on_assign=self._on_assign, on_revoke=self._on_revoke)
            while not self._stop.is_set():
                self._step()
            if not self._store_problem:
                self._flush()
        finally:
            # Closing may assign partitions once more: then nothing is to be asked for until it answers.
            self._stop.set()
            self._consumer.close()

    def _step(self) -> None:
        now = time.monotonic()
        if now >= self._retry_at and (self._store_problem or self._batch.due(now)):
            self._flush()
        oldest = self._batch.oldest_ms
        AUDIT_BATCH_AGE.set(0 if oldest is None else max(0.0, time.time() - oldest / 1000))
        # Without room nothing is read, but the group must still hear from us.
        self._pause(not self._batch.room)
        gaps = self._gaps
        for message in self._consumer.consume(max(1, min(_CHUNK, self._batch.room)), _POLL_S):
            self._take(message)
        if self._gaps != gaps:
            # A partition in this state takes no seek. Its topic may be another one by now.
            self._await_topics()
            self._consumer.assign([TopicPartition(*partition, start) for partition, start in self._positions.items()])
            self._paused = False

    def _take(self, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        error = message.error()
        if topic is None or partition is None or offset is None:
            self._tell(error)
        elif error is None:
            source = Source(
                topic=topic,
                topic_id=self._topic_ids[topic],
                partition=partition,
                offset=offset,
                appended_ms=message.timestamp()[1],
                key=message.key(),
                value=message.value(),
                headers=_pairs(message.headers()),
            )
            self._batch.add(to_row(source), time.monotonic())
            self._positions[topic, partition] = offset + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            self._batch.read_to((topic, partition), offset, time.monotonic())
            self._positions[topic, partition] = offset
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            AUDIT_GAPS.labels(topic).inc()
            _log.error("audit: records of %s:%d are gone before they were audited: %s", topic, partition, error.str())
            self._gaps += 1
            self._positions[topic, partition] = OFFSET_BEGINNING
        else:
            self._tell(error)

    def _tell(self, error: KafkaError | None) -> None:
        """librdkafka goes on by itself after all but fatal errors. Raises KafkaException for those."""
        if error is not None and error.fatal():
            raise KafkaException(error)
        _log.warning("audit: %s", error)

    def _flush(self) -> None:
        """Steps 2 and 3."""
        rows = self._batch.rows
        try:
            self._store.open()
            if rows:
                with AUDIT_INSERT_DURATION.time():
                    self._store.insert(rows)
        except UNAVAILABLE as error:
            self._store_problem = f"ClickHouse takes no rows: {_one_line(error)}"
            self._back_off(self._store_problem)
            return
        self._store_problem = ""
        for topic, count in Counter(r.topic for r in rows).items():
            AUDIT_ROWS.labels(topic).inc(count)
        self._batch.stored()
        failpoints.hit("audit.inserted")
        try:
            self._commit()
        except KafkaException as error:
            # The rows are stored, the positions are kept: the next flush commits them, or a rebalance drops them.
            self._back_off(f"positions are not committed: {error.args[0].str()}")
            return
        failpoints.hit("audit.committed")
        self._retry_s = _RETRY_FIRST_S

    def _commit(self) -> None:
        # A topic made anew starts at offset 0 again: its id says which one the position belongs to.
        positions = [
            TopicPartition(topic, partition, position, str(self._topic_ids[topic]))
            for (topic, partition), position in self._batch.positions.items()
        ]
        if positions:
            self._consumer.commit(offsets=positions, asynchronous=False)
        self._batch.committed()

    def _back_off(self, problem: str) -> None:
        _log.warning("audit: %s; again in %.1f s", problem, self._retry_s)
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(_RETRY_MAX_S, self._retry_s * 2)

    def _pause(self, full: bool) -> None:
        if full != self._paused:
            assigned = self._consumer.assignment()
            (self._consumer.pause if full else self._consumer.resume)(assigned)
            self._paused = full

    def _await_topics(self) -> None:
        while not self._stop.is_set():
            try:
                self._topic_ids = self._describe()
                return
            except (KafkaException, TimeoutError) as error:
                self._kafka_problem = f"topics cannot be read: {error or 'no answer'}"
                _log.warning("audit: %s", self._kafka_problem)
            self._stop.wait(_RETRY_FIRST_S * 5)

    def _describe(self) -> dict[str, UUID]:
        admin = AdminClient(self._settings.kafka(**CLIENT_CONFIG))
        answers = admin.describe_topics(TopicCollection(list(_TOPICS)), request_timeout=_TIMEOUT_S)
        ids = {name: answer.result(2 * _TIMEOUT_S).topic_id for name, answer in answers.items()}
        return {
            name: UUID(int=(i.get_most_significant_bits() % 2**64 << 64) | i.get_least_significant_bits() % 2**64)
            for name, i in ids.items()
        }

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._await_topics()
        starts = self._starts(consumer, partitions)
        consumer.assign(starts)
        self._positions = {(p.topic, p.partition): p.offset for p in starts}
        self._paused = False
        missing = set(_TOPICS) - {p.topic for p in starts}
        self._kafka_problem = f"no partition of {', '.join(sorted(missing))} is assigned" if missing else ""
        _log.info("audit: %d partitions assigned", len(starts))

    def _starts(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        while not self._stop.is_set():
            try:
                committed = consumer.committed(partitions, _TIMEOUT_S)
            except KafkaException as error:
                _log.warning("audit: positions cannot be read: %s", error.args[0].str())
                self._stop.wait(_RETRY_FIRST_S * 5)
                continue
            return [TopicPartition(p.topic, p.partition, self._start(p)) for p in committed]
        return []

    def _start(self, committed: TopicPartition) -> int:
        if committed.offset < 0:
            return OFFSET_BEGINNING
        # Empty where an operator moved the group's offset with Kafka's own tools: that is meant.
        if committed.metadata and committed.metadata != str(self._topic_ids[committed.topic]):
            _log.warning("audit: %s was made anew; it is read from its start", committed.topic)
            return OFFSET_BEGINNING
        return committed.offset

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._batch.drop((p.topic, p.partition) for p in partitions)
        self._positions = {}
        self._kafka_problem = "no partition is assigned"


def _pairs(headers: Any) -> codec.Headers | None:
    # A list of pairs, says the client's documentation; its types allow a dict.
    return list(headers.items()) if isinstance(headers, dict) else headers


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
