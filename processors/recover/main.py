"""The worker: one consumer for all inputs, one writer a partition, transactions of partitions side by side."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from ops.runtime import failpoints, garbage
from ops.runtime.health import HealthServer
from ops.runtime.lag import LagReporter
from ops.runtime.logs import configure
from ops.runtime.metrics import FLOOD_RECORDS
from ops.runtime.settings import Settings
from processors.recover.assignment import Assignment
from processors.recover.broadcast import Broadcast
from processors.recover.changelog import DoubtError, ends
from processors.recover.clock import BrokerClock
from processors.recover.lane import Lane
from processors.recover.ledger import RUNG_TOKENS, Raw, Staged
from processors.recover.reload import PolicyFile
from processors.recover.role import RECOVER, Role
from processors.recover.writer import Writer

log = logging.getLogger("omium.recover")

_POLL_S: Final = 0.05
_TAKING_POLL_S: Final = 0.005
"""While a partition is being taken over: how late its end is seen."""
_CONSUME: Final = 1000
_FETCHED_AHEAD: Final = 16
"""With so many records here the client fetches no more. Few: behind a flood of one topic wait the records of all."""
_FETCH_S: Final = 0.004
"""What a fetch takes that had been held back for them."""
_BARRIER_EVERY_S: Final = 0.1


class StartError(Exception):
    """The worker cannot start; the message says what to change."""


class Worker:
    """Runs until `stop` is set. One thread polls; no transaction is open while it does."""

    def __init__(
        self, settings: Settings, policy: PolicyFile, stop: threading.Event, role: Role, *, transactional: bool
    ) -> None:
        self._stop = stop
        self._role = role
        self._policy = policy
        name = f"{settings.app}-{role.name}"
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
                    "queued.min.messages": _FETCHED_AHEAD,
                    "queued.max.messages.kbytes": 4096,
                    # What was taken is fetched again at once: by default after 1 s.
                    "fetch.queue.backoff.ms": 1,
                }
            )
        )
        self._clock = BrokerClock(settings, f"{name}-clock")
        partitions = _equal_partitions(self._consumer, role)
        self._pool = ThreadPoolExecutor(partitions, thread_name_prefix=role.name)
        self._assignment = Assignment(
            self._consumer,
            self._admin,
            name,
            partitions,
            lambda n: Lane(
                Writer(settings, n, partitions, policy.policies, transactional=transactional, role=role),
                role.flow,
                settings.read_ahead_bytes,
            ),
            lambda: policy.policies,
            stop,
            role,
        )
        takers, self._view = role.watch(lambda: policy.policies, self._clock.now_ms)
        self._broadcast = Broadcast(settings, f"{name}-broadcast", takers)
        self._barrier_s = 0.0
        self._flooding = FLOOD_RECORDS.labels(role.name)
        self._backlog = garbage.Backlog()

    def readiness(self) -> str | None:
        if not self._broadcast.caught_up:
            return "what all workers know is being read"
        if not self._assignment.lanes:
            return "no partition is assigned"
        waiting = self._assignment.taking_over
        return f"partitions being taken over: {waiting}" if waiting else None

    def run(self) -> None:
        while not self._clock.wait(5) and not self._stop.is_set():
            log.warning("the broker does not tell its time")
        self._catch_up()
        self._assignment.subscribe()
        busy = False
        try:
            while not self._stop.is_set():
                self._clock.tick()
                self._reload()
                self._broadcast.poll()
                self._gather(busy)
                failpoints.hit(f"{self._role.name}.polled")
                self._assignment.advance()
                self._check_barriers()
                busy = self._round()
        finally:
            self._consumer.close()
            self._broadcast.close()
            self._assignment.close()
            self._pool.shutdown()
            self._clock.close()

    def _catch_up(self) -> None:
        while not self._broadcast.caught_up and not self._stop.is_set():
            self._clock.tick()
            self._broadcast.poll(0.1)

    def _reload(self) -> None:
        operators = self._policy.policies.operators
        if not self._policy.look():
            return
        for lane in self._assignment.live.values():
            lane.writer.follow(self._policy.policies)
        if self._policy.policies.operators != operators:
            # Whose words count has changed: they are all heard anew, as by a worker that starts now.
            takers, self._view = self._role.watch(lambda: self._policy.policies, self._clock.now_ms)
            self._broadcast.begin(takers)
            self._catch_up()

    # --- reading

    def _gather(self, busy: bool) -> None:
        """Read what is there; wait for a record unless there is more to do."""
        now_s = time.monotonic()
        lanes = self._assignment.live.values()
        for lane in lanes:
            self._assignment.pause(lane, lane.to_pause())
        self._flooding.set(sum(lane.flooding for lane in lanes))
        self._backlog.tell(sum(lane.waiting for lane in lanes), now_s)
        lingering = [left_s for lane in lanes if (left_s := lane.lingers_s(now_s)) is not None]
        longest_s = _TAKING_POLL_S if self._assignment.taking_over else _POLL_S
        # Where all rest, nothing is to be done for a record that comes: to wake for each costs more than to sort it.
        if rest_s := min((lane.rests_s(now_s) for lane in lanes), default=0.0):
            time.sleep(min(rest_s, longest_s))
        wait_s = 0.0 if rest_s or busy else min([longest_s, *lingering])
        for message in islice(self._here(wait_s), _CONSUME):
            self._sort(message)

    def _here(self, wait_s: float) -> Iterator[Message]:
        """The messages that are here, after a wait for the first."""
        # So many that the client had stopped fetching: what came since would wait for a whole round of transactions.
        for longest_s in (wait_s, _FETCH_S):
            count = 0
            # One by one: what consume() returns at once may be partly of the assignment before the last, which it
            # serves in between. From behind a backlog, it would pass for what comes next.
            while (message := self._consumer.poll(0 if count else longest_s)) is not None:
                yield message
                count += 1
            if count < _FETCHED_AHEAD:
                return

    def _sort(self, message: Message) -> None:
        error = message.error()
        topic, partition, offset = message.topic() or "", message.partition(), message.offset() or 0
        # Of a partition that is being taken over nothing is kept: it is read again from there.
        lane = None if partition is None else self._assignment.live.get(partition)
        if error is None:
            if lane:
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
        for lane in self._assignment.live.values():
            lane.pass_barrier()
            next_due = lane.writer.ledger.next_due_ms
            if not lane.asked and next_due is not None and lane.barrier_ms < next_due <= now:
                due.append(lane)
        if not due or time.monotonic() - self._barrier_s < _BARRIER_EVERY_S:
            return
        self._barrier_s = time.monotonic()
        asked = [TopicPartition(t.name, lane.writer.partition) for lane in due for t in self._role.inputs]
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
        for lane in self._assignment.live.values():
            batch, next_due = lane.batch(time.monotonic()), lane.writer.ledger.next_due_ms
            full = full or len(batch) >= lane.writer.limit
            tokens = lane.tokens()
            fire_until = min(lane.barrier_ms, now) if tokens >= RUNG_TOKENS else 0
            if batch or (next_due is not None and next_due <= fire_until):
                future = self._pool.submit(
                    lane.writer.transact, batch, now, fire_until, tokens, self._consumer, metadata, self._view,
                    lane.positions(), lane.waits,
                )  # fmt: skip
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
            self._assignment.doubt(lane, error)
            return
        lane.doubts = 0
        lane.spend(staged.tokens)
        self._role.observe(lane.writer, staged, self._clock.now_ms())


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


def _equal_partitions(consumer: Consumer, role: Role) -> int:
    """The partition count that all inputs and the changelog share. Raises StartError."""
    known = consumer.list_topics(timeout=30).topics
    counts = {t.name: len(known[t.name].partitions) if t.name in known else 0 for t in (*role.inputs, role.state)}
    if 0 in counts.values():
        raise StartError(f"topics missing: {', '.join(name for name, count in counts.items() if not count)}")
    if len(set(counts.values())) > 1:
        raise StartError(f"inputs need equal partition counts, one execution would have two writers: {counts}")
    return next(iter(counts.values()))


def run(
    settings: Settings, *, transactional: bool = True, stop: threading.Event | None = None, role: Role = RECOVER
) -> int:
    """Work until SIGTERM, SIGINT or `stop`; the exit code. `transactional=False`: for the in-process broker only."""
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    try:
        worker = Worker(settings, PolicyFile(settings.policy_file), stop, role, transactional=transactional)
    except (StartError, ValueError) as error:
        log.error("%s", error)
        return 2
    except KafkaException as error:
        # Not a fault of how it was called: tried again, it may go well.
        log.error("%s", error)
        return 1
    health = HealthServer(settings.metrics_host, settings.metrics_port, worker.readiness)
    lag = LagReporter(settings, f"{settings.app}-{role.name}", [topic.name for topic in role.inputs])
    log.info("%s serves metrics on port %d", role.name, health.port)
    try:
        garbage.settle()
        worker.run()
    finally:
        lag.close()
        health.close()
    return 0


if __name__ == "__main__":
    configure(loaded := Settings())
    sys.exit(run(loaded))
