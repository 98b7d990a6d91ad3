"""Metrics of what was committed."""

from __future__ import annotations

from collections.abc import Sequence

from ops.runtime import metrics
from processors.recover.ledger import WORKER, Raw, Staged
from processors.recover.writer import Writer
from schemas.records import (
    DeadLetter,
    Disposition,
    Event,
    RecoveryResult,
    ResultStatus,
    ResumeCommand,
)


def observe(writer: Writer, _: Sequence[Raw], staged: Staged) -> None:
    """Count one committed transaction."""
    for record in staged.emitted:
        _count(record)
    metrics.OPEN_RECOVERIES.labels(str(writer.partition)).set(writer.ledger.open)
    metrics.PENDING_FAILURES.labels(str(writer.partition)).set(writer.ledger.pending)


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
