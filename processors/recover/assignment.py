"""The partitions of this worker: which it may write, and how it becomes their writer while it goes on polling."""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from ops.runtime import metrics
from processors.recover.changelog import DoubtError
from processors.recover.lane import Lane
from processors.recover.policy import Policies
from processors.recover.role import RECOVER, Role

log = logging.getLogger("omium.recover")

_RETRY_S: Final = (0.2, 5.0)
"""Wait after a first doubt, and the longest, doubling in between."""
_NOT_YET: Final = frozenset({KafkaError._STATE, KafkaError._PREV_IN_PROGRESS})
"""Right after an assignment a partition cannot be sought for a moment."""
_SEEK_S: Final = 10.0
"""A longer moment is a doubt."""
_DESCRIBE_S: Final = 2.0


@dataclass(slots=True, eq=False)
class _Task:
    """Of a thread that alone uses the lane's writer until `future` is done."""

    lane: Lane
    takes: bool
    """Steps 1 to 3 of a writer; else the changelog is read ahead of them."""
    enough: threading.Event
    future: Future[None]
    sought_s: float | None = None
    """When the inputs were first sought after a takeover."""

    def abandon(self) -> None:
        """The partition went to another worker."""
        self.enough.set()
        self.future.add_done_callback(lambda _: self.lane.writer.discard())


