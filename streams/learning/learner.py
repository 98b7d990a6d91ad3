"""Counts settled attempts in a windowed table, and publishes what the last seven days say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from ops.runtime import failpoints
from schemas.codec import Malformed, decode, encode
from schemas.records import (
    ConfidenceRow,
    DeadLetterReason,
    SettledAttempt,
    Severity,
    Strategy,
    from_epoch_ms,
)
from schemas.topics import CONFIDENCE
from streams.decide.catalogue import Learning
from streams.decide.rates import Rates
from streams.edge.agent import Guard, Record
from streams.edge.app import App
from streams.edge.outputs import GivenUp
from streams.edge.table import Key, WindowedTable
from streams.edge.transport import Batch
from streams.learning.counts import KEPT_S, Count, digest_of, hour_of, is_over, merged, settle, shared

log = logging.getLogger(__name__)

TABLE: Final = "attempts"
PUBLISH_S: Final = 0.5
"""Changes within this time become one record of a stratum."""


def read(record: Record) -> SettledAttempt | Malformed:
    """The handler of recovery.settled."""
    decoded = decode(record.topic, record.value, record.headers)
    if isinstance(decoded, Malformed):
        return decoded
    attempt = decoded.record
    assert isinstance(attempt, SettledAttempt)
    if record.key != attempt.key.encode():
        # In another partition than its stratum's it would give the stratum a second writer.
        return Malformed(DeadLetterReason.INVALID, "the message key is not its stratum")
    return attempt


class Learner(Guard):
    """The agent of recovery.settled."""

    def __init__(
        self, app: App, table: WindowedTable, rates: Callable[[], Rates], learning: Learning, *, worker: str
    ) -> None:
        super().__init__(worker=worker)
        self._app = app
        self._table = table
        self._rates = rates
        self._learning = learning
        self._source = f"omium/{worker}"
        self._changed: set[tuple[int, str]] = set()
        self._past: dict[str, tuple[int, Count]] = {}
        """Stratum -> its newest hour, and the sum of those before: a week of them is not added up twice a second."""
        self._hour = -1

    async def run(self, batch: Batch) -> None:
        """Fold a batch, write the rows it changed, then acknowledge it."""
        rows: dict[Key, Count] = {}
        letters = []
        now_s = time.time()
        for record in batch.records:
            attempt = await self.attempt(read, record)
            if isinstance(attempt, Malformed):
                letters.append(self.dead_letter(record, attempt))
                continue
            if attempt.tenant_id in self._learning.opt_out:
                continue
            key = attempt.key, hour_of(record.timestamp)
            count = rows.get(key) or Count.of_row(self._table.row(key))
            counted = settle(count, attempt.status, record.offset, digest_of(attempt.key, attempt.tenant_id))
            if counted is not None and not is_over(key[1], now_s):
                rows[key] = counted
        progress = batch.progress
        try:
            written = {key: count.row() for key, count in rows.items()}
            await self._table.write(batch.partition, written, wanted=progress.is_open)
            for letter in letters:
                await self._app.outputs.deliver(letter, wanted=progress.is_open, required=True)
        except GivenUp:
            # Its next owner reads these records again.
            return
        failpoints.hit("streams.counted")
        for stratum, hour in rows:
            self._changed.add((batch.partition, stratum))
            if stratum in self._past and self._past[stratum][0] != hour:
                del self._past[stratum]
        for record in batch.records:
            progress.done(record.offset)

    async def publish_forever(self) -> None:
        """Publish what changed, until the app stops."""
        while not self._app.should_stop:
            await self._app.sleep(PUBLISH_S)
            await self.publish(time.time())

    async def publish(self, now_s: float) -> None:
        """Send the rows of the confidence topic that are not as the counts say.

        All are compared when partitions came to us (their last owner may have ended before it published) and when
        an hour has passed (the oldest one is no longer counted).
        """
        hour = hour_of(int(now_s * 1000))
        if self._table.restored.is_set() or hour != self._hour:
            self._table.restored.clear()
            self._hour = hour
            self._past.clear()
            held = {(partition, key) for partition, keys in self._table.keys_by_partition() for key in keys}
            self._changed |= held
            for partition, over in self._table.ended_before(now_s - KEPT_S).items():
                if over and self._table.owns(partition):
                    # What is not dropped is dropped by the next owner.
                    with suppress(GivenUp):
                        await self._table.drop(partition, over)
        for change in sorted(self._changed):
            partition, key = change
            # After an hour there are many, and failures wait meanwhile.
            await asyncio.sleep(0)
            if not self._table.owns(partition):
                # It moved, or a rebalance has not ended yet.
                continue
            # Before it is read: what is counted while it is on its way must be published too.
            self._changed.discard(change)
            try:
                await self._publish(partition, key, now_s)
            except GivenUp:
                self._changed.add(change)

    async def _publish(self, partition: int, key: str, now_s: float) -> None:
        count, oldest = self._sum(partition, key, now_s)
        left_out = {digest_of(key, tenant) for tenant in self._learning.opt_out}
        samples, successes = shared(count, self._learning.tenant_share_permille, left_out)
        subtype, severity, attempt_class, strategy = key.rsplit("|", 3)
        row = ConfidenceRow(
            subtype=subtype,
            severity=Severity(severity),
            attempt_class=attempt_class,
            strategy=Strategy(strategy),
            samples=samples,
            successes=successes,
            window_start=from_epoch_ms(oldest * 1000),
            updated_at=datetime.fromtimestamp(now_s, UTC),
        )
        known = self._rates().rows.get(key)
        if known is None or (known.samples, known.successes) != (samples, successes):
            record = encode(CONFIDENCE, row, source=self._source)
            await self._app.outputs.deliver(record, wanted=lambda: self._table.owns(partition))

    def _sum(self, partition: int, key: str, now_s: float) -> tuple[Count, int]:
        """What is counted of a stratum in the hours that are not over, and the start of the oldest."""
        rows = {hour: row for hour, row in self._table.rows(key, partition).items() if not is_over(hour, now_s)}
        if not rows:
            return Count(), hour_of(int(now_s * 1000))
        if key not in self._past:
            newest = max(rows)
            self._past[key] = newest, merged(Count.of_row(row) for hour, row in rows.items() if hour != newest)
        newest, past = self._past[key]
        return merged([past, Count.of_row(rows.get(newest))]), min(rows)
