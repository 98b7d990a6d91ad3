"""The worker: one consumer for all inputs, one writer a partition, transactions of partitions side by side."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from ops.runtime import failpoints, metrics
from ops.runtime.health import HealthServer
from ops.runtime.lag import LagReporter
from ops.runtime.logs import configure
from ops.runtime.settings import Settings
from processors.recover.clock import BrokerClock
from processors.recover.lane import Lane
from processors.recover.ledger import RUNG_TOKENS, Raw, Staged
from processors.recover.observe import forget, observe
from processors.recover.policy import Policies, PolicyError
from processors.recover.writer import DoubtError, Writer, ends
from schemas.topics import RECOVER_INPUTS, RECOVER_STATE

log = logging.getLogger("omium.recover")

_POLL_S: Final = 0.05
_CONSUME: Final = 1000
_BARRIER_EVERY_S: Final = 0.1
_POLICY_EVERY_S: Final = 1.0
_RETRY_S: Final = (0.2, 5.0)
"""Wait after a first doubt, and the longest, doubling in between."""


class StartError(Exception):
    """The worker cannot start; the message says what to change."""


class Worker:
    """Runs until `stop` is set. One thread polls; no transaction is open while it does."""

    def __init__(self, settings: Settings, policies: Policies, stop: threading.Event, *, transactional: bool) -> None:
        self._settings = settings
        self._policies = policies
        self._stop = stop
        self._transactional = transactional
        self._lanes: dict[int, Lane] = {}
        self._parked: dict[int, Lane] = {}
        name = f"{settings.app}-recover"
        self._admin = AdminClient(settings.kafka(**{"client.id": f"{name}-admin"}))
        self._consumer = Consumer(
            settings.kafka(
                **{
                    "client.id": name,
                    "group.id": name,
                    "partition.assignment.strategy": "range",
                    "isolation.level": "read_committed",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                    "session.timeout.ms": 6_000,
                    "heartbeat.interval.ms": 1_500,
                    "max.poll.interval.ms": 300_000,
                    "fetch.wait.max.ms": 100,
                    # Little is fetched ahead: behind a flood of one topic wait the records of all.
                    "queued.min.messages": 1000,
                    "queued.max.messages.kbytes": 4096,
                }
            )
        )
        self._clock = BrokerClock(settings, f"{name}-clock")
        self._partitions = _equal_partitions(self._consumer)
        self._pool = ThreadPoolExecutor(self._partitions, thread_name_prefix="recover")
        self._barrier_s = 0.0
        self._policy_of = self._policy_age()
        self._looked_s = time.monotonic()

    def readiness(self) -> str | None:
        lanes = list(self._lanes.values())
        if not lanes:
            return "no partition is assigned"
        waiting = [lane.writer.partition for lane in lanes if not lane.writer.ready]
        return f"partitions being taken over: {waiting}" if waiting else None

    def run(self) -> None:
        while not self._clock.wait(5) and not self._stop.is_set():
            log.warning("the broker does not tell its time")
        self._consumer.subscribe(
            [topic.name for topic in RECOVER_INPUTS],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        try:
            while not self._stop.is_set():
                self._clock.tick()
                self._reload()
                self._gather()
                failpoints.hit("recover.polled")
                self._take_over_again()
                self._check_barriers()
                while self._round() and not self._stop.is_set():
                    self._clock.tick()
        finally:
            self._consumer.close()
            self._pool.shutdown()
            self._clock.close()

    # --- policy

    def _policy_age(self) -> int:
        path = self._settings.policy_file
        try:
            return path.stat().st_mtime_ns if path else 0
        except OSError:
            return 0

    def _reload(self) -> None:
        """A changed policy file counts from the next decision on; one that cannot be used changes nothing."""
        if time.monotonic() - self._looked_s < _POLICY_EVERY_S:
            return
        self._looked_s = time.monotonic()
        age = self._policy_age()
        if age in (0, self._policy_of):
            return
        self._policy_of = age
        try:
            self._policies = Policies.load(self._settings.policy_file)
        except PolicyError as error:
            log.error("policy %s stays: %s", self._policies.version, error)
            return
        for lane in self._lanes.values():
            lane.writer.follow(self._policies)
        log.info("policy %s", self._policies.version)

    # --- assignment; runs inside poll, when no transaction is open

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        numbers: list[int] = sorted({tp.partition for tp in assigned})
        # What was ours all the time can go on: had another been the writer since, ours would be fenced.
        self._lanes = {n: self._parked.get(n) or Lane(self._writer(n)) for n in numbers}
        self._parked.clear()
        fresh = [lane for lane in self._lanes.values() if not lane.writer.ready]
        for future in [self._pool.submit(self._take_over, lane) for lane in fresh]:
            future.result()
        for lane in self._lanes.values():
            lane.forget_read()
            lane.writer.follow(self._policies)
        consumer.assign([self._start(tp) for tp in assigned])
        log.info("partitions %s", numbers)

    def _on_revoke(self, _: Consumer, __: list[TopicPartition]) -> None:
        for lane in self._lanes.values():
            lane.forget_read()
            forget(lane.writer)
        self._parked, self._lanes = {n: lane for n, lane in self._lanes.items() if lane.writer.ready}, {}

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        # Another may have been the writer since, and may be gone again.
        self._on_revoke(consumer, lost)
        for lane in self._parked.values():
            lane.writer.discard()
        self._parked = {}

    def _writer(self, partition: int) -> Writer:
        return Writer(self._settings, partition, self._partitions, self._policies, transactional=self._transactional)

    def _start(self, tp: TopicPartition) -> TopicPartition:
        position = self._lanes[tp.partition].writer.positions.get(tp.topic, OFFSET_BEGINNING)
        return TopicPartition(tp.topic, tp.partition, position)

    def _take_over(self, lane: Lane) -> None:
        """Steps 1 to 3; where they fail, they are tried again later."""
        try:
            lane.writer.take_over(self._admin, self._stop.is_set)
        except DoubtError as error:
            self._on_doubt(lane, error)

    def _take_over_again(self) -> None:
        """After a doubt, and only after a poll: that one tells a member that was voted out."""
        now_s = time.monotonic()
        lost = [lane for lane in self._lanes.values() if not lane.writer.ready and now_s >= lane.retry_at_s]
        for future in [self._pool.submit(self._take_over, lane) for lane in lost]:
            future.result()
        for lane in lost:
            if lane.writer.ready:
                lane.forget_read()
                for topic in RECOVER_INPUTS:
                    self._seek(self._start(TopicPartition(topic.name, lane.writer.partition)))

    def _seek(self, tp: TopicPartition) -> None:
        # Right after an assignment a partition cannot be sought for a moment.
        for _ in range(100):
            try:
                return self._consumer.seek(tp)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:
                    raise
                time.sleep(0.05)
        raise KafkaException(KafkaError(KafkaError._STATE))

    def _on_doubt(self, lane: Lane, error: DoubtError) -> None:
        lane.writer.discard()
        wait_s = min(_RETRY_S[0] * 2**lane.doubts, _RETRY_S[1])
        lane.doubts += 1
        lane.retry_at_s = time.monotonic() + (0 if error.poison else wait_s)
        metrics.TRANSACTIONS_ABORTED.labels("poison" if error.poison else "doubt").inc()
        log.warning("partition %d: %s", lane.writer.partition, error)

    # --- reading

    def _gather(self) -> None:
        now_s = time.monotonic()
        lingering = [left_s for lane in self._lanes.values() if (left_s := lane.lingers_s(now_s)) is not None]
        first = self._consumer.poll(min([_POLL_S, *lingering]))
        if first is not None:
            for message in (first, *self._consumer.consume(_CONSUME, 0)):
                self._sort(message)

    def _sort(self, message: Message) -> None:
        error = message.error()
        topic, partition, offset = message.topic() or "", message.partition(), message.offset() or 0
        lane = None if partition is None else self._lanes.get(partition)
        if error is None:
            if lane:
                lane.delivered(topic, offset)
            # Of a partition that is being taken over anew nothing is kept: it is read again from there.
            if lane and lane.writer.ready:
                lane.append(_raw(message, topic, lane.writer.partition, offset), time.monotonic())
        elif error.code() == KafkaError._PARTITION_EOF:
            if lane:
                lane.at_end(topic, offset)
        elif error.fatal():
            raise KafkaException(error)
        else:
            log.warning("consumer: %s", error)

    # --- deadlines

    def _check_barriers(self) -> None:
        """Deadlines wait until all that was appended before them has been applied."""
        now = self._clock.now_ms()
        due = []
        for lane in self._lanes.values():
            lane.pass_barrier()
            next_due = lane.writer.ledger.next_due_ms
            if lane.writer.ready and not lane.asked and next_due is not None and lane.barrier_ms < next_due <= now:
                due.append(lane)
        if not due or time.monotonic() - self._barrier_s < _BARRIER_EVERY_S:
            return
        self._barrier_s = time.monotonic()
        asked = [TopicPartition(t.name, lane.writer.partition) for lane in due for t in RECOVER_INPUTS]
        try:
            answer = ends(self._admin, asked, IsolationLevel.READ_UNCOMMITTED)
        except (KafkaException, TimeoutError) as error:
            log.warning("ends of the inputs: %s", error)
            return
        for lane in due:
            lane.asked = now, {tp.topic: end for tp, end in answer.items() if tp.partition == lane.writer.partition}
            lane.pass_barrier()

    # --- transactions

    def _round(self) -> bool:
        """One transaction of each partition that has something to do. Whether there is more to do at once."""
        now, metadata = self._clock.now_ms(), self._consumer.consumer_group_metadata()
        running: list[tuple[Lane, list[Raw], Future[Staged]]] = []
        full = False
        for lane in self._lanes.values():
            if not lane.writer.ready:
                continue
            batch, next_due = lane.batch(time.monotonic()), lane.writer.ledger.next_due_ms
            full = full or len(batch) >= lane.writer.limit
            tokens = lane.tokens()
            fire_until = min(lane.barrier_ms, now) if tokens >= RUNG_TOKENS else 0
            if batch or (next_due is not None and next_due <= fire_until):
                future = self._pool.submit(
                    lane.writer.transact, batch, now, fire_until, tokens, self._consumer, metadata
                )
                running.append((lane, batch, future))
        for lane, batch, future in running:
            self._conclude(lane, batch, future)
        return full

    def _conclude(self, lane: Lane, batch: list[Raw], future: Future[Staged]) -> None:
        try:
            staged = future.result()
        except DoubtError as error:
            if error.poison:
                lane.writer.bisect(batch)
            lane.forget_read()
            self._on_doubt(lane, error)
            return
        lane.doubts = 0
        lane.spend(staged.tokens)
        observe(lane.writer, staged, self._clock.now_ms())


def _raw(message: Message, topic: str, partition: int, offset: int) -> Raw:
    headers: Any = message.headers() or ()
    return Raw(
        topic,
        partition,
        offset,
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple((name, value) for name, value in headers if value is not None),
    )


def _equal_partitions(consumer: Consumer) -> int:
    """The partition count that all inputs and the changelog share. Raises StartError."""
    known = consumer.list_topics(timeout=30).topics
    counts = {t.name: len(known[t.name].partitions) if t.name in known else 0 for t in (*RECOVER_INPUTS, RECOVER_STATE)}
    if 0 in counts.values():
        raise StartError(f"topics missing: {', '.join(name for name, count in counts.items() if not count)}")
    if len(set(counts.values())) > 1:
        raise StartError(f"inputs need equal partition counts, one execution would have two writers: {counts}")
    return next(iter(counts.values()))


def run(settings: Settings, *, transactional: bool = True, stop: threading.Event | None = None) -> int:
    """Work until SIGTERM, SIGINT or `stop`; the exit code. `transactional=False`: for the in-process broker only."""
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    try:
        worker = Worker(settings, Policies.load(settings.policy_file), stop, transactional=transactional)
    except (StartError, ValueError, KafkaException) as error:
        log.error("%s", error)
        return 2
    health = HealthServer(settings.metrics_host, settings.metrics_port, worker.readiness)
    lag = LagReporter(settings, f"{settings.app}-recover", [topic.name for topic in RECOVER_INPUTS])
    log.info("recover serves metrics on port %d", health.port)
    try:
        worker.run()
    finally:
        lag.close()
        health.close()
    return 0


if __name__ == "__main__":
    configure(loaded := Settings())
    sys.exit(run(loaded))
