"""What a recovery keeps of a failure."""

from __future__ import annotations

from typing import Final

from processors.recover.events import FailureRead, Wire
from processors.recover.state import Branch
from processors.recover.turn import bounded_checkpoint
from schemas.records import FailureEvent, FailureOrigin, RecoveryOptions, SideEffects, epoch_ms

_SUMMARIZE: Final = "summarize_trajectory"


def branch_of(event: FailureRead, failure_id: str, options: RecoveryOptions | None) -> Branch:
    """The failure as a branch of a recovery, with its `options` if they are known. Pure."""
    record, place, tool = event.record, event.place, event.record.tool_response
    wire_format = event.wire_format if record.reply_format == "same" else _wire(record)
    execution, budget = record.execution, record.budget
    return Branch(
        failure_id=failure_id,
        partition=place.partition,
        offset=place.offset,
        at_ms=place.at_ms,
        checkpoint=bounded_checkpoint(record.checkpoint),
        agent_id=record.agent.id,
        tool=tool.tool[:256] if tool and tool.tool else None,
        model=_failed_model(record),
        call_fingerprint=tool.call_fingerprint[:256] if tool and tool.call_fingerprint else None,
        idempotency_key=_idempotency_key(record),
        trace=tuple((name, value[:1024]) for name, value in event.trace),
        wire_format=wire_format,
        sdk_retries=execution.sdk_retries or 0 if execution else 0,
        call_timeout_s=_call_timeout_s(record),
        summarizes=_summarizes(record),
        unsafe=record.side_effects_since_checkpoint is SideEffects.UNSAFE,
        max_cost_microusd=budget.max_cost_microusd if budget else None,
        deadline_ms=epoch_ms(budget.deadline) if budget and budget.deadline else None,
        options=options,
    )


def _failed_model(record: FailureEvent) -> str | None:
    model = record.agent.model or (record.execution.model if record.execution else None)
    return model[:256] if model and record.origin is FailureOrigin.MODEL else None


def _wire(record: FailureEvent) -> Wire:
    return "json" if record.reply_format == "json" else "avro"


def _idempotency_key(record: FailureEvent) -> str | None:
    key = record.tool_response.idempotency_key if record.tool_response else None
    return key if key and len(key) <= 256 and key.isprintable() else None


def _call_timeout_s(record: FailureEvent) -> float | None:
    limits = (
        record.execution.timeout_s if record.execution else None,
        record.metrics.timeout_s if record.metrics else None,
    )
    return max((limit for limit in limits if limit is not None), default=None)


def _summarizes(record: FailureEvent) -> bool:
    shares = bool(record.reasoning or (record.execution and record.execution.prompt))
    return shares and _SUMMARIZE in (record.agent.capabilities or ())
