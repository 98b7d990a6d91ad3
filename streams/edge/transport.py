"""Faust's transport, so that it loses nothing and costs little.

Stock Faust 0.15.3 passes each record through four tasks, a lock, a queue and two iterators, and commits past
records that were never handled. Here the records of one fetch and partition travel as one `Batch`, put into the
channel's queue without an await, so that no cancellation can fall between "taken" and "queued"; and what may be
committed is known by a `Progress` per partition. Changelogs still take Faust's own way into its recovery.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import aiokafka
import uvloop
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faust.transport import conductor
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import WorkerThread

from ops.runtime.pace import Pace
from ops.runtime.progress import Progress, size_of

log = logging.getLogger(__name__)

FETCH_S: Final = 0.05
"""How long one fetch waits for records. A partition that gets room while another is waited for is seen after it."""
FETCH_MAX_WAIT_MS: Final = 100
"""How long the broker may hold a fetch. aiokafka has one fetch in flight per broker, without the partitions whose
records are still unread: those wait for it. Stock: 1,500."""
_BUSY_PER_S: Final = 300
"""Records read: from there on each fetch waits for more of them."""
_BUSY_WAIT_MS: Final = 8
_BUSY_MIN_BYTES: Final = 1024 * 1024
"""More than comes meanwhile."""
_FULL_S: Final = 0.002
DRAIN_S: Final = 22.0
"""How long a partition that is given up waits for what is in flight: longer than a delivery may take."""


@dataclass(slots=True)
class Batch:
    """Records of one partition, in order."""

    topic: str
    partition: int
    records: list[Any]
    """aiokafka's ConsumerRecord: offset, key, value, headers, timestamp (ms)."""
    progress: Progress


class Inbox:
    """The batches of one topic that are still ours to begin."""

    def __init__(self, queue: asyncio.Queue[Batch]) -> None:
        self._queue = queue

    async def next(self) -> Batch:
        """Wait for one. Raises StopAsyncIteration where Faust ends the stream."""
        while (batch := await self._queue.get()).progress.closed:
            pass
        return batch

    def here(self) -> Iterator[Batch]:
        """Those that are here by now."""
        while not self._queue.empty():
            batch = self._queue.get_nowait()
            if not batch.progress.closed:
                yield batch


class Conductor(conductor.Conductor):
    """Finds the agent's queue of a partition."""

    def deliver(self, tp: TP, batch: Batch) -> None:
        """Queue `batch` for the one agent that reads its topic. Never waits: the consumer bounds what is queued."""
        (channel,) = self._tp_index[tp]
        cast(Any, channel).queue.put_nowait(batch)


class _Daemon(WorkerThread):
    """A thread that cannot keep a process alive whose orderly stop took too long."""

    def __init__(self, service: Any, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """aiokafka's consumer on a thread and loop of its own, read-committed."""

    Worker = _Daemon

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pace = Pace()

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        # Recovery of tables needs Faust's own assignor: it places changelogs with their topics.
        self._assignor = self.app.assignor
        conf = self.app.conf
        auth = driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context)
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 0) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            check_crcs=conf.broker_check_crcs,
            # Stock Faust reads committed records only where it is transactional itself; recovery.settled is
            # written in transactions, and an attempt that was aborted never happened.
            isolation_level="read_committed",
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **auth,
        )

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[Any, list[Any]]:
        """As Faust's, without its method queue: that one costs three tasks a call."""
        consumer = self._ensure_consumer()
        fetch = self._fetch_records(consumer, active_partitions or set(), timeout, consumer._max_poll_records)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetch, self.thread_loop))

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Mapping[Any, list[Any]]:
        ours = cast(Consumer, self.consumer)
        epoch = ours.epoch
        records = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        self._set_pace(consumer._fetcher, sum(map(len, records.values())))
        if epoch != ours.epoch:
            # The flow was stopped meanwhile, so nobody takes these. Nothing may await between taking and giving
            # back: Faust's own seek to the committed offset runs on this loop too, and may have come before.
            for tp, taken in records.items():
                if tp in consumer.assignment():
                    consumer.seek(tp, taken[0].offset)
            return {}
        return records

    def _set_pace(self, fetcher: Any, read: int) -> None:
        # A thousand records a second that come one by one are a thousand fetches, each of which costs the broker, this
        # worker, and who reads what it writes as much as many records.
        self._pace.count(read, self.thread_loop.time())
        busy = self._pace.per_s >= _BUSY_PER_S
        fetcher._fetch_max_wait_ms = _BUSY_WAIT_MS if busy else FETCH_MAX_WAIT_MS
        fetcher._fetch_min_bytes = _BUSY_MIN_BYTES if busy else 1

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """As Faust's; a partition without a committed offset is sought to its beginning, not left where it is."""
        return cast(Mapping[TP, int], await self.call_thread(self._seek_to_committed))

    async def _seek_to_committed(self) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        committed = await consumer.seek_to_committed()
        if unknown := [tp for tp, offset in committed.items() if not offset]:
            await consumer.seek_to_beginning(*unknown)
        return cast(Mapping[TP, int], committed)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """As Faust's, but a commit that fails for the moment does not end the worker: the next one covers it."""
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        positions = {
            driver.ensure_aiokafka_TP(tp): aiokafka.structs.OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assigned
        }
        try:
            await consumer.commit(positions)
        except (CommitFailedError, IllegalStateError):
            return False
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("offsets not committed yet: %s", error)
            return False
        return True


