"""A windowed Faust table whose counts survive any crash.

Stock Faust 0.15.3 sends a changelog record for each write and forgets about it, keeps nothing to tell a replay by,
never expires what it recovered, and its expiry index grows with every write. Here:

1. A batch of writes is folded first, then sent: one changelog record a row, however often it changed.
2. A row holds the offset of the last source record in it, in the same changelog record: a replay is recognised.
3. Memory follows the changelog: a row changes when the broker has its record, and the source is acknowledged after.
4. An expired row is a tombstone in the changelog. The index holds each row once, also those that were recovered.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Self, cast

import faust
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from faust.types import TP
from faust.windows import TumblingWindow

from ops.runtime.settings import Settings
from schemas.codec import Encoded
from streams.edge.app import App
from streams.edge.outputs import Wanted

Row = tuple[int, ...]
"""The offset of the last source record that is counted in it, then the counts."""
Key = tuple[str, int]
"""What is counted, and the start of its window in seconds since 1970 UTC."""

_TIMEOUT_S: Final = 30.0


class WindowedTable(faust.Table[Any, Any]):
    """Rows by (key, window), each written by the one worker that has the partition of its source record."""

    outputs_app: App
    size_s: int

    @classmethod
    def add(cls, app: App, name: str, *, size_s: int, partitions: int) -> Self:
        """Register a table of tumbling windows with `app`. Its changelog must exist: `create_changelog`."""
        table = cls(app, name=name, partitions=partitions)
        table.outputs_app = app
        table.size_s = size_s
        # Without `expires`: expiry is ours, see `drop`.
        table.using_window(TumblingWindow(size_s))
        app.tables.add(table)
        return table

    def __post_init__(self) -> None:
        self._index: dict[int, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        """partition -> start of window -> keys."""
        self.restored = asyncio.Event()
        """Set when partitions were given to us; whoever publishes from the rows clears it."""

    # -- reading

    def row(self, key: Key) -> Row | None:
        """The row, or None."""
        found: Row | None = self.data.get(self._stored(key))
        return found

    def rows(self, key: str, partition: int) -> dict[int, Row]:
        """Every row of `key`, by the start of its window."""
        starts = self._index.get(partition, {})
        return {start: self.data[self._stored((key, start))] for start, keys in starts.items() if key in keys}

    def keys_by_partition(self) -> Iterator[tuple[int, set[str]]]:
        """What is counted, for each partition that is held here."""
        for partition, starts in self._index.items():
            yield partition, set().union(*starts.values())

    def ended_before(self, time_s: float) -> dict[int, list[Key]]:
        """Rows whose window ended at or before `time_s`, by partition."""
        return {
            partition: [(key, start) for start in starts if start + self.size_s <= time_s for key in starts[start]]
            for partition, starts in self._index.items()
        }

    def __len__(self) -> int:
        return sum(len(keys) for starts in self._index.values() for keys in starts.values())

    # -- writing

    def owns(self, partition: int) -> bool:
        """Its rows are ours to change, and all of them are here."""
        tp = TP(self.changelog_topic_name, partition)
        return tp in cast(Any, self.app.tables).recovery.active_tps and not self.app.rebalancing

    async def write(self, partition: int, rows: Mapping[Key, Row], wanted: Wanted) -> None:
        """Store `rows`, each whole. Returns when the broker has all.

        Raises GivenUp where they are not `wanted` any more, KafkaException where the broker refuses one.
        """
        await self._send(partition, {key: _to_json(row) for key, row in rows.items()}, wanted)
        if not wanted():
            return
        for key, row in rows.items():
            self._put(partition, key, row)

    async def drop(self, partition: int, keys: Collection[Key]) -> None:
        """Remove rows, in the changelog and here. Raises GivenUp where the partition went away meanwhile."""
        await self._send(partition, dict.fromkeys(keys), lambda: self.owns(partition))
        for key in keys:
            self._remove(partition, key)

    async def _send(self, partition: int, values: Mapping[Key, bytes | None], wanted: Wanted) -> None:
        outputs = self.outputs_app.outputs
        topic = self.changelog_topic_name
        records = [Encoded(topic, _to_json(self._stored(key)), value, []) for key, value in values.items()]  # type: ignore[arg-type]
        results = await asyncio.gather(
            *(outputs.deliver(record, partition=partition, wanted=wanted) for record in records), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _put(self, partition: int, key: Key, row: Row) -> None:
        self.data[self._stored(key)] = row
        self._index[partition][key[1]].add(key[0])

    def _remove(self, partition: int, key: Key) -> None:
        self.data.pop(self._stored(key), None)
        starts = self._index.get(partition, {})
        keys = starts.get(key[1], set())
        keys.discard(key[0])
        if not keys:
            starts.pop(key[1], None)

    def _stored(self, key: Key) -> tuple[str, tuple[int, int]]:
        # Faust's own form of a windowed key.
        return key[0], (key[1], key[1] + self.size_s)

    # -- recovery, called by Faust

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Take rows from the changelog. Of two records of a row the one that counts more of the source holds,
        whichever came last: a worker that lost its partition may have had one in flight."""
        ours = cast(Any, self.app.tables).recovery.active_tps
        for event in batch:
            message = event.message
            if message.tp not in ours:
                continue
            name, (start, _) = event.key
            key = (name, int(start))
            if message.value is None:
                self._remove(message.partition, key)
                continue
            row = tuple(event.value)
            known = self.row(key)
            if known is None or row[0] >= known[0]:
                self._put(message.partition, key, row)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Forget the rows of partitions that are no longer ours: their next owner may change or expire them."""
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        kept = {tp.partition for tp in assigned if tp.topic == self.changelog_topic_name}
        for partition in [p for p in self._index if p not in kept]:
            for start, keys in self._index.pop(partition).items():
                for key in keys:
                    self.data.pop(self._stored((key, start)), None)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Every row of our partitions is here."""
        await super().on_recovery_completed(active_tps, standby_tps)
        self.restored.set()


def create_changelog(settings: Settings, topic: str) -> None:
    """Create the compacted changelog `topic` with as many partitions as its source; safe at every start.

    Raises ValueError where it exists with another number of partitions: rows would be looked for in the wrong one.
    """
    admin = AdminClient(settings.kafka())
    if len(admin.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions) == settings.partitions:
        return
    new = NewTopic(topic, settings.partitions, settings.replication, config={"cleanup.policy": "compact"})
    try:
        admin.create_topics([new], request_timeout=_TIMEOUT_S)[topic].result(_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        found = _await_partitions(admin, topic)
        if found != settings.partitions:
            raise ValueError(f"{topic} has {found} partitions, {settings.partitions} expected") from error


def _await_partitions(admin: AdminClient, topic: str) -> int:
    """How many a topic has that somebody has just created: for a moment brokers do not know of any."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not (found := len(admin.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def changelog_name(settings: Settings, worker: str, table: str) -> str:
    """The topic that Faust reads for a table of a worker."""
    return f"{settings.app}-{worker}-{table}-changelog"


def _to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
