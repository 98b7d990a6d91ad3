"""Metrics of what was committed. No names: those of tools are text of strangers; incidents name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ops.runtime import metrics
from processors.govern.book import WORKER, Book, Turned
from schemas.records import Circuit, DeadLetter, Incident, Permit

if TYPE_CHECKING:
    from processors.recover.writer import Writer

_CIRCUITS: Final = (Circuit.CLOSED, Circuit.OPEN, Circuit.HALF_OPEN, Circuit.THROTTLED)


def observe(writer: Writer, staged: Turned, now_ms: int) -> None:  # noqa: ARG001  as of recover
    """Count one transaction that was committed."""
    for record in staged.emitted:
        match record:
            case Permit():
                metrics.PERMITS.labels("probe" if record.probe else "release").inc()
            case Incident():
                metrics.INCIDENTS.labels(record.status).inc()
            case DeadLetter():
                metrics.DEAD_LETTERS.labels(WORKER, record.reason).inc()
    book, partition = writer.ledger, str(writer.partition)
    assert isinstance(book, Book)
    for circuit in _CIRCUITS:
        metrics.CIRCUITS.labels(circuit, partition).set(book.census[circuit])
    metrics.BUDGETS_EXHAUSTED.labels(partition).set(book.census["over_budget"])
    metrics.INCIDENTS_OPEN.labels(partition).set(book.census["incidents"])
    metrics.PERMITS_WAITING.labels(partition).set(book.census["waiting"])


def forget(writer: Writer) -> None:
    """The partition is no longer ours: its new owner tells its state."""
    partition = str(writer.partition)
    for circuit in _CIRCUITS:
        metrics.CIRCUITS.labels(circuit, partition)  # remove() takes only what was there
        metrics.CIRCUITS.remove(circuit, partition)
    for gauge in (metrics.BUDGETS_EXHAUSTED, metrics.INCIDENTS_OPEN, metrics.PERMITS_WAITING):
        gauge.labels(partition)
        gauge.remove(partition)
