"""The changelog of one partition, read into a ledger: ahead of the takeover what is there, then up to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from ops.runtime.settings import Settings
from processors.recover.role import Kept, Role

RPC_S: Final = 10.0
TRANSACTION_MS: Final = 15_000
"""A dead worker's open transaction holds readers up no longer, even where nobody takes its partition over."""
_STALLS_S: Final = 15.0
"""It gave nothing for so long: who leads it may have changed unseen, a new consumer asks again."""

_LEADER_CHANGED: Final = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
    }
)


class DoubtError(Exception):
    """A transaction was aborted, or nobody knows: discard producer and state, take over anew."""

    def __init__(self, cause: str, *, poison: bool = False) -> None:
        super().__init__(cause)
        self.poison = poison
        """Trying the same batch again will end the same way."""


class Changelog:
    """Used by one thread at a time; what it has read is in `ledger`."""

    def __init__(self, settings: Settings, role: Role, partition: int, ledger: Kept) -> None:
        """Raises KafkaException."""
        self.ledger = ledger
        self.count = 0
        """Records read."""
        self._unreadable: dict[bytes, str] = {}
        """Keys whose newest record the ledger could not take, and why."""
        self._read = 0
        """The offset up to which all is in the ledger."""
        self._partition = TopicPartition(role.state.name, partition)
        name = f"{settings.app}-{role.name}-restore"
        self._consumer = Consumer(
            settings.kafka(
                **{
                    "client.id": f"{name}-{partition}",
                    "group.id": name,
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "earliest",
                    "fetch.message.max.bytes": 8_000_000,
                    # The commit marker at the end is passed only by a fetch that finds nothing.
                    "fetch.wait.max.ms": 10,
                    "queued.max.messages.kbytes": 16_384,
                    # A full queue is looked at again only after so long: by default 1 s, with 0.1 s of work in it.
                    "fetch.queue.backoff.ms": 5,
                }
            )
        )
        self._consumer.list_topics(role.state.name, timeout=RPC_S)
        self._consumer.assign([TopicPartition(role.state.name, partition, OFFSET_BEGINNING)])

    def read_ahead(self, admin: AdminClient, enough: Callable[[], bool]) -> None:
        """Read what is committed by now, or less. Raises DoubtError, KafkaException or TimeoutError."""
        self._read_to(ends(admin, [self._partition], IsolationLevel.READ_COMMITTED)[self._partition], enough)

    def read(self, admin: AdminClient, stopped: Callable[[], bool]) -> None:
        """Read to the end, when nobody writes any more. Raises DoubtError, KafkaException or TimeoutError."""
        self._read_to(self._stable_end(admin, stopped), stopped)
        if stopped():
            raise DoubtError("stopped")
        if self._unreadable:
            # To go on would lose a recovery, to die of it stop the other partitions too. A tombstone ends it.
            key, why = next(iter(self._unreadable.items()))
            raise DoubtError(f"the changelog holds {len(self._unreadable)} unreadable records; of {key!r}: {why}")

    def close(self) -> None:
        """Leave the broker alone; the ledger stays."""
        self._consumer.close()

    def _stable_end(self, admin: AdminClient, stopped: Callable[[], bool]) -> int:
        """Its end once no transaction is open on it: an earlier end of partition is not the end."""
        deadline = time.monotonic() + 2 * TRANSACTION_MS / 1000
        while not stopped() and time.monotonic() < deadline:
            end = ends(admin, [self._partition], IsolationLevel.READ_UNCOMMITTED)[self._partition]
            if ends(admin, [self._partition], IsolationLevel.READ_COMMITTED)[self._partition] == end:
                return end
            time.sleep(0.01)
        raise DoubtError("stopped" if stopped() else "a transaction stays open on the changelog")

    def _read_to(self, end: int, stopped: Callable[[], bool]) -> None:
        heard_s = time.monotonic()
        while self._read < end and not stopped():
            first = self._consumer.poll(0.5)
            if first is None:
                if time.monotonic() - heard_s > _STALLS_S:
                    raise DoubtError(f"the changelog cannot be read: {self._read} of {end}")
                continue
            heard_s = time.monotonic()
            for message in (first, *self._consumer.consume(1000, 0)):
                error, offset = message.error(), message.offset() or 0
                if error is None:
                    self._take(message.key() or b"", message.value())
                    self.count += 1
                    self._read = offset + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._read = max(offset, self._read)
                else:
                    raise KafkaException(error)

    def _take(self, key: bytes, value: bytes | None) -> None:
        self._unreadable.pop(key, None)
        try:
            self.ledger.restore(key, value)
        except ValueError as error:
            if value is not None:
                self._unreadable[key] = str(error)


def ends(admin: AdminClient, asked: list[TopicPartition], isolation: IsolationLevel) -> dict[TopicPartition, int]:
    """The end offset of each partition, as the broker has it now. Raises KafkaException or TimeoutError."""
    try:
        return _ends(admin, asked, isolation)
    except KafkaException as error:
        if error.args[0].code() not in _LEADER_CHANGED:
            raise
        # An admin client goes on asking by the leader epochs that it knows. After a broker has come back they are old,
        # and refused, for the quarter of an hour that metadata are kept.
        admin.list_topics(timeout=RPC_S)
        return _ends(admin, asked, isolation)


def _ends(admin: AdminClient, asked: list[TopicPartition], isolation: IsolationLevel) -> dict[TopicPartition, int]:
    request = {TopicPartition(tp.topic, tp.partition): OffsetSpec.latest() for tp in asked}
    futures = admin.list_offsets(request, isolation_level=isolation, request_timeout=RPC_S)
    found = {tp: future.result(RPC_S).offset for tp, future in futures.items()}
    if min(found.values(), default=0) < 0:
        # A leader that was elected just now does not know yet. Read up to there, a changelog would be empty.
        raise KafkaException(KafkaError(KafkaError.OFFSET_NOT_AVAILABLE))
    return found
