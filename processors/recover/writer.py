"""The one writer of one partition: takes it over, and makes each batch one transaction.

The order that keeps data safe:
1. `init_transactions`: fences the predecessor, ends what it left open.
2. `committed()`: where the inputs stand, now that nobody else can move them.
3. Restore the changelog up to its end, read-committed, once no transaction is open on it.
4. Consume: begin, produce, send the offsets, commit.
Any abort or doubt: the producer and the state are thrown away, and it starts at 1. (librdkafka lacks KIP-890: a
producer used on after an indefinite error can have a delayed commit end its next transaction.)
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient

from ops.runtime import failpoints
from ops.runtime.delivery import delivery_error
from ops.runtime.settings import Settings
from processors.recover.changelog import RPC_S, TRANSACTION_MS, Changelog, DoubtError, ends
from processors.recover.ledger import RUNG_TOKENS, Message, Raw, Staged
from processors.recover.policy import Policies
from processors.recover.role import RECOVER, Kept, Role
from processors.recover.view import Allowance, View
from schemas.topics import BY_NAME, MAX_BATCH_BYTES, TICKS

log = logging.getLogger("omium.recover")

MAX_BATCH: Final = 256
LINGER_MS: Final = 5
"""Longer than it takes to produce a batch; what ends a transaction does not wait for it."""
_FORWARD_BYTES: Final = 48 * 1024
_FRAMING_BYTES: Final = 1024
"""Of a record's key and headers, mostly."""
_FLUSH_S: Final = 0.05
_COMMITTED_TRIES: Final = 40
_POISON: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.RECORD_LIST_TOO_LARGE,
    }
)
"""The broker refuses this message whenever it comes."""