class Assignment:
    """Used by the polling thread, which never waits here: a partition that is not ours yet is paused until it is.

    Partitions are revoked before they are assigned anew, mostly to the same worker. What was ours in between goes on,
    writers and takeovers alike: had another been the writer since, ours would be fenced.
    """

    def __init__(
        self,
        consumer: Consumer,
        admin: AdminClient,
        group: str,
        partitions: int,
        lane: Callable[[int], Lane],
        policies: Callable[[], Policies],
        stop: threading.Event,
        role: Role = RECOVER,
    ) -> None:
        self._role = role
        self.lanes: dict[int, Lane] = {}
        """All that are assigned."""
        self.live: dict[int, Lane] = {}
        """Those whose records are read and applied."""
        self._consumer = consumer
        self._admin = admin
        self._group = group
        self._lane = lane
        self._policies = policies
        self._stop = stop
        self._parked: dict[int, Lane] = {}
        self._tasks: dict[int, _Task] = {}
        self._partitions = range(partitions)
        # Those of abandoned takeovers are busy until their last call to the broker ends.
        self._pool = ThreadPoolExecutor(2 * partitions, thread_name_prefix="take-over")

    def subscribe(self) -> None:
        """Become a member of the group. What it assigns is taken over, by and by.

        Where a member was killed, the group waits for its session to end: the changelogs are read in that time, if all
        will be ours. Of several members each has the memory for its part, and nobody knows which that will be.
        """
        if self._members() <= 1:
            for number in self._partitions:
                lane = self._parked[number] = self._lane(number)
                self._begin(number, lane, takes=False)
        self._consumer.subscribe(
            [topic.name for topic in self._role.inputs],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    @property
    def taking_over(self) -> list[int]:
        """The assigned partitions that are not live."""
        return sorted(self.lanes.keys() - self.live.keys())

    def advance(self) -> None:
        """Begin the takeovers that are due, end those that are done. After a poll: that one tells a member that was
        voted out. Never blocks."""
        now_s = time.monotonic()
        for number in self.taking_over:
            lane, task = self.lanes[number], self._tasks.get(number)
            if task is None:
                if now_s >= lane.retry_at_s:
                    self._begin(number, lane, takes=True)
            elif not task.future.done():
                if not task.takes:
                    task.enough.set()
            elif task.takes:
                self._conclude(number, task)
            else:
                self._begin(number, lane, takes=True)

    def pause(self, lane: Lane, level: int) -> None:
        """Read nothing more of a partition that is live: at 1 of the inputs that flood, at 2 of any; at 0 read all."""
        if level == lane.paused:
            return
        number = lane.writer.partition
        self._consumer.resume(self._inputs(number))
        if level:
            stopped = self._role.floods if level == 1 else self._role.inputs
            self._consumer.pause([TopicPartition(topic.name, number) for topic in stopped])
        lane.paused = level

    def doubt(self, lane: Lane, error: DoubtError) -> None:
        """Nobody knows what became of a transaction or a takeover: it starts anew, after a while."""
        number = lane.writer.partition
        lane.writer.discard()
        lane.forget_read()
        self.live.pop(number, None)
        self._pause(number)
        wait_s = min(_RETRY_S[0] * 2**lane.doubts, _RETRY_S[1])
        lane.doubts += 1
        lane.retry_at_s = time.monotonic() + (0 if error.poison else wait_s)
        metrics.TRANSACTIONS_ABORTED.labels("poison" if error.poison else "doubt").inc()
        log.warning("partition %d: %s", number, error)

    def close(self) -> None:
        """After the consumer was closed; waits for what takeovers are asking the broker."""
        self._drop(self._parked)
        self._pool.shutdown()

    def _members(self) -> float:
        """Of the group before we join, the dead included."""
        try:
            # Not by describe_consumer_groups: where the coordinator goes away meanwhile, librdkafka ends the process
            # (an assertion in all that it asks a coordinator for the admin client; its issue 4605).
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                groups = self._admin.list_groups(self._group, timeout=_DESCRIBE_S)
        except KafkaException as error:
            log.info("members of %s: %s", self._group, error)
            return math.inf
        return sum(len(group.members) for group in groups if group.id == self._group)

    # --- rebalances; inside poll, when no transaction is open

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        numbers: list[int] = sorted({tp.partition for tp in assigned})
        parked = self._parked
        self.lanes = {n: parked.pop(n) if n in parked else self._lane(n) for n in numbers}
        self._drop(parked)
        self.live = {n: lane for n, lane in self.lanes.items() if n not in self._tasks and lane.writer.ready}
        for lane in self.live.values():
            lane.writer.follow(self._policies())
        # Where the others start does not matter: they are paused, and sought before they go on. From the beginning
        # no record can be missed, whatever the consumer does.
        consumer.assign([self._position(tp) if tp.partition in self.live else _from(tp, 0) for tp in assigned])
        for number in self.live:
            # One that was full is not any more: what it had read is forgotten.
            consumer.resume(self._inputs(number))
        for number in self.taking_over:
            self._pause(number)
        log.info("partitions %s", numbers)

    def _on_revoke(self, _: Consumer, __: list[TopicPartition]) -> None:
        for lane in self.lanes.values():
            lane.forget_read()
            self._role.forget(lane.writer)
        self._parked |= self.lanes
        self.lanes, self.live = {}, {}

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        # Another may have been the writer since, and may be gone again.
        self._on_revoke(consumer, lost)
        self._drop(self._parked)

    def _drop(self, parked: dict[int, Lane]) -> None:
        """They went to another worker."""
        for number, lane in parked.items():
            if (task := self._tasks.pop(number, None)) is None:
                lane.writer.discard()
            else:
                task.abandon()
        parked.clear()

    # --- takeovers

    def _begin(self, number: int, lane: Lane, *, takes: bool) -> None:
        enough = threading.Event()
        lane.writer.follow(self._policies())
        work = lane.writer.take_over if takes else lane.writer.read_ahead
        future = self._pool.submit(work, self._admin, lambda: enough.is_set() or self._stop.is_set())
        self._tasks[number] = _Task(lane, takes, enough, future)

    def _conclude(self, number: int, task: _Task) -> None:
        lane = task.lane
        try:
            task.future.result()
            if not self._resume(number, task):
                return
        except DoubtError as error:
            del self._tasks[number]
            self.doubt(lane, error)
            return
        del self._tasks[number]
        lane.writer.follow(self._policies())
        self.live[number] = lane

    def _resume(self, number: int, task: _Task) -> bool:
        """Read on from where the writer stands; False: not yet. Raises DoubtError."""
        positions, inputs = task.lane.writer.positions, self._inputs(number)
        now_s = time.monotonic()
        task.sought_s = task.sought_s or now_s
        try:
            for tp in inputs:
                self._consumer.seek(_from(tp, positions.get(tp.topic, OFFSET_BEGINNING)))
            self._consumer.resume(inputs)
        except KafkaException as error:
            if error.args[0].code() in _NOT_YET and now_s - task.sought_s < _SEEK_S:
                return False
            raise DoubtError(f"seeking: {error}") from error
        return True

    def _position(self, tp: TopicPartition) -> TopicPartition:
        return _from(tp, self.live[tp.partition].writer.positions.get(tp.topic, OFFSET_BEGINNING))

    def _pause(self, number: int) -> None:
        # Paused or not, nothing of it is kept; reading it would be in vain.
        with suppress(KafkaException):
            self._consumer.pause(self._inputs(number))

    def _inputs(self, number: int) -> list[TopicPartition]:
        return [TopicPartition(topic.name, number) for topic in self._role.inputs]


def _from(tp: TopicPartition, offset: int) -> TopicPartition:
    return TopicPartition(tp.topic, tp.partition, offset)
