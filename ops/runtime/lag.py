"""How far a consumer group is behind, in records and in seconds.

A committed offset below the end need not be a lag: the markers of transactions have offsets too, and no consumer ever
reads them. So each partition that looks behind is asked for its first unread record, whose append time also gives the
seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from ops.runtime.metrics import CONSUMER_LAG_RECORDS, CONSUMER_LAG_SECONDS
from ops.runtime.settings import Settings

_log: Final = logging.getLogger(__name__)
_TIMEOUT_S: Final = 10.0
_Partition = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """One partition, as one group has it."""

    topic: str
    partition: int
    records: int
    """Offsets between the committed one and the end that a consumer may read; 0 where no record is among them."""
    seconds: float
    """Since the broker appended the first record that the group has not committed; 0 where there is none."""


class LagMeter:
    """Measures one group on one set of topics. One thread at a time."""

    def __init__(self, settings: Settings, group: str, topics: Iterable[str]) -> None:
        self._group = group
        self._topics = tuple(topics)
        self._admin = AdminClient(settings.kafka())
        self._consumer = Consumer(
            settings.kafka(
                **{
                    # Never joined: librdkafka wants a name, and offsets are read by the admin client.
                    "group.id": f"{group}.lag",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    # One record of each partition is wanted, not its backlog.
                    "queued.min.messages": 1,
                    "queued.max.messages.kbytes": 1024,
                    "fetch.message.max.bytes": 1024,
                    "fetch.wait.max.ms": 10,
                }
            )
        )

    def measure(self, timeout_s: float = _TIMEOUT_S) -> tuple[PartitionLag, ...]:
        """Every partition of the topics, in order. Raises `KafkaException` where the broker does not answer."""
        partitions = self._partitions(timeout_s)
        committed = self._committed(timeout_s)
        first = self._offsets(partitions, OffsetSpec.earliest(), timeout_s)
        end = self._offsets(partitions, OffsetSpec.latest(), timeout_s)
        # No commit yet: the group starts at the first record. A commit before it: retention was quicker.
        position = {p: max(committed.get(p, 0), first[p]) for p in partitions}
        unread = self._first_unread({p: position[p] for p in partitions if position[p] < end[p]}, timeout_s)
        now_ms = time.time() * 1000
        return tuple(
            PartitionLag(
                topic=topic,
                partition=number,
                records=end[topic, number] - position[topic, number] if (topic, number) in unread else 0,
                seconds=max(0.0, (now_ms - unread.get((topic, number), now_ms)) / 1000),
            )
            for topic, number in partitions
        )

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _partitions(self, timeout_s: float) -> list[_Partition]:
        known = self._admin.list_topics(timeout=timeout_s).topics
        return [
            (topic, number) for topic in self._topics if topic in known for number in sorted(known[topic].partitions)
        ]

    def _committed(self, timeout_s: float) -> dict[_Partition, int]:
        request = [ConsumerGroupTopicPartitions(self._group)]
        answer = self._admin.list_consumer_group_offsets(request, request_timeout=timeout_s)[self._group]
        found = answer.result(timeout_s).topic_partitions or []
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def _offsets(self, partitions: list[_Partition], spec: OffsetSpec, timeout_s: float) -> dict[_Partition, int]:
        request = {TopicPartition(*partition): spec for partition in partitions}
        answers = self._admin.list_offsets(
            request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout_s
        )
        return {(p.topic, p.partition): answer.result(timeout_s).offset for p, answer in answers.items()}

    def _first_unread(self, positions: dict[_Partition, int], timeout_s: float) -> dict[_Partition, float]:
        """Append time, in ms since 1970, of the first record at or after each position, where there is one."""
        if not positions:
            return {}
        self._consumer.assign([TopicPartition(*partition, offset) for partition, offset in positions.items()])
        found: dict[_Partition, float] = {}
        waiting = set(positions)
        deadline = time.monotonic() + timeout_s
        try:
            while waiting and (left := deadline - time.monotonic()) > 0:
                if (message := self._consumer.poll(left)) is None:
                    continue
                partition = (message.topic() or "", message.partition() or 0)
                if (error := message.error()) is None:
                    found.setdefault(partition, message.timestamp()[1])
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                waiting.discard(partition)
        finally:
            self._consumer.unassign()
        if waiting:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return found


class LagReporter:
    """Publishes a group's lag as gauges, from a thread of its own, until `close`.

    Every worker of a group reports all its partitions, so that one that nobody has is still seen: take the maximum.
    While the broker does not answer the gauges are absent, rather than old.
    """

    def __init__(self, settings: Settings, group: str, topics: Iterable[str], interval_s: float = 5.0) -> None:
        self._meter = LagMeter(settings, group, topics)
        self._group = group
        self._interval_s = interval_s
        self._reported: set[_Partition] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lag-{group}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; returns when the thread has ended."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._interval_s):
            try:
                self._publish(self._meter.measure())
            except KafkaException as error:
                _log.info("no lag of %s: %s", self._group, error)
                self._publish(())
        self._meter.close()

    def _publish(self, lags: tuple[PartitionLag, ...]) -> None:
        for lag in lags:
            CONSUMER_LAG_RECORDS.labels(self._group, lag.topic, lag.partition).set(lag.records)
            CONSUMER_LAG_SECONDS.labels(self._group, lag.topic, lag.partition).set(lag.seconds)
        now = {(lag.topic, lag.partition) for lag in lags}
        for topic, partition in self._reported - now:
            CONSUMER_LAG_RECORDS.remove(self._group, topic, partition)
            CONSUMER_LAG_SECONDS.remove(self._group, topic, partition)
        self._reported = now