class Writer:
    """One partition of a role. Used by one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        partition: int,
        partitions: int,
        policies: Policies,
        *,
        transactional: bool = True,
        role: Role = RECOVER,
    ) -> None:
        self.role = role
        self.partition = partition
        self.transactional = transactional
        self.ledger: Kept = role.ledger(partition, partitions, policies)
        self.allowances: dict[str, Allowance] = {}
        """Outlive a doubt: what it may have sent it has sent."""
        self.positions: dict[str, int] = {}
        """Topic to the next offset to be consumed; the group's view, which the ledger's may be ahead of."""
        self.limit = MAX_BATCH
        self.suspects: frozenset[tuple[str, int]] = frozenset()
        self._hunted: frozenset[tuple[str, int]] = frozenset()
        """Records of a poisoned transaction, one of which is the cause."""
        self._deadlines_refused = 0
        """Transactions of deadlines alone that the broker refused since one was committed."""
        self._settings = settings
        self._policies = policies
        self._partitions = partitions
        self._producer: Producer | None = None
        self._ahead: Changelog | None = None
        """What was read before the takeover."""
        self._refused: KafkaError | None = None

    @property
    def ready(self) -> bool:
        return self._producer is not None

    def follow(self, policies: Policies) -> None:
        """Decide by these policies from now on."""
        self._policies = self.ledger.policies = policies

    # --- 1 to 3

    def read_ahead(self, admin: AdminClient, enough: Callable[[], bool]) -> None:
        """Before the partition may be ours: read what the changelog holds, so that little is left then."""
        try:
            self._changelog().read_ahead(admin, enough)
        except Exception as error:
            # Half of what the consumer gave may be in the ledger. The takeover begins anew, and says what it meets.
            log.info("partition %d: not read ahead: %s", self.partition, error)
            self._close_ahead()

    def take_over(self, admin: AdminClient, stopped: Callable[[], bool]) -> None:
        """Become the writer. Raises DoubtError where the broker does not let us, or `stopped()`."""
        started_s = time.monotonic()
        try:
            if stopped():  # Too late, it would fence who came after us.
                raise DoubtError("stopped")
            producer = self._new_producer()
            failpoints.hit(f"{self.role.name}.fenced")
            positions = self._committed(stopped)
            changelog = self._ahead or self._changelog()
            changelog.read(admin, stopped)
            ledger = changelog.ledger
            ledger.policies = self._policies
            if renewed := ledger.forget_beyond(self._ends(admin)):
                log.warning("partition %d: made anew, replays unknown: %s", self.partition, ", ".join(renewed))
        except (KafkaException, TimeoutError) as error:
            raise DoubtError(f"taking over: {error}") from error
        finally:
            self._close_ahead()
        failpoints.hit(f"{self.role.name}.restored")
        self.ledger, self.positions, self._producer = ledger, positions, producer
        log.info(
            "partition %d: taken over, %d executions of %d records in %.2f s",
            self.partition, len(ledger), changelog.count, time.monotonic() - started_s,
        )  # fmt: skip

    def _changelog(self) -> Changelog:
        ledger = self.role.ledger(self.partition, self._partitions, self._policies)
        self._ahead = Changelog(self._settings, self.role, self.partition, ledger)
        return self._ahead

    def _close_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()

    def discard(self) -> None:
        """Throw the producer and the state away."""
        self._close_ahead()
        producer, self._producer = self._producer, None
        self.ledger = self.role.ledger(self.partition, self._partitions, self._policies)
        if producer is not None:
            with contextlib.suppress(KafkaException):
                producer.purge()

    def _new_producer(self) -> Producer:
        name = f"{self._settings.app}-{self.role.name}-{self.partition}"
        extra: dict[str, Any] = {
            "client.id": name,
            "message.timeout.ms": 10_000,
            "compression.type": "lz4",
            # A partition's records leave as one request: behind more than five that are on their way librdkafka
            # waits for the answer in a loop without a pause, on a core that the broker needs.
            "batch.size": MAX_BATCH_BYTES * 3 // 4,
            "linger.ms": LINGER_MS,
        }
        if self.transactional:
            extra |= {"transactional.id": name, "transaction.timeout.ms": TRANSACTION_MS}
        producer = Producer(self._settings.producer(**extra))
        if self.transactional:
            # Asked for before it has a connection, the coordinator is looked for only every 500 ms.
            producer.list_topics(TICKS.name, timeout=RPC_S)
            producer.init_transactions(RPC_S)
        return producer

    def _committed(self, stopped: Callable[[], bool]) -> dict[str, int]:
        """Asked with a handle of its own: the worker's waits for ever inside a rebalance, and an admin client's is
        killed by a coordinator that has moved (librdkafka then uses the group that only a consumer's has)."""
        group = f"{self._settings.app}-{self.role.name}"
        asked = [TopicPartition(topic.name, self.partition) for topic in self.role.inputs]
        consumer = Consumer(
            self._settings.kafka(
                **{
                    "client.id": f"{group}-committed-{self.partition}",
                    "group.id": group,
                    "enable.auto.commit": False,
                    # Offsets of a transaction that is just being ended are not told yet.
                    "isolation.level": "read_committed",
                }
            )
        )
        try:
            for _ in range(_COMMITTED_TRIES):
                if stopped():
                    break
                try:
                    answer = consumer.committed(asked, RPC_S)
                except KafkaException as error:
                    log.info("partition %d: committed offsets: %s", self.partition, error)
                else:
                    if not any(tp.error for tp in answer):
                        return {tp.topic: tp.offset for tp in answer if tp.offset >= 0}
                time.sleep(0.05)
        finally:
            consumer.close()
        raise DoubtError("committed offsets are not known")

    def _ends(self, admin: AdminClient) -> dict[str, int]:
        asked = [TopicPartition(topic.name, self.partition) for topic in self.role.inputs]
        return {tp.topic: end for tp, end in ends(admin, asked, IsolationLevel.READ_UNCOMMITTED).items()}

    # --- 4

    def transact(
        self,
        batch: Sequence[Raw],
        now: int,
        fire_until: int,
        tokens: int,
        consumer: Consumer,
        metadata: Any,
        view: View,
        positions: Mapping[str, int],
        waits: Callable[[bytes], bool],
    ) -> Staged:
        """One batch as one transaction; when this returns, it is committed. Raises DoubtError.

        `positions`, `waits`: as of `Ledger.stage`.
        """
        if batch and (self.limit < MAX_BATCH or self._deadlines_refused):
            fire_until = 0  # While poison is hunted, a batch is its records or its deadlines alone.
        staged = self.ledger.stage(
            batch,
            now,
            fire_until=fire_until,
            tokens=min(tokens, RUNG_TOKENS if self._deadlines_refused else self.limit * RUNG_TOKENS),
            suspects=self.suspects,
            # Refused among others, then alone: that one is the cause.
            breaks=self._deadlines_refused > 1,
            view=replace(view, allowances=self.allowances),
            positions=positions,
            waits=waits,
        )
        self.positions.update(positions)
        offsets = [TopicPartition(topic, self.partition, offset) for topic, offset in self.positions.items()]
        if not staged and not batch:
            return staged
        producer = self._producer
        assert producer is not None
        self._refused = None
        try:
            if self.transactional:
                self._commit(producer, staged, offsets, metadata)
            else:
                self._publish(producer, staged)
                consumer.commit(offsets=offsets, asynchronous=False)
        except (KafkaException, BufferError, SystemError) as error:
            raise self._doubt(producer, error) from error
        failpoints.hit(f"{self.role.name}.committed")
        self.ledger.commit(staged)
        self._hunted -= {(raw.topic, raw.offset) for raw in batch}
        self.limit = max(1, min(self.limit, len(self._hunted) // 2)) if self._hunted else MAX_BATCH
        self.suspects &= self._hunted
        if staged.tokens:
            self._deadlines_refused = 0
        return staged

    def _commit(self, producer: Producer, staged: Staged, offsets: list[TopicPartition], metadata: Any) -> None:
        failpoints.hit(f"{self.role.name}.staged")
        producer.begin_transaction()
        self._produce(producer, staged.messages)
        failpoints.hit(f"{self.role.name}.produced")
        # Always sent, also where only deadlines fired: it is what refuses a member that was voted out.
        producer.send_offsets_to_transaction(offsets, metadata, RPC_S)
        failpoints.hit(f"{self.role.name}.offsets_sent")
        self._deliver(producer)
        producer.commit_transaction(RPC_S)

    def _publish(self, producer: Producer, staged: Staged) -> None:
        self._produce(producer, staged.messages)
        self._deliver(producer)

    def _deliver(self, producer: Producer) -> None:
        """Wait until every record is in its log. Raises KafkaException where one is not."""
        deadline = time.monotonic() + RPC_S
        # In slices: behind a refused record the others wait for ever.
        while producer.flush(_FLUSH_S) and self._refused is None and time.monotonic() < deadline:
            pass
        if self._refused is not None or len(producer):
            raise KafkaException(self._refused or KafkaError(KafkaError._TIMED_OUT))

    def _produce(self, producer: Producer, messages: Iterable[Message]) -> None:
        forwarded_bytes = 0
        for message in messages:
            if BY_NAME[message.topic].from_agents:
                # These topics take smaller batches.
                size = len(message.value or b"") + _FRAMING_BYTES
                if forwarded_bytes + size > _FORWARD_BYTES:
                    self._deliver(producer)
                    forwarded_bytes = 0
                forwarded_bytes += size
            extra: dict[str, Any] = {} if message.partition is None else {"partition": message.partition}
            producer.produce(
                message.topic,
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                on_delivery=self._on_delivery,
                **extra,
            )

    def _on_delivery(self, error: KafkaError | None, message: KafkaMessage) -> None:
        problem = delivery_error(error, message)
        # The messages behind a refused one fail too, for its sake and sometimes before it.
        if problem is not None and (self._refused is None or problem.code() in _POISON):
            self._refused = problem

    def _doubt(self, producer: Producer, error: BaseException) -> DoubtError:
        # The report that tells why may still be under way. A producer with a fatal error (fenced) raises
        # from here as well, and SystemError where its error comes between two reports.
        with contextlib.suppress(KafkaException, SystemError):
            producer.purge()
            producer.flush(1)
        cause = self._refused or (error.args[0] if error.args else None)
        poison = isinstance(cause, KafkaError) and cause.code() in _POISON
        return DoubtError(str(cause), poison=poison)

    def bisect(self, batch: Sequence[Raw]) -> None:
        """After a poisoned transaction: the next ones are smaller; of one record, that record is the cause."""
        if not batch:
            self._deadlines_refused += 1
            return
        self._hunted = frozenset((raw.topic, raw.offset) for raw in batch)
        self.limit = max(1, len(batch) // 2)
        if len(batch) == 1:
            self.suspects |= self._hunted
