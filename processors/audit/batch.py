"""Rows that wait for the insert, and the offsets that may be committed after it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from processors.audit.rows import Row

Partition = tuple[str, int]
MAX_BYTES: Final = 32 * 1024 * 1024
"""Of bodies: bounds the memory, whatever the size of the records."""


class Batch:
    """Collects rows until it is due. Everything below each position is in `rows`, or was stored before."""

    def __init__(self, *, max_rows: int, max_age_s: float) -> None:
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._begun_at: float | None = None
        self._bytes = 0
        self.rows: list[Row] = []
        self.positions: dict[Partition, int] = {}
        """Next offset to read of each partition: what is committed once the rows are stored."""

    @property
    def room(self) -> int:
        """How many rows still fit; 0 where it is full."""
        return 0 if self._bytes >= MAX_BYTES else max(0, self._max_rows - len(self.rows))

    @property
    def oldest_ms(self) -> int | None:
        """The broker's time of the oldest row."""
        return min((row.appended_at for row in self.rows), default=None)

    def add(self, row: Row, now: float) -> None:
        """`now`: monotonic seconds."""
        self.rows.append(row)
        self._bytes += len(row.body)
        self._advance((row.topic, row.partition), row.offset + 1, now)

    def read_to(self, partition: Partition, position: int, now: float) -> None:
        """There is no record below `position` that was not added: markers of transactions use offsets too."""
        self._advance(partition, position, now)

    def _advance(self, partition: Partition, position: int, now: float) -> None:
        if position > self.positions.get(partition, -1):
            self.positions[partition] = position
            self._begun_at = now if self._begun_at is None else self._begun_at

    def due(self, now: float) -> bool:
        """Whether it is full or old enough."""
        return self._begun_at is not None and (not self.room or now - self._begun_at >= self._max_age_s)

    def stored(self) -> None:
        """The rows are in ClickHouse; the positions wait for their commit."""
        self.rows = []
        self._bytes = 0

    def committed(self) -> None:
        """The positions are on the broker."""
        self.positions = {}
        self._begun_at = None

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget what was read of `partitions`: whoever has them now reads it again."""
        gone = set(partitions)
        self.rows = [row for row in self.rows if (row.topic, row.partition) not in gone]
        self._bytes = sum(len(row.body) for row in self.rows)
        self.positions = {p: offset for p, offset in self.positions.items() if p not in gone}
        if not self.positions:
            self._begun_at = None
