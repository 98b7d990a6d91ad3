"""Metrics of what was committed."""

from __future__ import annotations

from ops.runtime import metrics
from processors.recover.ledger import WORKER, Staged
from processors.recover.writer import Writer
from schemas.records import (
    DeadLetter,
    Disposition,
    Event,
    RecoveryResult,
    ResultStatus,
    ResumeCommand,
)


def observe(writer: Writer, staged: Staged, now_ms: int) -> None:
    """Count one transaction that was committed at `now_ms`, broker's time."""
    for record in staged.emitted:
        _count(record)
    for at_ms in staged.answered_ms:
        metrics.COMMAND_LATENCY.observe(max(now_ms - at_ms, 0) / 1000)
    if staged.unreadable:
        metrics.DISPOSITIONS.labels("deadline", "unreadable").inc(staged.unreadable)
    if staged.replayed:
        metrics.DISPOSITIONS.labels("replay", "duplicate").inc(staged.replayed)
    metrics.OPEN_RECOVERIES.labels(str(writer.partition)).set(writer.ledger.open)
    metrics.PENDING_FAILURES.labels(str(writer.partition)).set(writer.ledger.pending)


def forget(writer: Writer) -> None:
    """The partition is no longer ours: its new owner tells its state."""
    for gauge in (metrics.OPEN_RECOVERIES, metrics.PENDING_FAILURES):
        gauge.labels(str(writer.partition))  # remove() takes only what was there
        gauge.remove(str(writer.partition))


def _count(record: Event) -> None:
    match record:
        case ResumeCommand():
            metrics.ATTEMPTS.labels(record.strategy).inc()
        case RecoveryResult():
            metrics.RECOVERIES.labels(record.status, record.reason).inc()
            if record.status is ResultStatus.SUCCESS and record.selected_option:
                metrics.RECOVERY_SUCCESS.labels(record.selected_option).inc()
                metrics.RECOVERY_DURATION.labels(record.selected_option).observe(record.total_duration_s)
        case Disposition():
            metrics.DISPOSITIONS.labels(record.subject, record.kind).inc()
        case DeadLetter():
            metrics.DEAD_LETTERS.labels(WORKER, record.reason).inc()
        case _:
            pass
