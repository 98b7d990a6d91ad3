"""One record of a topic as one row of `audit_events`. Pure: equal records give equal rows, whoever reads them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from schemas import codec
from schemas.masking import mask, mask_value
from schemas.records import (
    Classification,
    DeadLetter,
    DeadLetterReason,
    Disposition,
    Event,
    FailureEvent,
    OperatorAction,
    Pause,
    PauseScope,
    RecoveryOptions,
    RecoveryResult,
)

MALFORMED: Final = "malformed"
_MAX_ATTEMPT: Final = 2**16 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One record as the consumer got it."""

    topic: str
    topic_id: UUID
    partition: int
    offset: int
    appended_ms: int
    """The broker's time, milliseconds since 1970."""
    key: bytes | None
    value: bytes | None
    headers: codec.Headers | None = None


class Row(NamedTuple):
    """The columns of `audit_events`, in the order in which they are inserted."""

    kind: str
    tenant_id: str
    execution_id: str
    appended_at: int
    topic: str
    topic_id: UUID
    partition: int
    offset: int
    event_id: str
    failure_id: str
    recovery_id: str
    command_id: str
    attempt: int
    failure_type: str
    subtype: str
    severity: str
    strategy: str
    status: str
    reason: str
    cost_microusd: int
    duration_s: float
    traceparent: str
    body: bytes
    sha256: bytes
    size_bytes: int


def row(source: Source) -> Row:
    """The row of `source`. Never raises: what cannot be decoded, or written as JSON, is a malformed row."""
    decoded = codec.decode(source.topic, source.value, source.headers)
    if isinstance(decoded, codec.Malformed):
        return _malformed(source, decoded.reason)
    try:
        body = _masked(codec.to_json(decoded.record), decoded.record)
    except (ValueError, TypeError, RecursionError):  # orjson's error is a TypeError
        return _malformed(source, DeadLetterReason.HANDLER_ERROR)
    return _row(
        source,
        decoded.record.type_name,
        {**_facts(decoded.record), **_special(decoded.record, source)},
        traceparent=dict(decoded.trace).get("traceparent", b"").decode(errors="replace"),
        body=body,
    )


def _masked(body: bytes, record: Event) -> bytes:
    text = body.decode()
    # Most records hold no secret; one search says so.
    if mask(text) == text:
        return body
    document = mask_value(orjson.loads(body))
    if isinstance(record, OperatorAction | Pause):
        # No secret, though it is called like one: by it anybody can verify who decided.
        document["signature"] = record.signature.hex()
    return orjson.dumps(document)


def _row(source: Source, kind: str, facts: dict[str, Any], *, traceparent: str = "", body: bytes = b"") -> Row:
    value = source.value or b""
    return Row(
        kind=kind,
        tenant_id=facts.get("tenant_id") or "",
        execution_id=facts.get("execution_id") or "",
        appended_at=source.appended_ms,
        topic=source.topic,
        topic_id=source.topic_id,
        partition=source.partition,
        offset=source.offset,
        event_id=facts.get("event_id") or "",
        failure_id=facts.get("failure_id") or "",
        recovery_id=facts.get("recovery_id") or "",
        command_id=facts.get("command_id") or "",
        attempt=min(facts.get("attempt") or 0, _MAX_ATTEMPT),
        failure_type=facts.get("category") or "",
        subtype=facts.get("subtype") or "",
        severity=facts.get("severity") or "",
        strategy=facts.get("strategy") or "",
        status=facts.get("status") or "",
        reason=facts.get("reason") or "",
        cost_microusd=facts.get("cost_microusd") or 0,
        duration_s=facts.get("duration_s") or 0.0,
        traceparent=traceparent,
        body=body,
        sha256=hashlib.sha256(value).digest(),
        size_bytes=len(value),
    )


def _malformed(source: Source, reason: DeadLetterReason) -> Row:
    return _row(source, MALFORMED, {"reason": reason, **_whose(source.key)})


def _whose(key: bytes | None) -> dict[str, str]:
    """What a key claims. Whoever looks that execution up must see that something of it could not be read."""
    tenant_id, _, execution_id = (key or b"")[:512].decode(errors="replace").partition("/")
    return {"tenant_id": tenant_id, "execution_id": execution_id} if execution_id else {}


_COLUMNS: Final = (
    *("event_id", "tenant_id", "execution_id", "failure_id", "recovery_id", "command_id", "attempt", "category"),
    *("subtype", "severity", "strategy", "status", "reason", "cost_microusd", "duration_s"),
)


def _facts(record: Event) -> dict[str, Any]:
    return {name: getattr(record, name, None) for name in _COLUMNS}


def _special(record: Event, source: Source) -> dict[str, Any]:
    """Columns that a record fills from other places than the field of the same name."""
    facts: dict[str, Any] = {}
    classification: Classification | None = getattr(record, "classification", None)
    if classification is not None:
        facts = {
            "category": classification.category,
            "subtype": classification.subtype,
            "severity": classification.severity,
        }
    match record:
        case FailureEvent():
            failure_id = record.identity(source.partition, source.offset)
            facts |= {"failure_id": failure_id, "event_id": failure_id}
            if record.resumed_by is not None:
                facts |= {"recovery_id": record.resumed_by.recovery_id, "attempt": record.resumed_by.attempt}
        case RecoveryOptions():
            facts |= {"strategy": record.options[0].strategy if record.options else ""}
        case RecoveryResult():
            facts |= {
                "category": record.failure_type,
                "strategy": record.selected_option,
                "attempt": record.attempts,
                "cost_microusd": record.total_cost_microusd,
                "duration_s": record.total_duration_s,
            }
        case DeadLetter():
            facts |= _whose(record.origin_key)
        case Disposition():
            facts |= {"status": record.kind}
            if record.subject == "failure":
                facts |= {"failure_id": record.subject_id}
        case OperatorAction():
            facts |= {"status": record.kind}
        case Pause():
            # A tool's or a strategy's is every tenant's: it stands with no tenant.
            whose = record.target if record.scope is PauseScope.TENANT else ""
            facts |= {"status": "paused" if record.paused else "resumed", "tenant_id": whose}
    return facts
