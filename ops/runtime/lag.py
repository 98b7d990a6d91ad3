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

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

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
        self._topics = tuple(topics)
        self._consumer = Consumer(
            settings.kafka(
                **{
                    # To read what the group has committed. It neither joins the group nor commits.
                    "group.id": group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": True,
                    # The end is then the last stable offset: an open transaction is nobody's lag.
                    "isolation.level": "read_committed",
                    # One record of each partition is wanted, not its backlog.
                    "queued.min.messages": 1,
                    # By default a partition whose turn it is not waits for a second: 56 partitions took over 10 s.
                    "fetch.queue.backoff.ms": 1,
                    "queued.max.messages.kbytes": 1024,
                    "fetch.message.max.bytes": 1024,
                    "fetch.wait.max.ms": 10,
                }
            )
        )

    def measure(self, timeout_s: float = _TIMEOUT_S) -> tuple[PartitionLag, ...]:
        """Every partition of the topics, in order. Raises `KafkaException` where the broker does not answer."""
        position: dict[_Partition, int] = {}
        end: dict[_Partition, int] = {}
        for at in self._consumer.committed(self._partitions(timeout_s), timeout_s):
            if at.error is not None:
                raise KafkaException(at.error)
            first, last = self._consumer.get_watermark_offsets(at, timeout_s)
            # No commit yet: the group starts at the first record. A commit before it: retention was quicker.
            position[at.topic, at.partition] = max(at.offset, first)
            end[at.topic, at.partition] = last
        unread = self._first_unread({p: offset for p, offset in position.items() if offset < end[p]}, timeout_s)
        now_ms = time.time() * 1000
        return tuple(
            PartitionLag(
                topic=p[0],
                partition=p[1],
                records=end[p] - position[p] if p in unread else 0,
                seconds=max(0.0, (now_ms - unread.get(p, now_ms)) / 1000),
            )
            for p in position
        )

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _partitions(self, timeout_s: float) -> list[TopicPartition]:
        known = self._consumer.list_topics(timeout=timeout_s).topics
        there = [topic for topic in self._topics if topic in known]
        return [TopicPartition(topic, number) for topic in there for number in sorted(known[topic].partitions)]

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

    def __init__(
        self,
        settings: Settings,
        group: str,
        topics: Iterable[str],
        *,
        interval_s: float = 5.0,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._meter = LagMeter(settings, group, topics)
        self._group = group
        self._interval_s = interval_s
        self._timeout_s = timeout_s
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
                self._publish(self._meter.measure(self._timeout_s))
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
