"""Metrics of what was committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.runtime import metrics
from processors.recover.ledger import WORKER, Ledger, Staged
from schemas.records import (
    DeadLetter,
    Disposition,
    Event,
    RecoveryResult,
    ResumeCommand,
    SettledAttempt,
    SettledStatus,
)

if TYPE_CHECKING:
    from processors.recover.writer import Writer


def observe(writer: Writer, staged: Staged, now_ms: int) -> None:
    """Count one transaction that was committed at `now_ms`, broker's time."""
    # Where the agent applied none of it, the run recovered, but not by the strategy.
    credited = {
        r.recovery_id for r in staged.emitted if isinstance(r, SettledAttempt) and r.status is SettledStatus.SUCCEEDED
    }
    for record in staged.emitted:
        _count(record, credited)
    for at_ms in staged.answered_ms:
        metrics.COMMAND_LATENCY.observe(max(now_ms - at_ms, 0) / 1000)
    if staged.unreadable:
        metrics.DISPOSITIONS.labels("deadline", "unreadable").inc(staged.unreadable)
    if staged.replayed:
        metrics.DISPOSITIONS.labels("replay", "duplicate").inc(staged.replayed)
    ledger = writer.ledger
    assert isinstance(ledger, Ledger)
    metrics.OPEN_RECOVERIES.labels(str(writer.partition)).set(ledger.open)
    metrics.PENDING_FAILURES.labels(str(writer.partition)).set(ledger.pending)
    metrics.HELD_RECOVERIES.labels(str(writer.partition)).set(ledger.held)


def forget(writer: Writer) -> None:
    """The partition is no longer ours: its new owner tells its state."""
    for gauge in (metrics.OPEN_RECOVERIES, metrics.PENDING_FAILURES, metrics.HELD_RECOVERIES):
        gauge.labels(str(writer.partition))  # remove() takes only what was there
        gauge.remove(str(writer.partition))


def _count(record: Event, credited: set[str]) -> None:
    match record:
        case ResumeCommand():
            metrics.ATTEMPTS.labels(record.strategy).inc()
        case RecoveryResult():
            metrics.RECOVERIES.labels(record.status, record.reason).inc()
            if record.recovery_id in credited and record.selected_option:
                metrics.RECOVERY_SUCCESS.labels(record.selected_option).inc()
                metrics.RECOVERY_DURATION.labels(record.selected_option).observe(record.total_duration_s)
        case Disposition():
            metrics.DISPOSITIONS.labels(record.subject, record.kind).inc()
        case DeadLetter():
            metrics.DEAD_LETTERS.labels(WORKER, record.reason).inc()
        case _:
            pass