class Consumer(driver.Consumer):
    """Faust's consumer with batches instead of messages, and `Progress` instead of lists of acknowledged offsets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._progress: dict[TP, Progress] = {}
        self.epoch = 0
        """Rises whenever the flow is stopped; read by the consumer's thread."""

    def _new_consumer_thread(self) -> ConsumerThread:
        thread = ConsumerThread(self, loop=self.loop, beacon=self.beacon, thread_loop=uvloop.new_event_loop())
        thread._close_thread_loop_on_stop = True
        return thread

    # -- reading

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._drain_once()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _drain_once(self) -> None:
        if not self.flow_active:
            await self.wait(cast(Any, self.can_resume_flow))
            return
        epoch = self.epoch
        active = {tp for tp in self._get_active_partitions() if not self._is_full(tp)}
        if not active:
            await asyncio.sleep(_FULL_S)
            return
        fetched = await self._getmany(active, FETCH_S)
        # From here to the queue nothing is awaited: the flow is stopped before these are looked at, or after
        # they are all queued.
        if epoch != self.epoch:
            return
        changelog = self.app.tables.changelog_topics
        restored = []
        for key, records in fetched.items():
            tp = ensure_TP(key)
            if tp.topic in changelog:
                restored.append((tp, records))
            else:
                self._deliver(tp, records)
        for tp, records in restored:
            await self._restore(tp, records)

    def _is_full(self, tp: TP) -> bool:
        progress = self._progress.get(tp)
        return progress is not None and progress.fullness(cast(Any, self.app).read_ahead_bytes) >= 1

    def _deliver(self, tp: TP, records: list[Any]) -> None:
        progress = self._progress.get(tp)
        if progress is None or progress.closed:
            progress = self._progress[tp] = Progress()
        fresh = [
            record
            for record in records
            if progress.deliver(record.offset, size_of(record.key, record.value, record.headers))
        ]
        if fresh:
            cast(Conductor, self.app.topics).deliver(tp, Batch(tp.topic, tp.partition, fresh, progress))

    async def _restore(self, tp: TP, records: list[Any]) -> None:
        for record in records:
            await self.wait_first(self.callback(self._to_message(tp, record)), self.suspend_flow.wait())
            self._read_offset[tp] = record.offset

    # -- giving up and committing

    def stop_flow(self) -> None:
        """As Faust's; from here on no record of ours is begun."""
        self.epoch += 1
        for progress in self._progress.values():
            progress.closed = True
        super().stop_flow()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """As Faust's, which forgets what was acknowledged before it commits for the last time: we forget after."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._progress.pop(tp, None)

    async def wait_empty(self) -> None:
        """Wait for the records that were begun, then commit."""
        if self.app.should_stop and self.app.crashed:
            # The consumer's thread may have crashed with the app, and would never answer.
            return
        if not await cast(Any, self.app).outputs_drained(DRAIN_S):
            log.warning("records in flight after %g s; they will be read again", DRAIN_S)
        await self.commit_and_end_transactions()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in self._progress if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        progress = self._progress.get(tp)
        return None if progress is None else progress.position

    async def _commit_offsets(
        self,
        offsets: Mapping[TP, int],
        start_new_transaction: bool = True,  # noqa: ARG002  Faust's signature
    ) -> bool:
        assignment = self.assignment()
        ours = {tp: offset for tp, offset in offsets.items() if tp in assignment}
        if not ours or not await self._commit(ours):
            return False
        self._committed_offset.update(ours)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: it asks the monitor, which no longer sees each record. Lag is a metric."""

    def assigned_topics(self) -> set[str]:
        """Topics of which at least one partition is assigned here."""
        return {tp.topic for tp in self.assignment()}


class Transport(driver.Transport):
    """What Faust builds its clients from."""

    Consumer = Consumer
    Conductor = Conductor
