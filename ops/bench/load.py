"""What the peers have to do: failures of every category, and the same answer to each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import orjson

from schemas.codec import Encoded, Malformed, decode, encode
from schemas.flows import dependency_header
from schemas.records import (
    Agent,
    Checkpoint,
    ErrorInfo,
    Execution,
    FailureEvent,
    FailureOrigin,
    Metrics,
    Origin,
    SideEffects,
    ToolResponse,
)
from schemas.topics import FAILURES, OPTIONS
from streams.decide import Rates, catalogue, decide

KINDS: Final = 5
TENANTS: Final = 50
"""Of one tenant's failures at a thousand a second, most would wait: what they lean on is spared (policy.toml)."""
_CATALOGUE: Final = catalogue.load()
_RATES: Final = Rates()
_APR: Final = {"apr": {"type": "range", "min": 3.0, "max": 36.0}, "age": {"type": "range", "min": 18, "max": 120}}


def failure(number: int, prefix: str = "bench") -> FailureEvent:
    """Failure `number` of a run that can be resumed."""
    kinds: tuple[dict[str, object], ...] = (
        {"output": orjson.dumps({"apr": 0.0, "age": 245}).decode(), "constraints": orjson.dumps(_APR).decode()},
        {"tool_response": ToolResponse(tool="rates", status_code=429, error="slow down", headers={"Retry-After": "2"})},
        {"error": ErrorInfo(message="Connection timeout after 30s", class_name="TimeoutError")},
        {"tool_response": ToolResponse(tool="score", status_code=503, error="unavailable", fallbacks=("score-b",))},
        {"metrics": Metrics(duration_s=95.0, timeout_s=60.0)},
    )
    return FailureEvent.model_validate(
        {
            "tenant_id": f"bench-{number // KINDS % TENANTS}",
            "execution_id": f"{prefix}-{number}",
            "failure_id": f"{prefix}-{number}",
            "agent": Agent(id="loan-agent", framework="langgraph", model="gpt-4o-mini"),
            "origin": FailureOrigin.TOOL if number % KINDS else FailureOrigin.MODEL,
            "checkpoint": Checkpoint(id=f"c-{number}", data='{"step": 3}'),
            "execution": Execution(prompt="Quote the loan.", model="gpt-4o-mini", timeout_s=60.0),
            "side_effects_since_checkpoint": SideEffects.NONE,
            **kinds[number % KINDS],
        }
    )


def message(number: int, prefix: str = "bench") -> Encoded:
    """Failure `number` as an agent sends it."""
    event = failure(number, prefix)
    return encode(FAILURES, event, source="bench", trace=dependency_header(event))


def answer(value: bytes, headers: Sequence[tuple[str, bytes]] | None, partition: int = 0, offset: int = 0) -> Encoded:
    """The work of one event, as every peer does it: decode, classify, rank, encode."""
    decoded = decode(FAILURES.name, value, headers)
    if isinstance(decoded, Malformed):
        raise ValueError(decoded.error)
    event = decoded.record
    assert isinstance(event, FailureEvent)
    options = decide(
        event,
        failure_id=event.identity(partition, offset),
        origin=Origin(partition=partition, offset=offset),
        rates=_RATES,
        catalogue=_CATALOGUE,
        now=datetime.now(UTC),
    )
    return encode(OPTIONS[options.classification.category], options, source="bench", trace=decoded.trace)
